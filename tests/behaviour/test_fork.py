"""Forks: the child starts with an empty agent, and leaves the parent's sockets intact; both keep working.

Each child sends what it has to tell through a pipe, and ends when the test says so, so that "while the child lives" is
meant literally.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from anyio import to_thread

from httpx_agent import Agent, AgentTransport
from httpx_agent._api import pickling as _pickling
from httpx_agent._runtime import process as _fork
from httpx_agent._runtime.watchers import ThreadWatcher
from httpx_agent.testing import Network
from tests.bugs.stock import Stack
from tests.support.servers import Certificates, Server, hanging_port
from tests.support.worlds import World, clean_environment

pytestmark = [
    pytest.mark.both_engines,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    # From 3.12 on Python warns of what these tests are about: other threads' locks may be held in the child.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


class Child:
    """A forked child that has begun, and waits for its end."""

    def __init__(self, process: int, news: int, leash: int) -> None:
        self.process = process
        self._news = news
        self._leash = leash

    def tell(self) -> Any:
        """What the function in it gave back; the child lives on."""
        data = b""
        while not data.endswith(b"\n"):
            piece = os.read(self._news, 65536)
            assert piece, f"the child ended early, after {data!r}"
            data += piece
        told, value = json.loads(data)
        assert told == "value", f"in the child:\n{value}"
        return value

    def end(self) -> int:
        """Ends it, and gives its exit code."""
        os.close(self._leash)
        os.close(self._news)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


@contextmanager
def child(function: Callable[[], Any]) -> Iterator[Child]:
    """Forks; calls the function in the child, which lives until the block ends."""
    read_news, write_news = os.pipe()
    read_leash, write_leash = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            signal.alarm(30)  # whatever happens, it does not outlive the test
            os.close(read_news)
            os.close(write_leash)
            try:
                answer = ("value", function())
            except BaseException:
                answer = ("error", traceback.format_exc())
            os.write(write_news, json.dumps(answer).encode() + b"\n")
            os.read(read_leash, 1)
            code = 0
        finally:
            os._exit(code)
    os.close(write_news)
    os.close(read_leash)
    running = Child(process, read_news, write_leash)
    try:
        yield running
    finally:
        assert running.end() == 0


def in_a_thread(function: Callable[[], Any]) -> Any:
    """What the function gives in a thread of its own: the one that forked may be in an event loop still."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(20)
    return results[0]


def ask(world: World, transport: AgentTransport, url: str, count: int = 2) -> list[Any]:
    """Requests in this process, over the transport that it may have inherited: status and whether reused."""

    async def run() -> list[Any]:
        answers = []
        async with world.client(transport=transport) as client:
            for _ in range(count):
                response = await client.get(url)
                answers.append([response.status_code, response.extensions["agent"].reused])
        return answers

    if world.is_sync:
        with httpx.Client(transport=transport, trust_env=False) as client:
            responses = [client.get(url) for _ in range(count)]
        return [[response.status_code, response.extensions["agent"].reused] for response in responses]
    return in_a_thread(lambda: trio.run(run) if world.name == "trio" else asyncio.run(run()))  # type: ignore[no-any-return]


@pytest.fixture(params=["plain", "tls"])
def any_server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Server]:
    with Server(tls=certificates.server() if request.param == "tls" else None) as running:
        yield running


async def test_parent_and_child_go_on_working(world: World, any_server: Server, certificates: Certificates) -> None:
    agent = Agent(verify=certificates.client())
    transport = AgentTransport(agent=agent)
    url = f"{any_server.url}/echo"

    def in_child() -> Any:
        before = [len(agent.sockets()), agent.status().create_socket_count, len(transport._pool._requests)]
        return before, ask(world, transport, url), agent.status().create_socket_count

    async with world.client(transport=transport) as client:
        await client.get(url)
        with child(in_child) as other:
            assert other.tell() == [[0, 0, 0], [[200, False], [200, True]], 1]
            for _ in range(2):
                assert (await client.get(url)).extensions["agent"].socket_id == 0
    assert [peer.number for peer in any_server.peers] == [0, 1]
    assert agent.status().request_count == 3
    await world.close(agent)
    any_server.wait_closed()


async def test_the_server_sees_the_parents_fin_while_the_child_lives(
    world: World, any_server: Server, certificates: Certificates
) -> None:
    """One free socket, one with a response half read."""
    agent = Agent(verify=certificates.client())
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(f"{any_server.url}/echo")
        async with client.stream("GET", f"{any_server.url}/hold-body/never"):
            await client.get(f"{any_server.url}/echo")
            with child(lambda: None) as other:
                other.tell()
                assert any_server.open == 2
                await world.close(agent)
                any_server.gate("never").open()  # the server looks up, and finds it closed
                any_server.wait_closed()


async def test_the_parents_loop_gets_its_events_while_the_child_lives(
    world: World, any_server: Server, certificates: Certificates
) -> None:
    """A response that was on its way at the fork arrives, and a free socket that the server closes is noticed."""
    agent = Agent(verify=certificates.client())
    transport = AgentTransport(agent=agent)

    def in_child() -> Any:
        for peer in any_server.peers:  # the server is a part of this process: its own copies would hold back its FIN
            os.close(peer.sock.detach())
        return ask(world, transport, f"{any_server.url}/echo")

    async with world.client(transport=transport) as client:
        await world.gather(*[lambda: client.get(f"{any_server.url}/echo")] * 2)
        async with world.tasks() as tasks:
            job = tasks.start(client.get, f"{any_server.url}/hold/a")
            await world.until(lambda: any_server.gate("a").waiting == 1)
            with child(in_child) as other:
                other.tell()
                any_server.gate("a").open()
                assert (await job.wait()).result().text == "held"
                assert agent.sockets()
                # A client that has read a response may be here before the server's thread has gone back to waiting.
                any_server.wait_for(lambda: all(peer.is_idle for peer in any_server.peers if peer.is_open))
                any_server.close_idle()
                await world.until(lambda: agent.sockets() == ())
                assert (await client.get(f"{any_server.url}/echo")).status_code == 200
    await world.close(agent)


async def test_a_response_that_is_open_at_the_fork_is_the_parents(
    world: World, any_server: Server, certificates: Certificates
) -> None:
    transport = AgentTransport(verify=certificates.client())

    def read_in_child(response: Any) -> Any:
        def read() -> Any:
            if world.is_sync:
                with pytest.raises(httpx.ReadError) as raised:
                    response.sync.read()
                response.sync.close()
                return str(raised.value)

            async def aread() -> str:
                with pytest.raises(httpx.ReadError) as raised:
                    await response.aread()
                await response.aclose()
                return str(raised.value)

            return trio.run(aread) if world.name == "trio" else asyncio.run(aread())

        return in_a_thread(read), len(transport.agent.sockets())

    async with world.client(transport=transport) as client:
        async with client.stream("GET", f"{any_server.url}/hold-body/b") as response:
            with child(functools.partial(read_in_child, response)) as other:
                where = f"GET {any_server.url}"
                assert other.tell() == [f"{where}: the process was forked while the request was in flight", 0]
                any_server.gate("b").open()
                assert await response.aread() == b"first last"
        assert (await client.get(f"{any_server.url}/echo")).extensions["agent"].reused


@pytest.mark.parametrize("step", ["connecting", "shaking hands"])
async def test_a_socket_that_is_being_opened_at_the_fork(world: World, server: Server, step: str) -> None:
    """The child closes it too: that of a thread or asyncio at any moment, that of trio once it is connected."""
    agent = Agent(verify=False)

    def noted_descriptors() -> list[int]:
        return [number for socket in agent._dispatcher._sockets.values() for number in socket.wire.descriptors._files]

    with hanging_port() as port:
        url = f"http://127.0.0.1:{port}/" if step == "connecting" else f"https://{server.netloc}/"
        async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
            async with world.tasks() as tasks:
                tasks.start(client.get, url)
                if step == "shaking hands":
                    await world.until(lambda: server.peers and server.peers[0].buffer)
                elif world.name != "trio":
                    await world.until(noted_descriptors)
                else:
                    await world.settle()
                noted = noted_descriptors()

                def still_open() -> list[int]:
                    return [number for number in noted if _fork._file(number) is not None]

                assert sorted(still_open()) == sorted(noted)
                with child(still_open) as other:
                    assert other.tell() == []
                    await world.close(agent)
                    server.wait_closed()


def test_a_pool_of_processes(any_server: Server, certificates: Certificates) -> None:
    """`multiprocessing`, with a transport that the children find in a global variable."""
    global inherited
    server = any_server
    inherited = AgentTransport(verify=certificates.client())
    with httpx.Client(transport=inherited, trust_env=False) as client:
        client.get(f"{server.url}/echo")
        with multiprocessing.get_context("fork").Pool(2) as pool:
            answers = pool.map(get_with_the_inherited, [f"{server.url}/echo"] * 6)
            assert [status for status, _ in answers] == [200] * 6
            assert len({process for _, process in answers} | {os.getpid()}) >= 2
            pool.close()
            pool.join()
        assert client.get(f"{server.url}/echo").extensions["agent"].socket_id == 0
        assert len(server.peers[0].requests) == 2
    server.wait_closed()


inherited: AgentTransport


def get_with_the_inherited(url: str) -> tuple[int, int]:
    async def aget() -> int:
        async with httpx.AsyncClient(transport=AgentTransport(agent=inherited.agent), trust_env=False) as client:
            return (await client.get(url)).status_code

    statuses = {httpx.Client(transport=inherited, trust_env=False).get(url).status_code, asyncio.run(aget())}
    (status,) = statuses
    return status, os.getpid()


PROGRAM = """
import asyncio, os, sys
import httpx
from httpx_agent import AgentTransport
url, kind = sys.argv[1:]
transport = AgentTransport(verify=False)

def check(response):
    assert response.status_code == 200

async def main():
    client = httpx.AsyncClient(transport=transport)
    check(await client.get(url))
    if os.fork() == 0:
        return "child"
    os.wait()
    response = await client.get(url)
    assert response.extensions["agent"].reused
    return "parent"

def sync_main():
    client = httpx.Client(transport=transport)
    check(client.get(url))
    who = "parent"
    if os.fork() == 0:
        who = "child"
    else:
        os.wait()
    check(client.get(url))
    client.close()
    return who

who = sync_main() if kind == "sync" else asyncio.run(main())
print(who, len(transport.agent.sockets()))
"""


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_both_end_without_a_word(any_server: Server, kind: str) -> None:
    """The child even leaves the loop that it inherited (asyncio bears that), and the parent's socket serves on."""
    folder = Path(__file__).parents[2]
    quiet = ["-W", "error", "-W", "ignore:.*multi-threaded:DeprecationWarning"]
    result = subprocess.run(
        [sys.executable, *quiet, "-c", PROGRAM, f"{any_server.url}/echo", kind],
        cwd=folder,
        env=dict(clean_environment()),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.stderr, result.stdout, result.returncode) == ("", "child 0\nparent 0\n", 0)
    any_server.wait_closed()


def test_a_fork_in_uvloop(any_server: Server, certificates: Certificates) -> None:
    """Whose streams hide their sockets."""
    uvloop = pytest.importorskip("uvloop")
    transport = AgentTransport(verify=certificates.client())
    url = f"{any_server.url}/echo"

    async def main() -> None:
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            await client.get(url)
            with child(lambda: ask(World("asyncio"), transport, url)) as other:
                assert other.tell() == [[200, False], [200, True]]
                assert (await client.get(url)).extensions["agent"].reused
                await client.aclose()
                any_server.wait_for(lambda: not any_server.peers[0].is_open)

    uvloop.run(main())


def test_a_fork_under_the_agents_lock(server: Server) -> None:
    """Another thread may hold it when the process forks; it does not exist in the child."""
    transport = AgentTransport()
    with httpx.Client(transport=transport, trust_env=False) as client:
        client.get(f"{server.url}/echo")
        locked, done = threading.Event(), threading.Event()

        def hold() -> None:
            with transport.agent._dispatcher._lock, transport.agent._dispatcher.sync_home.watcher._lock:
                locked.set()
                done.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        locked.wait(20)
        with child(lambda: ask(World("sync"), transport, f"{server.url}/echo")) as other:
            assert other.tell() == [[200, False], [200, True]]
        done.set()
        thread.join()


async def end_threads(world: World, agent: Agent) -> None:
    """Ends those of the agent, as none of them is left in a child."""
    for home in (agent._dispatcher.sync_home, *agent._dispatcher._homes.values()):
        watcher = home.watcher
        if isinstance(watcher, ThreadWatcher):
            watcher.stop()
            await world.until(lambda watcher=watcher: watcher._selector is None)


def test_what_a_child_does(
    world: World, any_server: Server, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same by hand, in this process, where closing a descriptor ends the connection."""
    buried = len(_fork._remains)

    async def main() -> None:
        agent = Agent(verify=certificates.client())
        transport = AgentTransport(agent=agent)
        async with world.client(transport=transport) as client:
            async with client.stream("GET", f"{any_server.url}/hold-body/c") as response:
                sockets = [socket_of(response), socket_of(await client.get(f"{any_server.url}/echo"))]
                homes = list(agent._dispatcher._homes.values())
                await end_threads(world, agent)

                monkeypatch.setattr(_fork, "_restartables", weakref.WeakSet([agent._dispatcher]))
                _fork.opening.acquire()
                _fork._after_fork()

                assert agent.sockets() == ()
                assert len(transport._pool._requests) == 0
                assert len(_fork._remains) - buried == (0 if world.is_sync else 3)  # two sockets and a home
                assert all(home._ended for home in homes)
                any_server.gate("c").open()
                any_server.wait_closed()
                with pytest.raises(httpx.ReadError, match="the process was forked while the request was in flight"):
                    await response.aread()
            answers = await to_thread.run_sync(ask, world, transport, f"{any_server.url}/echo")
            assert answers == [[200, False], [200, True]]
        await world.close(agent)
        for inherited in sockets:
            inherited.detach()  # its number is another file's by now

    with warnings.catch_warnings():  # in a child they are kept for ever
        warnings.simplefilter("ignore", ResourceWarning)
        world.run(main)
        del _fork._remains[buried:]
        gc.collect()


def socket_of(response: Any) -> socket.socket:
    """The system's socket that a response came over; asyncio and trio show it in a wrapping."""
    found = response.extensions["network_stream"].get_extra_info("socket")
    return getattr(found, "_sock", found)  # type: ignore[no-any-return]


async def test_what_a_child_does_without_sockets_of_the_system(world: World) -> None:
    """A network backend of the user's may have none; such a stream is forgotten."""
    network = Network()
    transport = AgentTransport(**network.options)
    async with world.client(transport=transport) as client:
        await client.get("http://a.test/")
        await end_threads(world, transport.agent)
        transport.agent._dispatcher.after_fork()
        assert transport.agent.sockets() == ()
        await client.get("http://a.test/")
        assert len(network.connections) == 2


def test_a_child_knows_the_agents_of_its_parent() -> None:
    """Also one that is sent only after the fork, as a pool of processes does it: the worker has that one already."""
    agent = Agent()
    transport = AgentTransport(agent=agent)
    with child(lambda: pickle.dumps(transport).hex()) as other:
        assert pickle.loads(bytes.fromhex(other.tell())).agent is agent


def test_a_fork_while_an_agent_is_unpickled() -> None:
    """Whose lock would be held for ever in the child."""
    agent = Agent()
    pickled = pickle.dumps(agent)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with _pickling.identities._lock:
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    with child(lambda: pickle.loads(pickled) is agent) as other:
        assert other.tell() is True
    done.set()
    thread.join()


def test_a_watcher_whose_thread_stayed_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a child there is what it had, the selector, but no thread; it begins anew when there is something to do."""
    started: list[str] = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread.name))
    watcher = ThreadWatcher(World("sync"), lambda: 0.0)  # type: ignore[arg-type]
    for turn in range(2):
        watcher.watch(0, 7)
        watcher.arm(5.0)
        selector = watcher._selector
        assert selector is not None
        assert started == ["httpx-agent"] * (turn + 1)
        watcher.disown()
        assert watcher._selector is None
        assert selector._ear.fileno() == -1


def test_a_descriptor_that_means_something_else_by_now_is_left_alone() -> None:
    descriptors = _fork.Descriptors()
    first, second = socket.socketpair()
    number = first.fileno()
    descriptors.note(number)
    descriptors.note(second.fileno())
    first.close()
    with open(os.devnull) as other:
        assert other.fileno() == number
        descriptors.close()
        os.fstat(number)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(second.fileno())
    second.detach()
    descriptors.note(number)  # closed: nothing to note
    descriptors.close()


both_engines = pytest.mark.parametrize("engine", ["httptools", "h11"])


@pytest.mark.bug("B29")
@both_engines
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_does_not_use_its_parents_sockets(stack: Stack, server: Server, engine: str) -> None:
    """httpx: the child's request goes out on the parent's socket. See also `tests/behaviour/test_fork.py`."""
    transport = stack.transport(is_sync=True, http1_engine=engine)
    with httpx.Client(transport=transport, timeout=5, trust_env=False) as client:
        client.get(f"{server.url}/echo")
        process = os.fork()
        if process == 0:
            code = 1
            try:
                code = int(client.get(f"{server.url}/echo").status_code != 200)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        client.get(f"{server.url}/echo")
    assert server.requests_per_connection == [2, 1]
