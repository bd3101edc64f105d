"""Small models, corpora and measures that the tests share."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE, Tokenizer
from ffnsearch_indexer.models.on_device import DeviceModel
from ffnsearch_indexer.models.record import RECORD_FILE
from ffnsearch_indexer.models.transformer import TOKENIZER_FILE, Transformer, TransformerConfig
from ffnsearch_indexer.store.manifest import Manifest, revise_manifest


def make_model(*, seed: int = 1, scale: float = 5, **sizes: int) -> Transformer:
    """A model with random weights; as they are `scale` times the usual, attention is sharp and scores spread."""
    torch.manual_seed(seed)
    config = {"blocks": 2, "heads": 2, "d_model": 32, "context_tokens": 32} | sizes
    model = Transformer(TransformerConfig(**config)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(scale)
    return model


def revise(snapshot: Path, **fields: object) -> Manifest:
    """Replace fields of a snapshot's manifest."""
    return revise_manifest(snapshot, lambda manifest: replace(manifest, **fields))


def model_on_cpu(model: Transformer, window_tokens: int, *, device: str, **options: str) -> DeviceModel:
    """What stands in for `DeviceModel` where there is no GPU: the same on a CPU, whatever device is asked for."""
    return DeviceModel(model, window_tokens, device="cpu", **options)


def save_model(folder: Path, model: Transformer, characters: str = TINY_SHAKESPEARE) -> Path:
    """Write a model and its tokenizer into a new folder, and return the folder."""
    folder.mkdir(parents=True)
    model.save(folder)
    Tokenizer(characters).save(folder / TOKENIZER_FILE)
    return folder


def record_training(folder: Path, corpus: Corpus) -> None:
    """Let the record of a model say that it was trained on a corpus."""
    (folder / RECORD_FILE).write_text(json.dumps({"corpus": corpus.name, "corpus_sha256": corpus.sha256}))


def build_splits(folder: Path, corpus: Corpus, alphabet: str, *, window_tokens: int = 10) -> Path:
    """Write two models into a folder, `model` and `sister`, and snapshots of both splits, `all` and `train`.

    By their records they were trained on the corpus.
    """
    for seed, name in ((1, "model"), (2, "sister")):
        save_model(folder / name, make_model(seed=seed, vocabulary_size=len(alphabet), d_model=8), alphabet)
        record_training(folder / name, corpus)
    for split in ("all", "train"):
        build(BuildRequest(corpus, folder / "model", folder / split, window_tokens=window_tokens, split=split))
    return folder


def random_text(seed: int, characters: int, alphabet: str) -> str:
    """A text of random characters; with a small alphabet, windows repeat and have several successors."""
    return "".join(np.random.default_rng(seed).choice(list(alphabet), characters))


def float16_steps(left: np.ndarray, right: np.ndarray) -> float:
    """The largest distance between two arrays of components of unit vectors, in steps of float16.

    Two orders of float32 summation differ by less than 2^-20 absolutely. Below 2^-10 float16 is finer than
    that, so there a step counts as 2^-20.
    """
    assert left.dtype == right.dtype == np.float16
    step = np.maximum(np.spacing(np.maximum(np.abs(left), np.abs(right))).astype(np.float64), 2.0**-20)
    return float((np.abs(left.astype(np.float64) - right) / step).max(initial=0))


def open_files(path: Path) -> list[str]:
    """The files at or below a path that this process holds open or mapped."""
    folder = Path("/proc/self/fd")
    held = [os.readlink(folder / name) for name in os.listdir(folder) if (folder / name).is_symlink()]
    held += [line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line]
    return sorted(name for name in held if Path(name).is_relative_to(path.resolve()))


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
