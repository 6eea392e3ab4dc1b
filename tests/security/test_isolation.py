"""No byte of one response ever reaches another request, and none of a request's values ends up as its structure."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FIN, RST, ChaosServer, Mark, Network, Script, Step, assert_no_leaks, respond
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines

#: Stands in everything that the first server says, and in nothing else.
POISON = b"poison"

PIECES = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 poison\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"HTTP/1.1 304 Not Modified\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nX: poison\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: poison\r\n\r\n",
    b"Content-Length: 6\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 6, 6\r\n",
    b"content-length:6\r\n",
    b"Content-Length : 6\r\n",
    b"Content-Length: +6\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Keep-Alive: timeout=5\r\n",
    b"Set-Cookie: a=poison\r\n",
    b" folded poison\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"6\r\npoison\r\n",
    b"6;ext=poison\r\npoison\r\n",
    b"0\r\n\r\n",
    b"0\r\nX-Trailer: poison\r\n\r\n",
    b"poison",
    b"poi",
    b"\0",
    respond(b"poison"),
    respond(b"poison", headers=[("X-Poison", "1")]),
    respond(b"", 204, headers=[("X-Poison", "poison")], length=False),
]

steps = st.lists(
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)), min_size=1, max_size=8).map(b"".join),
    min_size=1,
    max_size=4,
)
#: Most of what is drawn begins well: otherwise little gets past the first line.
first_responses = st.one_of(
    steps,
    steps.map(lambda parts: [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n" + parts[0], *parts[1:]]),
    steps.map(lambda parts: [respond(b"poison") + parts[0], *parts[1:]]),
    steps.map(lambda parts: [respond(b"poison"), *parts]),
    steps.map(lambda parts: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *parts]),
)
ends = st.sampled_from([None, FIN, RST])
methods = st.sampled_from(["GET", "HEAD", "POST"])

#: How many first responses are tried in each world; more on demand.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))

DEADLINE = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def check(response: httpx.Response, target: str) -> None:
    """It is the answer to this request, whole and with nothing else in it."""
    assert (response.status_code, response.content) == (200, b"good " + target.encode())
    assert POISON not in b"".join(itertools.chain(*response.headers.raw))
    assert POISON not in response.extensions["reason_phrase"]


def good(connection: Any, head: bytes) -> bytes:
    """The answer of a server that behaves names the request."""
    target = head.split(b" ")[1]
    body = b"good " + target
    return respond(b"" if head.startswith(b"HEAD") else body, headers=[("X-Length", str(len(body)))])


@pytest.mark.parametrize("world", [World("sync"), World("trio")], ids=["sync", "trio"])
@given(parts=first_responses, end=ends, method=methods, read=st.booleans())
@settings(DEADLINE, max_examples=EXAMPLES)
def test_whatever_came_before_over_a_scripted_network(
    world: World, parts: list[bytes], end: Mark | None, method: str, read: bool
) -> None:
    """With h11; a step of the script is what one read gives."""
    network = Network(Script([*parts, *([end] if end else [])], then=good), default=Script(then=good))
    world.run(meet, world, Agent(max_sockets=1, **network.options), "http://a.test", method, read)
    assert network.open == 0


@pytest.fixture(scope="module")
def server() -> Any:
    with Echo() as running:
        yield running


class Echo(ChaosServer):
    """Answers as `good` does."""

    def serve(self, peer: Any) -> None:
        """Play what was planned for the first request, then be good."""
        while True:
            peer.wait_idle()
            request = peer.read_request()
            peer.read_body(request)
            if self._next:
                self._play(peer, self._next.popleft().steps)
            else:
                peer.respond(request, b"good " + request.target.encode())


@pytest.mark.parametrize("world", [World("sync"), World("asyncio")], ids=["sync", "asyncio"])
@given(parts=first_responses, end=ends, method=methods, read=st.booleans())
@settings(DEADLINE, max_examples=EXAMPLES)
def test_whatever_came_before_over_sockets(
    world: World, server: Echo, parts: list[bytes], end: Mark | None, method: str, read: bool
) -> None:
    """With the fast engine; all that the server has to say is said before the next request is sent."""
    server.next([*parts, *([end] if end else [])])
    world.run(meet, world, Agent(max_sockets=1), server.url, method, read, server)


async def meet(world: World, agent: Agent, url: str, method: str, read: bool, server: Echo | None = None) -> None:
    """A request into whatever it is, then others, which must be answered as if nothing had been."""
    timeout = httpx.Timeout(5, read=0.02)
    async with world.client(transport=AgentTransport(agent=agent), timeout=timeout) as client:
        with suppress(httpx.TransportError, httpx.DecodingError):
            async with client.stream(method, f"{url}/first") as response:
                if read:
                    await response.aread()
        if server is not None:
            # It has taken the request, though its client may have given up before, and has said what it has to say.
            server.wait_for(lambda: not server._next and server.open == server.idle)
        for number in range(3):
            check(await client.get(f"{url}/{number}", timeout=5), f"/{number}")
        assert_no_leaks(agent)
    await world.close(agent)


INJECTED = "a\r\nX-Injected: 1\r\n\r\nGET /injected HTTP/1.1\r\nHost: a"


@pytest.mark.parametrize(
    "what",
    [
        {"headers": {"X-Value": INJECTED}},
        {"headers": [(b"X-Name: 1\r\nX-Injected", b"1")]},
        {"headers": {"X-Value": "a\nX-Injected: 1"}},
        {"headers": {"X-Value": "a\0b"}},
        {"headers": {"Host": INJECTED}},
        {"method": "GET / HTTP/1.1\r\nX-Injected: 1\r\n\r\nGET"},
        {"url": f"/path?{INJECTED}"},
        {"url": f"/{INJECTED}"},
        {"extensions": {"target": INJECTED.encode()}},
        {"headers": [(b"Content-Length", b"1"), (b"Content-Length", b"2")], "content": b"12"},
        {"headers": [(b"Content-Length", b"4")], "content": b"12"},
    ],
    ids=lambda what: ", ".join(what),
)
async def test_what_a_request_says_is_no_structure(world: World, what: dict[str, Any]) -> None:
    """Refused before it is sent, or encoded; what is sent next is whole."""
    with ChaosServer(must_be_closed=True) as server:
        agent = Agent(max_sockets=1)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            method, path = what.get("method", "POST"), what.get("url", "/")
            given = {name: value for name, value in what.items() if name not in ("method", "url")}
            with suppress(httpx.LocalProtocolError, httpx.InvalidURL):
                await client.request(method, server.url + path, **given)
            assert (await client.get(f"{server.url}/next")).headers["X-Target"] == "/next"
        await world.close(agent)
        for request in server.requests:
            assert request.get("X-Injected") == ""
            assert request.path != "/injected"


LIMIT = 1024 * 1024


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n"),
        (b"HTTP/1.1 ", b"2"),
        (b"HTTP/1.1 200 ", b"OK"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    ],
    ids=["headers", "a header", "103", "100", "a status", "a reason", "a chunk extension", "a chunk size", "trailers"],
)
async def test_a_server_that_never_comes_to_the_point(world: World, start: bytes, more: bytes) -> None:
    """It is cut off after a mebibyte at most, though it goes on as long as it can."""
    block = more * (65536 // len(more))
    steps: list[Step] = [start, *[block] * 1000]
    with ChaosServer(must_be_closed=True) as server:
        agent = Agent(max_sockets=1)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            server.next(steps)
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(server.url)
            assert (await client.get(server.url)).text == "ok"
        await world.close(agent)
