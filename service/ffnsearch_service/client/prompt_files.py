"""How prompts are read from a file: a line each, as text or as JSON."""

import codecs
import itertools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from ffnsearch_service.client.asking import PromptLike
from ffnsearch_service.client.queries import Queries
from ffnsearch_service.errors import InvalidRequestError, RequestError

STDIN = Path("-")
"""Stands for standard input."""

LINE_BYTES_MAX = 4 << 20
"""Longest line: no longer text could be sent."""

_TO_WRITE = 'write a string in quotes, a list of token ids, or {"queries": {"blocks": [[0.1, ...], null, ...]}}'


def read_prompts(path: Path, *, as_json: bool = False) -> Iterator[PromptLike]:
    """The prompts of a UTF-8 file, or of standard input for `-`, read as they are needed.

    Each line is a prompt, without its line break, and the first without a byte order mark. With `as_json`, and of a
    file *.jsonl, it is a JSON string, a list of token ids, or an object with `queries` as a PromptResult has them, in
    the place of a prompt. Raises RequestError, which names the line, for JSON that is none of these, and for a line too
    long; and where there is no such file, or a *.json, which would be one document.
    """
    if path.suffix == ".json":
        raise RequestError(f"{path} would be one document: give a *.jsonl with a prompt a line, as `jq -c` writes them")
    try:
        with nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as file:
            for number, line in _lines(file):
                yield _prompt(line, as_json=as_json or path.suffix == ".jsonl", place=f"{path}, line {number}")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}; give a file with a prompt a line") from None


def read_prompt(path: Path) -> PromptLike:
    """The one prompt of a file, read as `read_prompts` does. Raises RequestError where there is none, or another."""
    first = list(itertools.islice(read_prompts(path), 2))
    if len(first) != 1:
        told = "more than one prompt" if first else "no prompt"
        raise RequestError(f"{path} has {told}: give a file with one line, JSON in a *.jsonl")
    return first[0]


def count_prompts(path: Path) -> int:
    """How many prompts a file holds, 0 where that is not known beforehand."""
    if not os.path.isfile(path):
        return 0
    try:
        with path.open("rb") as file:
            return sum(1 for _ in _lines(file))
    except OSError:  # `read_prompts` reports it
        return 0


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines without their breaks, and their numbers from 1; one that is too long comes in parts."""
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 2):
        number += 1
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        yield number, text.removesuffix(b"\n").removesuffix(b"\r")


def _prompt(line: bytes, *, as_json: bool, place: str) -> PromptLike:
    if len(line) > LINE_BYTES_MAX:
        raise RequestError(f"{place} has more than {LINE_BYTES_MAX:,} bytes: give a file with a prompt a line")
    if not as_json:
        return line.decode(errors="surrogateescape")  # a prompt that is not UTF-8 is refused alone
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{place} is not JSON ({error}): {_TO_WRITE}") from None
    if isinstance(found, dict) and "queries" in found and found["queries"] is None:
        raise RequestError(f"{place} has no queries: its prompt was refused, or `predict` was run without --queries")
    if isinstance(found, dict) and isinstance(found.get("queries"), dict):
        return _queries(found["queries"].get("blocks"), place)
    is_ids = isinstance(found, list) and all(type(token) is int for token in found)  # true is an int too
    if not (isinstance(found, str) or is_ids):
        raise RequestError(f"{place} is no prompt: {_TO_WRITE}")
    return found  # type: ignore[no-any-return]


def _queries(blocks: Any, place: str) -> Queries:
    try:
        return Queries(blocks)
    except InvalidRequestError as error:
        raise RequestError(f"{place}: {error.message}") from None
