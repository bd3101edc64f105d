"""The picture of a training run: its losses over the iterations."""

from collections.abc import Sequence
from pathlib import Path

from ffnsearch_indexer.models.record import Record, runs_in


def draw_curve(record: Record, path: Path) -> None:
    """Draw the losses of a training record, and of the earlier runs that it goes on from, as PNG."""
    from matplotlib.figure import Figure  # heavy, and only needed once, at the end

    points = whole_curve(runs_in(record))
    iteration, train_loss, validation_loss = ([point[column] for point in points] for column in range(3))
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
    axes.set(xlabel="iteration", ylabel="loss (nats a token)")
    name = record["corpus"].encode(errors="backslashreplace").decode()  # that of a file may be no text, or have a $
    axes.set_title(f"Training on {name}", parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def whole_curve(runs: Sequence[Record]) -> list[tuple[int, float, float]]:
    """Iteration and both losses at each point of runs that go on from each other, in their order.

    Raises one of UNREADABLE where they are not records of runs.
    """
    points: list[tuple[int, float, float]] = []
    done = 0
    for run in runs:
        of_run = zip(run["iteration"], run["train_loss"], run["validation_loss"], strict=True)
        points += [(done + int(iteration), float(train), float(validation)) for iteration, train, validation in of_run]
        done += int(run["settings"]["iterations"])
    return points
