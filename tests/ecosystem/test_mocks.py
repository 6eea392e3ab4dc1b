"""Tools that respond instead of the network, without set-up: each one intercepts, and nothing gets out.

Each runs beside both families that it knows, with both engines, direct and by proxies, in threads and in event loops.
The URLs and the proxies are those of a listener that knows whether anybody came.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
import respx

import httpx_agent.httpx2
from tests.support.servers import Proxy, Server, Socks

for name in ("pytest_httpx", "pytest_httpx2", "vcr"):
    pytest.importorskip(name, reason="needs the extra integrations")

import vcr

FAMILIES: Any = {"httpx": (httpx_agent, httpx), "httpx2": (httpx_agent.httpx2, httpx2)}

LIMIT: Any = {"max_sockets": 1, "max_total_sockets": 1, "timeout": 5.0}
"""A mock that kept a slot would be found at the second request."""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where nobody must come."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.fixture
def address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


# The tools ------------------------------------------------------------------------------------------------------------


class Mocked:
    """One tool: how it is told an answer for a URL, and what it raises for any other URL."""

    def __init__(self, answer: Callable[[str, Any], None], refuses: type[BaseException]) -> None:
        self.answer = answer
        self.refuses = refuses


@contextmanager
def respx_mock(using: str) -> Iterator[Mocked]:
    with respx.mock(using=using, assert_all_called=False) as router:
        yield Mocked(
            lambda url, answer: router.route(url=url).respond(201, json=answer), respx.models.AllMockedAssertionError
        )


@contextmanager
def pytest_httpx_mock(request: pytest.FixtureRequest) -> Iterator[Mocked]:
    mock = request.getfixturevalue("httpx_mock")
    yield Mocked(
        lambda url, answer: mock.add_response(url=url, status_code=201, json=answer, is_reusable=True),
        httpx.TimeoutException,
    )


@contextmanager
def pytest_httpx2_mock(request: pytest.FixtureRequest) -> Iterator[Mocked]:
    router = request.getfixturevalue("httpx2_mock")
    yield Mocked(
        lambda url, answer: router.route(url=url).respond(201, json=answer), respx.models.AllMockedAssertionError
    )


@contextmanager
def cassette(folder: Path) -> Iterator[Mocked]:
    """A cassette that is played; what it has not is refused."""
    path = folder / "cassette.json"
    recorder = vcr.VCR(serializer="json", record_mode=vcr.mode.NONE)
    interactions: list[Any] = []
    running: list[AbstractContextManager[Any]] = []

    def answer(url: str, value: Any) -> None:
        for method, body in (("GET", ""), ("POST", "asked")):
            response = {
                "status": {"code": 201, "message": "Created"},
                "headers": {"Content-Type": ["application/json"]},
                "body": {"string": json.dumps(value)},
            }
            asked = {"method": method, "uri": url, "body": body, "headers": {}}
            interactions.append({"request": asked, "response": response})
        path.write_text(json.dumps({"version": 1, "interactions": interactions}))
        running.append(recorder.use_cassette(str(path), allow_playback_repeats=True))
        running[-1].__enter__()

    try:
        yield Mocked(answer, vcr.errors.CannotOverwriteExistingCassetteException)
    finally:
        for each in running:
            each.__exit__(None, None, None)


TOOLS = [
    ("respx", "httpx"),
    ("respx using=httpx", "httpx"),
    ("pytest-httpx", "httpx"),
    ("vcrpy", "httpx"),
    ("pytest-httpx2", "httpx2"),
    ("vcrpy", "httpx2"),
]


@pytest.fixture(params=TOOLS, ids=lambda pair: f"{pair[0]} with {pair[1]}")
def tool_and_family(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def mocked(request: pytest.FixtureRequest, tool_and_family: Any, tmp_path: Path) -> Iterator[Mocked]:
    tools: dict[str, Callable[[], AbstractContextManager[Mocked]]] = {
        "respx": lambda: respx_mock("httpcore"),
        "respx using=httpx": lambda: respx_mock("httpx"),
        "pytest-httpx": lambda: pytest_httpx_mock(request),
        "pytest-httpx2": lambda: pytest_httpx2_mock(request),
        "vcrpy": lambda: cassette(tmp_path),
    }
    with tools[tool_and_family[0]]() as running:
        yield running


class Sender:
    """Sends requests over one transport, in threads or in an event loop, and closes it."""

    def __init__(self, mode: str, library: Any, transport: Any) -> None:
        self.transport = transport
        self._mode = mode
        self._library = library

    def send(self, *requests: tuple[str, str]) -> list[Any]:
        """The JSON of the answers with their status, or the exceptions."""
        if self._mode == "sync":
            with self._library.Client(transport=self.transport, timeout=5.0) as client:
                return [self._sync(client, *request) for request in requests]
        found: list[Any] = []

        async def main() -> None:
            async with self._library.AsyncClient(transport=self.transport, timeout=5.0) as client:
                for request in requests:
                    found.append(await self._async(client, *request))

        anyio.run(main, backend=self._mode)
        return found

    def _sync(self, client: Any, method: str, url: str) -> Any:
        try:
            with client.stream(method, url, content=b"asked" if method == "POST" else None) as response:
                return response.status_code, json.loads(b"".join(response.iter_bytes()))
        except Exception as error:
            return error

    async def _async(self, client: Any, method: str, url: str) -> Any:
        try:
            async with client.stream(method, url, content=b"asked" if method == "POST" else None) as response:
                return response.status_code, json.loads(b"".join([part async for part in response.aiter_bytes()]))
        except Exception as error:
            return error


@pytest.fixture(params=["sync", "asyncio", "trio"])
def mode(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["httptools", "h11"])
def engine(request: pytest.FixtureRequest) -> Any:
    """Which speaks HTTP/1.1; with a mock in its place, neither does."""
    return request.param


def options(engine: str, proxy: str | None) -> Any:
    """Those of a transport; httptools' engine does not go with a proxy, unless the choice is left to the agent."""
    return {"http1_engine": "auto" if proxy and engine == "httptools" else engine, "proxy": proxy}


@pytest.fixture(params=[None, "http", "socks5"], ids=["direct", "http proxy", "socks proxy"])
def proxy(request: pytest.FixtureRequest, address: str) -> Any:
    return request.param and f"{request.param}://{address}"


@pytest.fixture
def sender(tool_and_family: Any, mode: str, engine: str, proxy: str | None) -> Sender:
    ours, library = FAMILIES[tool_and_family[1]]
    return Sender(mode, library, ours.AgentTransport(**options(engine, proxy), **LIMIT))


# The tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_it_answers_and_nothing_gets_out(mocked: Mocked, sender: Sender, scheme: str, address: str) -> None:
    url = f"{scheme}://{address}/things"
    mocked.answer(url, {"a": [1, 2]})

    answers = sender.send(("GET", url), ("POST", url), ("GET", url))

    assert answers == [(201, {"a": [1, 2]})] * 3
    status = sender.transport.agent.status()
    assert not status.sockets
    assert not status.free_sockets
    assert not status.requests
    assert len(sender.transport._pool._requests) == 0


@pytest.mark.httpx_mock(assert_all_requests_were_expected=False, assert_all_responses_were_requested=False)
def test_what_it_was_not_told_it_refuses(mocked: Mocked, sender: Sender, address: str) -> None:
    mocked.answer(f"http://{address}/things", {})

    refused, answered = sender.send(("GET", f"http://{address}/other"), ("GET", f"http://{address}/things"))

    assert isinstance(refused, mocked.refuses)
    assert answered == (201, {})


@pytest.mark.parametrize("through", [None, Proxy, Socks], ids=["direct", "http proxy", "socks proxy"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_cassette_recorded_it_plays(
    family: str, mode: str, engine: str, through: type[Proxy | Socks] | None, tmp_path: Path
) -> None:
    """When the server and the proxy are gone."""
    ours, library = FAMILIES[family]
    path = str(tmp_path / "cassette.yaml")
    with Server() as server, through() if through else nullcontext() as proxy:
        given = options(engine, proxy and proxy.url)
        url = f"{server.url}/bytes/3"
        with vcr.use_cassette(path):
            recorded = fetch(mode, library, ours.AgentTransport(**given), url)
        assert len(server.requests) == 1
        assert proxy is None or proxy.accepted == 1
    with vcr.use_cassette(path, record_mode=vcr.mode.NONE) as played:
        assert fetch(mode, library, ours.AgentTransport(**given), url) == recorded
        assert played.all_played


def fetch(mode: str, library: Any, transport: Any, url: str) -> tuple[int, bytes]:
    """Status and body of one answer."""
    if mode == "sync":
        with library.Client(transport=transport) as client:
            response = client.get(url)
    else:

        async def main() -> Any:
            async with library.AsyncClient(transport=transport) as client:
                return await client.get(url)

        response = anyio.run(main, backend=mode)
    return response.status_code, response.content


def test_pytest_httpx_tells_proxies_apart(httpx_mock: Any, mode: str, engine: str, address: str) -> None:
    """By `proxy_url`, the credentials included."""
    url = f"http://{address}/"
    httpx_mock.add_response(url=url, proxy_url=f"http://{address}/", json="by a proxy")
    httpx_mock.add_response(url=url, proxy_url=f"http://user:secret@{address}/", json="with credentials")
    found = []
    for proxy in (f"http://user:secret@{address}", f"http://{address}"):
        transport = httpx_agent.AgentTransport(**options(engine, proxy))
        found += Sender(mode, httpx, transport).send(("GET", url))
    assert found == [(200, "with credentials"), (200, "by a proxy")]


@pytest.mark.parametrize(("family", "using"), [("httpx", "httpcore"), ("httpx2", "httpcore2")])
def test_when_a_mock_ends_the_network_is_back(family: str, using: str, engine: str, mode: str) -> None:
    """Over the agent that served before; the mocked request cost it nothing."""
    ours, library = FAMILIES[family]
    with Server() as server, ours.Agent(http1_engine=engine, max_total_sockets=1) as agent:

        def status() -> int:
            return fetch(mode, library, ours.AgentTransport(agent=agent), f"{server.url}/bytes/3")[0]

        before = status()
        with respx.mock(using=using) as router:
            router.get(f"{server.url}/bytes/3").respond(299)
            during = status()
        assert (before, during, status()) == (200, 299, 200)
        assert len(server.requests) == 2


@pytest.mark.parametrize("through", [None, Proxy, Socks], ids=["direct", "http proxy", "socks proxy"])
@pytest.mark.parametrize(("family", "using"), [("httpx", "httpcore"), ("httpx2", "httpcore2")])
def test_a_mock_that_comes_when_the_transport_has_sockets(
    family: str, using: str, engine: str, mode: str, through: type[Proxy | Socks] | None
) -> None:
    """Which knows nothing of the transport, and must answer in the place of its free socket."""
    ours, library = FAMILIES[family]
    with Server() as server, through() if through else nullcontext() as proxy:
        url = f"{server.url}/bytes/3"
        transport = ours.AgentTransport(**options(engine, proxy and proxy.url))

        async def story(get: Callable[[], Any]) -> list[int]:
            found = [await get()]
            pool = f"{ours.AgentTransport._pool_class.__module__}.AgentPool"
            respx.mocks.Mocker.registry[using].remove_targets(pool)
            with respx.mock(using=using) as router:
                router.get(url).respond(299)
                found.append(await get())
            return [*found, await get()]

        async def main() -> list[int]:
            if mode == "sync":
                with library.Client(transport=transport) as client:

                    async def ask() -> int:
                        return int(client.get(url).status_code)

                    return await story(ask)
            async with library.AsyncClient(transport=transport) as client:

                async def ask() -> int:
                    return int((await client.get(url)).status_code)

                return await story(ask)

        assert anyio.run(main, backend="asyncio" if mode == "sync" else mode) == [200, 299, 200]
        assert server.requests_per_connection == [2]
