"""How the content of a snapshot or a server is shown: tables of facts, profiles and fidelity."""

from collections.abc import Sequence
from typing import Any

from ffnsearch_indexer.answer.profile import ProductProfile, Profile, Step, SumProfile
from ffnsearch_service.client.results import FidelitySummary, Info
from ffnsearch_service.show.answers import backend_line
from ffnsearch_service.show.tables import Table, print_table
from ffnsearch_service.show.terminal import harmless


def print_info(info: Info) -> None:
    """Print what is served."""
    for title, values in (("snapshot", info.snapshot), ("model", info.model), ("limits", info.limits)):
        print_table(Table((title, ""), [(name, _fact(value)) for name, value in values.items()]))
        print()
    print_table(_profile_table(info))
    print()
    print_table(_step_table(info))
    print()
    if info.fidelity:
        print_table(_fidelity_table(info.fidelity))
    else:
        print("fidelity: not measured; `ffnsearch evaluate` measures it and keeps it in the snapshot")
    if info.self_sums_profile_names:
        names = harmless(", ".join(info.self_sums_profile_names))
        print(f"\nself-sums: prompts from the corpus need no search with {names}")
    backend = backend_line(info.backend, info.approximate, info.recall)
    print(f"\n{harmless(f'backend {backend}, version {info.server_version}')}")


def _profile_table(info: Info) -> Table:
    rows = [
        (_marked(name, info.default_profile_name), profile.kind, _profile_facts(profile))
        for name, profile in info.profiles.items()
    ]
    return Table(("profile", "kind", ""), rows)


def _profile_facts(profile: Profile) -> str:
    """What a profile has beside its steps, and where it comes from."""
    facts = [profile.source] if profile.source else []
    if isinstance(profile, SumProfile):
        facts.append(f"mass power {profile.mass_power:.4g}")
    if isinstance(profile, ProductProfile):
        facts.append(f"prior weight {profile.prior_weight:.4g}")
        if profile.token_bias:
            facts.append(f"{len(profile.token_bias)} token biases")
    if profile.expectation is not None:
        distances = profile.expectation.distance
        facts.append(f"expected distance {min(distances):.4f} to {max(distances):.4f}")
    return ", ".join(facts)


def _step_table(info: Info) -> Table:
    """One row for each block of each profile, with all of its steps."""
    rows = [
        (name, str(block), ", ".join(map(_short_step, steps)) or "none")
        for name, profile in info.profiles.items()
        for block, steps in enumerate(profile.blocks)
    ]
    return Table(("profile", "block", "threshold: weight"), rows, right=frozenset({1}))


def _short_step(step: Step) -> str:
    return f"{step.threshold:.4g}: {step.weight:.4g}"


def _fidelity_table(summaries: Sequence[FidelitySummary]) -> Table:
    """One column for each protocol."""
    rows = {
        "profile": [summary.profile_name for summary in summaries],
        "prompts": [f"{summary.prompts:,}" for summary in summaries],
        "mean Hellinger distance": [f"{summary.hellinger_mean:.4f}" for summary in summaries],
        "95 % interval": [f"{s.hellinger_ci95_low:.4f} to {s.hellinger_ci95_high:.4f}" for s in summaries],
        "largest": [f"{summary.hellinger_max:.4f}" for summary in summaries],
        "noise floor": [_noise_floor(summary) for summary in summaries],
        "same top token": [f"{summary.top1_agreement:.1%}" for summary in summaries],
        "no support": [f"{summary.no_support_share:.1%}" for summary in summaries],
    }
    headings = ("fidelity", *(summary.protocol.replace("_", "-") for summary in summaries))
    return Table(headings, [(name, *cells) for name, cells in rows.items()], right=frozenset(range(1, len(headings))))


def _noise_floor(summary: FidelitySummary) -> str:
    """The distance of models trained from other seeds."""
    mean = summary.noise_floor_hellinger_mean
    return "not measured" if mean is None else f"{mean:.4f}"


def _marked(name: str, default: str) -> str:
    return f"{name} (default)" if name == default else name


def _fact(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value) or "unknown"
