"""How do the evidence, and what is served, look on the wire? Arrays and records become messages."""

from collections.abc import Mapping

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.lookup import answered_by_lookup
from ffnsearch_indexer.answer.predictor import SuffixClass
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.manifest import Manifest
from ffnsearch_service.answering.fidelity import fidelity_messages
from ffnsearch_service.config import Limits
from ffnsearch_service.profiles import profile_message


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
    followers = (-found.freq).argsort(kind="stable")[:next_tokens_max].tolist()
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
    recall: float,
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
        recall=recall,
        limits=limits_message(limits),
        server_version=version,
        fidelity=fidelity_messages(manifest.fidelity),
        self_sums_profile_names=answered_by_lookup(datastore.path, manifest),
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
        forward_pass=manifest.written_by.get("forward_pass", ""),
    )


def limits_message(limits: Limits) -> pb.Limits:
    """Describe the limits that a caller can run into."""
    return pb.Limits(**{field.name: getattr(limits, field.name) for field in pb.Limits.DESCRIPTOR.fields})
