"""An agent's metrics, with OpenTelemetry."""

import httpx
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from httpx_agent import AgentTransport
from httpx_agent.otel import instrument
from server import serve

reader = InMemoryMetricReader()
provider = MeterProvider([reader])

with serve() as url:
    # --8<-- [start:instrument]
    transport = AgentTransport(max_sockets=10)
    instrument(transport.agent, meter_provider=provider)

    with httpx.Client(transport=transport) as client:
        client.get(url)
        # --8<-- [end:instrument]
        data = reader.get_metrics_data()

assert data is not None
for metric in data.resource_metrics[0].scope_metrics[0].metrics:
    for point in metric.data.data_points:
        attributes = dict(point.attributes or {})
        value = getattr(point, "value", None)
        attributes.pop("server.port", None)
        print(metric.name, value, *attributes.values())
provider.shutdown()
