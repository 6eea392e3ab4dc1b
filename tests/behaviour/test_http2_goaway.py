"""An HTTP/2 server closes a shared connection: the responses that it still sends are not lost (RFC 9113, 6.8)."""

from __future__ import annotations

import ssl
import struct
from typing import Any

import httpx
import pytest
from hpack import Encoder

from httpx_agent import Agent, AgentTransport
from httpx_agent._rules.resend import MAX_GOAWAYS
from httpx_agent.testing import FIN, RST, Connection, Gate, Network, Script, goaway, http2
from tests.bugs.stock import Stack
from tests.support.worlds import World

URL = "https://a.test/"

END_HEADERS = 4

NO_ERROR, INTERNAL_ERROR = 0, 2

CONTEXT = ssl.create_default_context()


def frame(kind: str, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    number = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY"].index(kind)
    return len(payload).to_bytes(3, "big") + bytes([number, flags]) + stream.to_bytes(4, "big") + payload


def going_away(last: int, code: int = NO_ERROR) -> bytes:
    return frame("GOAWAY", payload=struct.pack(">II", last, code) + b"for a reason")


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
            await world.until(lambda: agent._dispatcher._sockets[0].wire.frames.are_ending)
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
        (b"once", {}, "not sent again: the method is not idempotent (an Idempotency-Key header would allow it)"),
        (None, {"Idempotency-Key": "1"}, "not sent again: its body cannot be replayed"),
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
            "POST https://a.test:443: the server closed the HTTP/2 connection before responding"
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
        "POST https://a.test:443: the server stopped accepting requests on the HTTP/2 connection; "
        f"not sent again: it had already lost {MAX_GOAWAYS} connections this way"
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


@pytest.mark.bug("B12")
@pytest.mark.parametrize("last_stream", [0, 1, 9, 19, 39, 2**31 - 1])
@pytest.mark.in_loops
async def test_twenty_streams_and_a_goaway(world: World, stack: Stack, last_stream: int) -> None:
    """httpx: `RemoteProtocolError: <ConnectionTerminated …>` for all streams up to the last one, or for all if it is 0.

    The server finishes the streams up to `last_stream`, and then closes; the others were not processed.
    """
    gate = Gate()
    network = Network(http2(hold=lambda stream: gate if stream <= last_stream else Gate()), default=http2())
    transport = stack.transport(is_sync=False, http2=True, verify=CONTEXT, **network.options)
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        jobs = [tasks.start(client.post, URL, content=b"once") for _ in range(20)]
        await world.until(lambda: network.connections and len(network.connections[0].streams) == 20)
        await world.settle()  # every body has come, too
        network.connections[0].send(going_away(last_stream))
        gate.open()
        await world.settle()
        network.connections[0].send(FIN)
    assert [job.result().status_code for job in jobs] == [200] * 20
    assert sum(len(connection.streams) for connection in network.connections) == 20 + sum(
        stream > last_stream for stream in network.connections[0].streams
    )
    assert network.open == 0


@pytest.mark.in_loops
async def test_a_goaway_below_a_stream_that_runs(world: World) -> None:
    """Both its streams end, the one with an answer and the one without."""
    gate, never = Gate(), Gate()
    network = Network(default=http2(hold=lambda stream: gate if stream == 1 else never))
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        jobs = [tasks.start(client.get, "https://a.test/")]
        await world.until(lambda: network.connections and network.connections[0].streams)
        jobs.append(tasks.start(client.post, "https://a.test/", content=world.body([b"once"])))
        await world.until(lambda: len(network.connections[0].streams) == 2)
        last_stream = 1  # the second is 3
        network.connections[0].send(b"\0\0\x08\x07\0" + struct.pack(">III", 0, last_stream, 0))
        gate.open()
    assert jobs[0].result().status_code == 200
    assert type(jobs[1].exception) is httpx.RemoteProtocolError
    assert str(jobs[1].exception).endswith("not sent again: its body cannot be replayed")
    await world.until(lambda: network.open == 0)
    assert agent.sockets() == ()
    await world.close(agent)
