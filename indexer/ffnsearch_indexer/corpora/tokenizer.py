"""How text becomes token ids and back: one token a character, from a fixed vocabulary."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.errors import ModelError, TokenError

Tokens = NDArray[np.uint16]
"""Token ids [T], uint16."""

TINY_SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The 65 characters of TinyShakespeare, the vocabulary of the reference model."""

KIND = "characters"
"""The kind that a tokenizer's file names; a later version may know others."""

SHORT_CHARACTERS = 64
"""Texts up to this length are encoded character by character: for a prompt of ten, five times as fast as arrays."""

_NO_TOKEN = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class Tokenizer:
    """Maps characters to their position in `characters` and back. Immutable, safe to share between threads."""

    characters: str

    def __post_init__(self) -> None:
        if not self.characters or len(set(self.characters)) != len(self.characters) or len(self.characters) > 1 << 16:
            raise ModelError(
                f"a vocabulary has 1 to 65,536 characters, all different; this one has {len(self.characters):,}, "
                f"{len(set(self.characters)):,} of them different: give another text or tokenizer",
                reason="INVALID_TOKENIZER",
            )

    @classmethod
    def of_text(cls, text: str) -> "Tokenizer":
        """The vocabulary of the characters that occur in a text, in code point order."""
        return cls("".join(sorted(set(text))))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer that `save` wrote; raises ModelError."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["kind"] != KIND or not isinstance(document["characters"], str):
                raise ValueError(f"its kind is not {KIND!r}, or its characters are not a text")
            return cls(document["characters"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            wrong = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ModelError(
                f"{path} is not a tokenizer ({wrong}): copy it again from the folder of its model",
                reason="INVALID_TOKENIZER",
                file=path,
            ) from None

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON."""
        path.write_text(self._json, encoding="utf-8")

    @property
    def vocabulary_size(self) -> int:
        """V, the number of tokens."""
        return len(self.characters)

    @cached_property
    def sha256(self) -> str:
        """What identifies this vocabulary: SHA-256 of its JSON form, in hexadecimal."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    def encode(self, text: str, *, where: str = "the text") -> Tokens:
        """Turn a text into token ids [T], uint16. Raises TokenError for the first unknown character."""
        if len(text) <= SHORT_CHARACTERS:
            tokens_of_few = [self._token_of_character.get(character) for character in text]
            if None not in tokens_of_few:
                return np.array(tokens_of_few, dtype=np.uint16)
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        tokens: NDArray[np.uint32] = self._token_of_code[np.minimum(codes, len(self._token_of_code) - 1)]
        unknown = tokens == _NO_TOKEN
        if unknown.any():
            offset = int(unknown.argmax())
            raise TokenError(
                f"{text[offset]!r} (U+{ord(text[offset]):04X}) at character {offset} of {where} "
                f"is not among the model's {self.vocabulary_size} characters: replace it, or use another model",
                reason="UNKNOWN_CHARACTER",
                character=text[offset],
                offset_characters=offset,
            )
        return tokens.astype(np.uint16)

    def decode(self, tokens: Iterable[int]) -> str:
        """Turn token ids into text; every id must be below `vocabulary_size`."""
        return "".join(self.characters[token] for token in tokens)

    @property
    def _json(self) -> str:
        return json.dumps({"kind": KIND, "characters": self.characters}, indent=1) + "\n"

    @cached_property
    def _token_of_character(self) -> dict[str, int]:
        return {character: token for token, character in enumerate(self.characters)}

    @cached_property
    def _token_of_code(self) -> NDArray[np.uint32]:
        """Token of each code point; the last row stands for all code points beyond the vocabulary's."""
        codes = np.array([ord(character) for character in self.characters])
        table = np.full(codes.max() + 2, _NO_TOKEN)
        table[codes] = np.arange(len(codes))
        return table
