"""Reads what the OpenTelemetry SDK collected."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric


class Reading:
    """A real provider, whose metrics are read in memory."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def collect(self) -> dict[str, Metric]:
        """Collects now, in this thread; the metrics by name, each of which there is once."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        metrics = [metric for r in data.resource_metrics for scope in r.scope_metrics for metric in scope.metrics]
        assert len({metric.name for metric in metrics}) == len(metrics)
        return {metric.name: metric for metric in metrics}

    def values(self, name: str, *attributes: str) -> dict[Any, Any]:
        """The points of one metric: by the values of these attributes, the sum, or for a histogram its count."""
        metric = self.collect().get(name)
        points: dict[Any, Any] = {}
        for point in metric.data.data_points if metric is not None else ():
            found: Any = tuple((point.attributes or {}).get(attribute) for attribute in attributes)
            key = found[0] if len(found) == 1 else found
            assert key not in points
            points[key] = point.value if hasattr(point, "value") else point.count
        return points

    def attributes(self, name: str) -> list[dict[str, Any]]:
        """The attributes of each point of one metric."""
        return [dict(point.attributes or {}) for point in self.collect()[name].data.data_points]
