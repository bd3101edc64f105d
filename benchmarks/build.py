"""What a build takes: time, memory and disk of `ffnsearch build`, and whether the result holds what it should.

python benchmarks/build.py --corpus ../shared/data/tinyshakespeare.txt --out /tmp/tiny.ffn --json FILE
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import recording
import torch

from ffnsearch_indexer.corpora.corpus import read_corpus
from ffnsearch_indexer.store.datastore import Datastore

ARTICLE_PROMPTS = (57, 40, 33)
"""Places in the article's selection of prompts whose text is known."""


def main() -> None:
    """Build, open, compare, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="a file, a folder, or `shakespeare`")
    parser.add_argument("--out", required=True, type=Path, help="the snapshot to build; it must not exist")
    parser.add_argument("--split", default="all", choices=("all", "train"))
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    options = parser.parse_args()
    arguments = ["--corpus", options.corpus, "--out", str(options.out), "--split", options.split, "--json"]
    run = recording.run_measured([str(Path(sys.executable).parent / "ffnsearch"), "build", *arguments])
    built = json.loads(run.pop("output"))
    with Datastore.open(options.out) as datastore:
        corpus = read_corpus(options.corpus)
        indexed = corpus.text[: corpus.train_tokens()] if options.split == "train" else corpus.text
        result = {
            "benchmark": "build",
            "corpus": datastore.manifest.corpus_name,
            "split": options.split,
            "substrings": datastore.manifest.substrings,
            "distinct_prefixes": datastore.manifest.distinct_prefixes,
            "seconds": built["seconds"],
            "processor_seconds": run["processor_seconds"],
            "memory_peak_gb": run["memory_peak_gb"],
            "keys_gb": sum(keys.nbytes for keys in datastore.keys) / 1e9,
            "snapshot_gb": datastore.manifest.total_bytes() / 1e9,
            "counts_equal_a_dictionary": _counts_equal(datastore, indexed),
            "prompts": _article_prompts(datastore),
            "snapshot_id": datastore.manifest.snapshot_id,
        }
    recording.write(options.json, result)
    print(json.dumps(result, indent=1))


def _counts_equal(datastore: Datastore, text: str) -> bool:
    """Compare all counts with those of a plain dictionary, character by character."""
    window_tokens = datastore.window_tokens
    followers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for first in range(len(text) - window_tokens + 1):
        window = followers[text[first : first + window_tokens]]
        window.update(text[first + window_tokens : first + window_tokens + 1])
    if len(followers) != len(datastore.counts.offsets) - 1:
        return False
    for substring_id, counter in enumerate(followers.values()):  # a dictionary keeps the order of first occurrence
        tokens, counts = datastore.counts.row(substring_id)
        if dict(zip(datastore.tokenizer.decode(tokens), counts.tolist(), strict=True)) != counter:
            return False
    return True


def _article_prompts(datastore: Datastore) -> dict[str, Any]:
    """The texts at known places of the article's selection: a seeded permutation of all substrings."""
    torch.manual_seed(1337)
    chosen = torch.randperm(datastore.manifest.substrings)[:20000].numpy().astype(np.int64)
    return {
        str(place): datastore.tokenizer.decode(datastore.substring(chosen[place]))
        for place in ARTICLE_PROMPTS
        if place < len(chosen)
    }


if __name__ == "__main__":
    main()
