"""An explained prompt on the page: one table of tokens, what each block says of them, and the evidence."""

from ffnsearch_indexer.fidelity.report.explained import Evidence, Explained, TokenRow
from ffnsearch_indexer.fidelity.report.markup import NONE, distance, inline, share, signed, visible

STRONG_NATS = 5.0
"""What a block says in nats is shown at full strength from here on."""

POSITIVE, NEGATIVE = "0,114,178", "213,94,0"
"""Blue and vermilion, which everyone can tell apart."""


def card(explained: Explained, kind: str) -> str:
    """One prompt. kind: of the profile, product or sum: in which unit blocks speak."""
    return (
        f'<article class="card">\n<h4><code>{visible(explained.text)}</code>{_distance(explained)}</h4>\n'
        f"{_tokens(explained.tokens, kind)}\n{_evidence(explained)}\n</article>"
    )


def _distance(explained: Explained) -> str:
    if explained.hellinger is None:
        return "<span>no support: nothing found above any threshold</span>"
    return f"<span>Hellinger distance <b>{distance(explained.hellinger)}</b></span>"


def _tokens(rows: tuple[TokenRow, ...], kind: str) -> str:
    blocks = range(len(rows[0].said))
    unit = "for or against, in nats" if kind == "product" else "share of the answer"
    head = (
        '<tr><th scope="col" rowspan="2">next</th><th scope="col" rowspan="2">model</th>'
        f'<th scope="col" rowspan="2">answer</th><th scope="colgroup" colspan="{len(blocks)}">'
        f"what each block says: {unit}</th></tr>\n"
        f"<tr>{''.join(f'<th scope=col>{block}</th>' for block in blocks)}</tr>"
    )
    body = "\n".join(
        f'<tr><th scope="row"><code>{visible(row.token)}</code></th>'
        f"{_bar(row.model, 'model')}{_bar(row.answer, 'answer')}"
        f"{''.join(_said(value, kind) for value in row.said)}</tr>"
        for row in rows
    )
    return f'<div class="wide"><table class="tokens"><thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _bar(probability: float | None, whose: str) -> str:
    if probability is None:
        return f'<td class="bar">{NONE}</td>'
    length = f'<span class="track"><i class="{whose}" style="width:{probability:.1%}"></i></span>'
    return f'<td class="bar"><div><span>{distance(probability)}</span>{length}</div></td>'


def _said(value: float, kind: str) -> str:
    strength = min(abs(value) / (STRONG_NATS if kind == "product" else 1.0), 1.0)
    colour = POSITIVE if value >= 0 else NEGATIVE
    shown = signed(value) if kind == "product" else distance(value)
    return f'<td style="background:rgba({colour},{0.6 * strength:.2f})">{shown}</td>'


def _evidence(explained: Explained) -> str:
    if not explained.evidence:
        return f'<p class="evidence">Block {explained.block} has no substring above {explained.threshold:.3g}.</p>'
    found = f"{explained.neighbors:,} substring{'s' if explained.neighbors != 1 else ''}"
    rows = "\n".join(_evidence_row(evidence) for evidence in explained.evidence)
    return (
        f'<p class="evidence">Evidence: block {explained.block} has most say. It has {found} above '
        f"{explained.threshold:.3g}; the nearest:</p>\n"
        f'<div class="wide"><table class="places"><thead><tr><th scope="col">score</th>'
        f'<th scope="col">in the corpus</th><th scope="col">followed by</th></tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _evidence_row(evidence: Evidence) -> str:
    place = f"{inline(evidence.before)}<mark>{inline(evidence.text)}</mark>{inline(evidence.after)}"
    remarks = [
        *(["the prompt itself"] if evidence.is_self else []),
        *([f"first of {evidence.places:,} places"] if evidence.places > 1 else []),
    ]
    remark = f"<small>{'; '.join(remarks)}</small>" if remarks else ""
    total = sum(count for _, count in evidence.followers)
    followers = " ".join(
        f"<code>{visible(token)}</code>{f'&thinsp;&times;{count:,}' if total > 1 else ''}"
        for token, count in evidence.followers
    )
    return (
        f"<tr><td>{distance(evidence.score)}</td><td><code>{place}</code>{remark}</td><td>{followers or NONE}</td></tr>"
    )


def kind_note(kind: str) -> str:
    """How to read what blocks say."""
    if kind == "product":
        return (
            "Blocks speak in nats: +1.00 makes a token e times as likely as the average of the answer, a negative "
            "number speaks against it."
        )
    return f"What blocks say adds up to the answer's probability: a block with {share(0.5)} of it says half."
