"""Read the metrics that the OpenTelemetry SDK has collected."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric


class Reading:
    """A real provider whose metrics are read in memory."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def collect(self) -> dict[str, Metric]:
        """Collect now, in this thread; return the metrics by name, which must be unique."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        metrics = [metric for r in data.resource_metrics for scope in r.scope_metrics for metric in scope.metrics]
        assert len({metric.name for metric in metrics}) == len(metrics)
        return {metric.name: metric for metric in metrics}

    def values(self, name: str, *attributes: str) -> dict[Any, Any]:
        """Return the points of one metric by the values of some attributes: sums, or for a histogram counts."""
        metric = self.collect().get(name)
        points: dict[Any, Any] = {}
        for point in metric.data.data_points if metric is not None else ():
            found: Any = tuple((point.attributes or {}).get(attribute) for attribute in attributes)
            key = found[0] if len(found) == 1 else found
            assert key not in points
            points[key] = point.value if hasattr(point, "value") else point.count
        return points

    def attributes(self, name: str) -> list[dict[str, Any]]:
        """Return the attributes of each point of one metric."""
        return [dict(point.attributes or {}) for point in self.collect()[name].data.data_points]
