"""How is a distribution counted at little cost? (values, one or an array of them -> a Prometheus histogram).

An observation costs a fifth of what the client library's own histogram takes, and an array one pass: a call of 1,024
prompts on 6 blocks has 6,144 counts of neighbors.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Series:
    """The values of one label, counted in buckets. Any thread may call any method."""

    def __init__(self, edges: Sequence[float]) -> None:
        """Take the upper bounds of the buckets, inclusive and ascending; there is one more bucket, for the rest."""
        self._edges = tuple(edges)
        self._counts = [0] * (len(self._edges) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one value."""
        place = bisect_left(self._edges, value)
        with self._lock:
            self._counts[place] += 1
            self._sum += value

    def observe_all(self, values: NDArray[np.int64]) -> None:
        """Count every value of an array."""
        places = np.searchsorted(self._edges, values, side="left")
        counted = np.bincount(places, minlength=len(self._counts)).tolist()
        total = float(values.sum())
        with self._lock:
            self._counts = [before + more for before, more in zip(self._counts, counted, strict=True)]
            self._sum += total

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, as Prometheus wants them, and the sum of the values."""
        with self._lock:
            counts, total = self._counts[:], self._sum
        names = [*(str(float(edge)) for edge in self._edges), "+Inf"]
        return list(zip(names, np.cumsum(counts).tolist(), strict=True)), total


class Histogram(Collector):
    """A histogram with one label, or none; a series is made when its label is first asked for."""

    def __init__(self, name: str, what: str, edges: Sequence[float], label: str | None = None) -> None:
        """Take a metric's name and description, and the upper bounds of its buckets, ascending."""
        self._name, self._what = name, what
        self._edges = edges
        self._labels = [] if label is None else [label]
        self._series: dict[str, Series] = {}

    def series(self, label: str = "") -> Series:
        """The series of a label; without a label there is one."""
        found = self._series.get(label)
        return found if found is not None else self._series.setdefault(label, Series(self._edges))

    def collect(self) -> Iterator[Metric]:
        """The histogram as it is now."""
        family = HistogramMetricFamily(self._name, self._what, labels=self._labels)
        for label, series in sorted(self._series.copy().items()):
            buckets, total = series.read()
            family.add_metric([label] if self._labels else [], buckets, total)
        yield family
