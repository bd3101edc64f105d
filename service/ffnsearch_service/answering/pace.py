"""How long will the engine take for so many prompts? Learnt from the batches that it has run."""

import math

MEMORY = 0.8
"""What each batch leaves of the weight of earlier ones: about the last five count."""

LARGEST_MEMORY = 0.999
"""What each batch leaves of the size of the largest: chance differences between small batches say nothing of larger
ones, and what a large one said is out of date after some thousands."""


class Pace:
    """The time of a batch as a part for each batch and a part for each prompt, fitted to the last batches.

    Neither part is below 0. As long as all batches had the same size, all of their time counts as the part for each
    batch, and no batch is expected to take longer than the largest of the last ones: a long queue then looks shorter
    than it is, until the first larger batch has run. The other way round, callers would be refused needlessly, and no
    larger batch would ever show the mistake. Not safe to share between threads.
    """

    def __init__(self) -> None:
        self._weight = self._prompts = self._ns = self._prompts_2 = self._prompts_ns = self._largest = 0.0

    @property
    def is_measured(self) -> bool:
        """Whether any batch has run."""
        return self._weight > 0

    @property
    def batch_prompts(self) -> float:
        """How many prompts the last batches had, on average; 0 before any has run."""
        return self._prompts / self._weight if self._weight else 0.0

    def has_run(self, prompts: int) -> bool:
        """Whether a batch of so many was among the last ones, or a larger one: only then is its time known."""
        return prompts <= math.ceil(self._largest)

    def measure(self, prompts: int, spent_ns: float) -> None:
        """Learn what a batch of so many prompts took."""
        self._largest = max(LARGEST_MEMORY * self._largest, prompts)
        self._weight = MEMORY * self._weight + 1
        self._prompts = MEMORY * self._prompts + prompts
        self._ns = MEMORY * self._ns + spent_ns
        self._prompts_2 = MEMORY * self._prompts_2 + prompts * prompts
        self._prompts_ns = MEMORY * self._prompts_ns + prompts * spent_ns

    def ns(self, prompts: int, batches: int) -> float:
        """What so many prompts in so many batches will take, in nanoseconds; 0 before any batch has run."""
        if not self._weight:
            return 0.0
        spread = self._weight * self._prompts_2 - self._prompts**2
        slope = (self._weight * self._prompts_ns - self._prompts * self._ns) / spread if spread > 1e-6 else 0.0
        each_prompt = min(max(slope, 0.0), self._ns / self._prompts)
        each_batch = (self._ns - each_prompt * self._prompts) / self._weight
        return batches * each_batch + min(prompts, batches * math.ceil(self._largest)) * each_prompt
