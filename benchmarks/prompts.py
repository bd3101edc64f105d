"""What our model and its approximation say to the article's demonstration prompts, beside the article's averages.

    python benchmarks/prompts.py SNAPSHOT --json FILE

The article's model is another one, so nothing here can be equal; its figures show what size to expect.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import recording

from ffnsearch_indexer.answer.predictor import Prediction, Predictor
from ffnsearch_indexer.answer.profile import ARTICLE
from ffnsearch_indexer.store.datastore import Datastore

PROMPTS = ("And only l", "hing tremb", "my most gr")
TOP_N = 5


def main() -> None:
    """Predict, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    options = parser.parse_args()
    with Datastore.open(options.snapshot) as datastore:
        prompts = [datastore.tokenizer.encode(prompt) for prompt in PROMPTS]
        answers = Predictor(datastore).predict(prompts, ARTICLE).answers
        characters = datastore.tokenizer.characters
        result = {
            "benchmark": "prompts",
            "corpus": datastore.manifest.corpus_name,
            "profile": ARTICLE.name,
            "snapshot_id": datastore.manifest.snapshot_id,
            "prompts": {prompt: _describe(answer, characters) for prompt, answer in zip(PROMPTS, answers, strict=True)},
        }
    print(json.dumps(result, indent=1))
    recording.write(options.json, result)


def _describe(answer: Prediction, characters: str) -> dict[str, Any]:
    return {
        "hellinger": answer.hellinger,
        "neighbors_by_block": [int(block.neighbors[0]) for block in answer.blocks],
        "model": _top(answer.model, characters),
        "approximation": {} if answer.distribution is None else _top(answer.distribution, characters),
    }


def _top(distribution: Any, characters: str) -> dict[str, float]:
    likeliest = distribution.argsort()[::-1][:TOP_N]
    return {characters[token]: round(float(distribution[token]), 4) for token in likeliest if distribution[token] > 0}


if __name__ == "__main__":
    main()
