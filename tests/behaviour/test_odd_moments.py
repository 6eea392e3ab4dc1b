"""Moments that are hard to meet: dropped coroutines, agents closed in between, bodies that fail, homes that vanish."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from typing import Any

import anyio
import httpcore
import httpx
import pytest
import trio

from httpx_agent import Agent, AgentTransport
from httpx_agent._goaway import Frames, GoawayHold
from httpx_agent._socket import Socket
from httpx_agent._steps import arun, run
from httpx_agent._watchers import LoopWatcher, ThreadWatcher, register
from httpx_agent.testing import FIN, HANG, Gate, Network, Script, VirtualClock, chunked, http2, respond
from tests.support.servers import Server
from tests.support.worlds import World

URL = "http://a.test/"
TIMEOUT = {"connect": 5, "read": 5, "write": 5, "pool": 1}


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


async def test_a_body_that_is_left_half_way_can_still_be_closed(world: World) -> None:
    network = Network(Script(chunked(b"one", b"two", b"three")))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        if world.is_sync:
            with client.sync.stream("GET", URL) as response:
                for chunk in response.iter_raw():
                    assert chunk == b"one"
                    break
        else:
            async with client.stream("GET", URL) as response:
                async for chunk in response.aiter_raw():
                    assert chunk == b"one"
                    break
        assert agent.status().free_sockets == {"http://a.test:80": 1}  # the rest had arrived
    await world.close(agent)


async def test_an_agent_that_is_closed_while_a_dead_socket_is_found(world: World) -> None:
    """The request neither goes on nor round in circles."""
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        wire = agent._dispatcher._sockets[0].wire

        def close_and_say_dead() -> bool:
            agent.close()
            return True

        wire.is_readable = close_and_say_dead  # type: ignore[method-assign]
        with pytest.raises(httpx.ConnectError, match="the agent was closed; nothing was sent"):
            await client.get(URL)
    await world.until(lambda: network.open == 0)
    await world.close(agent)


async def test_an_agent_that_is_closed_while_a_socket_is_upgraded(world: World) -> None:
    network = Network(Script(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"))
    agent = Agent(**network.options)

    def trace(name: str, info: dict[str, Any]) -> None:
        if name == "http11.receive_response_headers.complete":
            agent.close()

    async with world.client(transport=AgentTransport(agent=agent)) as client:
        headers = {"Connection": "Upgrade", "Upgrade": "x"}
        async with client.stream("GET", URL, headers=headers, extensions={"trace": world.callback(trace)}) as response:
            assert response.status_code == 101
    assert agent.status().detached_socket_count == 0
    await world.until(lambda: network.open == 0)
    await world.close(agent)


@pytest.mark.parametrize("error", [RuntimeError("the file is gone"), OSError("disk")])
async def test_a_body_that_fails_is_the_users_own_error(world: World, error: Exception) -> None:
    """It comes out as it is, and the slot is free."""
    network = Network()
    agent = Agent(max_sockets=1, **network.options)

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            raise error

    class AsyncBody:
        def __aiter__(self) -> AsyncIterator[bytes]:
            raise error

    body = Body() if world.is_sync else AsyncBody()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(type(error), match=str(error)):
            await client.put(URL, content=body)
        assert agent.sockets() == ()
        assert (await client.get(URL)).status_code == 200
    await world.close(agent)


async def test_a_host_name_that_cannot_be_encoded(world: World) -> None:
    agent = Agent()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://{'a' * 64}.test/")
    assert agent.status().create_socket_error_count == 1
    await world.close(agent)


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
            with pytest.raises(httpx.RemoteProtocolError, match="its body cannot be read again"):
                await client.post(URL, content=world.body([b"once"]))
        assert network.connections[0].state == "closed"
    await world.close(agent)


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
    assert str(jobs[1].exception).endswith("not sent again: its body cannot be read again")
    await world.until(lambda: network.open == 0)
    assert agent.sockets() == ()
    await world.close(agent)


async def test_a_close_that_fails_is_a_close(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a connection; what goes wrong with a socket's close reaches nobody in the first place."""
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)

        def fail() -> None:
            raise OSError("close failed")

        connection = agent._dispatcher._sockets[0].connection
        monkeypatch.setattr(connection, "close" if world.is_sync else "aclose", world.callback(fail))
        await world.close(agent)
        assert agent.sockets() == ()
        assert agent.status().close_socket_count == 1
        assert network.open == 0


def test_a_mock_that_answers_at_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """As others than respx may do; the socket that was meant for the request is forgotten."""

    def answer(connection: object, request: object) -> httpcore.Response:
        return httpcore.Response(200, content=b"mocked", extensions={"mine": 1})

    transport = AgentTransport(max_sockets=1)
    monkeypatch.setattr(httpcore.HTTPConnection, "handle_request", answer)
    with httpx.Client(transport=transport) as client:
        for _ in range(15):
            response = client.get(URL)
            assert response.text == "mocked"
            assert response.extensions == {"mine": 1}
    assert transport.agent.sockets() == ()
    assert transport.agent.status().create_socket_error_count == 15


def test_without_respx_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "respx.mocks")
    AgentTransport().close()


async def test_a_dropped_agent_takes_its_watcher_along(world: World, server: Server) -> None:
    """Nothing but a free socket holds it, and that is looked after by reference to nobody."""
    before = set(threading.enumerate())
    agent = Agent(free_socket_timeout=None)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(f"{server.url}/echo")
    homes = [agent._dispatcher.sync_home, *agent._dispatcher._homes.values()]
    gone = weakref.ref(agent)
    await world.close(agent)
    del agent, client

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    await world.until(is_gone)  # the watcher may just look which of its sockets are free
    for home in homes:  # told late, they have nobody to tell
        home.on_readable(0)
        home.on_time()
        home.on_watch_due()
    await world.until(
        lambda: not [one for one in threading.enumerate() if one.name == "httpx-agent" and one not in before]
    )


def test_a_loop_without_readers_has_a_thread_for_its_free_sockets(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows' proactor loop."""

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "add_reader", not_implemented)
        agent = Agent()
        home = await agent._dispatcher.new_async_home()
        monkeypatch.undo()
        assert isinstance(home.watcher, ThreadWatcher)
        async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
            await client.get(f"{server.url}/echo")
            server.close_idle()
            with anyio.fail_after(5):
                while agent.sockets():
                    await anyio.sleep(0.001)
        await agent.aclose()

    def not_implemented(*_: object) -> None:
        raise NotImplementedError

    asyncio.run(ask())


def test_a_watcher_bears_descriptors_that_are_closed_and_numbers_that_come_again() -> None:
    """What was closed behind its back is nothing to it."""
    told: list[Any] = []
    done = threading.Event()

    class Owner:
        def on_readable(self, number: int) -> None:
            told.append(number)
            done.set()

        def on_time(self) -> None:
            told.append("time")
            done.set()

        def on_watch_due(self) -> None:
            told.append("watch due")
            done.set()

    owner = Owner()
    watcher = ThreadWatcher(owner, lambda: 0.0)
    one, other = socket.socketpair()
    with one, other:
        descriptor = one.fileno()
        watcher.watch(descriptor, 1)
        watcher.watch(descriptor, 2)  # the number came again
        watcher.unwatch(99)
        other.send(b"x")
        assert done.wait(5)
        assert told == [2]
        watcher.unwatch(descriptor)
        done.clear()
        silent = other.fileno()
        with watcher._lock:
            watcher._running().add(silent)
            watcher._watched[silent] = 3
        watcher.unwatch(silent)
        with watcher._lock:
            watcher._running().add(descriptor)  # unwatched by another thread, in the moment in which it is readable
            watcher._when = 0.0  # as `arm` does it; between the two the thread could end
        assert done.wait(5)
        assert told == [2, "time"]
        told.clear()
    watcher.watch(descriptor, 3)  # closed by now
    watcher.unwatch(descriptor)
    watcher.arm(1.0)
    watcher.arm(2.0)
    done.clear()
    watcher.arm(0.0)
    assert done.wait(5)
    assert told == ["time"]
    done.clear()
    watcher.watch_later()
    watcher.watch_later()
    watcher.rest()  # which is for those that are watched
    assert done.wait(5)
    assert told == ["time", "watch due"]
    watcher.stop()


def test_a_loops_watcher_rings_once_and_for_the_earliest() -> None:
    told: list[Any] = []

    class Owner:
        def on_readable(self, number: int) -> None:
            told.append(number)

        def on_time(self) -> None:
            told.append("time")

        def on_watch_due(self) -> None:
            told.append("watch due")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        watcher = LoopWatcher(Owner(), lambda: 0.0, loop)
        watcher.arm(100.0)
        watcher.arm(0.0)
        watcher.arm(50.0)
        one, other = socket.socketpair()
        with one, other:
            watcher.watch(one.fileno(), 6)
            watcher.unwatch(one.fileno())  # of this one nothing is told
            watcher.watch(one.fileno(), 7)
            watcher.unwatch(99)
            other.send(b"x")
            watcher.watch_later()
            watcher.watch_later()
            with anyio.fail_after(5):
                while len(told) < 3:
                    await asyncio.sleep(0)
            register(watcher._selector, one.fileno())
            register(watcher._selector, one.fileno())  # the number came again
            watcher._look()  # unwatched by another thread, in the moment before
            watcher.watch(one.fileno(), 9)
            watcher.watch(one.fileno(), 10)
        watcher.stop()

    asyncio.run(main())
    assert sorted(map(str, told)) == ["7", "time", "watch due"]


def test_closing_twice_at_once(server: Server) -> None:
    """What one thread closes, the other need not."""
    agent = Agent()
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        client.get(f"{server.url}/echo")
        only = agent._dispatcher._sockets[0]
        agent.close()
        assert agent._dispatcher._note_end_of(only) is None


@pytest.mark.parametrize("runner", ["asyncio", "trio"])
def test_what_comes_too_late_for_a_loop_is_not_done(runner: str) -> None:
    """The loop is about to end, or has ended."""
    agent = Agent()
    homes: list[Any] = []

    async def main() -> None:
        homes.append(await agent._dispatcher.new_async_home())
        homes[0].is_ending = True
        homes[0].do_soon(agent._dispatcher.settle(homes[0], []))
        await anyio.sleep(0)
        await anyio.sleep(0)

    asyncio.run(main()) if runner == "asyncio" else trio.run(main)
    homes[0].do_soon(agent._dispatcher.settle(homes[0], []))
    assert homes[0].is_over()
    homes[0].end()  # twice is once
    assert homes[0].is_over()
    agent.close()


def test_settings_that_come_in_pieces() -> None:
    """The first frame of an HTTP/2 server is read as it comes."""
    told: list[int | None] = []
    frames = Frames(GoawayHold(), told.append)
    frame = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 42])
    passed = [frames.received(frame[at : at + 1]) for at in range(len(frame))]
    assert passed == [None] * 14 + [frame]
    assert told == [42]
    assert frames.received(frame) == frame  # a later one
    assert told == [42]
    frames = Frames(None, told.append)
    odd = bytes([0, 0, 0, 6, 0, 0, 0, 0, 0])  # not what it should be
    frames.sent(odd)
    assert frames.received(odd) == odd
    assert told == [42, None]
    assert (frames.due(), frames.longest_heads, frames.are_ending) == (None, 0, False)


class FakeRequest:
    """As much of httpcore's request as a key needs."""

    class url:
        scheme, host, port = b"https", b"a.test", None

    extensions: dict[str, Any] = {}  # noqa: RUF012


async def test_a_unix_socket_has_paths_for_addresses(world: World, tmp_path: Any) -> None:
    path = str(tmp_path / "socket")
    options = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)]
    with Server(uds=path):
        agent = Agent(uds=path, socket_options=options)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert (await client.get(URL)).status_code == 200
            assert agent.sockets()[0].peer_address == path
        await world.close(agent)


async def test_a_connection_that_is_gone_before_its_address_was_asked(world: World) -> None:
    class Stream:
        def get_extra_info(self, info: str) -> Any:
            if info == "client_addr":
                raise OSError("not connected")
            return b"\0abstract" if info == "server_addr" else None

    agent = Agent()
    one = Socket(agent._dispatcher, 0, agent._dispatcher.sync_home, agent._dispatcher.key_of(FakeRequest()))
    one.connected(Stream())
    assert (one.local_address, one.peer_address) == (None, "\0abstract")


def test_a_guard_may_outlive_its_agent() -> None:
    """Then it has nothing to close but its watcher."""
    homes: list[Any] = []

    async def main() -> None:
        agent = Agent()
        homes.append(await agent._dispatcher.new_async_home())
        del agent
        gc.collect()
        assert not homes[0].is_over()

    asyncio.run(main())
    assert homes[0].is_over()


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


async def test_a_connection_that_should_be_secure_and_is_not_has_no_session(world: World) -> None:
    """As httpcore's `wss` by a SOCKS proxy."""

    class Stream:
        def get_extra_info(self, info: str) -> None:
            return None

    class Response:
        extensions = {"http_version": b"HTTP/1.1"}  # noqa: RUF012

    agent = Agent()
    one = Socket(agent._dispatcher, 0, agent._dispatcher.sync_home, agent._dispatcher.key_of(FakeRequest()))
    one.connection = agent._dispatcher.connector.sync_connection(one.key, one.wire)
    one.wire.stream = Stream()
    one.note_response(Response())
    assert agent._dispatcher.connector.sessions.get(one.key) is None


def test_a_watcher_whose_owner_is_gone_tells_nobody_and_ends() -> None:
    class Owner:
        def on_readable(self, number: int) -> None:
            raise AssertionError("told")

        on_time = on_watch_due = on_readable  # type: ignore[assignment]

    owner = Owner()
    watcher = ThreadWatcher(owner, lambda: 0.0)
    one, other = socket.socketpair()
    with one, other:
        before = set(threading.enumerate())
        watcher.watch(one.fileno(), 1)
        [thread] = set(threading.enumerate()) - before
        selector = watcher._selector
        assert selector is not None
        looked = threading.Event()
        wait = selector.wait

        def wait_and_lose_the_owner(timeout: float | None) -> list[int]:
            nonlocal owner
            ready = wait(timeout)
            if ready:
                del owner
                gc.collect()
                looked.set()
            return ready

        selector.wait = wait_and_lose_the_owner  # type: ignore[method-assign]
        watcher.watch(other.fileno(), 2)
        with watcher._lock:
            selector.wake()  # so that the thread waits in the new way
        one.send(b"x")
        other.send(b"x")
        assert looked.wait(5)
        thread.join(5)
        assert not thread.is_alive()


def test_a_watcher_that_has_something_to_do_does_not_rest() -> None:
    told = threading.Event()

    class Owner:
        def on_readable(self, number: int) -> None:
            told.set()

        def on_time(self) -> None:
            raise AssertionError("nothing was armed")

        on_watch_due = on_time

    owner = Owner()
    watcher = ThreadWatcher(owner, lambda: 0.0)
    one, other = socket.socketpair()
    with one, other:
        watcher.watch(one.fileno(), 1)
        watcher.rest()
        other.send(b"x")
        assert told.wait(5)
    watcher.stop()


@pytest.mark.parametrize("ends", ["the server closes it", "its time is over"])
def test_a_socket_that_came_free_while_the_watcher_was_told_to_rest(server: Server, ends: str) -> None:
    """A close tells it, and a request may come right then; its socket is looked after all the same."""
    agent = Agent(free_socket_timeout=0.2 if ends == "its time is over" else None)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        client.get(f"{server.url}/echo")
        agent._dispatcher.sync_home.watcher.rest()
        if ends == "the server closes it":
            server.close_idle()
        anyio.run(World("sync").until, lambda: not agent.sockets())
    agent.close()


async def test_only_sockets_that_are_free_are_watched(world: World, server: Server) -> None:
    """One that is in use again when the watcher comes is left alone until it comes free for good."""
    backend = httpcore.TrioBackend() if world.name == "trio" else httpcore.AnyIOBackend()
    agent = Agent(http1_engine="h11", async_network_backend=backend)  # not the agent's own, which tells of its end
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(f"{server.url}/echo")
        [one] = agent._dispatcher._sockets.values()
        async with client.stream("GET", f"{server.url}/hold-body/c") as response:
            await world.until(lambda: not agent._dispatcher._not_watched)
            assert one.watched is None
            server.gate("c").open()
            await response.aread()
        await world.until(lambda: one.watched is not None)
        server.close_idle()
        await world.until(lambda: not agent.sockets())
    await world.close(agent)


def test_a_stream_that_tells_nothing_any_more_is_not_watched() -> None:
    """It may be a user's, and what it says is asked for in the watcher's own thread."""

    class Mute:
        def get_extra_info(self, info: str) -> Any:
            raise RuntimeError("closed")

    agent = Agent()
    one = Socket(agent._dispatcher, 0, agent._dispatcher.sync_home, agent._dispatcher.key_of(FakeRequest()))
    one.wire.stream = Mute()
    assert one.wire.descriptor() is None


async def test_many_origins_are_not_remembered_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx_agent._engine.MAX_KNOWN_KEYS", 3)
    network = Network()
    agent = Agent(max_total_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for number in range(10):
            await client.get(f"http://{number}.test/")
    assert len(agent._dispatcher._known_keys) <= 3
    assert len(agent._dispatcher._known_options) <= 3
    await world.close(agent)


@pytest.mark.parametrize("step", ["before the connect", "connect", "tls"])
async def test_a_connect_that_ends_after_its_agent_was_closed(world: World, step: str) -> None:
    """Nobody else knows of the late connection: it is closed by whoever opened it."""
    gate = Gate()
    network = Network(Script(connect=gate) if step == "connect" else Script(tls=gate))
    agent = Agent(**network.options)

    def trace(name: str, info: dict[str, Any]) -> None:
        if step == "before the connect" and name == "connection.connect_tcp.started":
            agent._dispatcher._sockets[0].wire.broken = True  # as by a close in another thread, in this moment

    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        job = tasks.start(client.get, "https://a.test/", extensions={"trace": world.callback(trace)})
        if step != "before the connect":
            await world.until(lambda: network.open == 1)
            await world.until(lambda: network.ops[-1].name == ("connect" if step == "connect" else "start_tls"))
            agent._dispatcher._sockets[0].wire.broken = True
        gate.open()
        await job.wait()
    assert type(job.exception) is httpx.ConnectError
    assert network.open == 0
    await world.close(agent)


async def test_what_is_not_the_networks_error_comes_out_of_a_body_as_it_is(world: World) -> None:
    network = Network(Script(chunked(b"one", RuntimeError("odd"), end=False)))
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(RuntimeError, match=r"^odd$"):
            await client.get(URL)
        assert (await client.get(URL)).status_code == 200
    await world.close(agent)


def test_a_body_that_fails_and_whose_end_fails() -> None:
    """The books are closed first."""
    network = Network(default=Script(then=chunked(b"one", HANG, end=False)))
    transport = AgentTransport(**network.options)
    response = transport.handle_request(request())
    body: Any = response.stream._httpcore_stream  # type: ignore[attr-defined]

    class Stream:
        def close(self) -> None:
            raise OSError("the end failed, too")

    with pytest.raises(OSError, match="too"):
        run(body._exchange.fail(Stream(), httpcore.ReadError("failed")))
    assert transport.agent.sockets() == ()
    assert transport.agent.status().request_error_count == 1
    transport.close()


def test_what_is_told_of_a_socket_that_is_gone() -> None:
    agent = Agent()
    agent._dispatcher.socket_lost(99)
    one = Socket(agent._dispatcher, 0, agent._dispatcher.sync_home, agent._dispatcher.key_of(FakeRequest()))
    one.wire.close_raw()  # there is nothing to close yet
    assert agent.sockets() == ()


async def test_a_response_that_ends_unexpectedly(world: World) -> None:
    network = Network(Script([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", FIN]))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.RemoteProtocolError, match=r"^GET http://a\.test:80: peer closed connection"):
            await client.get(URL)
    await world.close(agent)


def test_whoever_waits_for_sockets_to_close_can_be_dropped() -> None:
    """All of them are closed all the same, by the loop."""
    network = Network()
    agent = Agent(**network.options)

    async def main() -> None:
        async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
            for host in "abc":
                await client.get(f"http://{host}.test/")
            coroutine = agent.aclose()
            coroutine.send(None)
            coroutine.close()
            with anyio.fail_after(5):
                while network.open or agent.sockets():
                    await anyio.sleep(0)
            assert agent.status().close_socket_count == 3
        await agent.aclose()

    asyncio.run(main())


async def test_a_connection_that_cannot_even_be_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a TLS context that is only built when it is needed: the slot is free again."""
    network = Network()
    agent = Agent(max_sockets=1, **network.options)

    def fail(*_: object) -> None:
        raise RuntimeError("no context")

    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(agent._dispatcher.connector, "sync_connection", fail)
            patch.setattr(agent._dispatcher.connector, "async_connection", fail)
            with pytest.raises(RuntimeError, match="no context"):
                await client.get(URL)
        assert agent.status().create_socket_error_count == 1
        assert (await client.get(URL)).status_code == 200
    await world.close(agent)


@pytest.mark.in_loops
async def test_a_home_with_a_request_in_it_is_not_left_when_its_agent_is_closed(world: World) -> None:
    """The upgraded socket is its caller's, and goes on; only the end of its response ends the request."""
    network = Network(Script(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"))
    agent = Agent(**network.options)
    headers = {"Connection": "Upgrade", "Upgrade": "x"}
    async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
        async with client.stream("GET", URL, headers=headers):
            home = agent._dispatcher.find_async_home()
            await agent.aclose()
            assert agent._dispatcher.find_async_home() is home is not None
            assert network.open == 1
        await agent.aclose()
        assert agent._dispatcher.find_async_home() is None
        assert agent.status().request_count == 1


async def test_what_tls_says_of_a_connection_in_use(world: World) -> None:
    """On asyncio and trio it comes as it is, where the other end says no after the handshake."""
    network = Network(Script(ssl.SSLError("tlsv13 alert certificate required")))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.ReadError) as caught:
            await client.get("https://a.test/")
    assert str(caught.value).startswith("GET https://a.test:443: ")
    assert "tlsv13 alert certificate required" in str(caught.value)
    await world.close(agent)


@pytest.mark.parametrize("event", ["the agent is closed", "a socket comes free"])
def test_what_happens_in_the_moment_in_which_the_time_is_over(event: str) -> None:
    """It counts, and no limit is blamed."""

    class Interrupted(VirtualClock):
        happens: Callable[[], None] | None = None

        def __call__(self) -> float:
            dispatcher = agent._dispatcher
            waits = not dispatcher.is_locked_here() and any(ticket.queued for ticket in dispatcher._tickets.values())
            if waits and self.happens is not None:
                happens, self.happens = self.happens, None
                happens()
            return super().__call__()

    network = Network(default=Script(then=respond(b"ok")))
    clock = Interrupted()
    agent = clock.agent(max_sockets=1, **network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), timeout=httpx.Timeout(5, pool=0)) as client:
        with client.stream("GET", URL) as first:
            if event == "the agent is closed":
                clock.happens = agent.close
                with pytest.raises(httpx.ConnectError, match="the agent was closed"):
                    client.get(URL)
            else:
                clock.happens = lambda: bool(first.read()) and None
                assert client.get(URL).text == "ok"
        assert clock.happens is None
    agent.close()
