"""How results look: throughput by batch size; cost by number of substrings and by threshold; where the time goes."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ffnsearch_indexer.fidelity.report.charts import GREY, draw, readable, series_style

LABELS = {
    "tiles": "tiles (ours)",
    "exact": "exact (ours)",
    "faiss-flat": "faiss Flat",
    "faiss-panorama": "faiss Panorama",
}

SERIES = {name: series_style(number) for number, name in enumerate(LABELS)}
"""Colour, line and marker of each backend: the same in every figure."""

Result = dict[str, Any]


def throughput(result: Result) -> bytes:
    """Queries a second by batch size, of the first profile and kind, as PNG."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        measured = result["measured"][result["profile"]][result["queries"]]
        for name, by_batch in measured["backends"].items():
            _plot_rates(axes, name, by_batch)
        for batch, ratio in measured["ratio_to_best_faiss"].items():
            rate = measured["backends"]["tiles"][batch]["queries_per_second"]
            readable(
                axes.annotate(f"{ratio:.1f}x", (int(batch), rate), (0, 9), textcoords="offset points", ha="center")
            )
        axes.set_title(f"Exact range sums over {result['substrings']:,} substrings in {result['blocks']} blocks")
        axes.set(xlabel="queries in a call", ylabel="queries a second, through all blocks")
        _log_y(axes)
        _log_x(axes, [int(batch) for batch in next(iter(measured["backends"].values()))])
        axes.margins(x=0.04, y=0.12)
        axes.legend(handlelength=3.2)
        _below(
            figure,
            f"{result['corpus']}, thresholds of the profile {result['profile']}, {_machine(result)}. "
            "x: tiles to the best of faiss.\n"
            "Hollow: measured with fewer queries in a call, from which on the backend does the same for each.",
        )

    return draw("throughput", 5.4, "", "", paint).png


def scaling(result: Result) -> bytes:
    """Milliseconds a query by number of substrings and by threshold, for each block that was measured, as PNG."""
    blocks = result["measured"]

    def paint(figure: Figure) -> None:
        rows = figure.subplots(len(blocks), 2, squeeze=False)
        for (block, of_block), (left, right) in zip(blocks.items(), rows, strict=True):
            sizes, levels = of_block["by_size"], of_block["by_threshold"]
            for name in result["backends"]:
                exponent = of_block["exponent"][name]
                growth = "" if exponent is None else f": N^{exponent:.2f}"
                _plot_costs(left, name, sizes, "substrings", LABELS[name] + growth)
                _plot_costs(
                    right, name, levels, "threshold", LABELS[name]
                )  # the legend on the left says which is which
            _note_neighbors(left, sizes, "substrings")
            _note_neighbors(right, levels, "threshold")
            left.set(title=f"Block {block}", ylabel="milliseconds a query")
            left.set_xlabel(f"substrings (threshold {of_block['threshold']:g})")
            right.set(xlabel=f"threshold ({sizes[-1]['substrings']:,} substrings)")
            right.invert_xaxis()
            _log_x(left, [at["substrings"] for at in sizes])
            for axes in (left, right):
                _log_y(axes)
                axes.margins(x=0.08, y=0.16)
            left.legend(handlelength=3.2, loc="upper left")
        _below(
            figure,
            f"{result['corpus']}, {result['batch']} queries in a call, {_machine(result)}. "
            "Small numbers: neighbors of a query, on average.",
        )

    return draw("scaling", 0.6 + 3.8 * len(blocks), "", "", paint).png


STAGES = {"model": "model", "search": "search and sums", "combine": "distributions"}


def stages(result: Result) -> bytes:
    """Which share of a prompt's time each stage takes, by batch size, for each profile that was measured, as PNG."""

    def paint(figure: Figure) -> None:
        columns = figure.subplots(1, len(result["measured"]), sharey=True, squeeze=False)[0]
        for axes, (profile, measured) in zip(columns, result["measured"].items(), strict=True):
            _plot_stages(axes, measured["batches"])
            axes.set(title=f"profile {profile}", xlabel="prompts in a call")
        columns[0].set_ylabel("share of the time, %")
        figure.legend(*columns[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(STAGES))
        first = next(iter(result["measured"].values()))
        _below(
            figure,
            f"{first['corpus']}, {first['substrings']:,} substrings in {first['blocks']} blocks, "
            f"{first['cores']} cores of an {result['machine']['processor']}. "
            "Above the bars: milliseconds a prompt, all stages together.",
        )

    return draw("stages", 4.6, "", "", paint).png


def _plot_stages(axes: Axes, batches: list[Result]) -> None:
    places = range(len(batches))
    below = [0.0] * len(batches)
    for number, (stage, label) in enumerate(STAGES.items()):
        shares = [100 * batch[stage]["share"] for batch in batches]
        axes.bar(places, shares, 0.7, below, color=series_style(number)[0], label=label)
        below = [height + share for height, share in zip(below, shares, strict=True)]
    for place, batch in zip(places, batches, strict=True):
        axes.annotate(f"{batch['together']['ms_per_prompt']:.1f} ms", (place, 101), ha="center", fontsize=9)
    axes.set_xticks(list(places), [f"{batch['batch']:,}" for batch in batches])
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 25))


def _plot_rates(axes: Axes, name: str, by_batch: Result) -> None:
    colour, line, marker = SERIES[name]
    batches = [int(batch) for batch in by_batch]
    rates = [entry["queries_per_second"] for entry in by_batch.values()]
    axes.plot(batches, rates, color=colour, linestyle=line, marker=marker, markersize=6, label=LABELS[name])
    for (batch, entry), rate in zip(by_batch.items(), rates, strict=True):
        if entry["queries_per_call"] < int(batch):
            axes.plot(int(batch), rate, color=colour, marker=marker, markersize=6, markerfacecolor="white", zorder=3)


def _plot_costs(axes: Axes, name: str, points: list[Result], along: str, label: str) -> None:
    colour, line, marker = SERIES[name]
    costs = [1e3 * point["seconds_per_query"][name] for point in points]
    axes.plot(
        [point[along] for point in points],
        costs,
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=6,
        label=label,
    )


def _note_neighbors(axes: Axes, points: list[Result], along: str) -> None:
    """Write the neighbors of a query below the lowest of the lines."""
    for point in points:
        at = point[along], 1e3 * min(point["seconds_per_query"].values())
        text = f"{point['neighbors_per_query']:,.0f}"
        note = axes.annotate(text, at, (0, -13), textcoords="offset points", ha="center", fontsize=8, color=GREY)
        readable(note)


def _log_x(axes: Axes, ticks: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(_plain())


def _log_y(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(_plain())


def _plain() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")


def _machine(result: Result) -> str:
    return f"{result['threads']} cores of an {result['machine']['processor']}"


def _below(figure: Figure, text: str) -> None:
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=GREY)
