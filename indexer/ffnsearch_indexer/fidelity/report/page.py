"""The page: what it says first, which parts it has, and how they become one file without a link to another."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
"""Stands in every report, so that it is known again."""

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
class Content:
    """All that a page shows. A part without content is left out.

    By protocol: documents; pictures, which are the histogram, the comparison and the classes; the prompts explained,
    and with which profile. calibrated: the calibration's pictures. profiles: of the snapshot. drawn: its default one.
    """

    snapshot: str
    manifest: Manifest
    documents: Mapping[Protocol, Document]
    pictures: Mapping[Protocol, tuple[Picture, Picture, Picture]]
    explained: Mapping[Protocol, Sequence[Explained]]
    explained_by: Mapping[Protocol, Profile]
    calibration: Document = field(default_factory=dict)
    calibrated: Sequence[Picture] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    drawn: Picture | None = None

    @cached_property
    def all_pictures(self) -> list[Picture]:
        """Every picture, in the order of the page."""
        measured = [drawn for of_protocol in self.pictures.values() for drawn in of_protocol]
        return [*measured, *self.calibrated, *([self.drawn] if self.drawn else [])]


def render(content: Content) -> str:
    """The whole page as HTML."""
    style = Path(__file__).with_name("page.css").read_text()
    title = f"Fidelity of {html.escape(content.snapshot)}"
    sections = [
        *(_measured(content, protocol) for protocol in content.documents),
        section("calibration", "What calibration found", _calibration(content)),
        section("profile", "The profile that answers", _profile(content)),
        *(_examples(content, protocol) for protocol in content.explained),
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
    several = len(content.documents) > 1
    lines = [
        sentence(document, content.manifest, f"{TITLES[protocol][0]}: on" if several else "On")
        for protocol, document in content.documents.items()
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
    links = [(protocol.value, TITLES[protocol][0]) for protocol in content.documents]
    links += [("calibration", "Calibration")] if content.calibration else []
    links += [("profile", "Profile")] if content.profiles else []
    links += [(f"examples-{protocol}", f"Best and worst ({protocol})") for protocol in content.explained]
    anchors = "".join(f'<a href="#{name}">{title}</a>' for name, title in [*links, ("words", "Words")])
    return f"<nav>{anchors}</nav>"


def _measured(content: Content, protocol: Protocol) -> str:
    title, told = TITLES[protocol]
    document = content.documents[protocol]
    distances, others, classes = map(picture, content.pictures[protocol])
    return section(protocol.value, title, f"<p>{told}</p>", distances, others, comparison_table(document), classes)


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
    if content.drawn is None:
        return ""
    return picture(content.drawn) + profile_table(content.profiles, content.manifest.default_profile)


def _examples(content: Content, protocol: Protocol) -> str:
    examples = content.explained[protocol]
    kind = content.explained_by[protocol].kind
    best, worst = (
        "\n".join(card(each, kind) for each in examples if each.is_best is is_best) for is_best in (True, False)
    )
    title = TITLES[protocol][0]
    name = html.escape(content.explained_by[protocol].name)
    return section(
        f"examples-{protocol}",
        "Best and worst answers" + (f" ({protocol})" if len(content.explained) > 1 else ""),
        f"<p>{title}, answered with the profile {name}. {kind_note(kind)}</p>",
        "<h3>Closest to the model</h3>",
        best,
        "<h3>Farthest from the model</h3>",
        worst,
    )
