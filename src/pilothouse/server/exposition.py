"""Prometheus' text format. Imported by the first request for metrics: the client brings a web server with it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily

from pilothouse.edge.module import Gauge

__all__ = ["CONTENT_TYPE_LATEST", "exposition"]


def exposition(gauges: Iterable[Gauge]) -> bytes:
    """These gauges, in the text format."""
    return generate_latest(_Collected([_family(gauge) for gauge in gauges]))


def _family(gauge: Gauge) -> GaugeMetricFamily:
    labels = [gauge.label] if gauge.label else []
    family = GaugeMetricFamily(f"pilothouse_{gauge.name}", gauge.help, labels=labels)
    for label, value in gauge.values.items():
        family.add_metric([label] if gauge.label else [], value)
    return family


class _Collected:
    """A Prometheus collector of metrics that have been read already."""

    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> list[GaugeMetricFamily]:
        """Called by the Prometheus client."""
        return self._families
