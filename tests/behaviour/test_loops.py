"""One transport in many event loops: in sequence, at once, of several libraries. None leaves anything behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import httpx
import pytest
import trio

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import ChaosServer, assert_no_leaks
from tests.bugs.stock import Stack
from tests.support.servers import Certificates, Server
from tests.support.worlds import WORLDS, World

LOOPS = [world for world in WORLDS if not world.is_sync]

LIMIT = 10.0


def run_asyncio(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(main())


def run_trio(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return trio.run(main)


def run_uvloop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return pytest.importorskip("uvloop").run(main())


RUNNERS = {"asyncio": run_asyncio, "uvloop": run_uvloop, "trio": run_trio}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("what", ["a free socket", "a response half read", "a request that is cancelled by the end"])
@pytest.mark.parametrize("kind", ["plain", "tls", "h2"])
def test_a_loop_that_ends_without_aclose(certificates: Certificates, runner: str, what: str, kind: str) -> None:
    """Ten in a row: no socket is left open, no slot is taken, and the next loop begins with none."""
    tls = None if kind == "plain" else certificates.server(alpn=["h2" if kind == "h2" else "http/1.1"])
    with Server(tls=tls) as server:
        agent = Agent(max_sockets=1, http2=kind == "h2", verify=certificates.client())
        transport = AgentTransport(agent=agent)

        async def main() -> None:
            client = httpx.AsyncClient(transport=transport, trust_env=False, timeout=httpx.Timeout(10, pool=1))
            if what == "a free socket":
                assert (await client.get(f"{server.url}/echo")).status_code == 200
                assert (await client.get(f"{server.url}/echo")).extensions["agent"].reused
            elif what == "a response half read":
                request = client.build_request("GET", f"{server.url}/bytes/3000000")
                kept.append(await client.send(request, stream=True))
            else:
                path = "hold/x" if kind == "h2" else "silence"
                with anyio.move_on_after(10) as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(client.get, f"{server.url}/{path}")
                        while not server.peers or not any(peer.is_open and peer.requests for peer in server.peers):
                            await anyio.sleep(0.001)
                        scope.cancel()

        kept: list[httpx.Response] = []
        for _ in range(10 if kind == "plain" else 3):
            RUNNERS[runner](main)
            assert agent.sockets() == ()
            assert agent._dispatcher._homes == {}
            server.wait_closed()


def test_loops_of_all_kinds_at_once(server: Server) -> None:
    """Two of each, in threads, with sync requests between them; the limit holds over all."""
    agent = Agent(max_total_sockets=4)
    transport = AgentTransport(agent=agent)
    outcomes: list[Any] = []

    async def ask() -> None:
        client = httpx.AsyncClient(transport=transport, timeout=20, trust_env=False)
        for _ in range(15):
            outcomes.append((await client.get(f"{server.url}/echo")).status_code)

    def ask_without_a_loop() -> None:
        client = httpx.Client(transport=transport, timeout=20, trust_env=False)
        outcomes.extend(client.get(f"{server.url}/echo").status_code for _ in range(15))

    def guarded(run: Callable[[], Any]) -> threading.Thread:
        def target() -> None:
            try:
                run()
            except BaseException as error:
                outcomes.append(error)

        return threading.Thread(target=target)

    threads = [guarded(lambda run=run: run(ask)) for run in RUNNERS.values() for _ in range(2)]
    threads += [guarded(ask_without_a_loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [200] * 120
    agent.close()
    server.wait_closed()
    assert agent.sockets() == ()


def test_trio_as_a_guest_of_asyncio(server: Server) -> None:
    """Both run in one thread, in turns, and each has sockets of its own, in whichever of them a task asks."""
    transport = AgentTransport()

    async def ask(*, until: Callable[[], bool] = lambda: True) -> list[bool]:
        reused = []
        client = httpx.AsyncClient(transport=transport, trust_env=False, timeout=10)
        while len(reused) < 3 or not until():
            reused.append((await client.get(f"{server.url}/echo")).extensions["agent"].reused)
        return reused

    async def main() -> tuple[list[bool], list[bool]]:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            ask, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
        )
        ours = await ask(until=done.done)
        theirs = done.result().unwrap()
        libraries = {socket.home.library for socket in transport.agent._dispatcher._sockets.values()}
        assert libraries == {"asyncio"}  # the sockets of trio went with its run
        await transport.aclose()
        return ours, theirs

    ours, theirs = asyncio.run(main())
    assert theirs == [False, True, True]
    assert ours == [False, *[True] * (len(ours) - 1)]
    assert server.accepted == 2


both_engines = pytest.mark.parametrize("engine", ["httptools", "h11"])


@pytest.mark.bug("B15")
@both_engines
@pytest.mark.parametrize("kept_for", [0.02, 15.0], ids=["expired", "kept"])
@pytest.mark.parametrize("loop", LOOPS, ids=str)
def test_one_transport_in_several_loops_one_after_the_other(
    stack: Stack, server: Server, loop: World, kept_for: float, engine: str
) -> None:
    """httpx: `RuntimeError: Event loop is closed` in asyncio, and `ClosedResourceError` or the like in trio."""
    transport = stack.transport(is_sync=False, free_socket_timeout=kept_for, http1_engine=engine)

    async def ask() -> int:
        client = httpx.AsyncClient(transport=transport, trust_env=False)
        return (await client.get(f"{server.url}/echo")).status_code

    for _ in range(3):
        assert loop.run(ask) == 200
        if kept_for < 1:
            time.sleep(2 * kept_for)  # its time is over when the next loop begins
    server.wait_closed()


@pytest.mark.bug("B16")
@both_engines
def test_one_transport_in_several_loops_at_once(stack: Stack, server: Server, engine: str) -> None:
    """httpx: `RuntimeError: … is bound to a different event loop`, timeouts, and other errors."""
    transport = stack.transport(is_sync=False, http1_engine=engine)
    outcomes: list[Any] = []

    async def ask() -> None:
        client = httpx.AsyncClient(transport=transport, timeout=5, trust_env=False)
        for _ in range(20):
            outcomes.append((await client.get(f"{server.url}/echo")).status_code)

    def run(loop: World) -> None:
        try:
            loop.run(ask)
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(loop,)) for loop in LOOPS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [200] * 80
    server.wait_closed()


def test_a_loop_that_ends_without_aclose_leaves_nothing_open(server: Server) -> None:
    """The agent's guard in the loop closes the sockets there and frees their slots: ten loops in a row."""
    transport = AgentTransport(max_sockets=1)
    agent = transport.agent

    async def ask() -> int:
        client = httpx.AsyncClient(transport=transport, trust_env=False)
        return (await client.get(f"{server.url}/echo")).status_code

    for _ in range(10):
        assert asyncio.run(ask()) == 200
        assert agent.sockets() == ()
        server.wait_closed()
    assert agent.status().close_socket_count == 10
    assert agent._dispatcher._homes == {}


@pytest.mark.filterwarnings("ignore:unclosed transport")  # asyncio's word on such a loop
def test_a_loop_that_was_closed_without_a_word_is_noticed_when_a_request_has_to_wait(server: Server) -> None:
    transport = AgentTransport(max_total_sockets=1)

    async def ask(transport: AgentTransport) -> None:
        await transport.handle_async_request(httpx.Request("GET", f"{server.url}/hold/never"))

    loop = asyncio.new_event_loop()
    task = loop.create_task(ask(transport))
    while len(server.requests) < 1:
        loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    with httpx.Client(transport=transport, timeout=5, trust_env=False) as client:
        assert client.get(f"{server.url}/echo").status_code == 200
    assert agent_books_balance(transport.agent)
    del task, loop, client, transport
    gc.collect()


def agent_books_balance(agent: Agent) -> bool:
    status = agent.status()
    held = sum(status.sockets.values()) + sum(status.free_sockets.values())
    return status.create_socket_count == (
        status.create_socket_error_count + status.close_socket_count + status.detached_socket_count + held
    )


@pytest.mark.parametrize(("owner", "asker"), [("asyncio", "trio"), ("trio", "asyncio")])
def test_a_free_socket_is_closed_for_a_request_elsewhere(owner: str, asker: str) -> None:
    agent = Agent(max_total_sockets=1)
    idle, over = threading.Event(), threading.Event()

    async def get(url: str, then: Callable[[], Any]) -> None:
        async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
            assert (await client.get(url, timeout=LIMIT)).text == "ok"
            await then()

    async def stay() -> None:
        idle.set()
        assert await anyio.to_thread.run_sync(over.wait, LIMIT)

    async def leave() -> None:
        assert agent.sockets()[0].origin == other.url
        one.wait_closed()  # while the loop that had opened it still runs

    with ChaosServer() as one, ChaosServer() as other:
        thread = threading.Thread(target=anyio.run, args=(get, one.url, stay), kwargs={"backend": owner})
        thread.start()
        assert idle.wait(LIMIT)
        try:
            anyio.run(get, other.url, leave, backend=asker)
        finally:
            over.set()
            thread.join(LIMIT)
        assert_no_leaks(agent)
        agent.close()
