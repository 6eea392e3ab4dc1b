"""A used socket turns out to be dead: what is sent again, what is not, and what the error says."""

from __future__ import annotations

import io
import socket
import struct
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FIN, RST, TIMEOUT, Network, Script, respond
from tests.bugs.stock import Stack
from tests.support.raw import Peer, raw_server
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

URL = "http://a.test/"

ok = respond(b"ok")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

A = "http://a.test/"


@pytest.mark.rule("R2", "R14", "N8", "N16", "N23")
@pytest.mark.parametrize("end", ["fin", "rst", "data"])
async def test_a_dead_free_socket_is_not_used(world: World, end: str) -> None:
    """N8, N16, N23: closed by its server, or readable while free. One poll finds it; nothing was sent on it."""
    network = Network()
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        first = network.connections[0]
        {"fin": first.fin, "rst": first.rst, "data": lambda: first.send(b"HTTP/1.1 408 Too Late\r\n\r\n")}[end]()
        response = await client.post(URL, content=b"not idempotent, but nothing was sent")
        info = response.extensions["agent"]
        assert (info.socket_id, info.reused, info.retried) == (1, False, False)
        assert len(first.requests) == 1
        assert first.polls == 1
        assert network.peak == 1
        assert agent.status().close_socket_count == 1
    await world.close(agent)


@pytest.mark.rule("R2")
async def test_the_next_free_socket_is_tried_before_a_new_one(world: World) -> None:
    """Both limits full of dead sockets, then of one that lives."""
    network = Network()
    agent = Agent(max_sockets=3, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await open_sockets(world, client, 3)
        network.connections[1].fin()
        network.connections[2].fin()
        assert (await client.get(URL)).extensions["agent"].socket_id == 0
        assert network.open == 1
    await world.close(agent)


async def open_sockets(world: World, client: Any, count: int) -> None:
    """Opens sockets that come free in the order of their numbers."""
    streams = [client.stream("GET", URL) for _ in range(count)]
    responses = [await stream.__aenter__() for stream in streams]
    for stream, response in zip(streams, responses, strict=True):
        await response.aread()
        await stream.__aexit__(None, None, None)


@pytest.mark.rule("R19", "N16")
@pytest.mark.parametrize("failure", [FIN, RST])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
async def test_an_idempotent_request_is_sent_again_on_a_new_socket(world: World, method: str, failure: Any) -> None:
    """R19, N16: the socket was reused, and not one byte of a response came."""
    network = Network(Script(ok, failure))
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        response = await client.request(method, URL)
        info = response.extensions["agent"]
        assert (info.socket_id, info.reused, info.retried) == (1, False, True)
        assert [len(connection.requests) for connection in network.connections] == [2, 1]
        assert network.peak == 1  # the dead one was closed first
        assert agent.status().request_count == 2
        assert agent.status().request_error_count == 0
        assert agent.status().error_socket_count == (failure is RST)
    await world.close(agent)


@pytest.mark.rule("R19")
@pytest.mark.parametrize(
    "arguments",
    [
        {"content": b"bytes"},
        {"json": {"a": 1}},
        {"data": {"a": "1"}},
        {"files": {"file": b"bytes"}},
        {"files": {"file": io.BytesIO(b"a seekable file")}},
    ],
    ids=["bytes", "json", "form", "multipart of bytes", "multipart of a file"],
)
@pytest.mark.parametrize("header", ["Idempotency-Key", "X-Idempotency-Key"])
async def test_a_post_with_a_key_is_sent_again_if_its_body_can(
    world: World, arguments: dict[str, Any], header: str
) -> None:
    network = Network(Script(ok, FIN))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        response = await client.post(URL, headers={header: "1"}, **arguments)
        assert response.extensions["agent"].retried
        first, second = network.connections
        sent = [b"".join(op.details["data"] for op in one.ops if op.name == "write") for one in (first, second)]
        assert sent[0].endswith(sent[1])
        assert int(first.requests[1].split(b"Content-Length: ")[1].split(b"\r\n")[0]) > 0
    await world.close(agent)


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False


def unreplayable(world: World, kind: str) -> tuple[str, dict[str, Any]]:
    if kind == "a POST":
        return "POST", {"content": b"bytes"}
    if kind == "a generator":
        return "PUT", {"content": world.body([b"part"])}
    return "PUT", {"files": {"file": Unseekable(b"file")}}


@pytest.mark.rule("R19")
@pytest.mark.parametrize("kind", ["a POST", "a generator", "an unseekable file"])
async def test_what_may_not_be_sent_again_raises_and_says_that_the_socket_was_stale(world: World, kind: str) -> None:
    network = Network(Script(ok, FIN))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        method, arguments = unreplayable(world, kind)
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await client.request(method, URL, **arguments)
        text = str(caught.value)
        assert "Server disconnected without sending a response." in text
        assert "The socket was stale: it had served 1 request(s) and been free for" in text
        why = "the method is not idempotent" if kind == "a POST" else "its body cannot be replayed"
        assert f" s. Not sent again: {why}" in text
        assert agent.sockets() == ()
    await world.close(agent)


async def test_a_new_socket_is_never_stale(world: World) -> None:
    network = Network(default=Script(then=FIN))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await client.get(URL)
        assert "stale" not in str(caught.value)
        assert len(network.connections) == 1
    await world.close(agent)


@pytest.mark.rule("R19")
async def test_it_is_sent_again_once(world: World) -> None:
    network = Network(Script(ok, FIN), default=Script(then=FIN))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(URL)
        assert len(network.connections) == 2
    await world.close(agent)


@pytest.mark.parametrize(
    ("second", "error"),
    [([b"HTTP/1.1 200", FIN], httpx.RemoteProtocolError), (TIMEOUT, httpx.ReadTimeout)],
    ids=["after a byte of the response", "after a timeout"],
)
async def test_it_is_not_sent_again(world: World, second: Any, error: type[Exception]) -> None:
    network = Network(Script(ok, second))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        with pytest.raises(error):
            await client.get(URL)
        assert len(network.connections) == 1
    await world.close(agent)


@pytest.mark.rule("R19")
async def test_retrying_can_be_switched_off(world: World) -> None:
    network = Network(Script(ok, FIN))
    agent = Agent(retry_stale_sockets=False, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        with pytest.raises(httpx.RemoteProtocolError, match="retry_stale_sockets is off"):
            await client.get(URL)
        assert len(network.connections) == 1
    await world.close(agent)


@pytest.mark.rule("R10", "N6")
async def test_a_handed_over_socket_counts_as_reused(world: World) -> None:
    """N6: a request that waited for its socket is sent again like any other."""
    network = Network(Script([ok], FIN))
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL) as response, world.tasks() as tasks:
            waiting = tasks.start(client.get, URL)
            await world.until(lambda: agent.status().requests == {"http://a.test:80": 1})
            await response.aread()
        info = waiting.result().extensions["agent"]
        assert (info.reused, info.retried, info.idle_for) == (False, True, None)
        assert info.queued_for > 0
    await world.close(agent)


@pytest.mark.both_engines
@pytest.mark.parametrize("then", ["the end", "more"])
async def test_what_comes_before_the_response_was_read_is_noticed_without_a_request(
    world: World, server: Server, then: str
) -> None:
    """The socket is in use when it comes, so its coming ends nothing; but no such socket stays free."""
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    server.raw["/then"] = response + (b"HTTP/1.1 408 Late\r\n\r\n" if then == "more" else b"")
    agent = Agent()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", f"{server.url}/then") as stream:
            if then == "the end":
                server.close_idle()
            await world.settle()
            assert await stream.aread() == b"ok"
        await world.until(lambda: agent.sockets() == ())
    assert agent.status().close_socket_count == 1
    await world.close(agent)


@pytest.mark.rule("R14")
@pytest.mark.both_engines
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_server_that_closes_a_free_socket_is_noticed_without_a_request(
    world: World, server: Server, tls_server: Server, certificates: Certificates, tls: bool
) -> None:
    """R14: the watch removes it at once, or on asyncio the stream tells."""
    server = tls_server if tls else server
    agent = Agent(verify=certificates.client())
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for way in (server.close_idle, server.reset_idle, lambda: server.send_idle(b"HTTP/1.1 408 Late\r\n\r\n")):
            await client.get(f"{server.url}/echo")
            assert len(agent.sockets()) == 1
            way()
            await world.until(lambda: agent.sockets() == ())
    assert agent.status().close_socket_count == 3
    server.wait_closed()


class Mute:
    """A backend whose connections break without a word, as anyio's do under TLS."""

    def __init__(self, cause: Exception | None) -> None:
        self._cause = cause

    def connect_tcp(self, *_: object, **__: object) -> Any:
        raise httpcore.NetworkError from self._cause


@pytest.mark.parametrize(
    ("cause", "words"), [(None, "the connection broke"), (OSError("no route"), "no route")], ids=["none", "a cause"]
)
def test_an_error_without_words_is_given_some(cause: Exception | None, words: str) -> None:
    with httpx.Client(transport=AgentTransport(network_backend=Mute(cause))) as client:
        with pytest.raises(httpx.NetworkError) as caught:
            client.get("http://a.test/")
    assert str(caught.value) == f"GET http://a.test:80: {words} (connect to a.test:80)"


@pytest.mark.both_engines
@pytest.mark.bug("B10")
@pytest.mark.parametrize("end", ["FIN", "RST"])
async def test_a_socket_that_the_server_closes_as_the_request_comes(world: World, stack: Stack, end: str) -> None:
    """httpx: `RemoteProtocolError`, or `ReadError` after a reset."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)
        peer.read_head()  # and hangs up
        if end == "RST":
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with raw_server(serve) as url:
        transport = stack.transport(is_sync=world.is_sync)
        async with world.client(transport=transport) as client:
            for _ in range(2):
                assert (await client.get(url)).text == "ok"


@pytest.mark.bug("B10")
@pytest.mark.parametrize("end", [FIN, RST], ids=["FIN", "RST"])
async def test_a_socket_that_the_server_closes_while_a_request_is_written(world: World, stack: Stack, end: Any) -> None:
    """httpx: `RemoteProtocolError` after a FIN, `ReadError` after a reset."""
    network = Network(Script(respond(), end))
    transport = stack.transport(is_sync=world.is_sync, **network.options)
    async with world.client(transport=transport) as client:
        for _ in range(2):
            assert (await client.get(A)).status_code == 200
    assert [len(connection.requests) for connection in network.connections] == [2, 1]


@pytest.mark.parametrize("body", ["bytes", "generator"])
async def test_a_connection_that_takes_no_more_requests(world: World, body: str) -> None:
    """B26: another one is tried if the body can be sent again; httpcore's own control flow never comes out."""
    network = Network()
    agent = Agent(**network.options)

    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        only = agent._dispatcher._sockets[0]

        def refuse(request: Any) -> None:
            only.wire.wrote = True
            raise httpcore.ConnectionNotAvailable

        async def arefuse(request: Any) -> None:
            refuse(request)

        only.connection.handle_request = refuse
        only.connection.handle_async_request = arefuse
        if body == "bytes":
            assert (await client.post(URL, content=b"again")).extensions["agent"].retried
        else:
            with pytest.raises(httpx.RemoteProtocolError, match="its body cannot be replayed"):
                await client.post(URL, content=world.body([b"once"]))
        assert network.connections[0].state == "closed"
    await world.close(agent)
