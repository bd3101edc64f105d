"""Keys, counts, model and corpus of one snapshot, opened for reading."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.substrings import NextTokenCounts, SuffixOrder, sort_suffixes, windows_of
from ffnsearch_indexer.corpora.tokenizer import Tokenizer, Tokens
from ffnsearch_indexer.errors import DamageError, MismatchError, ModelError
from ffnsearch_indexer.files import load_array
from ffnsearch_indexer.models.packed import PackedModel, pack_model
from ffnsearch_indexer.models.prefix_cache import PrefixCache
from ffnsearch_indexer.models.transformer import TOKENIZER_FILE, Transformer
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store import layout
from ffnsearch_indexer.store.check import check_content, check_sizes
from ffnsearch_indexer.store.manifest import Manifest, read_manifest
from ffnsearch_indexer.store.records import Record, RecordStore
from ffnsearch_indexer.store.self_sums import load_self_sums
from ffnsearch_indexer.store.tiles import load_tiles

Check = Literal["all", "sizes"]

PREFIX_CACHE_BYTES_MAX = 256 << 20
"""What is kept of the prompts' common prefixes: 14,563 of them, with the reference model."""

PREFIX_SAMPLE = 1 << 16
"""About how many substrings are looked at to find the common prefixes."""


class Place(NamedTuple):
    """One occurrence of a substring: its position in the corpus and the text around it."""

    position: int
    before: str
    after: str


class Datastore:
    """One snapshot, open. Safe to read from several threads; `close` when done, or use as a context manager.

    keys: K memory-mapped arrays [N, D] float16. tiles, self_sums: those of each block, None where there are none.
    counts: next-token counts by id. corpus: [T] uint16. first_positions: [N] int64.
    """

    def __init__(self, path: Path, manifest: Manifest, model: Transformer, tokenizer: Tokenizer) -> None:
        N, D = manifest.substrings, manifest.d_model
        self.path, self.manifest, self.model, self.tokenizer = path, manifest, model, tokenizer
        self.window_tokens = manifest.window_tokens
        self.corpus: Tokens = load_array(path / layout.CORPUS_FILE, np.uint16, (None,))
        self.first_positions: NDArray[np.int64] = load_array(path / layout.FIRST_POSITIONS_FILE, np.int64, (N,))
        self.keys = [load_array(path / layout.keys_file(block), np.float16, (N, D)) for block in range(manifest.blocks)]
        self.counts = NextTokenCounts(
            load_array(path / layout.OFFSETS_FILE, np.int64, (N + 1,)),
            load_array(path / layout.TOKENS_FILE, np.uint16, (None,)),
            load_array(path / layout.COUNTS_FILE, np.uint32, (None,)),
            manifest.vocabulary_size,
        )
        has_tiles = layout.TILES_FOLDER in manifest.parts
        self.tiles = [load_tiles(path, block, N, D) for block in range(manifest.blocks)] if has_tiles else None
        has_self_sums = layout.SELF_SUMS_FOLDER in manifest.parts
        self.self_sums = load_self_sums(path, manifest.blocks, N) if has_self_sums else None
        self._records = RecordStore(path / layout.RECORDS_FILE)

    @classmethod
    def open(cls, path: Path, *, check: Check = "all", progress: Progress = silent) -> Self:
        """Open a snapshot, or refuse it.

        check: "all" reads every byte and compares hashes, which takes about a second a gigabyte; "sizes" looks at file
        sizes only. progress: counts the megabytes that are read; it is called from several threads, one at a time, and
        what it raises ends the reading. Model and tokenizer are always compared with the manifest. Raises SnapshotError
        and its kinds, which say what differs.
        """
        manifest = read_manifest(path)
        try:
            return cls._open(path, manifest, check, progress)
        except DamageError:
            now = read_manifest(path)
            if now == manifest:
                raise
        return cls._open(path, now, check, progress)  # meanwhile a part was dropped, or replaced

    @classmethod
    def _open(cls, path: Path, manifest: Manifest, check: Check, progress: Progress) -> Self:
        check_sizes(path, manifest)
        model, tokenizer = _load_model(path)
        _require_same("model", manifest.model_sha256, model.sha256(), path)
        _require_same("tokenizer", manifest.tokenizer_sha256, tokenizer.sha256, path)
        if check == "all":
            check_content(path, manifest, progress)
        return cls(path, manifest, model, tokenizer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the record store; arrays that callers still hold stay valid."""
        self._records.close()

    @property
    def windows(self) -> NDArray[np.uint16]:
        """The windows [T-L+1, L] of the corpus by position: a view."""
        return windows_of(self.corpus, self.window_tokens)

    def substring_tokens(self) -> NDArray[np.uint16]:
        """The tokens of all substrings by id, [N, L], copied out of the corpus."""
        return self.windows[self.first_positions]

    @cached_property
    def packed_model(self) -> PackedModel:
        """The model as prompts are run with it."""
        return pack_model(self.model)

    @cached_property
    def prefix_cache(self) -> PrefixCache:
        """What the model says of the most common prefixes of the substrings; it fills as prompts are run."""
        sample = self.first_positions[:: max(1, len(self.first_positions) // PREFIX_SAMPLE)]
        return PrefixCache.of_common_prefixes(self.packed_model, self.windows[sample], PREFIX_CACHE_BYTES_MAX)

    @cached_property
    def unigram(self) -> NDArray[np.float64]:
        """The distribution [V] of all that follows the substrings, every token once more: none has probability 0."""
        totals = np.bincount(self.counts.tokens, self.counts.counts, minlength=self.manifest.vocabulary_size) + 1.0
        distribution: NDArray[np.float64] = totals / totals.sum()
        return distribution

    @cached_property
    def suffix_order(self) -> SuffixOrder:
        """The substrings with the same ending next to each other.

        Made when it is first asked for: it takes half a second and 36 bytes a substring for 860,000, and keeps
        10 of them. Threads that ask at once may each make it, and get equal arrays; nobody may write to them.
        """
        return sort_suffixes(self.substring_tokens(), self.manifest.vocabulary_size)

    def find(self, tokens: Tokens) -> int | None:
        """The id of the substring with these L tokens; None for other lengths or where the index lacks it."""
        return self.find_all([tokens])[0]

    def find_all(self, prompts: Sequence[Tokens]) -> list[int | None]:
        """The same for several prompts, together."""
        found = iter(self._records.find_ids([tokens for tokens in prompts if len(tokens) == self.window_tokens]))
        return [next(found) if len(tokens) == self.window_tokens else None for tokens in prompts]

    def substring(self, substring_id: int) -> Tokens:
        """The L tokens of a substring."""
        first = self.first_positions[substring_id]
        return self.corpus[first : first + self.window_tokens]

    def record(self, substring_id: int) -> Record:
        """Next-token counts and places of a substring."""
        record = self._records.find(self.substring(substring_id))
        assert record is not None, "every substring has a record"
        assert record.id == substring_id, "positions and records are of one build"
        return record

    def place(self, position: int, around_tokens: int) -> Place:
        """One occurrence with up to `around_tokens` tokens of text on either side."""
        end = position + self.window_tokens
        before = self.corpus[max(0, position - around_tokens) : position]
        return Place(
            position, self.tokenizer.decode(before), self.tokenizer.decode(self.corpus[end : end + around_tokens])
        )


def _load_model(path: Path) -> tuple[Transformer, Tokenizer]:
    folder = path / layout.MODEL_FOLDER
    try:
        return Transformer.load(folder), Tokenizer.load(folder / TOKENIZER_FILE)
    except ModelError as error:
        raise DamageError(
            f"the model in {path} cannot be loaded ({error}): copy the snapshot again, or build it again",
            file=folder.name,
        ) from None


def _require_same(what: str, expected: str, actual: str, path: Path) -> None:
    if expected != actual:
        raise MismatchError(
            f"the {what} in {path} is not the one that its keys were made with ({actual[:12]} instead of "
            f"{expected[:12]}): copy the snapshot again, or build it again",
            different=what,
        )
