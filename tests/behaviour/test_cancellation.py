"""A request is cancelled at every step: no slot and no socket is lost, and the next request is served."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any

import anyio
import anyio.lowlevel
import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._runtime.flows import arun
from httpx_agent.testing import FIN, HANG, REFUSED, Network, Script, chunked, respond
from tests.bugs.stock import Stack
from tests.support.servers import Certificates, Server, hanging_port
from tests.support.worlds import Job, World, cancel_at

CONTEXT = ssl.create_default_context()

URL = "http://a.test/"

SECURE = "https://a.test/"

Scenario = Callable[[httpx.AsyncClient], Awaitable[Any]]

A, B, C = "http://a.test/", "http://b.test/", "http://c.test/"

AT_ONCE = httpx.Timeout(5.0, pool=0.2)
"""More than a request needs that finds a slot; one that has to wait for a lost one gives up."""

UNFINISHED = chunked(b"first", HANG, end=False)

TIMEOUT = {"connect": 5, "read": 5, "write": 5, "pool": 1}


async def get(client: httpx.AsyncClient) -> None:
    await client.get(URL)


async def get_securely(client: httpx.AsyncClient) -> None:
    await client.get(SECURE)


async def post_a_stream(client: httpx.AsyncClient) -> None:
    await client.post(URL, content=Parts())


class Parts:
    """A body; not an async generator, because trio warns of one that is dropped half-way."""

    left = 3

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise StopAsyncIteration
        return b"part"


async def read_half(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", URL) as response:
        async for _ in response.aiter_raw(1):
            break


async def read_nothing(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", URL):
        pass


async def reuse(client: httpx.AsyncClient) -> None:
    await client.get(URL)
    await client.get(URL)


async def go_elsewhere(client: httpx.AsyncClient) -> None:
    """The free socket of one origin is closed for another."""
    await client.get(URL)
    await client.get("http://b.test/")


async def wait_in_line(client: httpx.AsyncClient) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(client.get, URL)


async def wait_for_another_origin(client: httpx.AsyncClient) -> None:
    async with anyio.create_task_group() as group:
        for host in "abca":
            group.start_soon(get_and_ignore, client, f"http://{host}.test/")


async def close_while_in_flight(client: httpx.AsyncClient) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(get_and_ignore, client)
        await anyio.lowlevel.checkpoint()
        await client._transport.agent.aclose()  # type: ignore[attr-defined]


async def get_and_ignore(client: httpx.AsyncClient, url: str = URL) -> None:
    with suppress(httpx.TransportError):
        await client.get(url)


ok = respond(b"ok")

CASES: dict[str, tuple[Scenario, Callable[[], Network], dict[str, Any]]] = {
    "a request": (get, lambda: Network(default=Script(then=ok)), {}),
    "a request over TLS": (get_securely, lambda: Network(default=Script(then=ok)), {}),
    "a body that streams up": (post_a_stream, lambda: Network(default=Script(then=ok)), {}),
    "a chunked response": (get, lambda: Network(default=Script(then=chunked(b"a", b"b", b"c"))), {}),
    "a response that ends with the connection": (
        get,
        lambda: Network(default=Script(then=[respond(b"abc", length=False), FIN])),
        {},
    ),
    "a response read half": (read_half, lambda: Network(default=Script(then=chunked(b"ab", b"cd", b"ef"))), {}),
    "a response not read": (read_nothing, lambda: Network(default=Script(then=chunked(b"ab", HANG, end=False))), {}),
    "a free socket": (reuse, lambda: Network(default=Script(then=ok)), {}),
    "a stale socket": (reuse, lambda: Network(Script(ok, FIN), default=Script(then=ok)), {}),
    "a socket for another origin": (go_elsewhere, lambda: Network(default=Script(then=ok)), {}),
    "three in line": (wait_in_line, lambda: Network(default=Script(then=ok)), {}),
    "three in line, sockets not kept": (
        wait_in_line,
        lambda: Network(default=Script(then=respond(b"ok", headers=[("Connection", "close")]))),
        {},
    ),
    "three origins in line": (wait_for_another_origin, lambda: Network(default=Script(then=ok)), {}),
    "three origins, connections refused": (
        wait_for_another_origin,
        lambda: Network(Script(connect=REFUSED), default=Script(then=ok)),
        {},
    ),
    "an agent that closes": (close_while_in_flight, lambda: Network(default=Script(then=ok)), {}),
    "retries": (get, lambda: Network(*[Script(connect=REFUSED)] * 2, default=Script(then=ok)), {"retries": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["asyncio scope", "asyncio task", "trio scope"])
def test_cancelled_at_every_step(case: str, way: str) -> None:
    """Cancelled after 0, 1, 2 … steps of the scheduler, until it was too late to cancel."""
    scenario, make_network, options = CASES[case]
    backend = way.split()[0]
    for steps in range(1000):
        if anyio.run(cancel_after, steps, scenario, make_network, options, way, backend=backend):
            assert steps > 1
            return
    raise AssertionError("never came to its end")


async def cancel_after(
    steps: int, scenario: Scenario, make_network: Callable[[], Network], options: dict[str, Any], way: str
) -> bool:
    network = make_network()
    agent = Agent(max_sockets=1, max_total_sockets=1, verify=CONTEXT, **network.options, **options)
    async with httpx.AsyncClient(transport=AgentTransport(agent=agent), timeout=5, trust_env=False) as client:
        cancelled = await (cancel_task if way == "asyncio task" else cancel_scope)(scenario, client, steps)
        await anyio.wait_all_tasks_blocked()
        check_the_books(agent, network)
        assert len(client._transport._pool._requests) == 0  # type: ignore[attr-defined]
        network.scripts, network.default = (), Script(then=ok)
        for connection in network.connections:
            if connection.is_open:
                connection.script = network.default
        for url in (URL, "http://c.test/", URL):
            response = await client.get(url, timeout=httpx.Timeout(5, pool=0.5))
            assert response.text in ("ok", "abc")
        check_the_books(agent, network)
    await agent.aclose()
    check_the_books(agent, network)
    assert network.open == 0
    assert network.peak <= 1
    return not cancelled


def check_the_books(agent: Agent, network: Network) -> None:
    """The agent's numbers agree with each other and with the network."""
    status = agent.status()
    held = sum(status.sockets.values()) + sum(status.free_sockets.values())
    assert status.create_socket_count == (
        status.create_socket_error_count + status.close_socket_count + status.detached_socket_count + held
    )
    assert network.open == held, (network.ops, status)
    assert not status.sockets
    assert not status.requests
    assert len(network.connections) <= status.create_socket_count + 10
    assert agent._dispatcher._tickets == {}
    assert len(agent._dispatcher._sockets) == held


async def cancel_scope(scenario: Scenario, client: httpx.AsyncClient, steps: int) -> bool:
    finished = False

    async def run() -> None:
        nonlocal finished
        with scope:
            try:
                await scenario(client)
                finished = True
            except httpx.TransportError:
                finished = True

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        scope.cancel()
    return not finished


async def cancel_task(scenario: Scenario, client: httpx.AsyncClient, steps: int) -> bool:
    task = asyncio.ensure_future(scenario(client))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    except (httpx.TransportError, BaseExceptionGroup):
        pass
    return False


@pytest.mark.bug("B1")
@pytest.mark.in_loops
async def test_a_cancellation_between_connect_and_request_gives_the_slot_back(world: World, stack: Stack) -> None:
    """httpx: `PoolTimeout`."""
    network = Network()
    scope = anyio.CancelScope()

    class Cancelling(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, *args: Any, **kwargs: Any) -> Any:
            stream = await network.async_backend.connect_tcp(*args, **kwargs)
            scope.cancel()
            return stream

    transport = stack.transport(is_sync=False, max_total_sockets=1, async_network_backend=Cancelling())
    async with world.client(transport=transport) as client:
        with scope:
            await client.get(A)
        assert scope.cancelled_caught
        scope = anyio.CancelScope()
        assert (await client.get(A, timeout=AT_ONCE)).status_code == 200
    assert network.peak == 1
    assert network.open == 0


@pytest.mark.bug("B2")
def test_a_cancellation_in_the_tick_of_the_assignment_gives_the_slot_back(stack: Stack) -> None:
    """httpx: `PoolTimeout`.

    The waiter is cancelled 0, 1, 2 … steps of the loop after the slot begins to come free.
    """

    async def cancel_after(steps: int) -> None:
        network = Network(default=Script(then=UNFINISHED))
        transport = stack.transport(is_sync=False, max_total_sockets=1, **network.options)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            holder = await client.send(client.build_request("GET", A), stream=True)
            waiter = asyncio.ensure_future(client.send(client.build_request("GET", B), stream=True))
            await World("asyncio").until(lambda: stack.waiting(transport) == 1)
            closing = asyncio.ensure_future(holder.aclose())
            for _ in range(steps):
                await asyncio.sleep(0)
            waiter.cancel()
            (outcome,) = await asyncio.gather(waiter, return_exceptions=True)
            await closing
            if isinstance(outcome, httpx.Response):
                await outcome.aclose()
            third = await client.send(client.build_request("GET", C, timeout=AT_ONCE), stream=True)
            await third.aclose()
        assert network.open == 0
        assert network.peak == 1

    for steps in range(15):
        asyncio.run(cancel_after(steps))


@pytest.mark.both_engines
@pytest.mark.bug("B1")
@pytest.mark.in_loops
async def test_cancelled_at_every_step_of_opening(world: World, stack: Stack, server: Server) -> None:
    """On httpx it passes: where it is suspended over real sockets, it bears a cancellation of this kind."""
    transport = stack.transport(is_sync=False, max_total_sockets=1)
    async with world.client(transport=transport) as client:

        async def get() -> None:
            await client.get(f"{server.url}/close")

        for step in itertools.count(1):
            if not await cancel_at(step, get):
                break
            response = await client.get(f"{server.url}/close", timeout=httpx.Timeout(5.0, pool=0.5))
            assert response.status_code == 200
    server.wait_closed()


@pytest.mark.both_engines
@pytest.mark.bug("B2")
@pytest.mark.in_loops
async def test_cancelled_while_the_slot_comes_free(world: World, stack: Stack, server: Server) -> None:
    """httpx: `PoolTimeout` of the next request, where the cancellation meets the assignment."""
    here, there = (f"http://{host}:{server.port}" for host in ("127.0.0.1", "localhost"))
    transport = stack.transport(is_sync=False, max_total_sockets=1)
    async with world.client(transport=transport, timeout=10) as client, world.tasks() as tasks:
        for steps in range(15):
            holder = await client.send(client.build_request("GET", f"{here}/bytes/3000000"), stream=True)
            waiter = tasks.start(client.get, f"{there}/close")
            await world.until(lambda: stack.waiting(transport) == 1)
            closing = tasks.start(holder.aclose)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            waiter.cancel()
            await waiter.wait()
            await closing.wait()
            response = await client.get(f"{here}/close", timeout=httpx.Timeout(10, pool=0.5))
            assert response.status_code == 200
    server.wait_closed()


def request(method: str = "GET", url: str = URL) -> httpx.Request:
    return httpx.Request(method, url, extensions={"timeout": TIMEOUT})


@pytest.mark.parametrize("moment", ["waiting", "connecting"])
def test_a_coroutine_that_is_dropped_gives_its_slot_back(moment: str) -> None:
    """Nothing can be awaited in it any more: whoever comes next clears up."""
    asyncio.run(drop_a_coroutine(World("asyncio"), moment))


async def drop_a_coroutine(world: World, moment: str) -> None:
    script = Script(connect=HANG) if moment == "connecting" else Script(HANG)
    network = Network(script)
    agent = Agent(max_sockets=1, **network.options)
    transport = AgentTransport(agent=agent)
    async with world.tasks() as tasks:
        if moment == "waiting":
            blocker = tasks.start(transport.handle_async_request, request())
            await world.until(lambda: network.request_count == 1)
        coroutine = transport.handle_async_request(request())
        coroutine.send(None)
        for _ in range(20):  # as far as it goes without news
            if moment == "waiting" or network.request_count or (moment == "connecting" and network.open):
                break
            coroutine.send(None)
        coroutine.close()
        if moment == "waiting":
            blocker.cancel()
    network.connections[0].script.connect = ()
    response = await transport.handle_async_request(request())
    assert await response.aread() == b"ok"
    assert agent.status().request_error_count == (2 if moment == "waiting" else 1)
    await agent.aclose()


class Endless:
    """A response's stream that comes to no end, whatever is asked of it."""

    def __aiter__(self) -> Endless:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    aclose = __anext__


@pytest.mark.parametrize("what", ["read", "drain", "close", "next"])
def test_whatever_waits_for_a_body_can_be_dropped(what: str) -> None:
    """The note that is left for the next request is what frees the slot."""
    network = Network(default=Script(then=chunked(b"one", HANG, end=False)))
    agent = Agent(max_sockets=1, **network.options)
    transport = AgentTransport(agent=agent)

    async def main() -> None:
        response = await transport.handle_async_request(request())
        body = response.stream._httpcore_stream
        real, body._stream = body._stream, Endless()
        exchange, endless = body._exchange, body._stream
        if what == "close":
            exchange.detached = True  # so that nothing is drained
        call = {
            "read": lambda: arun(exchange.read(endless)),
            "drain": body.aclose,
            "close": body.aclose,
            "next": aiter(body).__anext__,
        }[what]
        coroutine = call()
        coroutine.send(None)
        coroutine.close()
        exchange.detached = False
        drops = nullcontext() if body._ended else pytest.warns(ResourceWarning, match="neither read nor closed")
        with drops:
            del coroutine, call, body, response
        network.default = Script(then=respond(b"ok"))
        await real.aclose()
        second = await transport.handle_async_request(request())
        assert await second.aread() == b"ok"
        await agent.aclose()

    asyncio.run(main())
    assert network.open == 0


class GivingUp:
    """One way of giving up a request: by a timeout of its own, or by cancelling it.

    Args:
        error: What the timeout raises.
        timeout: The timeout; none of them means cancelling.
    """

    def __init__(self, error: type[Exception] | None = None, **timeout: float) -> None:
        self.error = error
        self.arguments: dict[str, Any] = {"extensions": {"timeout": timeout}}

    async def of(self, job: Job) -> None:
        """Give up the call, and wait until it has ended."""
        if self.error is None:
            job.cancel()
        await job.wait()
        assert job.cancelled if self.error is None else type(job.exception) is self.error


@pytest.mark.rule("R22", "N12")
async def test_a_request_whose_wait_is_too_long_leaves_at_once(
    world: World, any_server: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(max_sockets=1, verify=certificates.client(), http1_engine=engine)
    await give_up_waiting(world, any_server, agent, GivingUp(httpx.PoolTimeout, pool=0.02))


@pytest.mark.rule("R22", "N12")
@pytest.mark.in_loops
async def test_a_request_that_is_cancelled_while_it_waits_leaves_at_once(
    world: World, any_server: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(max_sockets=1, verify=certificates.client(), http1_engine=engine)
    await give_up_waiting(world, any_server, agent, GivingUp())


async def give_up_waiting(world: World, server: Server, agent: Agent, giving_up: GivingUp) -> None:
    """N12: in Node it stays in the queue, and in the counts, until its turn. It costs no socket and is not sent."""
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        blocking = tasks.start(client.get, f"{server.url}/hold/first")
        await world.until(lambda: server.gate("first").waiting == 1)
        leaving = tasks.start(client.get, f"{server.url}/bytes/1", **giving_up.arguments)
        await world.until(lambda: leaving.done or agent.status().requests == {server.url: 1})
        staying = tasks.start(client.get, f"{server.url}/bytes/2")
        await giving_up.of(leaving)
        await world.until(lambda: agent.status().requests == {server.url: 1})
        status = agent.status()
        assert (status.request_error_count, status.create_socket_count, status.sockets) == (1, 1, {server.url: 1})
        server.gate("first").open()
        await blocking.wait()
        await staying.wait()
        assert staying.result().extensions["agent"].requests_on_socket == 2
    assert [request.path for request in server.requests] == ["/hold/first", "/bytes/2"]
    assert server.accepted == 1
    await world.close(agent)


@pytest.mark.rule("R8", "R23")
async def test_a_request_in_flight_that_times_out_costs_its_socket(
    world: World, any_server: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(max_sockets=1, verify=certificates.client(), http1_engine=engine)
    await give_up_in_flight(world, any_server, agent, GivingUp(httpx.ReadTimeout, read=0.2))


@pytest.mark.rule("R23")
@pytest.mark.in_loops
async def test_a_request_that_is_cancelled_in_flight_costs_its_socket(
    world: World, any_server: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(max_sockets=1, verify=certificates.client(), http1_engine=engine)
    await give_up_in_flight(world, any_server, agent, GivingUp())


async def give_up_in_flight(world: World, server: Server, agent: Agent, giving_up: GivingUp) -> None:
    """R23: the answer that it does not wait for would be the next one's. Whoever waits gets a new socket (R8)."""
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        first = await client.send(client.build_request("GET", f"{server.url}/hold-body/first"), stream=True)
        leaving = tasks.start(client.get, f"{server.url}/hold/answer", **giving_up.arguments)
        await world.until(lambda: agent.status().requests == {server.url: 1})
        waiting = tasks.start(client.get, f"{server.url}/bytes/2")
        await world.until(lambda: agent.status().requests == {server.url: 2})
        server.gate("first").open()
        await first.aread()  # the socket goes to the one that will leave
        if giving_up.error is None:
            await world.until(lambda: server.gate("answer").waiting == 1)
        await giving_up.of(leaving)
        await waiting.wait()
        assert waiting.result().extensions["agent"].socket_id == 1
        server.gate("answer").open()
        await world.until(lambda: server.open == 1)
    status = agent.status()
    assert (status.close_socket_count, status.request_count, status.request_error_count) == (1, 2, 1)
    assert server.requests_per_connection == [2, 1]
    await world.close(agent)


@pytest.mark.rule("R23")
async def test_a_request_that_times_out_within_its_body_costs_its_socket(
    world: World, server: Server, engine: str
) -> None:
    await give_up_within_a_body(world, server, Agent(http1_engine=engine), GivingUp(httpx.ReadTimeout, read=0.2))


@pytest.mark.rule("R23")
@pytest.mark.in_loops
async def test_a_request_that_is_cancelled_within_its_body_costs_its_socket(
    world: World, server: Server, engine: str
) -> None:
    await give_up_within_a_body(world, server, Agent(http1_engine=engine), GivingUp())


async def give_up_within_a_body(world: World, server: Server, agent: Agent, giving_up: GivingUp) -> None:
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        response = await client.send(
            client.build_request("GET", f"{server.url}/hold-body/rest", **giving_up.arguments), stream=True
        )
        await giving_up.of(tasks.start(response.aread))
        assert agent.sockets() == ()
        server.gate("rest").open()
        await world.until(lambda: server.open == 0)
        assert (await client.get(f"{server.url}/echo")).extensions["agent"].socket_id == 1
    await world.close(agent)


@pytest.mark.rule("R23")
async def test_a_connect_that_takes_too_long_gives_its_slot_back(world: World, engine: str) -> None:
    await give_up_connecting(
        world, Agent(max_sockets=1, http1_engine=engine), GivingUp(httpx.ConnectTimeout, connect=0.02)
    )


@pytest.mark.rule("R23")
@pytest.mark.in_loops
async def test_a_request_that_is_cancelled_while_it_connects_gives_its_slot_back(world: World, engine: str) -> None:
    await give_up_connecting(world, Agent(max_sockets=1, http1_engine=engine), GivingUp())


async def give_up_connecting(world: World, agent: Agent, giving_up: GivingUp) -> None:
    """R23: its socket never was usable, so it counts as failed; whoever waits tries for itself (R21)."""
    with hanging_port() as port:
        url = f"http://127.0.0.1:{port}"
        async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
            leaving = tasks.start(client.get, url, **giving_up.arguments)
            await world.until(lambda: agent.status().create_socket_count == 1)
            other = tasks.start(client.get, url, **GivingUp(httpx.ConnectTimeout, connect=0.02).arguments)
            await giving_up.of(leaving)
            await other.wait()
            assert type(other.exception) is httpx.ConnectTimeout
    status = agent.status()
    assert (status.create_socket_count, status.create_socket_error_count, status.close_socket_count) == (2, 2, 0)
    assert (status.sockets, status.requests, status.request_error_count) == ({}, {}, 2)
    await world.close(agent)
