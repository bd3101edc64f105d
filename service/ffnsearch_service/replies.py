"""How answers become response messages. Pure: arrays in, messages out.

Shapes: S steps of a block, V vocabulary.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.predictor import BlockSums, Prediction, SuffixClass
from ffnsearch_indexer.answer.profile import Profile, Step
from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.snapshot import Manifest
from ffnsearch_service.config import Limits
from ffnsearch_service.explanation import Contributions, contributions_of, expected_hellinger, support_of
from ffnsearch_service.fidelity import fidelity_messages
from ffnsearch_service.profiles import profile_message
from ffnsearch_service.requests import PredictJob
from ffnsearch_service.status import prompt_error


def prompt_results(
    job: PredictJob,
    answers: Sequence[Prediction],
    vocabulary: str,
    window_tokens: int,
    unigram: NDArray[np.float64],
) -> list[pb.PromptResult]:
    """One result for each prompt of a job, from the answers to those that could be run, in order. unigram: [V]."""
    answered = iter(answers)
    return [
        pb.PromptResult(status=pb.PROMPT_STATUS_INVALID, error=prompt_error(prompt))
        if isinstance(prompt, FfnSearchError)
        else _prompt_result(job, next(answered), vocabulary, window_tokens, unigram)
        for prompt in job.prompts
    ]


def distribution_message(
    probabilities: NDArray[np.float64],
    vocabulary: str,
    *,
    top_n: int,
    min_prob: float,
    dense: bool,
    contributions: Contributions | None = None,
) -> pb.Distribution:
    """List the likeliest tokens of a distribution [V]: at most `top_n`, each above 0 and at least `min_prob`."""
    order = np.lexsort((np.arange(len(probabilities)), -probabilities))[:top_n]
    listed = order[(probabilities[order] > 0) & (probabilities[order] >= min_prob)]
    tokens = [pb.TokenProbability(id=i, text=vocabulary[i], probability=probabilities[i]) for i in listed.tolist()]
    if contributions is not None:
        for token in tokens:
            token.block_contributions.extend(contributions.blocks[:, token.id].tolist())
            if contributions.prior is not None:
                token.prior_contribution = float(contributions.prior[token.id])
    return pb.Distribution(tokens=tokens, dense=probabilities.astype("<f8").tobytes() if dense else b"")


def neighbor_message(
    datastore: Datastore, substring_id: int, score: float, *, context_tokens: int, places_max: int
) -> pb.Neighbor:
    """Describe one substring: its text, its next-token counts, its first places and what is around them."""
    vocabulary = datastore.tokenizer.characters
    tokens = datastore.substring(substring_id)
    record = datastore.record(substring_id)
    places = [datastore.place(position, context_tokens) for position in record.places[:places_max].tolist()]
    return pb.Neighbor(
        id=substring_id,
        text=datastore.tokenizer.decode(tokens),
        tokens=tokens.tolist(),
        score=score,
        next_tokens=[
            pb.TokenCount(id=token, text=vocabulary[token], count=count) for token, count in record.followers()
        ],
        places=[pb.Place(position=place.position, before=place.before, after=place.after) for place in places],
        total_places=len(record.places),
    )


def class_message(found: SuffixClass, tokenizer: Tokenizer, *, next_tokens_max: int) -> pb.SuffixClass:
    """Describe one class: its suffix, how much of it is above the threshold, and what follows that."""
    followers = np.lexsort((np.arange(len(found.freq)), -found.freq))[:next_tokens_max].tolist()
    return pb.SuffixClass(
        text=tokenizer.decode(found.tokens),
        tokens=found.tokens.tolist(),
        neighbors=len(found.neighbors.ids),
        members=found.members,
        best_score=found.neighbors.scores[0],
        mass=found.freq.sum(),
        next_tokens=[
            pb.TokenCount(id=token, text=tokenizer.characters[token], count=found.freq[token])
            for token in followers
            if found.freq[token] > 0
        ],
    )


def info_message(
    datastore: Datastore,
    profiles: Mapping[str, Profile],
    limits: Limits,
    *,
    backend: str,
    approximate: bool,
    version: str,
) -> pb.GetInfoResponse:
    """Describe a snapshot, its model, vocabulary, profiles and fidelity, and the limits."""
    manifest, config = datastore.manifest, datastore.model.config
    return pb.GetInfoResponse(
        snapshot=snapshot_message(manifest),
        model=pb.ModelInfo(
            model_sha256=manifest.model_sha256,
            tokenizer_sha256=manifest.tokenizer_sha256,
            blocks=config.blocks,
            d_model=config.d_model,
            vocabulary_size=config.vocabulary_size,
            context_tokens=config.context_tokens,
        ),
        vocabulary=list(datastore.tokenizer.characters),
        profiles=[profile_message(profiles[name], name) for name in sorted(profiles)],
        default_profile_name=manifest.default_profile,
        backend=backend,
        approximate=approximate,
        limits=limits_message(limits),
        server_version=version,
        fidelity=fidelity_messages(manifest.fidelity),
    )


def snapshot_message(manifest: Manifest) -> pb.SnapshotInfo:
    """Identity and size of a snapshot."""
    return pb.SnapshotInfo(
        id=manifest.snapshot_id,
        format_version=manifest.format_version,
        corpus_name=manifest.corpus_name,
        corpus_sha256=manifest.corpus_sha256,
        corpus_characters=manifest.corpus_characters,
        split=manifest.split,
        substrings=manifest.substrings,
        window_tokens=manifest.window_tokens,
        key_dtype=manifest.key_dtype,
    )


def limits_message(limits: Limits) -> pb.Limits:
    """Tell the limits that a caller can meet."""
    return pb.Limits(**{field.name: getattr(limits, field.name) for field in pb.Limits.DESCRIPTOR.fields})


def _prompt_result(
    job: PredictJob, answer: Prediction, vocabulary: str, window_tokens: int, unigram: NDArray[np.float64]
) -> pb.PromptResult:
    def shown(probabilities: NDArray[np.float64], contributions: Contributions | None = None) -> pb.Distribution:
        return distribution_message(
            probabilities,
            vocabulary,
            top_n=job.top_n,
            min_prob=job.min_prob,
            dense=job.dense,
            contributions=contributions,
        )

    answered, support = answer.distribution, support_of(answer)
    explained = job.include_contributions and answered is not None
    contributions = contributions_of(job.profile, answer, unigram) if explained else None
    return pb.PromptResult(
        status=pb.PROMPT_STATUS_NO_SUPPORT if answered is None else pb.PROMPT_STATUS_OK,
        distribution=None if answered is None else shown(answered, contributions),
        model_distribution=shown(answer.model) if job.include_model else None,
        hellinger=answer.hellinger if job.include_model else None,
        expected_hellinger=None if answered is None else expected_hellinger(job.profile, support),
        support=support,
        used_tokens=answer.used_tokens,
        short_prompt=answer.used_tokens < window_tokens,
        self_id=answer.self_id,
        blocks=[
            _block_result(steps, sums, job.include_frequencies)
            for steps, sums in zip(job.profile.blocks, answer.blocks, strict=True)
        ],
    )


def _block_result(steps: Sequence[Step], sums: BlockSums, include_frequencies: bool) -> pb.BlockResult:
    masses = sums.freq.sum(axis=1)
    return pb.BlockResult(
        steps=[
            pb.StepResult(
                threshold=step.threshold,
                weight=step.weight,
                neighbors=int(sums.neighbors[number]),
                mass=int(masses[number]),
                frequencies=sums.freq[number].astype("<i8").tobytes() if include_frequencies else b"",
            )
            for number, step in enumerate(steps)
        ]
    )
