"""The indexer's subcommands; each imports what it needs when it runs.

The service has the command `bench`; timing.py is what it does to a snapshot.
"""

import typer

from ffnsearch_indexer.cli.making import build, index, verify
from ffnsearch_indexer.cli.measuring import calibrate, evaluate, report
from ffnsearch_indexer.cli.options import add_command, epilog
from ffnsearch_indexer.cli.training import train

__all__ = ["add_command", "epilog", "register"]


def register(app: typer.Typer) -> None:
    """Add the indexer's subcommands to an app."""
    add_command(
        app,
        build,
        "--corpus shakespeare --out shakespeare.ffn",
        "--corpus novel.txt --model my-model --out novel.ffn --device cpu --estimate",
    )
    add_command(
        app,
        index,
        "shakespeare.ffn",
        "shakespeare.ffn --self-sums --profile article --profile balanced",
        "shakespeare.ffn --faiss flat,ivf",
    )
    add_command(app, verify, "shakespeare.ffn")
    add_command(
        app,
        evaluate,
        "shakespeare.ffn",
        "shakespeare-train.ffn --protocol held-out --prompts 2000 --sister my-other-model --json",
        "tinyshakespeare.ffn --trained-on shakespeare --profile article --no-save",
    )
    add_command(app, calibrate, "shakespeare.ffn", "shakespeare.ffn --prompts 20000 --json")
    add_command(app, report, "shakespeare.ffn", "shakespeare.ffn --out shakespeare-report --json")
    add_command(
        app,
        train,
        "--corpus novel.txt --out my-model",
        "--corpus shakespeare --seed 2 --out sister",
        "--corpus novel.txt --start my-model --iterations 500 --out my-better-model",
    )
