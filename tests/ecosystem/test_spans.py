"""OpenTelemetry's own instrumentation of httpx creates spans with our transport, as it does with httpx's."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Proxy, Server, refusing_port
from tests.support.worlds import World

for package in ("opentelemetry.instrumentation.httpx",):
    pytest.importorskip(package, reason="needs the extra integrations")

from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import unwrap


class Spans:
    """A real provider, whose spans are kept in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def take(self) -> list[ReadableSpan]:
        """Those that ended since."""
        spans = self._exporter.get_finished_spans()
        self._exporter.clear()
        return list(spans)


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    yield spans
    spans.provider.shutdown()


@pytest.fixture
def everywhere(spans: Spans) -> Iterator[None]:
    """`instrument()`: all clients, those that are there already as well."""
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)
    yield
    instrumentor.uninstrument()


@pytest.mark.usefixtures("everywhere")
async def test_the_global_instrumentation(world: World, server: Server, spans: Spans) -> None:
    """One span for each request, with its status; 4xx and 5xx are errors; the trace goes on to the server."""
    async with world.client(transport=AgentTransport()) as client:
        for code, status in ((200, StatusCode.UNSET), (404, StatusCode.ERROR), (503, StatusCode.ERROR)):
            response = await client.get(f"{server.url}/status/{code}")
            assert response.status_code == code
            assert response.extensions["agent"].socket_id == 0
            (span,) = spans.take()
            assert (span.name, span.kind, span.status.status_code) == ("GET", SpanKind.CLIENT, status)
            assert span.attributes is not None
            assert span.attributes["http.status_code"] == code
            assert f"{span.get_span_context().span_id:016x}" in server.requests[-1].get("traceparent")  # type: ignore[union-attr]


@pytest.mark.usefixtures("everywhere")
async def test_a_request_that_fails_is_an_error(world: World, spans: Spans) -> None:
    with refusing_port() as port:
        async with world.client(transport=AgentTransport()) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{port}/")
    (span,) = spans.take()
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.usefixtures("everywhere")
async def test_concurrent_requests_have_a_span_each(world: World, server: Server, spans: Spans) -> None:
    agent = Agent(max_sockets=2)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        responses = await world.gather(*[lambda: client.get(server.url)] * 10)
    assert {response.status_code for response in responses} == {200}
    assert len({span.get_span_context().span_id for span in spans.take()}) == 10  # type: ignore[union-attr]
    assert agent.status().request_count == 10
    await world.close(agent)


async def test_without_it_there_are_none(world: World, server: Server, spans: Spans) -> None:
    async with world.client(transport=AgentTransport()) as client:
        await client.get(server.url)
    assert spans.take() == []


async def test_one_client_alone(world: World, server: Server, spans: Spans) -> None:
    """`instrument_client` wraps its transport and its mounts, each once."""
    agent = Agent()
    mounts = {"http://localhost": AgentTransport(agent=agent)}
    async with world.client(transport=AgentTransport(agent=agent), mounts=mounts) as client:
        inner = client.sync if world.is_sync else client
        HTTPXClientInstrumentor.instrument_client(inner, tracer_provider=spans.provider)
        for url in (server.url, f"http://localhost:{server.port}/", f"{server.url}/status/500"):
            await client.get(url)
        statuses = [span.status.status_code for span in spans.take()]
        assert statuses == [StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR]
    assert agent.status().request_count == 3
    await world.close(agent)


async def test_one_client_no_longer(world: World, server: Server, spans: Spans) -> None:
    """`uninstrument_client` takes the sync method's wrapper off a transport that has one, whatever the client is."""
    async with world.client(transport=AgentTransport()) as client:
        inner = client.sync if world.is_sync else client
        HTTPXClientInstrumentor.instrument_client(inner, tracer_provider=spans.provider)
        HTTPXClientInstrumentor.uninstrument_client(inner)
        if not world.is_sync:
            unwrap(inner._transport, "handle_async_request")  # what the documentation advises
        await client.get(server.url)
        assert spans.take() == []


async def test_the_proxies_of_the_environment(
    world: World, server: Server, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One proxy under several patterns is wrapped once for each, and a request has one span."""
    with Proxy() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with world.client(transport=AgentTransport(), mounts=AgentTransport.mounts_from_env()) as client:
            inner = client.sync if world.is_sync else client
            HTTPXClientInstrumentor.instrument_client(inner, tracer_provider=spans.provider)
            await client.get(server.url)
        assert proxy.accepted == 1
    assert len(spans.take()) == 1
