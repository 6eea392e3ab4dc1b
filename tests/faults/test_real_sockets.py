"""Everything that a server can do wrong, over real sockets: what the caller sees, and that nothing is left over.

The engine is not named here: what `world` stands for decides it, so each engine that is added there meets all of this.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FAULTS, FIN, HANG, RST, ChaosServer, Step, assert_no_leaks
from tests.support.servers import Certificates
from tests.support.worlds import World

pytestmark = [pytest.mark.both_engines, pytest.mark.sweep]

ENDED, RESET, SILENT = httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout

#: What a GET on a new socket makes of each fault: a status, or an exception.
OUTCOMES: dict[str, int | type[Exception]] = {
    "fin": ENDED,
    "reset": RESET,
    "hang": SILENT,
    "garbage": ENDED,
    "fin-in-head": ENDED,
    "reset-in-head": RESET,
    "hang-in-head": SILENT,
    "fin-in-body": ENDED,
    "reset-in-body": RESET,
    "hang-in-body": SILENT,
    "fin-in-chunk": ENDED,
    "reset-in-chunk": RESET,
    "hang-in-chunk": SILENT,
    "bad-chunk": ENDED,
    "fin-after": 200,
    "reset-after": 200,
    "close": 200,
    "no-length": 200,
    "trickle": 200,
    "interim": 200,
    "interim-flood": ENDED,
    "interim-fin": ENDED,
    "early": 413,
    "early-close": 413,
    "early-reset": RESET,
    "second": 200,
    "second-later": 200,
    "split": 200,
    "upgrade": ENDED,
    "two-lengths": ENDED,
    "bad-length": ENDED,
    "bad-header": ENDED,
    "huge-header": ENDED,
    "endless-head": ENDED,
    "huge-extension": ENDED,
    "endless-trailers": ENDED,
}

#: A reset may overtake what was sent before it; over TLS, Python tells some resets as an end.
MAY_ALSO_BE: dict[str, set[Any]] = {
    **{name: {ENDED, RESET} for name in FAULTS if "reset" in name},
    "reset-after": {RESET, ENDED},
}


#: For what is meant to hang; everything else has its time, however busy the machine is.
BRIEF = 0.1


async def meet(client: Any, url: str, name: str) -> None:
    """Sends a request into a fault; checks what comes of it."""
    timeout = httpx.Timeout(10, read=BRIEF if OUTCOMES[name] is SILENT else 10)
    allowed = {OUTCOMES[name], *MAY_ALSO_BE.get(name, ())}
    response = error = None
    try:
        response = await client.get(f"{url}/{name}", timeout=timeout)
    except httpx.TransportError as raised:
        error = raised
    if response is None:
        assert type(error) in allowed, error
        assert str(error).startswith(f"GET {url}: ")
    else:
        assert response.status_code in allowed
        assert response.text == "ok"
        assert "set-cookie" not in response.headers


async def check_that_it_works(world: World, client: Any, agent: Agent, server: ChaosServer) -> None:
    """Nothing is left, the next requests get answers of their own, and the server sees no stray connection."""
    assert_no_leaks(agent)
    # All that the server had to say is said: what comes after the next request, nobody can tell from its answer.
    server.wait_for(lambda: server.open == server.idle)
    for number in range(2):
        response = await client.get(f"{server.url}/next?{number}")
        assert (response.status_code, response.text) == (200, "ok")
        assert response.headers["X-Target"] == f"/next?{number}"
    server.wait_for(lambda: server.open == sum(agent.status().free_sockets.values()) == 1)
    assert_no_leaks(agent)


def client_for(world: World, agent: Agent) -> Any:
    return world.client(transport=AgentTransport(agent=agent), timeout=10)


def test_every_fault_has_an_outcome() -> None:
    assert list(OUTCOMES) == list(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_fault(world: World, certificates: Certificates, name: str, tls: bool) -> None:
    """On a new socket, and on one that has served; the limit on sockets is 1, so a lost slot would show."""
    context = certificates.server() if tls else None
    with ChaosServer(ssl_context=context, must_be_closed=True) as server:
        agent = Agent(max_sockets=1, max_total_sockets=1, verify=certificates.client())
        async with client_for(world, agent) as client:
            await meet(client, server.url, name)
            await check_that_it_works(world, client, agent, server)
            await meet(client, server.url, name)
            await check_that_it_works(world, client, agent, server)
        await world.close(agent)
        assert agent.sockets() == ()


@pytest.mark.parametrize("name", ["early", "early-close", "early-reset", "reset", "fin", "hang"])
async def test_a_fault_while_a_body_is_sent(world: World, name: str) -> None:
    """A mebibyte, which the server may not read."""
    with ChaosServer(must_be_closed=True) as server:
        agent = Agent(max_sockets=1, max_total_sockets=1)
        async with client_for(world, agent) as client:
            for _ in range(2):
                content = world.body([b"x" * 65536] * 16)
                # Without an answer to read, what is told is that the body could not be written.
                with suppress(httpx.NetworkError, httpx.TimeoutException, ENDED):
                    timeout = httpx.Timeout(10, read=BRIEF if name == "hang" else 10)
                    response = await client.post(server.url_of(name), content=content, timeout=timeout)
                    assert response.status_code == 413
                await check_that_it_works(world, client, agent, server)
        await world.close(agent)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    "steps", [(FIN,), (RST,), (HANG,), (b"\0garbage\r\n\r\n" * 8,), (b"220 mail.test ESMTP\r\n", FIN)], ids=repr
)
async def test_a_connection_that_fails_as_soon_as_it_is_there(
    world: World, certificates: Certificates, tls: bool, steps: tuple[Step, ...]
) -> None:
    """Over TLS that is a handshake that fails; without, it is seen when the answer is awaited."""
    with ChaosServer(ssl_context=certificates.server() if tls else None, must_be_closed=True) as server:
        agent = Agent(max_sockets=1, max_total_sockets=1, verify=certificates.client())
        brief = BRIEF if HANG in steps else 10
        async with client_for(world, agent) as client:
            server.next_connection(*steps)
            with pytest.raises(httpx.TransportError) as caught:
                await client.get(server.url, timeout=httpx.Timeout(10, read=brief, connect=brief))
            server.wait_for(lambda: not server._next_connection)  # a client may give up before a busy server has looked
            if tls:
                assert isinstance(caught.value, (httpx.ConnectError, httpx.ConnectTimeout))
                assert agent.status().create_socket_error_count == 1
            else:
                assert isinstance(caught.value, (httpx.NetworkError, ENDED, SILENT))
            await check_that_it_works(world, client, agent, server)
        await world.close(agent)


async def test_a_reset_before_the_handshake_begins(world: World, certificates: Certificates) -> None:
    """Python's `ssl` leaves the socket open then; a warning of its collection would fail this."""
    with ChaosServer(ssl_context=certificates.server(), must_be_closed=True) as server:
        agent = Agent(max_sockets=1, verify=certificates.client())

        def wait(name: str, _: object) -> None:
            if name == "connection.start_tls.started":
                server.wait_closed()

        async with client_for(world, agent) as client:
            server.next_connection(RST)
            with pytest.raises(httpx.ConnectError):
                await client.get(server.url, extensions={"trace": world.callback(wait)})
            gc.collect()
            await check_that_it_works(world, client, agent, server)
        await world.close(agent)


async def test_an_agent_that_is_closed_when_the_head_has_come(world: World) -> None:
    """Before anybody reads the body: the error is as clear as later, and nothing is left."""
    with ChaosServer(must_be_closed=True) as server:
        agent = Agent(max_sockets=1)

        def close(name: str, _: object) -> None:
            if name == "http11.receive_response_headers.complete":
                agent.close()

        async def aclose(name: str, _: object) -> None:
            if name == "http11.receive_response_headers.complete":
                await agent.aclose()

        async with client_for(world, agent) as client:
            extensions = {"trace": close if world.is_sync else aclose}
            with pytest.raises(httpx.ReadError) as caught:
                await client.get(server.url_of("hang-in-body"), extensions=extensions)
            assert str(caught.value) == f"GET {server.url}: the agent was closed while the request was in flight"
            await check_that_it_works(world, client, agent, server)
            assert len(client._transport._pool._requests) == 0
        await world.close(agent)


async def test_connects_that_are_refused_or_get_no_answer(world: World) -> None:
    with ChaosServer(must_be_closed=True) as server:
        agent = Agent(max_sockets=1, max_total_sockets=1)
        async with client_for(world, agent) as client:
            with server.refusing(), pytest.raises(httpx.ConnectError):
                await client.get(server.url)
            await check_that_it_works(world, client, agent, server)
            await world.close(agent)
            with server.unresponsive(), pytest.raises(httpx.ConnectTimeout):
                await client.get(server.url, timeout=httpx.Timeout(10, connect=BRIEF))
            await check_that_it_works(world, client, agent, server)
        await world.close(agent)


@pytest.mark.parametrize("what", ["close", "reset", "send"])
async def test_something_happens_to_an_idle_connection(world: World, what: str) -> None:
    """It leaves the pool with no request needed, and nobody gets what it said."""
    with ChaosServer(must_be_closed=True) as server:
        agent = Agent(max_sockets=1)
        async with client_for(world, agent) as client:
            for _ in range(2):
                assert (await client.post(server.url)).text == "ok"
                if what == "send":
                    server.send_idle(b"HTTP/1.1 299 Unasked\r\nContent-Length: 0\r\n\r\n")
                else:
                    server.close_idle() if what == "close" else server.reset_idle()
                await world.until(lambda: not agent.sockets())
                response = await client.post(server.url)
                assert (response.text, response.extensions["agent"].reused) == ("ok", False)
        await world.close(agent)
