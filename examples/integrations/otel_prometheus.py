"""The same metrics for Prometheus."""

import httpx
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

from httpx_agent import AgentTransport
from httpx_agent.otel import instrument
from server import serve

exporter, thread = start_http_server(0, addr="127.0.0.1")
set_meter_provider(MeterProvider([PrometheusMetricReader()]))

transport = AgentTransport(max_sockets=10)
instrument(transport.agent)
with serve() as url, httpx.Client(transport=transport) as client:
    client.get(url)
    metrics = client.get(f"http://127.0.0.1:{exporter.server_port}/metrics").text
    for line in metrics.splitlines():
        if line.startswith(("http_client", "httpx_agent")) and "_bucket" not in line:
            name, _, value = line.partition("{")[0], *line.rpartition(" ")[1:]
            print(name, value)

exporter.shutdown()
exporter.server_close()
thread.join()
