"""Anything that outlives a request keeps nothing of its context, and runs in an empty one."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import threading
import types
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpcore
import httpx
import pytest
import sniffio
import trio
import uvloop

from httpx_agent import Agent, AgentTransport
from httpx_agent._network import connecting as _connecting
from httpx_agent._network import resolver as _resolver
from httpx_agent._network.asyncio import AsyncioStream
from httpx_agent._runtime import watchers as _watchers
from httpx_agent._runtime.contexts import detached
from httpx_agent.testing import HANG, Gate, Network, Script, chunked, respond
from tests.support.servers import Certificates, Proxy, Server
from tests.support.worlds import WORLDS, World

ALL_WORLDS = [
    *WORLDS,
    World("sync-h11", engine="h11"),
    World("asyncio-h11", engine="h11"),
    World("uvloop"),
    World("uvloop-h11", engine="h11"),
]
in_all_worlds = pytest.mark.parametrize("world", ALL_WORLDS, ids=repr)


class Mark:
    """What a request carries in its context."""


mark: contextvars.ContextVar[Mark] = contextvars.ContextVar("mark")


@pytest.fixture(autouse=True)
def threads_that_inherit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Python 3.14 with `-X thread_inherit_context=1`, which its free-threaded build has by default."""

    class Thread(threading.Thread):
        def start(self) -> None:
            self.inherited = contextvars.copy_context()
            super().start()

        def run(self) -> None:
            self.inherited.run(super().run)

    for module in (_watchers, _resolver):  # not for the threads of the test
        monkeypatch.setattr(module, "threading", SimpleNamespace(**{**vars(threading), "Thread": Thread}))


async def in_a_context(function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> weakref.ref[Mark]:
    """Call in a task of its own, whose context holds a mark; give what tells whether that is still there."""
    carried = Mark()

    async def call() -> None:
        mark.set(carried)
        if sniffio.current_async_library() == "asyncio":  # before its first timer that counts it throws away the others
            asyncio.get_running_loop().call_later(0.4, str, context=contextvars.Context())
        with suppress(httpx.HTTPError):
            await function(*args, **kwargs)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
    return weakref.ref(carried)


async def is_dropped(world: World, carried: weakref.ref[Mark]) -> bool:
    """Whether nothing keeps a mark."""

    def is_there() -> bool:
        gc.collect()
        return carried() is not None

    if world.is_sync:  # the thread that made the request for the test lets go of it when it gets to it
        with anyio.move_on_after(3):
            while is_there():
                await anyio.sleep(0.001)
    return not is_there()


def is_empty_here() -> bool:
    return not list(contextvars.copy_context())


class Kind:
    """A server, and an agent that speaks with it."""

    def __init__(self, world: World, server: Server, **options: Any) -> None:
        self.url = server.url
        self.server = server
        self.agent = Agent(http1_engine=world.engine, **options)
        self.transport = AgentTransport(agent=self.agent)


@pytest.fixture(params=["http", "https", "h2", "proxy", "tls through a proxy", "uds"])
def kind(
    request: pytest.FixtureRequest,
    world: World,
    server: Server,
    tls_server: Server,
    h2_server: Server,
    certificates: Certificates,
    tmp_path: Path,
) -> Iterator[Kind]:
    name: str = request.param
    options: dict[str, Any] = {"verify": certificates.client(), "http2": name == "h2"}
    if "proxy" in name:
        with Proxy() as proxy:
            yield Kind(world, server if name == "proxy" else tls_server, proxy=proxy.url, **options)
    elif name == "uds":
        path = str(tmp_path / "a.socket")
        with Server(uds=path) as local:
            yield Kind(world, local, uds=path)
    else:
        yield Kind(world, {"http": server, "https": tls_server, "h2": h2_server}[name], **options)


@in_all_worlds
async def test_a_free_socket_keeps_no_request(world: World, kind: Kind) -> None:
    """Neither the one that opened it, nor one that waited for its server, nor the one with which the watcher began."""
    async with world.client(transport=kind.transport, timeout=30) as client:
        for path in ("echo", "bytes/3000000", "echo"):
            carried = await in_a_context(client.get, f"{kind.url}/{path}")
            assert await is_dropped(world, carried), path
        carried = await in_a_context(
            client.post, f"{kind.url}/sink", content=bytes(1_000_000 if kind.agent.http2 else 20_000_000)
        )
        assert await is_dropped(world, carried)
        assert [(info.state, info.request_count) for info in kind.agent.sockets()] == [("free", 4)]
    await world.close(kind.agent)


@in_all_worlds
async def test_nor_does_a_thread_that_looked_up_a_name(
    world: World, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits some seconds for another one."""
    monkeypatch.setattr(_connecting, "resolver", _resolver.Resolver())
    agent = Agent()
    async with world.client(transport=AgentTransport(agent=agent), timeout=30) as client:
        carried = await in_a_context(client.get, f"http://localhost:{server.port}/echo")
        assert await is_dropped(world, carried)
        assert [info.state for info in agent.sockets()] == ["free"]
    await world.close(agent)


@in_all_worlds
async def test_nor_does_what_is_left_of_one_that_failed(world: World, kind: Kind) -> None:
    """Timers above all: asyncio keeps those that were cancelled."""
    async with world.client(transport=kind.transport, timeout=30) as client:
        carried = await in_a_context(client.get, f"{kind.url}/silence", timeout=httpx.Timeout(30, read=0.05))
        assert await is_dropped(world, carried)
        carried = await in_a_context(client.get, "http://127.0.0.1:1/")
        assert await is_dropped(world, carried)
    await world.close(kind.agent)


@in_all_worlds
async def test_nor_does_a_socket_that_is_closed(world: World, server: Server) -> None:
    async with world.client(transport=AgentTransport(), timeout=30) as client:
        carried = await in_a_context(client.get, f"{server.url}/close")
        assert await is_dropped(world, carried)


@pytest.mark.parametrize("world", [world for world in ALL_WORLDS if not world.is_sync], ids=repr)
@pytest.mark.parametrize("http2", [False, True])
async def test_nor_does_an_attempt_to_connect_that_was_cancelled(world: World, http2: bool) -> None:
    """In the pause before the third; such a timer of asyncio's stays until its time comes."""
    agent = Agent(retries=9, http2=http2)
    begun: list[str] = []

    async def give_up() -> None:
        async def trace(name: str, info: Any) -> None:
            begun.extend([name] * (name == "connection.retry.started"))
            if len(begun) == 2:
                scope.cancel()

        with anyio.CancelScope() as scope:
            await client.get("https://127.0.0.1:1/", extensions={"trace": trace})

    async with world.client(transport=AgentTransport(agent=agent), timeout=30) as client:
        carried = await in_a_context(give_up)
        assert await is_dropped(world, carried)
        assert len(begun) == 2
    await world.close(agent)


async def test_nor_does_the_scripted_network(world: World) -> None:
    gate = Gate()
    network = Network(Script([gate, respond()]))
    async with world.client(transport=AgentTransport(**network.options)) as client, world.tasks() as tasks:
        job = tasks.start(in_a_context, client.get, "http://a.test/")
        await world.until(lambda: network.request_count)
        await world.settle()
        gate.open()
        assert await is_dropped(world, (await job.wait()).result())


@pytest.mark.parametrize("world", [World("asyncio"), World("uvloop")], ids=repr)
async def test_nor_does_a_connection_that_stood_still(world: World) -> None:
    """What cannot be sent yet waits for a writer of the loop's, and what comes again for a reader."""
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    loop = asyncio.get_running_loop()
    stream = AsyncioStream(httpcore, SimpleNamespace(lost=list))  # type: ignore[arg-type]
    await detached(loop.create_connection(lambda: stream, sock=here))

    async def send() -> None:
        stream.send(bytes(10_000_000))
        stream.pause_reading()
        stream.resume_reading()

    carried = await in_a_context(send)
    assert not stream.can_write
    assert await is_dropped(world, carried)

    async def write() -> None:
        await stream.write(b"and more", timeout=30)

    async def read() -> None:
        left = 10_000_000 + len(b"and more")
        while left:
            left -= len(await loop.sock_recv(there, 1_000_000))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        carried = await in_a_context(write)
    assert await is_dropped(world, carried)
    await stream.aclose()
    there.close()


@in_all_worlds
async def test_nor_does_one_that_was_handed_over(world: World, kind: Kind) -> None:
    """Neither the request that gave it nor the one that had waited for it."""
    kind.agent.max_sockets = 1
    gate = kind.server.gate("first")
    async with world.client(transport=kind.transport, timeout=30) as client, world.tasks() as tasks:
        first = tasks.start(in_a_context, client.get, f"{kind.url}/hold/first")
        await world.until(lambda: kind.server.requests)
        second = tasks.start(in_a_context, client.get, f"{kind.url}/echo")
        await world.until(lambda: kind.agent.status().requests or second.done)  # HTTP/2 in a loop needs no other socket
        gate.open()
        for job in (first, second):
            assert await is_dropped(world, (await job.wait()).result())
        assert [info.state for info in kind.agent.sockets()] == ["free"]
    await world.close(kind.agent)


@in_all_worlds
async def test_nor_does_closing_the_agent(world: World, kind: Kind) -> None:
    async with world.client(transport=kind.transport, timeout=30) as client:
        await client.get(f"{kind.url}/echo")
        carried = await in_a_context(world.close, kind.agent)
        assert await is_dropped(world, carried)


class Failure(Exception):
    """That can be looked for."""


def test_an_error_that_went_through_does_not_wait_for_the_collector() -> None:
    """The frame that passes it on is in its traceback, and must not hold it."""

    async def wait() -> None:
        await suspension()

    @types.coroutine
    def suspension() -> Iterator[None]:
        yield

    going = detached(wait())
    going.send(None)
    gc.disable()
    try:
        with suppress(Failure):
            going.throw(Failure())
        assert not [found for found in gc.get_objects() if isinstance(found, Failure)]
    finally:
        gc.enable()


class Notes:
    """Hears that sockets are closed, and whether the context is empty in which that happens."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bool]] = []
        self.served: list[bool] = []

    def request_waited(self, exchange: Any, seconds: float, *, served: bool) -> None:
        self.served.append(is_empty_here())

    def request_retried(self, exchange: Any) -> None:
        pass

    def socket_closed(self, socket: Any, seconds: float, reason: Any) -> None:
        self.heard.append((reason.value, is_empty_here()))


@in_all_worlds
@pytest.mark.parametrize("end", ["fin", "rst", "data"])
async def test_a_server_ends_a_free_socket_in_an_empty_context(world: World, server: Server, end: str) -> None:
    notes = Notes()
    agent = Agent()
    agent._dispatcher.observe(notes)
    async with world.client(transport=AgentTransport(agent=agent), timeout=30) as client:
        mark.set(Mark())
        await client.get(f"{server.url}/echo")
        ends = {"fin": server.close_idle, "rst": server.reset_idle, "data": lambda: server.send_idle(b"HTTP/1.1 408")}
        ends[end]()
        await world.until(lambda: notes.heard == [("server_closed", True)])
    await world.close(agent)


@in_all_worlds
async def test_a_socket_expires_in_an_empty_context(world: World, server: Server) -> None:
    notes = Notes()
    agent = Agent(free_socket_timeout=0.05)
    agent._dispatcher.observe(notes)
    async with world.client(transport=AgentTransport(agent=agent), timeout=30) as client:
        mark.set(Mark())
        await client.get(f"{server.url}/echo")
        await world.until(lambda: notes.heard == [("idle_timeout", True)])
    await world.close(agent)


def trio_run(coroutine: Any) -> None:
    async def main() -> None:
        await coroutine

    trio.run(main)


RUNNERS = pytest.mark.parametrize("runner", [asyncio.run, uvloop.run, trio_run], ids=["asyncio", "uvloop", "trio"])


def run_in_a_context(runner: Callable[[Any], Any], coroutine: Any) -> None:
    """Run a loop that has a context of its own."""
    context = contextvars.copy_context()
    context.run(mark.set, Mark())
    context.run(runner, coroutine)


@RUNNERS
def test_what_is_called_in_a_home_from_anywhere_is_called_in_an_empty_context(runner: Callable[[Any], Any]) -> None:
    heard: list[bool] = []
    agent = Agent()

    async def main() -> None:
        homes = [agent._dispatcher.sync_home, await agent._dispatcher.new_async_home()]
        for home in homes:
            home.call_soon(lambda: heard.append(is_empty_here()))
        with anyio.fail_after(10):
            while len(heard) < 2:
                await anyio.sleep(0.001)

    run_in_a_context(runner, main())
    assert heard == [True, True]


@RUNNERS
@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "sync"])
def test_what_is_left_of_a_dropped_response_is_cleared_up_in_an_empty_context(
    runner: Callable[[Any], Any], is_sync: bool
) -> None:
    """And the request that waited is served from there."""
    notes = Notes()
    network = Network(Script(chunked(b"first", HANG, end=False)))
    agent = Agent(max_sockets=1, **network.options)
    agent._dispatcher.observe(notes)
    transport = AgentTransport(agent=agent)
    request = httpx.Request("GET", "http://a.test/")

    async def ask() -> None:
        if is_sync:
            await anyio.to_thread.run_sync(httpx.Client(transport=transport).get, request.url)
        else:
            await httpx.AsyncClient(transport=transport).get(request.url)

    async def main() -> None:
        # In this thread, so that no other one keeps the response.
        kept = [transport.handle_request(request) if is_sync else await transport.handle_async_request(request)]
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            with anyio.fail_after(10):
                while not agent.status().requests:
                    await anyio.sleep(0.001)
                with pytest.warns(ResourceWarning, match="neither read nor closed"):
                    kept.clear()
        agent.close() if is_sync else await agent.aclose()

    run_in_a_context(runner, main())
    assert notes.heard[0] == ("aborted", True)
    assert notes.served == [True]


@pytest.mark.parametrize("how", ["a request elsewhere", "the end of its loop"])
@RUNNERS
def test_the_socket_of_a_loop_is_closed_in_an_empty_context(runner: Callable[[Any], Any], how: str) -> None:
    network = Network()
    agent = Agent(max_total_sockets=1, **network.options)
    notes = Notes()
    agent._dispatcher.observe(notes)
    transport = AgentTransport(agent=agent)

    def elsewhere() -> None:
        with httpx.Client(transport=transport) as client:
            client.get("http://b.test/")

    async def main() -> None:
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get("http://a.test/")
        if how == "a request elsewhere":
            await anyio.to_thread.run_sync(elsewhere)

    run_in_a_context(runner, main())
    assert notes.heard == [("evicted" if how == "a request elsewhere" else "loop_ended", True)]
    agent.close()


# What happens during a request --------------------------------------------------------------------------------------


@in_all_worlds
async def test_trace_callbacks_and_bodies_see_the_context_of_their_request(world: World, kind: Kind) -> None:
    seen: list[tuple[str, Any]] = []
    mine = Mark()

    def trace(name: str, info: Any) -> None:
        seen.append((name.rpartition(".")[0], mark.get(None)))

    def parts() -> Iterator[bytes]:
        seen.append(("body", mark.get(None)))
        yield b"x"

    async with world.client(transport=kind.transport, timeout=30) as client:
        mark.set(mine)
        for _ in range(2):
            extensions = {"trace": world.callback(trace)}
            response = await client.post(f"{kind.url}/echo", content=world.body(parts()), extensions=extensions)
            assert response.status_code == 200
    opening = "connection.connect_tcp" if kind.agent.uds is None else "connection.connect_unix_socket"
    assert {opening, "body"} <= {name for name, _ in seen}
    assert {context for _, context in seen} == {mine}
    await world.close(kind.agent)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_network_of_the_user_s_own_does_too(world: World, scheme: str) -> None:
    seen: list[tuple[str, Any]] = []
    mine = Mark()
    network = Network(Script(lambda *_: (seen.append(("read", mark.get(None))), respond())[1]))
    operation = network._op

    def noted(connection: int, name: str, **details: Any) -> Any:
        seen.append((name, mark.get(None)))
        return operation(connection, name, **details)

    network._op = noted  # type: ignore[method-assign]
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        mark.set(mine)
        await client.get(f"{scheme}://a.test/", headers={"Connection": "close"})
    assert {name for name, _ in seen} >= {"connect", "write", "read", "close"}
    assert {context for _, context in seen} == {mine}
    await world.close(agent)
