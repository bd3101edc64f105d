"""How answers and evidence look to a person."""

import itertools
import sys
from collections.abc import Iterable, Sequence

from ffnsearch_service.client.results import (
    ClassList,
    Distribution,
    Neighbor,
    NeighborPage,
    PredictResult,
    PromptResult,
    StepResult,
    SuffixClass,
    Timings,
    TokenProbability,
    plain,
)
from ffnsearch_service.profiles import Kind
from ffnsearch_service.show.tables import Table, print_table
from ffnsearch_service.show.terminal import harmless, quoted, visible

BAR_CHARACTERS = 24
EXPLAINED_TOKENS_MAX = 7
"""Most tokens in a table of contributions: so many columns fit a terminal."""


def print_prediction(prompts: Sequence[str], prediction: PredictResult, *, explain: bool = False) -> None:
    """Print the answers that could be given, model and approximation side by side, with what each block found.

    explain: what each block contributes too, which the prediction must have.
    """
    for prompt, result in zip(prompts, prediction.results, strict=True):
        if result.status != "INVALID":
            _print_answer(prompt, result)
            if explain and result.distribution and result.distribution.tokens:
                _print_contributions(result.distribution.tokens[:EXPLAINED_TOKENS_MAX], prediction.profile_kind)
    profile = prediction.profile_name or "the given one"
    backend = backend_line(prediction.backend, prediction.approximate, prediction.recall)
    print(harmless(f"snapshot {prediction.snapshot_id[:12]}, profile {profile}, backend {backend}"))
    print(_timing_line(prediction.timings))


def print_evidence(pages: Iterable[NeighborPage], block: int, limit: int) -> None:
    """Print the `limit` best neighbors with what follows them and where they are, a table a page, as pages arrive."""
    for number, page in enumerate(pages):
        if number == 0:
            print(
                f"block {block}, score above {page.threshold:g}: {page.total_neighbors:,} substrings, "
                f"the best {min(limit, page.total_neighbors):,} of them:"
            )
        print()
        print_table(_neighbors_table(page.neighbors))
        sys.stdout.flush()  # whoever reads it may want no more


def print_classes(found: ClassList) -> None:
    """Print classes of substrings that share a suffix: how many neighbors each explains, and what follows these."""
    print(
        f"block {found.block}, score above {found.threshold:g}: {found.total_neighbors:,} substrings{_covered(found)}"
    )
    rows = [
        (
            f"{of_suffix.neighbors:,}",
            f"{of_suffix.members:,}",
            f"{of_suffix.neighbors / of_suffix.members:.1%}",
            f"…{visible(of_suffix.text)}",
            f"{of_suffix.best_score:.6f}",
            _follower_shares(of_suffix),
        )
        for of_suffix in found.classes
    ]
    if rows:
        headings = ("neighbors", "members", "share", "suffix", "best score", "followed by")
        print_table(Table(headings, rows, right=frozenset({0, 1, 2})))


def bar(probability: float) -> str:
    """A bar whose length is the probability, to an eighth of a character."""
    eighths = round(probability * BAR_CHARACTERS * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _print_answer(prompt: str, result: PromptResult) -> None:
    print(f"\n{quoted(prompt)}{_remark(result)}\n")
    print_table(_side_by_side(result.model, result.distribution))
    if result.status == "NO_SUPPORT":
        print("\nno support: no substring above the thresholds has a successor; lower them, or use a larger corpus")
    if result.hellinger is not None:
        print(f"\nHellinger distance {result.hellinger:.4f} (0: the same distribution, 1: nothing in common)")
    if result.expected_hellinger is not None:
        print(f"expected           {result.expected_hellinger:.4f} (calibration's mean where as much was found)")
    print()
    print_table(_block_table(result))
    print()


def _print_contributions(tokens: Sequence[TokenProbability], kind: Kind) -> None:
    if kind == "sum":
        print("Shares of the blocks in the probability of each token:\n")
    else:
        print("What speaks for each token (+) or against it (-), in nats; 0.69 is a factor of two:\n")
    print_table(_contribution_table(tokens, kind))
    print()


def _contribution_table(tokens: Sequence[TokenProbability], kind: Kind) -> Table:
    """Blocks by tokens; of a product with its prior, of a sum with the probability that the shares add up to."""
    shown = "{:.2%}" if kind == "sum" else "{:+.2f}"
    rows = [
        (f"block {block}", *map(shown.format, of_block))
        for block, of_block in enumerate(zip(*(token.block_contributions for token in tokens), strict=True))
    ]
    if kind == "product":
        rows.append(("prior", *(shown.format(token.prior_contribution) for token in tokens)))
    totals = [sum(token.block_contributions) + (token.prior_contribution or 0) for token in tokens]
    rows.append(("together", *map(shown.format, totals)))
    return Table(("", *(visible(token.text) for token in tokens)), rows, right=frozenset(range(1, len(tokens) + 1)))


def _remark(result: PromptResult) -> str:
    if result.short_prompt:
        return f"  (shorter than the window, its {result.used_tokens} tokens are used)"
    found = "no indexed substring" if result.self_id is None else f"substring {result.self_id}"
    return f"  (its last {result.used_tokens} tokens are used; {found})"


def _side_by_side(model: Distribution | None, answer: Distribution | None) -> Table:
    columns = [distribution.tokens if distribution else () for distribution in (model, answer)]
    rows = [
        tuple(itertools.chain.from_iterable(_token_cells(token) for token in pair))
        for pair in itertools.zip_longest(*columns)
    ]
    return Table(("model", "", "", "approximation", "", ""), rows, right=frozenset({1, 4}), bars=frozenset({2, 5}))


def _token_cells(token: TokenProbability | None) -> tuple[str, str, str]:
    return ("", "", "") if token is None else (visible(token.text), f"{token.probability:.4f}", bar(token.probability))


def _block_table(result: PromptResult) -> Table:
    if any(len(steps) > 1 for steps in result.blocks):
        rows = [_range_cells(block, steps) for block, steps in enumerate(result.blocks)]
        return Table(("block", "steps", "thresholds", "neighbors", "mass"), rows, right=frozenset(range(5)))
    rows = [
        (str(block), f"{step.threshold:g}", f"{step.weight:g}", f"{step.neighbors:,}", f"{step.mass:,}")
        for block, steps in enumerate(result.blocks)
        for step in steps
    ]
    headings = ("block", "threshold", "weight", "neighbors", "mass")
    return Table(headings, rows, right=frozenset(range(len(headings))))


def _range_cells(block: int, steps: Sequence[StepResult]) -> tuple[str, str, str, str, str]:
    """A row for a block of several steps: what is above the lowest threshold, and above the highest."""
    ends = sorted(steps, key=lambda step: step.threshold)[:: max(1, len(steps) - 1)]
    return (
        str(block),
        str(len(steps)),
        " to ".join(f"{step.threshold:.4g}" for step in ends),
        " to ".join(f"{step.neighbors:,}" for step in ends),
        " to ".join(f"{step.mass:,}" for step in ends),
    )


def _neighbors_table(neighbors: Sequence[Neighbor]) -> Table:
    rows = [
        (f"{neighbor.score:.6f}", str(neighbor.id), quoted(neighbor.text), _followers(neighbor), _first_place(neighbor))
        for neighbor in neighbors
    ]
    return Table(("score", "id", "substring", "followed by", "first place"), rows, right=frozenset({0, 1}))


def _followers(neighbor: Neighbor) -> str:
    shown = [f"{visible(token.text)} {token.count}" for token in neighbor.next_tokens[:5]]
    return ", ".join(shown) + (", …" if len(neighbor.next_tokens) > len(shown) else "")


def _covered(found: ClassList) -> str:
    if found.total_neighbors == 0:
        return ""
    if not found.classes:
        return ", too few or too different to share an ending: list them without --classes"
    share = f"{found.covered_neighbors:,} of them ({found.covered_neighbors / found.total_neighbors:.1%})"
    return f", {share} in {len(found.classes)} suffix class{'es' if len(found.classes) > 1 else ''}:\n"


def _follower_shares(of_suffix: SuffixClass) -> str:
    shares = [(token.text, token.count / of_suffix.mass) for token in of_suffix.next_tokens[:5]]
    shown = [f"{visible(text)} {share:.0%}" for text, share in shares if share >= 0.005]
    return ", ".join(shown) + (", …" if len(of_suffix.next_tokens) > len(shown) else "")


def _first_place(neighbor: Neighbor) -> str:
    if not neighbor.places:
        return f"{neighbor.total_places} in all"
    place = neighbor.places[0]
    more = f" and {neighbor.total_places - 1} more" if neighbor.total_places > 1 else ""
    before, middle, after = (quoted(text)[1:-1] for text in (place.before, neighbor.text, place.after))
    return f"{before}[{middle}]{after}  (at {place.position}{more})"


def _timing_line(timings: Timings) -> str:
    stages = [(name.removesuffix("_ns"), value / 1e6) for name, value in plain(timings).items()]
    *parts, (_, total_ms) = stages
    return f"{total_ms:.1f} ms: " + ", ".join(f"{name} {value:.1f}" for name, value in parts)


def backend_line(name: str, approximate: bool, recall: float) -> str:
    """Name a backend, and say so where it may miss neighbors, and how many it was measured to find."""
    return (
        f"{name} (approximate: a query finds {recall:.1%} of its neighbors, in the measured mean)"
        if approximate
        else name
    )
