"""The page: its summary, its parts, and how they become one file that needs no other."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.fidelity.evaluation import Document
from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_indexer.fidelity.report.cards import card, kind_note
from ffnsearch_indexer.fidelity.report.charts import Picture
from ffnsearch_indexer.fidelity.report.explained import Explained
from ffnsearch_indexer.fidelity.report.markup import distance, picture, section
from ffnsearch_indexer.fidelity.report.measured import ARTICLE
from ffnsearch_indexer.fidelity.report.tables import comparison_table, ladder_table, profile_table, terms
from ffnsearch_indexer.store.manifest import Manifest

GENERATOR = '<meta name="generator" content="ffnsearch report">'
"""Marks a page as a report, so that only a report is replaced by the next one."""

TITLES = {
    Protocol.PARITY: (
        "Prompts of the indexed text",
        "The whole text is indexed. Prompts are substrings of it, and each finds itself too (protocol parity).",
    ),
    Protocol.LEAVE_ONE_OUT: (
        "Prompts of the indexed text, each left out itself",
        "The training split is indexed. Prompts are substrings of it, and the substring equal to a prompt does not "
        "count (protocol leave-one-out).",
    ),
    Protocol.HELD_OUT: (
        "Prompts that the index has never seen",
        "The training split is indexed. Prompts come from the rest of the text and do not occur in the index "
        "(protocol held-out).",
    ),
}


@dataclass(frozen=True)
class Measured:
    """One measurement on the page. pictures: the histogram, the comparison and the groups of prompts.

    explained: its best and worst prompts, answered with a profile.
    """

    protocol: Protocol
    document: Document
    pictures: tuple[Picture, Picture, Picture]
    explained: Sequence[Explained]
    profile: Profile


@dataclass(frozen=True)
class Content:
    """All that a page shows.

    calibration: empty where there was none, and calibrated its pictures. profiles: of the snapshot. drawn: its default
    one.
    """

    snapshot: str
    manifest: Manifest
    measured: Sequence[Measured]
    calibration: Document
    calibrated: Sequence[Picture]
    profiles: Mapping[str, Profile]
    drawn: Picture

    @property
    def all_pictures(self) -> list[Picture]:
        """Every picture, in the order of the page."""
        measured = [drawn for of_protocol in self.measured for drawn in of_protocol.pictures]
        return [*measured, *self.calibrated, self.drawn]


def render(content: Content) -> str:
    """The whole page as HTML."""
    style = Path(__file__).with_name("page.css").read_text()
    title = f"Fidelity of {html.escape(content.snapshot)}"
    sections = [
        *map(_measured, content.measured),
        section("calibration", "What calibration found", _calibration(content)),
        section("profile", "The profile that answers", _profile(content)),
        *(_examples(of_protocol, several=len(content.measured) > 1) for of_protocol in content.measured),
        section("words", "The words of this page", terms()),
    ]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{GENERATOR}
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="facts">{_facts(content.manifest)}</p>
<div class="summary">{_summary(content)}</div>
{_links(content)}
</header>
<main>
{chr(10).join(part for part in sections if part)}
</main>
</body>
</html>
"""


def sentence(document: Document, manifest: Manifest, beginning: str = "On") -> str:
    """One measurement in plain words."""
    profiles, sisters = document["profiles"], document["sisters"]
    low, high = document["hellinger"]["ci95"]
    named = f"profile {html.escape(document['profile'])}"
    if document["profile"] != manifest.default_profile:
        named += ", not the default any more"
    mean, interval = distance(document["hellinger"]["mean"]), f"{distance(low)} to {distance(high)}"
    told = [
        f"{beginning} {document['prompts']:,} prompts, the answer ({named}) differs from the model by "
        f"<b>{mean}</b> on average (95&nbsp;% CI {interval})"
    ]
    if sisters:
        means = sorted(sister["hellinger"]["mean"] for sister in sisters)
        told.append(
            f"a retrained model differs by {distance(means[0])}"
            if len(means) == 1
            else f"{len(means)} retrained models differ by {distance(means[0])} to {distance(means[-1])}"
        )
    if ARTICLE in profiles and document["profile"] != ARTICLE:
        told.append(f"the article's constants by {distance(profiles[ARTICLE]['hellinger']['mean'])}")
    return "; ".join(told) + "."


def _summary(content: Content) -> str:
    several = len(content.measured) > 1
    lines = [
        sentence(of.document, content.manifest, f"{TITLES[of.protocol][0]}: on" if several else "On")
        for of in content.measured
    ]
    scale = "Differences are Hellinger distances: 0 for the same distribution, 1 for nothing in common."
    return "\n".join(f"<p>{line}</p>" for line in lines) + f"\n<small>{scale}</small>"


def _facts(manifest: Manifest) -> str:
    return (
        f"{manifest.substrings:,} substrings of {manifest.window_tokens} tokens from "
        f"{html.escape(manifest.corpus_name)} ({html.escape(manifest.split)} split), "
        f"{manifest.blocks} blocks of width {manifest.d_model:,}, "
        f"model {manifest.model_sha256[:12]}, snapshot {manifest.snapshot_id[:12]}"
    )


def _links(content: Content) -> str:
    links = [(of.protocol.value, TITLES[of.protocol][0]) for of in content.measured]
    links += [("calibration", "Calibration")] if content.calibration else []
    links += [("profile", "Profile")]
    links += [(f"examples-{of.protocol}", f"Best and worst ({of.protocol})") for of in content.measured]
    anchors = "".join(f'<a href="#{name}">{title}</a>' for name, title in [*links, ("words", "Words")])
    return f"<nav>{anchors}</nav>"


def _measured(measured: Measured) -> str:
    title, told = TITLES[measured.protocol]
    distances, others, groups = map(picture, measured.pictures)
    table = comparison_table(measured.document)
    return section(measured.protocol.value, title, f"<p>{told}</p>", distances, others, table, groups)


def _calibration(content: Content) -> str:
    calibration = content.calibration
    if not calibration:
        return ""
    intro = (
        f"<p>Thresholds and weights were chosen on {calibration['prompts']:,} prompts of the indexed text, none of "
        "which a measurement takes; some of these, which nothing was fitted to, judge.</p>"
    )
    return "\n".join([intro, *map(picture, content.calibrated), ladder_table(calibration)])


def _profile(content: Content) -> str:
    return picture(content.drawn) + profile_table(content.profiles, content.manifest.default_profile)


def _examples(measured: Measured, *, several: bool) -> str:
    protocol, kind = measured.protocol, measured.profile.kind
    best, worst = (
        "\n".join(card(each, kind) for each in measured.explained if each.is_best is is_best)
        for is_best in (True, False)
    )
    title, name = TITLES[protocol][0], html.escape(measured.profile.name)
    return section(
        f"examples-{protocol}",
        "Best and worst answers" + (f" ({protocol})" if several else ""),
        f"<p>{title}, answered with the profile {name}. {kind_note(kind)}</p>",
        "<h3>Closest to the model</h3>",
        best,
        "<h3>Farthest from the model</h3>",
        worst,
    )
