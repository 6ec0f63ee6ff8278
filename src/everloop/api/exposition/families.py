"""Families of samples in Prometheus' words. Names get the prefix `everloop_`; `_total` is added by the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Exemplar

Labels: TypeAlias = dict[str, str]
Samples: TypeAlias = Sequence[tuple[Labels, float]]

PREFIX = "everloop_"


def gauge(name: str, text: str, samples: Samples) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return _family(GaugeMetricFamily, name, text, samples)


def counter(name: str, text: str, samples: Samples) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    return _family(CounterMetricFamily, name, text, samples)


def histogram(name: str, text: str, labels: Sequence[str]) -> HistogramMetricFamily:
    """To be filled by `observed`."""
    from prometheus_client.core import HistogramMetricFamily

    return HistogramMetricFamily(f"{PREFIX}{name}", text, labels=labels)


def observed(
    family: HistogramMetricFamily,
    labels: Labels,
    numbers: Sequence[int],
    total: float,
    *,
    bounds: Iterable[float],
    exemplars: Mapping[int, Exemplar] | None = None,
) -> None:
    """`numbers`: how many fell between two bounds, and last those beyond all; `exemplars` by the same index."""
    seen = 0
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for i, (bound, number) in enumerate(zip([*map(str, bounds), "+Inf"], numbers, strict=True)):
        seen += number
        exemplar = exemplars.get(i) if exemplars else None
        buckets.append((bound, float(seen)) if exemplar is None else (bound, float(seen), exemplar))
    family.add_metric([*labels.values()], buckets, total)


def _family(kind: Any, name: str, text: str, samples: Samples) -> Metric:
    labels = list(samples[0][0]) if samples else ["model"]
    family = kind(f"{PREFIX}{name}", text, labels=labels)
    for values, number in samples:
        family.add_metric([values[label] for label in labels], number)
    metric: Metric = family
    return metric
