"""Which responses leave a connection that can serve again, and which do not (R11, R18, N9), over real sockets.

The server keeps every connection open behind its answer, so where one ends it is the agent that has closed it.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._pool import exchange
from httpx_agent._runtime.locks import Signal
from httpx_agent.testing import Gate, Network, Script, respond
from tests.bugs.stock import Stack
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

KEPT = {
    "with its length": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "with a trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304, with the length of what it does not send": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
    "304, chunked by its header": b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    "an error": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\nbody",
    "keep-alive said aloud": b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody",
    "after a 100": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "after a 103": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "after a 102 and two 103": b"HTTP/1.1 102 Processing\r\n\r\n"
    + b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2
    + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "HTTP/1.0 that says keep-alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody",
    "HTTP/1.0, empty": b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.0, without a body": b"HTTP/1.0 204 No Content\r\nConnection: TE, keep-alive\r\n\r\n",
    "HTTP/1.0, as a proxy says it": b"HTTP/1.0 200 OK\r\nProxy-Connection: keep-alive\r\nContent-Length: 4\r\n\r\nbody",
    "a 204 after a 100": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
}

CLOSED = {
    "Connection: close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
    "close among others": b"HTTP/1.1 200 OK\r\nConnection: TE, Close\r\nContent-Length: 4\r\n\r\nbody",
    "close, chunked": b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4\r\nbody\r\n0\r\n\r\n",
    "close, without a body": b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "HTTP/1.0, keep-alive and close": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\n"
    b"Content-Length: 4\r\n\r\nbody",
    "HTTP/1.0, keep-alive and chunked": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "HTTP/1.0, more than its length": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody...",
    "HTTP/1.0, a hint that is over at once": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=1\r\n"
    b"Content-Length: 4\r\n\r\nbody",
    "more than one response": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody" * 2,
    "a hint that is over at once": b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 4\r\n\r\nbody",
}

KEPT_HEADS = {
    "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "without a word of the body": b"HTTP/1.1 200 OK\r\n\r\n",
    "HTTP/1.0, without a word of it": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
    "after a 103": b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
}

A, B, C = "http://a.test/", "http://b.test/", "http://c.test/"

LONG = httpx.Timeout(5.0, pool=50.0)


def cases(table: dict[str, bytes]) -> Any:
    return pytest.mark.parametrize("answer", table.values(), ids=table.keys())


@pytest.mark.rule("R11", "R18")
@cases(KEPT)
async def test_a_response_after_which_the_socket_serves_again(
    world: World, server: Server, engine: str, answer: bytes
) -> None:
    """On a new socket and on a used one; interim responses are not the response, and do not end it."""
    server.raw["/"] = answer
    agent = Agent(http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for turn in range(3):
            response = await client.get(server.url)
            assert response.content == (b"body" if b"body" in answer else b"")
            assert response.status_code in (200, 204, 304, 500)
            assert response.extensions["agent"].requests_on_socket == turn + 1
            assert agent.status().free_sockets == {server.url: 1}
    assert (server.accepted, agent.status().request_count) == (1, 3)
    await world.close(agent)


@pytest.mark.rule("R11")
@cases(KEPT_HEADS)
@pytest.mark.parametrize("read", [True, False], ids=["read", "not read"])
async def test_a_response_to_head_has_no_body(
    world: World, server: Server, engine: str, answer: bytes, read: bool
) -> None:
    server.raw["/"] = answer
    agent = Agent(http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for turn in range(3):
            async with client.stream("HEAD", server.url) as response:
                assert response.extensions["agent"].requests_on_socket == turn + 1
                if read:
                    assert await response.aread() == b""
    assert (server.accepted, agent.status().request_count) == (1, 3)
    await world.close(agent)


@pytest.mark.rule("R11")
@cases(CLOSED)
async def test_a_response_after_which_the_socket_is_closed(
    world: World, server: Server, engine: str, answer: bytes
) -> None:
    server.raw["/"] = answer
    agent = Agent(http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for turn in range(2):
            assert (await client.get(server.url)).content == (b"body" if b"body" in answer else b"")
            assert agent.sockets() == ()
            await world.until(lambda: server.open == 0)
            assert server.accepted == turn + 1
    status = agent.status()
    assert (status.request_count, status.close_socket_count, status.error_socket_count) == (2, 2, 0)
    await world.close(agent)


@pytest.mark.rule("R11")
async def test_a_body_that_ends_with_the_connection(world: World, server: Server, engine: str) -> None:
    """Its end is the end of the connection, so nothing can come after it; it is a complete response all the same."""
    agent = Agent(http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for turn in range(2):
            response = await client.get(f"{server.url}/close-delimited")
            assert (response.text, response.extensions["agent"].socket_id) == ("until the end", turn)
            assert agent.sockets() == ()
    assert (agent.status().request_count, agent.status().error_socket_count) == (2, 0)
    await world.close(agent)


@pytest.mark.rule("R11")
async def test_http_1_0_whose_body_ends_with_the_connection(world: World, server: Server, engine: str) -> None:
    """Keep-alive said of a body without length means nothing."""
    agent = Agent(http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for turn in range(2):
            response = await client.get(f"{server.url}/close-delimited/keep-alive")
            assert (response.http_version, response.text) == ("HTTP/1.0", "until the end")
            assert response.extensions["agent"].socket_id == turn
            assert agent.sockets() == ()
    await world.close(agent)


@pytest.mark.rule("R11")
async def test_http_1_0_of_a_request_that_says_close(world: World, server: Server, engine: str) -> None:
    agent = Agent(http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        response = await client.get(f"{server.url}/http10/keep-alive", headers={"Connection": "close"})
        assert (response.http_version, response.text) == ("HTTP/1.0", "old")
        assert agent.sockets() == ()
    await world.close(agent)


@pytest.mark.rule("R11", "N9")
@pytest.mark.parametrize("value", ["close", "Close", "TE, close"])
async def test_a_request_that_says_close_is_meant(world: World, server: Server, engine: str, value: str) -> None:
    """N9: Node keeps the connection when the server does not echo the word."""
    server.raw["/"] = KEPT["with its length"]
    agent = Agent(http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(server.url)
        response = await client.get(server.url, headers={"Connection": value})
        assert response.extensions["agent"].reused
        assert agent.sockets() == ()
        await world.until(lambda: server.open == 0)
        assert not (await client.get(server.url)).extensions["agent"].reused
    assert server.requests[1].get_all("connection") == [value]
    await world.close(agent)


@pytest.mark.rule("R11")
async def test_over_tls_too(world: World, tls_server: Server, certificates: Certificates, engine: str) -> None:
    tls_server.raw["/kept"] = KEPT["after a 103"]
    tls_server.raw["/closed"] = CLOSED["Connection: close"]
    agent = Agent(verify=certificates.client(), http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for path in ("kept", "kept", "closed", "kept"):
            assert (await client.get(f"{tls_server.url}/{path}")).text == "body"
        await world.until(lambda: tls_server.open == 1)
    assert tls_server.requests_per_connection == [3, 1]
    await world.close(agent)


@pytest.mark.rule("R18")
async def test_a_response_that_comes_before_the_request_was_written(world: World, engine: str) -> None:
    """R18: complete is what was both read and written; of this request the rest would be taken for the next one."""
    network = Network(Script(respond(b"no", 413), early=[0], writes={1: httpcore.WriteError("no more")}))
    agent = Agent(http1_engine=engine, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        response = await client.post("http://a.test/", content=world.body([b"first", b"second"]))
        assert (response.status_code, response.text) == (413, "no")
        assert agent.sockets() == ()
        assert network.open == 0
        assert not (await client.get("http://a.test/")).extensions["agent"].reused
    await world.close(agent)


@pytest.mark.rule("R7", "R18", "N19")
@pytest.mark.parametrize("path", ["bytes/5", "hold-body/rest"], ids=["all of it has arrived", "more is to come"])
async def test_an_unread_response_keeps_its_socket_and_its_slot(
    world: World, server: Server, engine: str, path: str
) -> None:
    """N19: as in Node, and as long as it is held. Read to its end, it hands the socket to whoever waits (R7)."""
    agent = Agent(max_sockets=1, http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        response = await client.send(client.build_request("GET", f"{server.url}/{path}"), stream=True)
        waiting = tasks.start(client.get, f"{server.url}/echo")
        await world.until(lambda: agent.status().requests == {server.url: 1})
        await world.settle()
        assert not waiting.done
        assert [info.state for info in agent.sockets()] == ["active"]
        assert agent.status().request_count == 0
        server.gate("rest").open()
        await response.aread()
        await waiting.wait()
        assert waiting.result().extensions["agent"].socket_id == 0
        assert agent.status().free_sockets == {server.url: 1}
    assert server.accepted == 1
    await world.close(agent)


@pytest.mark.rule("R18")
async def test_an_unread_response_that_is_closed_gives_its_slot_and_not_its_socket(
    world: World, server: Server, engine: str
) -> None:
    """R23: what is still to come would be taken for the next response."""
    agent = Agent(max_sockets=1, http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        response = await client.send(client.build_request("GET", f"{server.url}/hold-body/rest"), stream=True)
        waiting = tasks.start(client.get, f"{server.url}/echo")
        await world.until(lambda: agent.status().requests == {server.url: 1})
        await response.aclose()
        await waiting.wait()
        assert waiting.result().extensions["agent"].socket_id == 1
        server.gate("rest").open()
        await world.until(lambda: server.open == 1)
        status = agent.status()
        assert (status.request_count, status.request_error_count, status.close_socket_count) == (1, 1, 1)
    await world.close(agent)


@pytest.mark.rule("R18", "N25")
async def test_a_response_frees_its_socket_once(world: World, engine: str) -> None:
    """N25: read to its end and then closed, twice; the socket that another request has by now is not touched."""
    gate = Gate()
    network = Network(Script(respond(), [gate, respond()]))
    agent = Agent(max_sockets=1, http1_engine=engine, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        first = await client.send(client.build_request("GET", "http://a.test/"), stream=True)
        await first.aread()
        second = tasks.start(client.get, "http://a.test/")
        await world.until(lambda: network.request_count == 2)
        for _ in range(2):
            await first.aclose()
            if world.is_sync:
                await world.call(first.sync.stream.close)
            else:
                await first.stream.aclose()
        assert [info.state for info in agent.sockets()] == ["active"]
        assert agent.status().request_count == 1
        gate.open()
        await second.wait()
        assert second.result().extensions["agent"].socket_id == 0
    status = agent.status()
    assert (status.request_count, status.request_error_count, status.create_socket_count) == (2, 0, 1)
    await world.close(agent)


def is_long(timeout: float | None) -> bool:
    """As no other wait in these tests."""
    return timeout is not None and 40 < timeout <= 50


@pytest.mark.bug("B7")
def test_a_socket_is_not_closed_under_a_request(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx: `ReadError`; the free socket that had been assigned is closed for another origin.

    `second` is held between its assignment and its first step, until `other` is about to close something, or waits;
    and `other` is held there until `second` has sent its request.
    """
    woken, go_on = threading.Event(), threading.Event()

    def hold(wait: Any) -> Any:
        def wait_and_be_held(self: Any, timeout: float | None = None) -> Any:
            happened = wait(self, timeout)
            if is_long(timeout):
                woken.set()
                go_on.wait(10)
            return happened

        return wait_and_be_held

    class HeldEvent(threading.Event):
        wait = hold(threading.Event.wait)

    class Closing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("close.started") and not go_on.is_set():
                go_on.set()
                network.wait_for(lambda: network.request_count >= 2)

    monkeypatch.setattr(threading, "Event", HeldEvent)
    monkeypatch.setattr(Signal, "wait", hold(Signal.wait))
    monkeypatch.setattr(exchange, "LOST_AFTER", 50.0)  # one wait, not two
    first_gate, second_gate = Gate(), Gate()
    network = Network(Script([first_gate, respond()], [second_gate, respond()]))
    transport = stack.transport(is_sync=True, max_total_sockets=1, **network.options)
    logger = logging.getLogger("httpcore.connection")
    handler = Closing()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    outcomes: dict[str, Any] = {}

    def get(name: str, url: str, timeout: httpx.Timeout) -> threading.Thread:
        def run() -> None:
            try:
                outcomes[name] = client.get(url, timeout=timeout).status_code
            except httpx.HTTPError as error:
                outcomes[name] = repr(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    with httpx.Client(transport=transport, trust_env=False) as client:
        threads = [get("first", A, LONG)]
        network.wait_for(lambda: network.request_count == 1)
        threads.append(get("second", A, LONG))
        anyio.run(World("sync").until, lambda: stack.waiting(transport) == 1)
        first_gate.open()
        assert woken.wait(10)
        threads.append(get("other", B, httpx.Timeout(5.0)))
        anyio.run(World("sync").until, lambda: go_on.is_set() or (not stack.is_stock and stack.waiting(transport) == 1))
        go_on.set()
        network.wait_for(lambda: network.request_count >= 2)
        if stack.is_stock:
            threads[2].join()  # it has closed the socket, and gone on
        second_gate.open()
        for thread in threads:
            thread.join()
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)
    assert outcomes == {"first": 200, "second": 200, "other": 200}
    assert network.peak == 1
