"""How the answers to many prompts look: a line each, printed as they come."""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO, Unpack

from ffnsearch_indexer.console import ProgressDisplay
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_service.client.asking import PredictOptions, PromptLike
from ffnsearch_service.client.interface import Calls
from ffnsearch_service.client.prompt_files import count_prompts, read_prompts
from ffnsearch_service.client.queries import Queries
from ffnsearch_service.client.results import PromptResult, plain
from ffnsearch_service.show.terminal import quoted, visible

SHOWN_TOKENS_MAX = 3
"""Tokens of an answer that a line for a person has room for."""

_HEADING = f"{'distance':<10}  {'likeliest tokens':<{SHOWN_TOKENS_MAX * 12}}prompt"


def print_many(
    calls: Calls,
    prompts: Path | Sequence[str],
    *,
    prompts_as_json: bool,
    as_json: bool,
    prompts_per_call: int,
    concurrency: int,
    **options: Unpack[PredictOptions],
) -> list[str]:
    """Print a line for each prompt, of a list or of a file; returns a line about those refused, if any.

    prompts_as_json: whether the file has JSON whatever its name. A line of JSON has the prompt, null for queries in its
    place, and the fields of its PromptResult. Where the lines do not go to a terminal, a bar on stderr shows how far
    they are. Raises FfnSearchError, after the lines of the prompts before.
    """
    there = count_prompts(prompts) if isinstance(prompts, Path) else len(prompts)
    asked: deque[PromptLike] = deque()
    out = sys.stdout  # the bar, once there, takes the name for itself
    answered, refused, first = 0, 0, ""
    if not as_json:
        print(_HEADING, file=out)
    with _display() as display:
        results = calls.predict_many(
            _remembering(
                read_prompts(prompts, as_json=prompts_as_json) if isinstance(prompts, Path) else prompts, asked
            ),
            prompts_per_call=prompts_per_call,
            concurrency=concurrency,
            progress=lambda stage, done, total, detail="": display(stage, done, there, detail),
            **options,
        )
        for result in results:
            _print_line(asked.popleft(), result, out, as_json=as_json)
            answered += 1
            if result.error is not None:
                place = f"{prompts}, line {answered}: " if isinstance(prompts, Path) else ""
                refused, first = refused + 1, first or place + result.error.message
    return [f"{refused:,} of {answered:,} prompts were refused; the first: {first}"] if refused else []


def _display() -> AbstractContextManager[Progress]:
    """A bar, unless the lines themselves can be seen to grow."""
    return nullcontext(silent) if sys.stdout.isatty() else ProgressDisplay()


def _remembering(prompts: Iterable[PromptLike], asked: deque[PromptLike]) -> Iterator[PromptLike]:
    for prompt in prompts:
        asked.append(prompt)
        yield prompt


def _print_line(prompt: PromptLike, result: PromptResult, out: TextIO, *, as_json: bool) -> None:
    told = None if isinstance(prompt, Queries) else prompt
    line = json.dumps({"prompt": told, **plain(result)}) if as_json else _line(prompt, result)
    print(line, file=out, flush=True)


def _line(prompt: PromptLike, result: PromptResult) -> str:
    """Distance, likeliest tokens, prompt: in columns, but for a prompt that is long or refused."""
    without = "no model" if result.status == "OK" else result.status.lower().replace("_", " ")
    distance = without if result.hellinger is None else f"{result.hellinger:.4f}"
    shown = result.distribution.tokens[:SHOWN_TOKENS_MAX] if result.distribution else ()
    tokens = "".join(f"{visible(token.text):<4} {token.probability:.3f}  " for token in shown)
    return f"{distance:<10}  {tokens:<{SHOWN_TOKENS_MAX * 12}}{_told(prompt)}"


def _told(prompt: PromptLike) -> str:
    if isinstance(prompt, Queries):
        return "(queries)"
    return quoted(prompt) if isinstance(prompt, str) else str(list(prompt))
