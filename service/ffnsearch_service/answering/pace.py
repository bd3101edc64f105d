"""How long will the engine take for so many prompts? Learnt from the batches that it has run."""

import operator

MEMORY = 0.8
"""What each batch leaves of the weight of earlier ones: about the last five count."""

WEIGHT_MIN = 1e-3
"""What is left of the weight of sizes that have not come for long: without large batches that were run once, the chance
differences between small ones would decide what a large one takes."""


class Pace:
    """The time of a batch as a part for each batch and a part for each prompt, fitted to the last batches.

    Neither part is below 0. Sizes are remembered by powers of two. A batch is expected to take no longer than one of
    the largest size that has been run: a long queue then looks shorter than it is, until the first larger batch has
    run. The other way round, callers would be refused needlessly, and no larger batch would ever show the mistake. Not
    safe to share between threads.

    batch_prompts: how many prompts the last batches had, on average; 0 before any has run.
    """

    def __init__(self) -> None:
        self.batch_prompts = 0.0
        self._largest = 0
        self._each_batch_ns = self._each_prompt_ns = 0.0
        self._sums: dict[int, tuple[float, ...]] = {}

    @property
    def is_measured(self) -> bool:
        """Whether any batch has run."""
        return self._largest > 0

    def measure(self, prompts: int, spent_ns: float) -> None:
        """Learn what a batch of so many prompts, at least one, took."""
        self._largest = max(self._largest, prompts)
        size = prompts.bit_length()
        for other, sums in self._sums.items():
            if other == size or sums[0] > WEIGHT_MIN:
                self._sums[other] = tuple(MEMORY * value for value in sums)
        batch = (1.0, prompts, spent_ns, prompts * prompts, prompts * spent_ns)
        self._sums[size] = tuple(map(operator.add, batch, self._sums.get(size, (0.0,) * len(batch))))
        self._fit(*map(sum, zip(*self._sums.values(), strict=True)))

    def ns(self, prompts: int, batches: int) -> float:
        """What so many prompts in so many batches will take, in nanoseconds; 0 before any batch has run."""
        return batches * self._each_batch_ns + min(prompts, batches * self._largest) * self._each_prompt_ns

    def _fit(self, weight: float, prompts: float, ns: float, prompts_2: float, prompts_ns: float) -> None:
        """Fit both parts to weighted sums over batches."""
        spread = weight * prompts_2 - prompts**2
        slope = (weight * prompts_ns - prompts * ns) / spread if spread > 1e-6 else 0.0
        self.batch_prompts = prompts / weight
        self._each_prompt_ns = min(max(slope, 0.0), ns / prompts)
        self._each_batch_ns = (ns - self._each_prompt_ns * prompts) / weight
