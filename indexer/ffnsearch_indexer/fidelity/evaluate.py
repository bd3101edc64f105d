"""One measurement of fidelity, top to bottom: prompts, answers compared chunk by chunk, the result kept.

Shapes: n prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.profile import Profile, profiles_of
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.errors import ChangedError, FidelityError
from ffnsearch_indexer.fidelity.chunks import concatenated, map_chunks, require_exact, work_in
from ffnsearch_indexer.fidelity.comparison import Comparison
from ffnsearch_indexer.fidelity.defaults import EVALUATION_PROMPTS
from ffnsearch_indexer.fidelity.evaluation import Evaluation
from ffnsearch_indexer.fidelity.metrics import Measures
from ffnsearch_indexer.fidelity.protocols import CALIBRATION, Protocol, require_allowed
from ffnsearch_indexer.fidelity.selection import SEED, choose_positions, in_training, training_tokens
from ffnsearch_indexer.fidelity.sisters import load_sisters
from ffnsearch_indexer.files import beside
from ffnsearch_indexer.index.base import Int64
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store.manifest import Manifest, revise_manifest
from ffnsearch_indexer.store.work import clear


def prepare(
    predictor: Predictor,
    protocol: Protocol,
    profiles: Sequence[Profile],
    *,
    prompts: int = EVALUATION_PROMPTS,
    seed: int | None = None,
    sisters: Sequence[Path] = (),
    trained_on: Corpus | None = None,
) -> "Measurement":
    """Check all that a measurement needs, and choose its prompts; nothing is written yet.

    profiles: at least one; the snapshot's default profile among them, or else the first, is looked at most closely.
    prompts: how many at most. sisters: folders of other models. trained_on: the corpus whose first nine tenths the
    model was trained on, by default the snapshot's, where the model's record says so.

    Raises FidelityError for a protocol or prompts that the snapshot does not have, and for held-out where it is not
    known what the model was trained on; ProfileError for a profile of another number of blocks, ModelError for a sister
    that does not fit or is no other model, TokenError for a `trained_on` with other characters.
    """
    datastore = predictor.datastore
    manifest = datastore.manifest
    require_allowed(protocol, manifest.split)
    for profile in profiles:
        profile.require_model(manifest.blocks, manifest.vocabulary_size)
    training = training_tokens(datastore, trained_on)
    if training is None and protocol is Protocol.HELD_OUT:
        raise _training_unknown(manifest)
    positions = choose_positions(datastore, protocol, prompts, seed, training)
    comparison = Comparison(
        predictor=predictor,
        profiles=profiles,
        default=next((profile for profile in profiles if profile.name == manifest.default_profile), profiles[0]),
        prompts=datastore.windows[positions],
        exclude_self=protocol is Protocol.LEAVE_ONE_OUT,
        sisters=load_sisters(sisters, datastore.tokenizer, datastore.window_tokens, manifest.model_sha256),
        ngram=_fitted_ngram(manifest),
    )
    return Measurement(
        protocol=protocol,
        comparison=comparison,
        positions=positions,
        seed=SEED if seed is None else seed,
        trained_on=None if training is None else trained_on.name if trained_on else manifest.corpus_name,
        training=training,
    )


def prepare_possible(
    predictor: Predictor,
    protocols: Sequence[Protocol],
    profiles: Sequence[Profile],
    *,
    say: Callable[[str], None],
    **options: Any,
) -> Iterator["Measurement"]:
    """Measurements, as `prepare` gives them, under those protocols that have prompts here; `say` is told of the others.

    protocols: of those that the snapshot's split allows; of these, held-out alone may have no prompts.
    """
    for protocol in protocols:
        try:
            yield prepare(predictor, protocol, profiles, **options)
        except FidelityError as error:
            say(f"{protocol} is not measured: {error.message}")


@dataclass(frozen=True)
class Measurement:
    """One measurement, ready to run.

    positions: [n] int64, where in the corpus its prompts begin. training: the tokens that the model was trained on, of
    the corpus `trained_on`; both None where that is not known.
    """

    protocol: Protocol
    comparison: Comparison
    positions: Int64
    seed: int
    trained_on: str | None
    training: Tokens | None

    @contextmanager
    def run(self, *, save: bool = False, progress: Progress = silent) -> Iterator[Evaluation]:
        """Measure, and with `save` put the result into the snapshot's manifest.

        It works in `measurement_folder`, beside the snapshot, which goes when the context ends without an error; what
        is killed or fails before is continued there. Raises OutputError where the disk refuses, or the folder
        is that of another measurement, BackendError where what an approximate backend finds is to be saved, and
        ChangedError where a calibration came between.
        """
        if save:
            require_exact(self.comparison.predictor)
        snapshot = self.comparison.predictor.datastore.path
        folder = measurement_folder(snapshot, self.protocol)
        with work_in(folder, {"protocol": self.protocol.value, **self.comparison.identity()}):
            evaluation = self._evaluation(folder, progress)
            try:
                if save:
                    revise_manifest(snapshot, lambda manifest: self._kept_in(manifest, evaluation))
                yield evaluation
            except ChangedError:  # of this measurement, or of one that the caller runs within its context
                clear(folder)
                raise

    def _kept_in(self, manifest: Manifest, evaluation: Evaluation) -> Manifest:
        """A manifest with this measurement's figures too; refuses (ChangedError) where a calibration came between."""
        measured = {profile.name: profile for profile in self.comparison.profiles}
        documents = {name: document for name, document in manifest.profiles.items() if name in measured}
        if profiles_of(documents) != measured or _fitted_ngram(manifest) != self.comparison.ngram:
            raise ChangedError("the snapshot was calibrated while it was measured, so nothing is kept: measure again")
        return replace(manifest, fidelity=(manifest.fidelity or {}) | {self.protocol.key: evaluation.document})

    def _evaluation(self, folder: Path, progress: Progress) -> Evaluation:
        comparison, datastore = self.comparison, self.comparison.predictor.datastore
        chunks = map_chunks(
            folder,
            len(comparison.prompts),
            comparison.compute,
            chunk_items=comparison.chunk_prompts,
            stage=self.protocol.value,
            progress=progress,
        )
        arrays = concatenated(chunks)
        vocabulary_size = datastore.manifest.vocabulary_size
        return Evaluation(
            protocol=self.protocol,
            corpus=datastore.manifest.corpus_name,
            trained_on=self.trained_on,
            seed=self.seed,
            profiles=comparison.profiles,
            default=comparison.default.name,
            sisters=[sister.facts for sister in comparison.sisters],
            texts=[datastore.tokenizer.decode(tokens) for tokens in comparison.prompts],
            measures={key: Measures(*arrays["measures"][:, row].T) for row, key in enumerate(comparison.keys)},
            mass=arrays["mass"],
            positions=self.positions,
            is_in_training=None
            if self.training is None
            else in_training(comparison.prompts, self.training, vocabulary_size),
            seconds=float(arrays["seconds"].sum()),
        )


def _fitted_ngram(manifest: Manifest) -> Profile | None:
    """The n-gram that the snapshot's calibration fitted, None where there is none."""
    calibration = (manifest.fidelity or {}).get(CALIBRATION, {})
    return Profile.from_json(calibration["ngram"]["profile"]) if "ngram" in calibration else None


def _training_unknown(manifest: Manifest) -> FidelityError:
    told = "what this one was trained on is not known"
    if manifest.trained_on:
        told = f"this one was trained on {manifest.trained_on['corpus']!r}, another text than {manifest.corpus_name}"
    return FidelityError(
        f"held-out takes prompts that the model was not trained on, and {told}: name its training text with "
        "--trained-on, or choose --protocol leave-one-out",
        reason="TRAINING_TEXT_UNKNOWN",
        protocol=Protocol.HELD_OUT,
    )


def measurement_folder(snapshot: Path, protocol: Protocol) -> Path:
    """Where a measurement works until it is done, beside the snapshot."""
    return beside(snapshot, f".evaluate-{protocol}")
