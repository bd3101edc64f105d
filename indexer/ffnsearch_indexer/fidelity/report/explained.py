"""Why a prompt is answered as it is: both distributions, what each block says, and the nearest substrings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.prediction import contributions, weights
from ffnsearch_indexer.answer.predictor import Prediction, Predictor
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.fidelity.evaluation import Document
from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_indexer.progress import Progress

BEST, WORST = 4, 6
"""How many of the best and worst answered prompts are explained."""

TOKENS_LEAST, TOKENS_SHOWN = 3, 6
PROBABILITY_SHOWN = 0.0005
"""What rounds to 0 is left out, but for a few tokens that were spoken against."""

EVIDENCE_SHOWN = 4
FOLLOWERS_SHOWN = 4
CONTEXT_TOKENS = 24


@dataclass(frozen=True)
class TokenRow:
    """One token. model, answer: its probabilities, answer None without support. said: [K], by each block."""

    token: str
    model: float
    answer: float | None
    said: tuple[float, ...]


@dataclass(frozen=True)
class Evidence:
    """One substring near the prompt, at its first place. followers: what follows it, and how often, most first."""

    score: float
    before: str
    text: str
    after: str
    followers: tuple[tuple[str, int], ...]
    places: int
    is_self: bool


@dataclass(frozen=True)
class Explained:
    """One prompt. hellinger: None without support. block: the one with most say. threshold: of one of its steps.

    neighbors: how many substrings the block has above the threshold.
    """

    text: str
    is_best: bool
    hellinger: float | None
    tokens: tuple[TokenRow, ...]
    block: int
    threshold: float
    neighbors: int
    evidence: tuple[Evidence, ...]


def explain(predictor: Predictor, document: Document, profile: Profile, progress: Progress) -> list[Explained]:
    """Answer the best and the worst prompts of a measurement again in the same way, and explain them, best first."""
    texts = [(example["text"], True) for example in document["best"][:BEST]]
    texts += [(example["text"], False) for example in document["worst"][:WORST]]
    exclude_self = document["protocol"] == Protocol.LEAVE_ONE_OUT.key
    prompts = [predictor.datastore.tokenizer.encode(text, where="an example") for text, _ in texts]
    answers = predictor.predict(prompts, profile, exclude_self=exclude_self).answers
    explained = []
    for (text, is_best), prompt, answer in zip(texts, prompts, answers, strict=True):
        said = contributions(profile, [block.freq[None] for block in answer.blocks], predictor.datastore.unigram)[0]
        rows = token_rows(predictor, answer, said)
        block, step = most_say(answer, np.array([row.said for row in rows]))
        threshold = answer.blocks[block].thresholds[step]
        explained.append(
            Explained(
                text=text,
                is_best=is_best,
                hellinger=answer.hellinger,
                tokens=rows,
                block=block,
                threshold=threshold,
                neighbors=int(answer.blocks[block].neighbors[step]),
                evidence=_evidence(predictor, prompt, answer, block, threshold, exclude_self),
            )
        )
        progress(f"examples ({document['protocol'].replace('_', '-')})", len(explained), len(prompts))
    return explained


def token_rows(predictor: Predictor, answer: Prediction, said: NDArray[np.float64]) -> tuple[TokenRow, ...]:
    """The likeliest tokens of either distribution, the model's likeliest first. said: [K, V]."""
    either = answer.model if answer.distribution is None else np.maximum(answer.model, answer.distribution)
    count = np.clip((either >= PROBABILITY_SHOWN).sum(), TOKENS_LEAST, TOKENS_SHOWN)
    shown = np.argsort(-either, kind="stable")[:count]
    return tuple(
        TokenRow(
            token=predictor.datastore.tokenizer.decode(np.array([token], dtype=np.uint16)),
            model=float(answer.model[token]),
            answer=None if answer.distribution is None else float(answer.distribution[token]),
            said=tuple(said[:, token].tolist()),
        )
        for token in shown[np.argsort(-answer.model[shown], kind="stable")]
    )


def most_say(answer: Prediction, said: NDArray[np.float64]) -> tuple[int, int]:
    """The block that says most about the shown tokens [tokens, K], and its narrowest step with enough to show.

    Where none of its steps found enough, the one that found most.
    """
    has_steps = np.array([bool(block.thresholds) for block in answer.blocks])
    block = int(np.argmax(np.where(has_steps, np.abs(said).sum(axis=0), -1.0)))
    sums = answer.blocks[block]
    enough = [step for step, found in enumerate(sums.neighbors) if found >= EVIDENCE_SHOWN]
    if not enough:
        return block, int(np.argmax(sums.neighbors))
    return block, max(enough, key=lambda step: sums.thresholds[step])


def _evidence(
    predictor: Predictor, prompt: Tokens, answer: Prediction, block: int, threshold: float, exclude_self: bool
) -> tuple[Evidence, ...]:
    ranked = predictor.neighbors(prompt, block, threshold, exclude_self=exclude_self)
    nearest = zip(ranked.ids[:EVIDENCE_SHOWN].tolist(), ranked.scores[:EVIDENCE_SHOWN].tolist(), strict=True)
    return tuple(_told(predictor, number, score, number == answer.self_id) for number, score in nearest)


def _told(predictor: Predictor, substring_id: int, score: float, is_self: bool) -> Evidence:
    datastore = predictor.datastore
    record = datastore.record(substring_id)
    place = datastore.place(int(record.places[0]), CONTEXT_TOKENS)
    decode = datastore.tokenizer.decode
    return Evidence(
        score=score,
        before=place.before,
        text=decode(datastore.substring(substring_id)),
        after=place.after,
        followers=tuple((decode([token]), count) for token, count in record.followers()[:FOLLOWERS_SHOWN]),
        places=len(record.places),
        is_self=is_self,
    )


def typical_weights(profile: Profile, freqs: Sequence[NDArray[np.int64]]) -> list[list[float]]:
    """The weight of each step in the middle one of some prompts, whose sums [B, S, V] these are."""
    return [np.median(of_block, axis=0).tolist() for of_block in weights(profile, freqs)]
