"""What the command of a finished build still does: see that it is this one, and say what its model was trained on."""

from dataclasses import replace

from ffnsearch_indexer.alone import Identity, first_difference, in_words
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.errors import MismatchError
from ffnsearch_indexer.models.record import training_text
from ffnsearch_indexer.models.transformer import TOKENIZER_FILE, Transformer
from ffnsearch_indexer.store.manifest import Manifest, read_manifest, revise_manifest


def require_finished(request: BuildRequest) -> Manifest:
    """The manifest of the snapshot that `build` has made for the same request, on whatever device.

    Raises what reading it and the model raises, and MismatchError for a snapshot of anything else.
    """
    manifest = read_manifest(request.out)
    wanted: Identity = {
        "model_sha256": Transformer.load(request.model_folder).sha256(),
        "tokenizer_sha256": Tokenizer.load(request.model_folder / TOKENIZER_FILE).sha256,
        "corpus_sha256": request.corpus.sha256,
        "split": request.split,
        "window_tokens": request.window_tokens,
        "precision": request.precision,
    }
    if name := first_difference({**vars(manifest), "precision": manifest.precision}, wanted):
        raise MismatchError(
            f"{request.out} was built with another {in_words(name)}: give the command that built it, or another --out",
            different=name,
        )
    return manifest


def add_training_text(request: BuildRequest) -> Manifest:
    """Let a finished snapshot say what its model was trained on, where that is known; return its manifest.

    Earlier versions did not write it.
    """
    trained_on = training_text(request.model_folder)
    if trained_on is None:
        return read_manifest(request.out)
    return revise_manifest(request.out, lambda manifest: replace(manifest, trained_on=trained_on))
