"""The metrics as Prometheus receives them: OpenTelemetry's real exporter, scraped over HTTP."""

from __future__ import annotations

import httpx
import pytest
from opentelemetry.sdk.metrics import MeterProvider

from httpx_agent import Agent, AgentTransport
from httpx_agent.otel import instrument
from httpx_agent.testing import FIN, Network, Script, respond
from tests.support.servers import Server
from tests.support.worlds import World

for package in (
    "prometheus_client",
    "opentelemetry.exporter.prometheus",
):
    pytest.importorskip(package, reason="needs the extra integrations")

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

ok = respond(b"ok")


class Exporter:
    """A registry of its own, served on loopback."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self.registry)
        self.provider = MeterProvider([reader], shutdown_on_exit=False)
        self._server, self._thread = start_http_server(0, addr="127.0.0.1", registry=self.registry)

    def scrape(self) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
        """All samples by name, and by their labels without those of the scope."""
        text = httpx.get(f"http://127.0.0.1:{self._server.server_port}/metrics", trust_env=False).text
        found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = frozenset((k, v) for k, v in sample.labels.items() if not k.startswith("otel_scope") and v)
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.provider.shutdown()


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


async def test_a_scrape(world: World, server: Server) -> None:
    exporter = Exporter()
    agent = Agent(max_sockets=3)
    instrument(agent, meter_provider=exporter.provider)
    origin = {"server_address": "127.0.0.1", "server_port": str(server.port)}
    version = {"network_protocol_version": "1.1"}
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(server.url)
        async with client.stream("GET", f"{server.url}/body-of/10"):
            found = await world.call(exporter.scrape)
        assert found["http_client_open_connections"] == {
            labels(http_connection_state="active", **origin, **version): 1,
            labels(http_connection_state="idle", **origin, **version): 0,
        }
        assert found["http_client_active_requests"] == {labels(http_request_method="GET", **origin): 1}
        assert found["httpx_agent_queue_requests"] == {labels(**origin): 0}
        assert found["httpx_agent_connection_max"] == {labels(**origin): 3}
    await world.close(agent)

    found = exporter.scrape()
    assert "http_client_open_connections" not in found
    assert found["http_client_connection_duration_seconds_count"] == {labels(**origin, **version): 1}
    bounds = [dict(key)["le"] for key in found["http_client_connection_duration_seconds_bucket"]]
    assert [float(bound) for bound in bounds] == [
        0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, float("inf"),
    ]  # fmt: skip
    assert found["httpx_agent_connection_closed_total"] == {
        labels(httpx_agent_connection_close_reason="agent_closed", **origin, **version): 1
    }
    exporter.close()


async def test_counters_have_their_suffix(world: World) -> None:
    """Prometheus wants `_total`, and `_seconds` for the unit."""
    exporter = Exporter()
    network = Network(Script(ok, FIN))
    agent = Agent(**network.options)
    instrument(agent, meter_provider=exporter.provider)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get("http://a.test/")
        await client.get("http://a.test/")
    await world.close(agent)
    found = exporter.scrape()
    exporter.close()
    assert found["httpx_agent_request_retried_total"] == {
        labels(server_address="a.test", server_port="80", http_request_method="GET"): 1
    }
