"""How a training run looks: its losses over the iterations, as a picture."""

from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""A training record in its JSON form."""


def draw_curve(record: Record, path: Path) -> None:
    """Draw the losses of a training record, and of the earlier runs that it goes on from, as PNG."""
    from matplotlib.figure import Figure  # heavy, and only needed once, at the end

    iteration, train_loss, validation_loss = _whole_curve(record)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(iteration, train_loss, color="#0072B2", label=f"training, at the end {record['final_train_loss']:.3f}")
    axes.plot(
        iteration,
        validation_loss,
        color="#D55E00",
        linestyle="--",
        label=f"validation, at the end {record['final_validation_loss']:.3f}",
    )
    axes.set(xlabel="iteration", ylabel="loss (nats a token)", title=f"Training on {record['corpus']}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _whole_curve(record: Record) -> tuple[list[int], list[float], list[float]]:
    """Iterations and losses of a run and of the earlier runs that it goes on from, one after the other."""
    iteration: list[int] = []
    train_loss: list[float] = []
    validation_loss: list[float] = []
    done = 0
    for run in [*record["earlier"], record]:
        iteration += [done + point for point in run["iteration"]]
        train_loss += run["train_loss"]
        validation_loss += run["validation_loss"]
        done += run["settings"]["iterations"]
    return iteration, train_loss, validation_loss
