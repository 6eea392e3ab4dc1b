"""An HTTP/2 server that closes a connection which requests share: what it still answers is not lost (RFC 9113, 6.8)."""

from __future__ import annotations

import struct
from typing import Any

import httpx
import pytest
from hpack import Encoder

from httpx_agent import Agent, AgentTransport
from httpx_agent._exchange import MAX_GOAWAYS
from httpx_agent._goaway import GoawayHold
from httpx_agent.testing import RST, Connection, Gate, Network, Script, goaway, http2
from tests.support.worlds import World

URL = "https://a.test/"
END_STREAM, END_HEADERS = 1, 4
NO_ERROR, INTERNAL_ERROR = 0, 2


def frame(kind: str, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    number = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY"].index(kind)
    return len(payload).to_bytes(3, "big") + bytes([number, flags]) + stream.to_bytes(4, "big") + payload


def going_away(last: int, code: int = NO_ERROR) -> bytes:
    return frame("GOAWAY", payload=struct.pack(">II", last, code) + b"for a reason")


def with_open_streams(*streams: int) -> GoawayHold:
    hold = GoawayHold()
    hold.sent(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame("SETTINGS"))
    for stream in streams:
        hold.sent(frame("HEADERS", stream, b"headers") + frame("DATA", stream, b"body", END_STREAM))
    return hold


# What is kept back ----------------------------------------------------------------------------------------------------


def test_all_else_passes_however_it_arrives() -> None:
    """Cut anywhere; a frame passes when it is whole."""
    frames = [frame("SETTINGS"), frame("HEADERS", 1, b"h"), frame("DATA", 1, b"x" * 30), frame("PING", 0, b"12345678")]
    stream = b"".join([*frames[:2], going_away(1), *frames[2:]])
    for cut in range(len(stream) + 1):
        hold = with_open_streams(1)
        assert hold.received(stream[:cut] or frame("SETTINGS")) is not None
        if cut:
            passed = with_open_streams(1)
            parts = [passed.received(part) for part in (stream[:cut], stream[cut:]) if part]
            assert b"".join(parts) == b"".join(frames)
            assert passed.is_leaving


def test_byte_by_byte() -> None:
    hold = with_open_streams(1)
    stream = frame("DATA", 1, b"x") + going_away(1) + frame("DATA", 1, b"y")
    assert b"".join(hold.received(bytes([byte])) for byte in stream) == frame("DATA", 1, b"x") + frame("DATA", 1, b"y")


def test_an_error_is_not_kept_back() -> None:
    hold = with_open_streams(1)
    assert hold.received(going_away(0, INTERNAL_ERROR)) == going_away(0, INTERNAL_ERROR)
    assert not hold.is_leaving


@pytest.mark.parametrize(
    "end",
    [
        frame("DATA", 1, b"the end", END_STREAM),
        frame("HEADERS", 1, b"no body", END_STREAM),
        frame("RST_STREAM", 1, bytes(4)),
    ],
    ids=["DATA", "HEADERS", "RST_STREAM"],
)
def test_it_is_due_when_those_that_count_are_over_and_others_wait(end: bytes) -> None:
    hold = with_open_streams(1, 3)
    assert hold.received(going_away(1)) == b""
    assert hold.due() == b""
    assert hold.received(frame("DATA", 1, b"more")) == frame("DATA", 1, b"more")
    assert hold.due() == b""
    assert hold.received(end) == end
    assert hold.due() == going_away(1)
    assert hold.due() == b""


def test_a_stream_that_the_client_ended_does_not_count() -> None:
    hold = with_open_streams(1, 3)
    hold.received(going_away(1))
    hold.sent(frame("RST_STREAM", 1, bytes(4)))
    assert hold.due() == going_away(1)


def test_it_is_not_due_if_nobody_waits() -> None:
    hold = with_open_streams(1)
    hold.received(going_away(1) + frame("DATA", 1, b"", END_STREAM))
    assert hold.due() == b""


def test_at_the_end_of_the_connection_it_comes_first() -> None:
    hold = with_open_streams(1)
    assert hold.received(going_away(1)) == b""
    assert hold.received(b"") == going_away(1)
    assert hold.received(b"") == b""


def test_the_last_word_counts() -> None:
    """A server first says that it is about to leave, and then up to where it went."""
    hold = with_open_streams(1, 3)
    hold.received(going_away(2**31 - 1) + frame("DATA", 1, b"", END_STREAM))
    assert hold.is_leaving
    assert hold.due() == b""
    hold.received(going_away(1))
    assert hold.due() == going_away(1)


def test_heads_are_counted_until_the_body_begins_or_the_stream_ends() -> None:
    hold = with_open_streams(1, 3, 5, 7)
    head = b"x" * 91
    for stream in (1, 3, 5, 7):
        hold.received(frame("HEADERS", stream, head))
    hold.received(frame("PING", 0, bytes(8)))
    hold.received(frame("DATA", 1, b"body"))
    hold.received(frame("HEADERS", 3, b"the last", END_STREAM))
    hold.sent(frame("RST_STREAM", 5, bytes(4)))
    for stream in (1, 3, 5):
        hold.received(frame("HEADERS", stream, head))
        assert hold.longest_heads == 100
    hold.received(frame("HEADERS", 7, head))
    assert hold.longest_heads == 200


# What becomes of requests ---------------------------------------------------------------------------------------------


async def shared(world: World, tasks: Any, client: Any, network: Network, **second: Any) -> list[Any]:
    """Two requests on the streams 1 and 3 of one connection, neither answered."""
    jobs = [tasks.start(client.get, URL)]
    await world.until(lambda: network.connections and network.connections[0].streams)
    jobs.append(tasks.start(client.request, second.pop("method", "GET"), URL, **second))
    await world.until(lambda: network.connections[0].streams == [1, 3])
    return jobs


async def test_a_request_that_is_still_answered(world: World) -> None:
    """The next one takes another socket, and the first is closed."""
    gate = Gate()
    network = Network(http2(hold=gate), http2())
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            job = tasks.start(client.post, URL, content=world.body([b"once"]))
            await world.until(lambda: network.connections and network.connections[0]._later)
            goaway(network.connections[0])
            gate.open()
        assert job.result().extensions["agent"].socket_id == 0
        assert network.open == 0
        info = (await client.get(URL)).extensions["agent"]
        assert (info.socket_id, info.retried) == (1, False)
        assert agent.status().error_socket_count == 0
    await world.close(agent)


@pytest.mark.in_loops
async def test_requests_that_are_all_still_answered(world: World) -> None:
    """One that comes meanwhile is not put to them."""
    gate = Gate()
    network = Network(http2(hold=gate), http2())
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            jobs = await shared(world, tasks, client, network)
            goaway(network.connections[0])
            await world.until(lambda: agent._engine._sockets[0].wire.is_leaving)
            third = await client.post(URL, content=world.body([b"once"]))
            assert (third.extensions["agent"].socket_id, third.extensions["agent"].retried) == (1, False)
            gate.open()
        assert [job.result().extensions["agent"].socket_id for job in jobs] == [0, 0]
        await world.until(lambda: network.open == 1)
    await world.close(agent)


@pytest.mark.in_loops
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_the_server_did_not_touch_is_sent_again(world: World, method: str) -> None:
    """Whatever its method, when those before it are answered."""
    gate, never = Gate(), Gate()
    network = Network(http2(hold=lambda stream: gate if stream == 1 else never), http2())
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            jobs = await shared(world, tasks, client, network, method=method, content=b"again")
            network.connections[0].send(going_away(1))
            gate.open()
        first, second = (job.result().extensions["agent"] for job in jobs)
        assert (first.socket_id, first.retried) == (0, False)
        assert (second.socket_id, second.retried) == (1, True)
        assert agent.status().error_socket_count == 0
    await world.close(agent)


def break_promise(connection: Connection) -> None:
    """The server says that it will answer both, and closes."""
    connection.send(going_away(3))
    connection.fin()


@pytest.mark.in_loops
@pytest.mark.parametrize("end", [break_promise, Connection.fin, Connection.rst], ids=["GOAWAY", "FIN", "RST"])
async def test_a_shared_connection_that_ends_without_an_answer(world: World, end: Any) -> None:
    """Idempotent requests are sent again, the first of the connection too: others had come to share its fate."""
    never = Gate()
    network = Network(http2(hold=never), http2())
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            jobs = await shared(world, tasks, client, network, method="PUT", content=b"again")
            end(network.connections[0])
        assert [job.result().extensions["agent"].retried for job in jobs] == [True, True]
    await world.close(agent)


@pytest.mark.in_loops
@pytest.mark.parametrize("end", [Connection.fin, Connection.rst], ids=["FIN", "RST"])
async def test_a_new_connection_that_ends_with_its_only_request(world: World, end: Any) -> None:
    """That it was shared is no excuse here: the request may be what the server cannot stand."""
    network = Network(http2(hold=Gate()), http2())
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            job = tasks.start(client.get, URL)
            await world.until(lambda: network.connections and network.connections[0].streams)
            end(network.connections[0])
        assert isinstance(job.exception, (httpx.ReadError, httpx.RemoteProtocolError))
    await world.close(agent)


@pytest.mark.in_loops
@pytest.mark.parametrize(
    ("content", "headers", "said"),
    [
        (b"once", {}, "not sent again: the method is not idempotent; an Idempotency-Key header allows it"),
        (None, {"Idempotency-Key": "1"}, "and the body cannot be sent again"),
    ],
    ids=["POST", "a body that is gone"],
)
async def test_what_is_not_sent_again_says_why(
    world: World, content: bytes | None, headers: dict[str, str], said: str
) -> None:
    network = Network(http2(hold=Gate()), http2())
    agent = Agent(http2=True, **network.options)
    body = world.body([b"once"]) if content is None else content
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            jobs = await shared(world, tasks, client, network, method="POST", content=body, headers=headers)
            break_promise(network.connections[0])
        error = jobs[1].exception
        assert type(error) is httpx.RemoteProtocolError
        assert str(error).startswith(
            "POST https://a.test:443: the server closed the HTTP/2 connection before it answered"
        )
        assert str(error).endswith(said)
    await world.close(agent)


@pytest.mark.in_loops
async def test_a_write_that_fails_on_a_shared_connection(world: World) -> None:
    """The third finds the connection broken; what it could not write, the end of what can be read tells."""
    never = Gate()
    network = Network(http2(hold=never), http2())
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            await shared(world, tasks, client, network)
            connection = network.connections[0]
            connection.script.writes[connection._writes] = RST
            third = tasks.start(client.get, URL)
        assert third.result().extensions["agent"].retried
    await world.close(agent)


async def test_a_write_that_fails_on_a_socket_of_one_request(world: World) -> None:
    """HTTP/1.1: it is stale, and the request is sent again."""
    network = Network(Script(writes={1: RST}))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get("http://a.test/")
        assert (await client.get("http://a.test/")).extensions["agent"].retried
    await world.close(agent)


@pytest.mark.in_loops
async def test_a_stream_that_is_reset_is_not_the_connection_s_end(world: World) -> None:
    """The server ended that request, and no other."""
    gate = Gate()
    network = Network(http2(hold=gate))
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            jobs = await shared(world, tasks, client, network)
            network.connections[0].send(frame("RST_STREAM", 3, INTERNAL_ERROR.to_bytes(4, "big")))
            await jobs[1].wait()
            gate.open()
        assert type(jobs[1].exception) is httpx.RemoteProtocolError
        assert jobs[0].result().status_code == 200
    await world.close(agent)


async def test_a_server_that_never_answers_is_left_at_last(world: World) -> None:
    """Every connection is closed to its first request, a POST: after so many the error comes out."""

    def refuse(connection: Connection, data: bytes) -> bytes:
        answers = b""
        if connection.http2 is None:
            connection.http2 = True
            answers = frame("SETTINGS")
        return answers + (going_away(0) if b"PRI" not in data[:3] else b"")

    network = Network(default=Script(raw=refuse, alpn="h2"))
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await client.post(URL)
        status = agent.status()
        assert (status.create_socket_count, status.error_socket_count) == (MAX_GOAWAYS + 1, 1)
    assert str(caught.value) == (
        "POST https://a.test:443: the server closed the HTTP/2 connection to new requests, "
        f"and so did those of {MAX_GOAWAYS} connections before"
    )
    await world.close(agent)


@pytest.mark.in_loops
async def test_interim_responses_are_bounded(world: World) -> None:
    """They are of no use, and would never end."""
    interim = Encoder().encode([(b":status", b"103", True), (b"link", b"x" * 16_000, True)])
    network = Network(http2(hold=Gate()))
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            job = tasks.start(client.get, URL)
            await world.until(lambda: network.connections and network.connections[0].streams)
            for _ in range(50):
                network.connections[0].send(frame("HEADERS", 1, interim, END_HEADERS))
        assert (
            str(job.exception) == "GET https://a.test:443: the server sent more than 524288 bytes before its response"
        )
    await world.close(agent)
