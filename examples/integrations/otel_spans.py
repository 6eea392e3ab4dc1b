"""OpenTelemetry's own instrumentation of httpx."""

import httpx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)

from httpx_agent import AgentTransport
from server import serve

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))

HTTPXClientInstrumentor().instrument(tracer_provider=provider)

with serve() as url, httpx.Client(transport=AgentTransport()) as client:
    client.get(url)
    client.post(url)

for span in spans.get_finished_spans():
    print(span.name, span.kind.name, span.status.status_code.name)
