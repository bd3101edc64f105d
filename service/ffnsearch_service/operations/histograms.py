"""How is a distribution counted at little cost? (values, one or many -> a Prometheus histogram).

An observation costs a fifth of what the client library's own histogram takes, and many share a lock: a call of 1,024
prompts on 6 blocks has 6,144 counts of neighbors.
"""

import itertools
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence

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

    def observe_all(self, values: Sequence[float]) -> None:
        """Count every one of some values."""
        with self._lock:
            for value in values:
                self._counts[bisect_left(self._edges, value)] += 1
            self._sum += sum(values)

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, as Prometheus wants them, and the sum of the values."""
        with self._lock:
            counts, total = self._counts[:], self._sum
        names = [*(str(float(edge)) for edge in self._edges), "+Inf"]
        return list(zip(names, itertools.accumulate(counts), strict=True)), total


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
