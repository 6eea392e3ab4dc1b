"""The support itself: the properties of networks and worlds that other tests rely on."""

from __future__ import annotations

import itertools

import anyio
import httpcore
import pytest

from httpx_agent.testing import (
    FIN,
    HANG,
    REFUSED,
    RST,
    TIMEOUT,
    Gate,
    Network,
    Script,
    chunked,
    goaway,
    http2,
    respond,
)
from tests.support.worlds import World, cancel_at


def pool_for(world: World, network: Network, **options: object) -> object:
    if world.is_sync:
        return httpcore.ConnectionPool(network_backend=network.backend, **options)
    return httpcore.AsyncConnectionPool(network_backend=network.async_backend, **options)


async def get(world: World, pool: object, url: str = "http://a/", **kwargs: object) -> httpcore.Response:
    return await world.call(pool.request, "GET", url, **kwargs)


async def test_each_request_is_answered_and_the_connection_is_reused(world: World) -> None:
    network = Network(Script(respond(b"one"), chunked(b"two", b"!")))
    pool = pool_for(world, network)

    contents = [(await get(world, pool)).content for _ in range(3)]
    await world.close(pool)

    assert contents == [b"one", b"two!", b"ok"]
    assert len(network.connections) == 1
    assert network.connections[0].requests[0].startswith(b"GET / HTTP/1.1\r\nHost: a\r\n")
    assert (network.open, network.peak, network.peaks) == (0, 1, {("a", 80): 1})
    assert network.connections[0].op_names[:3] == ["connect", "write", "read"]
    assert network.connections[0].op_names[-1] == "close"
    assert {op.outcome for op in network.ops} == {"ok"}


async def test_a_body_is_taken_in_before_the_answer_and_an_early_answer_is_not(world: World) -> None:
    network = Network(Script(respond(b"late"), respond(b"early"), early=[1]))
    pool = pool_for(world, network)

    contents = []
    for _ in range(2):
        response = await world.call(pool.request, "POST", "http://a/", content=world.body([b"123", b"45"]))
        contents.append(response.content)
    await world.close(pool)

    assert contents == [b"late", b"early"]
    assert network.connections[0].written.endswith(b"\r\n\r\n3\r\n123\r\n2\r\n45\r\n0\r\n\r\n")
    assert len(network.connections[0].requests) == 2


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (Script(connect=REFUSED), httpcore.ConnectError),
        (Script(connect=TIMEOUT), httpcore.ConnectTimeout),
        (Script(connect=HANG), httpcore.ConnectTimeout),
        (Script(RST), httpcore.ReadError),
        (Script(FIN), httpcore.RemoteProtocolError),
        (Script(TIMEOUT), httpcore.ReadTimeout),
        (Script(HANG), httpcore.ReadTimeout),
        (Script(HANG, writes={0: TIMEOUT}), httpcore.WriteTimeout),
        (Script(HANG, writes={0: RST}), httpcore.ReadError),
        (Script(b"nonsense\r\n\r\n"), httpcore.RemoteProtocolError),
        (Script(tls=REFUSED), httpcore.ConnectError),
        (Script(tls=TIMEOUT), httpcore.ConnectTimeout),
    ],
    ids=lambda value: "",
)
async def test_what_goes_wrong(world: World, script: Script, error: type[Exception]) -> None:
    network = Network(script)
    pool = pool_for(world, network)
    timeouts = {"connect": 0.01, "read": 0.01, "write": 0.01}

    with pytest.raises(error):
        await get(world, pool, "https://a/" if script.tls else "http://a/", extensions={"timeout": timeouts})
    await world.close(pool)

    assert (network.open, network.peak) == (0, 1)


async def test_a_gate_holds_a_response_and_two_connections_are_open_meanwhile(world: World) -> None:
    gate = Gate("response")
    network = Network(Script([gate, respond(b"held")]))
    pool = pool_for(world, network)

    async with world.tasks() as tasks:
        held = tasks.start(get, world, pool)
        await world.until(lambda: network.request_count == 1)
        assert (await get(world, pool)).content == b"ok"
        assert not held.done
        gate.open()
    await world.close(pool)

    assert held.result().content == b"held"
    assert (network.open, network.peak) == (0, 2)


async def test_a_server_that_hangs_up_on_an_idle_connection_is_seen_by_a_poll(world: World) -> None:
    network = Network()
    pool = pool_for(world, network)

    await get(world, pool)
    network.connections[0].fin()
    await get(world, pool)
    await world.close(pool)

    assert network.connections[0].polls > 0
    assert [connection.state for connection in network.connections] == ["closed", "closed"]


@pytest.mark.in_loops
async def test_a_close_that_is_cancelled_has_not_closed(world: World) -> None:
    network = Network()
    stream = await network.async_backend.connect_tcp("a", 80)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()

    assert network.connections[0].state == "open"
    assert network.ops[-1].outcome in ("CancelledError", "Cancelled")


@pytest.mark.in_loops
async def test_a_connect_that_is_cancelled_no_longer_counts(world: World) -> None:
    network = Network(Script(connect=HANG))

    async with world.tasks() as tasks:
        job = tasks.start(network.async_backend.connect_tcp, "a", 80)
        await world.until(lambda: network.open == 1)
        job.cancel()

    assert job.cancelled
    assert (network.open, network.connections[0].state) == (0, "failed")


async def test_a_close_wakes_a_read(world: World) -> None:
    network = Network(Script())
    backend = network.backend if world.is_sync else network.async_backend
    stream = await world.call(backend.connect_tcp, "a", 80)

    async with world.tasks() as tasks:
        job = tasks.start(world.call, stream.read, 100)
        await world.until(lambda: "read" in network.connections[0].op_names)
        await world.close(stream)

    assert isinstance(job.exception, httpcore.ReadError)


async def test_a_world_runs_requests_at_the_same_time_and_cancels_what_it_can(world: World) -> None:
    gate = Gate()
    network = Network(default=Script([gate, respond(b"x")]))
    pool = pool_for(world, network, max_connections=100)

    async with world.tasks() as tasks:
        jobs = [tasks.start(get, world, pool, f"http://host-{number}/") for number in range(50)]
        await world.until(lambda: network.request_count == 50)
        if world.can_cancel:
            jobs[0].cancel()
            await jobs[0].wait()
        gate.open()
    await world.close(pool)

    assert [job.cancelled for job in jobs] == [world.can_cancel] + [False] * 49
    assert [job.result().status for job in jobs[1:]] == [200] * 49
    assert network.peak == 50


@pytest.mark.in_loops
async def test_a_cancellation_can_be_put_at_every_suspension(world: World) -> None:
    ended = []
    for step in itertools.count(1):
        network = Network()
        pool = pool_for(world, network)
        reached = await cancel_at(step, get, world, pool)
        ended.append([op.outcome for op in network.ops if op.outcome != "ok"])
        await pool.aclose()
        if not reached:
            break

    assert step > 4
    assert ended[-1] == []
    assert sum(outcomes == [anyio.get_cancelled_exc_class().__name__] for outcomes in ended) > 2


async def test_http2(world: World) -> None:
    gate = Gate()
    network = Network(default=http2(hold=lambda stream: gate if stream == 1 else None, body=b"two"))
    pool = pool_for(world, network, http2=True)

    async with world.tasks() as tasks:
        first = tasks.start(get, world, pool, "https://a/")
        await world.until(lambda: network.connections and network.connections[0].streams == [1])
        second = tasks.start(get, world, pool, "https://a/")
        await world.until(lambda: network.connections[0].streams == [1, 3])
        if not world.is_sync:  # in threads, the first to read a connection of httpcore holds up the others
            await second.wait()
            assert not first.done
        gate.open()
    goaway(network.connections[0])
    again = await get(world, pool, "https://a/")
    await world.close(pool)

    assert [first.result().content, second.result().content, again.content] == [b"two"] * 3
    assert first.result().extensions["http_version"] == b"HTTP/2"
    assert [connection.streams for connection in network.connections] == [[1, 3, 5], [1]]
    assert [connection.peak_streams for connection in network.connections] == [2, 1]
    assert network.open == 0
