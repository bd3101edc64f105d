"""The subcommands that ask a snapshot or a server: info, predict, neighbors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffnsearch_indexer.cli.options import AsJson, SkipVerify
from ffnsearch_indexer.errors import ProfileError
from ffnsearch_service.cli.refusing import EXIT_REFUSED, complain
from ffnsearch_service.cli.servers import ServerOptions, Target, open_target, refuse_given, with_server_options
from ffnsearch_service.config import MIN_SHARE_DEFAULT, Limits
from ffnsearch_service.errors import RequestError

if TYPE_CHECKING:
    from ffnsearch_indexer.answer.profile import Profile
    from ffnsearch_service.client.asking import NeighborsOptions, PredictOptions, PromptLike, SearchOptions
    from ffnsearch_service.client.interface import Calls

Backend = Annotated[str, typer.Option(help="What searches a directory: auto, fused, tiles, exact, faiss, faiss-ivf.")]
Device = Annotated[str, typer.Option(help="Of a directory: where model and search run: auto, cpu, or cuda.")]
ExcludeSelf = Annotated[bool, typer.Option("--exclude-self", help="Do not count the substring that equals the prompt.")]
ProfileName = Annotated[str | None, typer.Option(help="One of the snapshot's profiles; `info` lists them.")]


@with_server_options
def info(target: Target, server: ServerOptions, as_json: AsJson = False) -> None:
    """Show what a snapshot or a server holds: corpus, model, profiles, fidelity, limits.

    Of a snapshot, the sizes of its files are compared with its manifest; `ffnsearch verify` reads every byte.
    """
    with open_target(target, server, sizes_only=True) as calls:
        from ffnsearch_service.show.as_json import print_json
        from ffnsearch_service.show.info import print_info

        found = calls.info(snapshot=server.snapshot)
        (print_json if as_json else print_info)(found)


@with_server_options
def predict(
    target: Target,
    server: ServerOptions,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="Text to continue; several are answered together.", metavar="PROMPT", show_default=False),
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(help="A prompt a line, or as JSON in a *.jsonl; - is standard input.", metavar="FILE"),
    ] = None,
    prompts_jsonl: Annotated[
        bool, typer.Option("--prompts-jsonl", help="FILE has lines of JSON whatever its name, such as -.")
    ] = False,
    profile: ProfileName = None,
    profile_file: Annotated[
        Path | None,
        typer.Option(help="A JSON file with a profile, as `info --json` prints them.", metavar="FILE.json"),
    ] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="A threshold for each block, repeated, in order; with as many --weight.", min=-1, max=1),
    ] = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="A weight for each block, repeated, in order.", min=0)
    ] = None,
    exclude_self: ExcludeSelf = False,
    top_n: Annotated[int, typer.Option(help="Most tokens to list.", min=1)] = 10,
    min_prob: Annotated[float, typer.Option(help="Least probability to list.", min=0, max=1)] = 0.0,
    explain: Annotated[bool, typer.Option("--explain", help="Add what each block contributes to a token.")] = False,
    queries: Annotated[
        bool, typer.Option("--queries", help="With --json or --jsonl: add the vectors that were searched for.")
    ] = False,
    as_json: AsJson = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a line of JSON for each prompt.")] = False,
    prompts_per_call: Annotated[
        int | None, typer.Option(help="With FILE or --jsonl: prompts in a call.", min=1, show_default="64")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="With FILE or --jsonl: calls at a time.", min=1, max=256, show_default="4")
    ] = None,
    backend: Backend = "auto",
    device: Device = "auto",
    skip_verify: SkipVerify = False,
) -> None:
    """Predict the next token: the model's own distribution and the approximation, side by side.

    Of a file with any number of prompts, or with --jsonl, each answer is a line, printed while later prompts are read.
    """
    chosen = _profile(profile, profile_file, threshold or [], weight or [])
    is_bulk = _is_bulk(prompts or [], prompts_file, as_json=as_json, as_jsonl=as_jsonl)
    if explain and is_bulk and not as_jsonl:
        raise RequestError("--explain needs more than a line a prompt: add --jsonl, or give prompts instead of a file")
    if prompts_jsonl and prompts_file is None:
        raise RequestError("--prompts-jsonl says what --prompts-file holds: give that too, or leave it out")
    if not is_bulk and (prompts_per_call or concurrency):
        raise RequestError("--prompts-per-call and --concurrency are for --prompts-file and --jsonl: leave them out")
    if queries and not (as_json or as_jsonl):
        raise RequestError("--queries are vectors, which a table has no room for: add --json or --jsonl")
    with open_target(
        target, server, backend=backend, device=device, skip_verify=skip_verify, retry_overloaded=is_bulk
    ) as calls:
        options: PredictOptions = {
            "profile": chosen,
            "exclude_self": exclude_self,
            "top_n": top_n,
            "min_prob": min_prob,
            "include_model": True,
            "include_contributions": explain,
            "include_queries": queries,
            "snapshot": server.snapshot,
        }
        if is_bulk:
            from ffnsearch_service.client.many import CONCURRENCY, PROMPTS_PER_CALL
            from ffnsearch_service.show.many import print_many

            failures = print_many(
                calls,
                prompts_file or prompts or [],
                prompts_as_json=prompts_jsonl,
                as_json=as_jsonl,
                prompts_per_call=prompts_per_call or PROMPTS_PER_CALL,
                concurrency=concurrency or CONCURRENCY,
                **options,
            )
        else:
            failures = _print_predictions(calls, prompts or [], options, as_json=as_json, explain=explain)
    for failure in failures:
        complain(failure)
    if failures:
        raise typer.Exit(EXIT_REFUSED)


@with_server_options
def neighbors(
    target: Target,
    server: ServerOptions,
    block: Annotated[int, typer.Option(help="Block of the model, from 0.", show_default=False)],
    text: Annotated[
        str | None, typer.Argument(help="Text whose neighbors are wanted.", metavar="PROMPT", show_default=False)
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(help="A file with one line instead: a prompt, or as JSON in a *.jsonl.", metavar="FILE"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Least score, exclusive.", min=-1, max=1, show_default="the profile's"),
    ] = None,
    profile: ProfileName = None,
    exclude_self: ExcludeSelf = False,
    classes: Annotated[
        bool, typer.Option("--classes", help="Explain them: list the endings that are wholly or mostly above.")
    ] = False,
    min_share: Annotated[
        float | None,
        typer.Option(
            help="With --classes: least share of an ending that is above, in (0, 1].",
            show_default=str(MIN_SHARE_DEFAULT),
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Most neighbors or classes to list.", min=1, show_default="20, or 10 classes")
    ] = None,
    context_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to show before and after a place.", min=0, show_default=str(Limits.context_tokens_default)
        ),
    ] = None,
    places_max: Annotated[
        int | None,
        typer.Option(
            help="Most places of a neighbor; a table has the first.", min=0, show_default=str(Limits.places_default)
        ),
    ] = None,
    as_json: AsJson = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print a line of JSON for each neighbor, as they arrive.")
    ] = False,
    backend: Backend = "auto",
    device: Device = "auto",
    skip_verify: SkipVerify = False,
) -> None:
    """List the evidence: the substrings of one block above a threshold, best first, or what they have in common."""
    prompt = _one_prompt(text, prompt_file)
    if min_share is not None and not classes:
        raise RequestError("--min-share is given without --classes, which it is for: add --classes, or leave it out")
    if as_json and as_jsonl:
        raise RequestError("--json prints one document, --jsonl a line for each neighbor: choose one")
    if classes:
        of_neighbors = {"--jsonl": as_jsonl or None, "--context-tokens": context_tokens, "--places-max": places_max}
        refuse_given(of_neighbors, "is for a list of neighbors, and --classes lists endings")
    with open_target(target, server, backend=backend, device=device, skip_verify=skip_verify) as calls:
        from ffnsearch_service.show import answers as show
        from ffnsearch_service.show.as_json import print_json

        options: SearchOptions = {
            "exclude_self": exclude_self,
            "profile_name": profile or "",
            "snapshot": server.snapshot,
        }
        if threshold is not None:
            options["threshold"] = threshold
        if classes:
            least = MIN_SHARE_DEFAULT if min_share is None else min_share
            explained = calls.classes(prompt, block, classes_max=limit or 0, min_share=least, **options)
            (print_json if as_json else show.print_classes)(explained)
        else:
            shown: NeighborsOptions = {}
            if context_tokens is not None:
                shown["context_tokens"] = context_tokens
            if places_max is not None:
                shown["places_max"] = places_max
            listed: NeighborsOptions = {**shown, **options}
            _print_neighbors(calls, prompt, block, limit or 20, listed, as_json=as_json, as_jsonl=as_jsonl)


def _one_prompt(text: str | None, file: Path | None) -> "PromptLike":
    """The prompt that was given, itself or in a file. Raises RequestError where it is not one of the two."""
    if text is not None and file is None:
        return text
    if text is None and file is not None:
        from ffnsearch_service.client.prompt_files import read_prompt

        return read_prompt(file)
    raise RequestError("give a prompt, or --prompt-file with one: one of the two")


def _print_neighbors(
    calls: "Calls",
    prompt: "PromptLike",
    block: int,
    limit: int,
    options: "NeighborsOptions",
    *,
    as_json: bool,
    as_jsonl: bool,
) -> None:
    """Ask page by page; but for one document, print each page as it arrives."""
    from ffnsearch_service.client.evidence import best_pages, collect
    from ffnsearch_service.show.answers import print_evidence
    from ffnsearch_service.show.as_json import print_json, print_json_lines

    if as_json:
        print_json(collect(calls, prompt, block, limit=limit, **options))
        return
    pages = best_pages(calls, prompt, block, limit=limit, **options)
    if as_jsonl:
        for page in pages:
            print_json_lines(page.neighbors)
    else:
        print_evidence(pages, block, limit)


def _is_bulk(prompts: Sequence[str], prompts_file: Path | None, *, as_json: bool, as_jsonl: bool) -> bool:
    """Whether answers are printed a line each, as they come. Raises RequestError for options that contradict."""
    if bool(prompts) == (prompts_file is not None):
        raise RequestError("give prompts, or --prompts-file with a prompt a line: one of the two")
    if as_json and (as_jsonl or prompts_file):
        raise RequestError("--json prints one document for a single call: use --jsonl for a line a prompt")
    return as_jsonl or prompts_file is not None


def _print_predictions(
    calls: "Calls", prompts: Sequence[str], options: "PredictOptions", *, as_json: bool, explain: bool
) -> list[str]:
    """Ask in one call, print the answers, and return why prompts were refused."""
    from ffnsearch_service.show.answers import print_prediction
    from ffnsearch_service.show.as_json import print_json

    answer = calls.predict(prompts, **options)
    if as_json:
        print_json(answer)
    else:
        print_prediction(prompts, answer, explain=explain)
    return [result.error.message for result in answer.results if result.error is not None]


def _profile(
    name: str | None, file: Path | None, thresholds: Sequence[float], weights: Sequence[float]
) -> "Profile | str | None":
    """The profile that the options choose, None for the default one."""
    given = {
        "--profile": name is not None,
        "--profile-file": file is not None,
        "--threshold or --weight": bool(thresholds or weights),
    }
    ways = [way for way, is_given in given.items() if is_given]
    if len(ways) > 1:
        raise ProfileError(f"{ways[0]} is given, and {ways[1]} too: choose one way")
    if file is not None:
        from ffnsearch_service.client.profile_files import load_profile

        return load_profile(file)
    if thresholds or weights:
        from ffnsearch_indexer.answer.profile import one_step

        try:
            return one_step("", thresholds, weights)
        except ProfileError as error:
            told = error.message.removeprefix(f"{error.metadata['field']}: ")
            raise ProfileError(f"--threshold and --weight: {told}", reason=error.reason) from None
    return name
