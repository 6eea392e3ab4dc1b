"""The SDKs of language models, against a server on loopback that speaks their protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from httpx_agent import AgentTransport
from tests.support.servers import refusing_port

for name in ("anthropic", "groq", "ollama", "openai"):
    pytest.importorskip(name, reason="needs the extra integrations")

import anthropic
import groq
import httpx
import httpx2
import llm_server
import ollama
import openai

import httpx_agent.httpx2

# openai leaves generators of its own half-way when it has seen the end of a stream, of which trio warns.
pytestmark = pytest.mark.filterwarnings(r"ignore:Async generator 'openai\._streaming\.:ResourceWarning")

FAMILIES: Any = {"httpx": httpx_agent, "httpx2": httpx_agent.httpx2}
ASKED = [{"role": "user", "content": "word by word"}]
PARTS = ["word", " by", " word"]


@pytest.fixture
def server() -> Iterator[llm_server.LLMServer]:
    with llm_server.serve() as running:
        yield running


class Sdk:
    """One SDK: how its clients are made with a transport, and how it asks, at once and streamed."""

    def __init__(self, family: str, module: Any, path: str, base: str, *, http_client: Callable[..., Any]) -> None:
        self.family = family
        self.module = module
        self.path = path
        self._base = base
        self._http_client = http_client

    def client(self, url: str, transport: Any, *, is_async: bool = False, **options: Any) -> Any:
        if self.module is ollama:
            return (ollama.AsyncClient if is_async else ollama.Client)(host=url, transport=transport)
        kind = {anthropic: "Anthropic", groq: "Groq", openai: "OpenAI"}[self.module]
        http_client = self._http_client(is_async)(transport=transport)
        make = getattr(self.module, f"Async{kind}" if is_async else kind)
        options.setdefault("timeout", 30.0)  # theirs is 5 s for a connection, and the machine may be busy
        return make(base_url=url + self._base, api_key="none", http_client=http_client, **options)

    def ask(self, client: Any, **options: Any) -> Any:
        """A call, or for an async client its awaitable."""
        if self.module is ollama:
            return client.chat(model="any", messages=ASKED, **options)
        if self.module is anthropic:
            return client.messages.create(model="any", max_tokens=9, messages=ASKED, **options)
        return client.chat.completions.create(model="any", messages=ASKED, **options)

    def text(self, answer: Any) -> str | None:
        """What a whole answer says."""
        if self.module is ollama:
            return str(answer.message.content)
        if self.module is anthropic:
            return str(answer.content[0].text)
        return str(answer.choices[0].message.content)

    def part(self, event: Any) -> str | None:
        """What one event of a streamed answer says."""
        if self.module is ollama:
            content = event.message.content
        elif self.module is anthropic:
            content = event.delta.text if event.type == "content_block_delta" else None
        else:
            content = event.choices[0].delta.content
        return content or None


def own_client(module: Any) -> Callable[[bool], Any]:
    return lambda is_async: module.DefaultAsyncHttpxClient if is_async else module.DefaultHttpxClient


SDKS = {
    "openai": Sdk("httpx2", openai, "/v1/chat/completions", "/v1", http_client=own_client(openai)),
    "openai on httpx": Sdk(
        "httpx",
        openai,
        "/v1/chat/completions",
        "/v1",
        http_client=lambda is_async: httpx.AsyncClient if is_async else httpx.Client,
    ),
    "anthropic": Sdk("httpx2", anthropic, "/v1/messages", "", http_client=own_client(anthropic)),
    "groq": Sdk("httpx", groq, "/openai/v1/chat/completions", "", http_client=own_client(groq)),
    "ollama": Sdk("httpx", ollama, "/api/chat", "", http_client=own_client(openai)),
}

EACH_SDK = pytest.mark.parametrize("sdk", SDKS.values(), ids=SDKS)
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "trio"])


def transport_for(sdk: Sdk, **options: Any) -> Any:
    return FAMILIES[sdk.family].AgentTransport(**options)


@EACH_SDK
def test_sync(server: llm_server.LLMServer, sdk: Sdk) -> None:
    transport = transport_for(sdk, max_sockets=1)
    with sdk.client(server.url, transport) as client:
        for _ in range(3):
            assert sdk.text(sdk.ask(client)) == "word by word"
            assert [part for event in sdk.ask(client, stream=True) if (part := sdk.part(event))] == PARTS
        status = transport.agent.status()
        assert (status.create_socket_count, status.request_count) == (1, 6)
        assert len(transport._pool._requests) == 0
    assert server.accepted == 1
    assert server.paths == [sdk.path] * 6
    assert transport.agent.sockets() == ()


@LOOPS
@EACH_SDK
def test_async(server: llm_server.LLMServer, sdk: Sdk, loop: str) -> None:
    async def main() -> None:
        transport = transport_for(sdk, max_sockets=1)
        async with sdk.client(server.url, transport, is_async=True) as client:
            for _ in range(3):
                assert sdk.text(await sdk.ask(client)) == "word by word"
                events = await sdk.ask(client, stream=True)
                assert [part async for event in events if (part := sdk.part(event))] == PARTS
            status = transport.agent.status()
            assert (status.create_socket_count, status.request_count) == (1, 6)
            assert len(transport._pool._requests) == 0
        assert transport.agent.sockets() == ()

    anyio.run(main, backend=loop)
    assert server.accepted == 1


@LOOPS
@EACH_SDK
def test_many_at_once(server: llm_server.LLMServer, sdk: Sdk, loop: str) -> None:
    """Half of them streamed."""

    async def main() -> None:
        transport = transport_for(sdk, max_sockets=5)
        texts: list[str | None] = []

        async def whole() -> None:
            texts.append(sdk.text(await sdk.ask(client)))

        async def streamed() -> None:
            events = await sdk.ask(client, stream=True)
            texts.append("".join([part async for event in events if (part := sdk.part(event))]))

        async with sdk.client(server.url, transport, is_async=True) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(whole)
                    tasks.start_soon(streamed)
            assert texts == ["word by word"] * 100
            assert transport.agent.status().create_socket_count == 5

    anyio.run(main, backend=loop)
    assert server.accepted == 5


@pytest.mark.parametrize("name", ["openai", "anthropic", "groq"])
def test_a_stream_that_is_left_early_gives_its_slot_back(server: llm_server.LLMServer, name: str) -> None:
    sdk = SDKS[name]
    transport = transport_for(sdk, max_sockets=1)
    with sdk.client(server.url, transport) as client:
        for _ in range(3):
            with sdk.ask(client, stream=True) as stream:
                for event in stream:
                    if sdk.part(event) == "word":
                        break
        assert sdk.text(sdk.ask(client)) == "word by word"
        assert len(transport._pool._requests) == 0


def test_anthropics_own_way_to_stream(server: llm_server.LLMServer) -> None:
    sdk = SDKS["anthropic"]
    with sdk.client(server.url, transport_for(sdk)) as client:
        with client.messages.stream(model="any", max_tokens=9, messages=ASKED) as stream:
            assert list(stream.text_stream) == PARTS
            assert stream.get_final_message().stop_reason == "end_turn"


@pytest.mark.parametrize("name", ["openai", "anthropic", "groq"])
def test_a_refused_connection_is_an_sdks_connection_error(name: str) -> None:
    """The exceptions are those that the SDK knows: it retries, and says so in its own terms."""
    sdk = SDKS[name]
    transport = transport_for(sdk)
    with refusing_port() as port, sdk.client(f"http://127.0.0.1:{port}", transport, max_retries=1) as client:
        with pytest.raises(sdk.module.APIConnectionError) as caught:
            sdk.ask(client)
        library = httpx2 if sdk.family == "httpx2" else httpx
        assert isinstance(caught.value.__cause__, library.ConnectError)
        assert transport.agent.status().create_socket_error_count == 2


@pytest.mark.parametrize("name", ["openai", "anthropic", "groq"])
def test_who_waits_too_long_for_a_socket_learns_why(server: llm_server.LLMServer, name: str) -> None:
    sdk = SDKS[name]
    library = httpx2 if sdk.family == "httpx2" else httpx
    timeout = library.Timeout(5.0, pool=0.01)
    with sdk.client(server.url, transport_for(sdk, max_sockets=1), max_retries=0, timeout=timeout) as client:
        with sdk.ask(client, stream=True):
            with pytest.raises(sdk.module.APITimeoutError) as caught:
                sdk.ask(client)
        assert isinstance(caught.value.__cause__, library.PoolTimeout)
        assert "max_sockets=1" in str(caught.value.__cause__)


def test_anthropic_refuses_the_transport_of_the_other_family() -> None:
    """It looks among the ancestors of what it is given. That no class of ours has both kinds keeps it content."""
    with pytest.raises(TypeError, match="httpx2"):
        anthropic.Anthropic(api_key="none", http_client=httpx.Client(transport=AgentTransport()))  # type: ignore[arg-type]
    transport = httpx_agent.httpx2.AgentTransport()
    with anthropic.DefaultHttpxClient(transport=transport) as client:
        assert anthropic.Anthropic(api_key="none", http_client=client)._client is client
