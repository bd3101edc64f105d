"""Characters become tokens and come back, and an unknown one is named with its place."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE, Tokenizer
from ffnsearch_indexer.errors import ModelError, TokenError


@given(st.text(min_size=1))
def test_a_text_comes_back_from_its_own_vocabulary(text: str) -> None:
    tokenizer = Tokenizer.of_text(text)
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.uint16
    assert tokens.shape == (len(text),)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.vocabulary_size == len(set(text))


@given(vocabulary=st.text(min_size=1, max_size=20), text=st.text(max_size=20))
def test_the_first_unknown_character_is_named_with_its_offset(vocabulary: str, text: str) -> None:
    tokenizer = Tokenizer.of_text(vocabulary)
    unknown = [(offset, character) for offset, character in enumerate(text) if character not in vocabulary]
    if not unknown:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        return
    with pytest.raises(TokenError) as error:
        tokenizer.encode(text, where="the prompt")
    assert error.value.reason == "UNKNOWN_CHARACTER"
    assert error.value.metadata == {"character": unknown[0][1], "offset_characters": str(unknown[0][0])}
    assert f"at character {unknown[0][0]} of the prompt" in error.value.message


def test_characters_beyond_the_basic_plane_count_as_one() -> None:
    tokenizer = Tokenizer("a\U0001f600\U0010ffff")
    assert tokenizer.encode("\U0010ffffa\U0001f600").tolist() == [2, 0, 1]
    with pytest.raises(TokenError, match=r"U\+1F601\) at character 2"):
        tokenizer.encode("\U0001f600a\U0001f601")


def test_a_character_beyond_the_last_of_the_vocabulary_is_unknown() -> None:
    tokenizer = Tokenizer("ab")
    for character in ("`", "c", "d", "\uffff", "\U0010ffff"):
        with pytest.raises(TokenError):
            tokenizer.encode(character)


def test_the_empty_text_has_no_tokens() -> None:
    assert Tokenizer("ab").encode("").tolist() == []
    assert Tokenizer("ab").decode([]) == ""


def test_the_reference_vocabulary() -> None:
    tokenizer = Tokenizer(TINY_SHAKESPEARE)
    assert tokenizer.vocabulary_size == 65
    assert tokenizer == Tokenizer.of_text(TINY_SHAKESPEARE[::-1])
    assert tokenizer.encode("\nz").tolist() == [0, 64]


def test_the_largest_vocabulary() -> None:
    characters = "".join(map(chr, range(0x10000, 0x20000)))
    tokenizer = Tokenizer(characters)
    assert tokenizer.encode(characters[-1]).tolist() == [65_535]
    with pytest.raises(ModelError):
        Tokenizer(characters + "a")


@pytest.mark.parametrize("characters", ["", "aa"])
def test_a_vocabulary_without_or_with_equal_characters_is_refused(characters: str) -> None:
    with pytest.raises(ModelError) as error:
        Tokenizer(characters)
    assert error.value.reason == "INVALID_TOKENIZER"


@pytest.mark.parametrize("characters", ["a", TINY_SHAKESPEARE, '"\\\0\u2028\U0001f600\udc80'])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, characters: str) -> None:
    tokenizer = Tokenizer(characters)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded == tokenizer
    assert loaded.sha256 == tokenizer.sha256


def test_another_vocabulary_has_another_hash() -> None:
    assert Tokenizer("ab").sha256 != Tokenizer("ba").sha256


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"kind": "characters"}', '{"kind": "characters", "characters": 5}', "\udcff",
     '{"kind": "characters", "characters": ["a", "b"]}', '{"kind": "bytes", "characters": "ab"}'],
)  # fmt: skip
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match="is not a tokenizer") as error:
        Tokenizer.load(path)
    assert error.value.metadata == {"file": str(path)}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a tokenizer"):
        Tokenizer.load(tmp_path / "tokenizer.json")
