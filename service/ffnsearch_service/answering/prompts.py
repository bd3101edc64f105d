"""What does the message of a prompt ask? Text becomes tokens, and queries become the vectors that are searched for.

Shapes: T tokens, K block, D d_model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.corpora.tokenizer import Tokenizer, Tokens
from ffnsearch_indexer.errors import LimitError, PromptError, TokenError
from ffnsearch_indexer.models.queries import GivenQueries, Prompt, as_queries

_NUMBER_BYTES = 4
"""Of a query on the wire: float32, little-endian."""

_QUERY_BYTES_MAX = 8
"""Upper bound of what a query adds to its message beside its numbers; all of them together add as much once more."""


@dataclass(frozen=True)
class PromptReader:
    """Checks prompts against one model. Immutable, safe to share between threads."""

    tokenizer: Tokenizer
    window_tokens: int
    blocks: int
    d_model: int
    prompt_tokens_max: int

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, V."""
        return self.tokenizer.vocabulary_size

    @property
    def queries_bytes_max(self) -> int:
        """Upper bound of what the queries of all blocks take in a message."""
        return self.blocks * (_NUMBER_BYTES * self.d_model + _QUERY_BYTES_MAX) + _QUERY_BYTES_MAX

    def read(self, prompt: pb.Prompt, field: str, needed: Sequence[int]) -> Prompt:
        """Check a prompt, which stands in a field: its tokens [T], at least one, or the queries given in their place.

        needed: the blocks in which is searched. Raises FfnSearchError, which names the field.
        """
        content = prompt.WhichOneof("content")
        if content is None:
            raise PromptError(
                f"{field} has neither text, tokens nor queries: set one", reason="NO_PROMPT_CONTENT", field=field
            )
        field = f"{field}.{content}"
        if content == "queries":
            return self._check_queries(prompt.queries, f"{field}.blocks", needed)
        given = len(prompt.text) if content == "text" else len(prompt.tokens.ids)
        if given == 0:
            raise PromptError(f"{field} is empty: give at least one token", reason="EMPTY_PROMPT", field=field)
        if given > self.prompt_tokens_max:
            unit = "characters" if content == "text" else "tokens"
            advice = f"only the last {self.window_tokens} tokens matter"
            raise too_many("PROMPT_TOO_LONG", field, unit, given, self.prompt_tokens_max, advice)
        return self._encode(prompt.text, field) if content == "text" else self._check_ids(prompt.tokens, field)

    def _encode(self, text: str, field: str) -> Tokens:
        try:
            return self.tokenizer.encode(text, where=field)
        except TokenError as error:
            error.metadata["field"] = field
            raise

    def _check_ids(self, tokens: pb.TokenIds, field: str) -> Tokens:
        ids = np.array(tokens.ids, dtype=np.int64)
        outside = ids >= self.vocabulary_size
        if outside.any():
            place = int(outside.argmax())
            raise TokenError(
                f"{field}.ids[{place}] is {ids[place]}: token ids are below {self.vocabulary_size}",
                reason="TOKEN_OUT_OF_RANGE",
                field=f"{field}.ids[{place}]",
                token_id=ids[place],
                vocabulary_size=self.vocabulary_size,
            )
        return ids.astype(np.uint16)

    def _check_queries(self, given: pb.Queries, field: str, needed: Sequence[int]) -> GivenQueries:
        if len(given.blocks) != self.blocks:
            raise PromptError(
                f"{field} has {len(given.blocks)} entries, and the model has {self.blocks} blocks: give one entry for "
                "each, empty where nothing is searched",
                reason="QUERIES_OF_OTHER_BLOCKS",
                field=field,
                given=len(given.blocks),
                blocks=self.blocks,
            )
        vectors = np.zeros((self.blocks, self.d_model), dtype=np.float32)
        for block, numbers in enumerate(given.blocks):
            if numbers or block in needed:
                vectors[block] = self._check_vector(numbers, block, f"{field}[{block}]")
        return GivenQueries(as_queries(vectors))

    def _check_vector(self, numbers: bytes, block: int, field: str) -> NDArray[np.float32]:
        if not numbers:
            raise PromptError(
                f"{field} is empty, and block {block} is to be searched, which steps of weight 0 are too: give "
                f"{self.d_model} numbers",
                reason="QUERY_MISSING",
                field=field,
            )
        if len(numbers) != _NUMBER_BYTES * self.d_model:
            given, left = divmod(len(numbers), _NUMBER_BYTES)
            raise PromptError(
                f"{field} has {given} numbers{f' and {left} bytes' if left else ''}: give {self.d_model}, "
                "little-endian float32",
                reason="QUERY_OF_OTHER_SIZE",
                field=field,
                given_bytes=len(numbers),
                d_model=self.d_model,
            )
        vector = np.frombuffer(numbers, dtype="<f4")
        unusable = (
            "numbers that are not finite" if not np.isfinite(vector).all() else "" if vector.any() else "only zeros"
        )
        if unusable:
            raise PromptError(
                f"{field} has {unusable}, and so no direction", reason="QUERY_WITHOUT_DIRECTION", field=field
            )
        return vector


def too_many(reason: str, field: str, unit: str, given: int, limit: int, advice: str) -> LimitError:
    """The error for more of something than a limit allows."""
    return LimitError(
        f"{field}: {given} {unit}; the limit is {limit}: {advice}", reason=reason, field=field, given=given, limit=limit
    )
