"""A response that its caller drops, neither read nor closed, gives its slot back when it is collected."""

from __future__ import annotations

import _thread
import gc
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import anyio
import httpx
import pytest
from anyio import to_thread

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import HANG, Network, Script, chunked, respond
from tests.support.worlds import World

URL = "http://a.test/"
UNFINISHED = Script(chunked(b"first", HANG, end=False), then=respond(b"ok"))


class Waste:
    """A response that only the collector can find."""

    def __init__(self) -> None:
        self.itself = self
        self.response: Any = None


async def waste(world: World, transport: AgentTransport) -> Waste:
    """Asks for a response, in this thread, so that no other one keeps it."""
    wasted = Waste()
    request = httpx.Request("GET", URL, extensions={"timeout": {"pool": 1}})
    if world.is_sync:
        wasted.response = transport.handle_request(request)
    else:
        wasted.response = await transport.handle_async_request(request)
    return wasted


@contextmanager
def collecting() -> Iterator[list[warnings.WarningMessage]]:
    """The collector comes only when it is called; gives the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.disable()
        try:
            yield caught
        finally:
            gc.enable()


@pytest.mark.parametrize("where", ["here", "another thread", "under the lock", "under the lock of the watcher"])
async def test_a_request_that_waits_gets_the_slot(world: World, where: str) -> None:
    """At once, with no other request to help; whoever collects it, and whatever it holds."""
    network = Network(UNFINISHED)
    agent = Agent(max_sockets=1, **network.options)
    transport = AgentTransport(agent=agent)
    async with world.client(transport=transport, timeout=5) as client:
        with collecting() as caught:
            wasted = await waste(world, transport)
            async with world.tasks() as tasks:
                job = tasks.start(client.get, URL)
                await world.until(lambda: agent.status().requests == {"http://a.test:80": 1})
                del wasted
                if where == "another thread":
                    await to_thread.run_sync(gc.collect)
                elif where == "here":
                    gc.collect()
                else:
                    dispatcher = agent._dispatcher
                    with dispatcher._lock if where == "under the lock" else dispatcher.sync_home.watcher._lock:
                        gc.collect()
                await job.wait()
    assert job.result().text == "ok"
    (warning,) = caught
    assert str(warning.message) == (
        "the response to GET http://a.test:80 was neither read nor closed, which costs its socket"
    )
    assert warning.category is ResourceWarning
    assert agent.status().request_error_count == 1
    assert agent.status().close_socket_count == 1
    await world.close(agent)
    assert network.open == 0


async def test_a_request_of_another_home_gets_the_slot(world: World) -> None:
    """The limit holds over the sync world and the event loop; so does what comes free."""
    network = Network(UNFINISHED)
    agent = Agent(max_total_sockets=1, **network.options)
    transport = AgentTransport(agent=agent)
    with collecting():
        wasted = await waste(world, transport)
        if world.is_sync:
            async with httpx.AsyncClient(transport=transport, timeout=5, trust_env=False) as other:
                async with world.tasks() as tasks:
                    job = tasks.start(other.get, URL)
                    await world.until(lambda: agent.status().requests)
                    del wasted
                    gc.collect()
        else:
            with httpx.Client(transport=transport, timeout=5, trust_env=False) as client:
                async with world.tasks() as tasks:
                    job = tasks.start(to_thread.run_sync, client.get, URL)
                    await world.until(lambda: agent.status().requests)
                    del wasted
                    gc.collect()
    assert job.result().status_code == 200
    await agent.aclose()
    assert network.open == 0


async def test_the_line_that_asked_is_named_where_it_is_known(world: World) -> None:
    """By `tracemalloc`, as Python shows it behind a warning, and by `debug=True`, in the warning."""
    network = Network(default=UNFINISHED)
    agent = Agent(debug=True, **network.options)
    tracemalloc.start(40)
    try:
        with collecting() as caught:
            wasted = await waste(world, AgentTransport(agent=agent))
            del wasted
            gc.collect()
            (warning,) = caught
            allocated = tracemalloc.get_object_traceback(warning.source)
            assert allocated is not None
            lines = [frame.lineno for frame in allocated if frame.filename == __file__]
            del warning.source, caught[:]
    finally:
        tracemalloc.stop()
    function = waste.__code__
    named = {function.co_firstlineno + offset for offset in range(12)}
    assert named & set(lines)
    assert f", asked for at {__file__}:" in str(warning.message)
    assert int(str(warning.message).partition(f"{__file__}:")[2].partition(",")[0]) in named
    await world.close(agent)
    await world.until(lambda: network.open == 0)


def test_where_no_thread_can_be_started_the_next_request_clears_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is when the system has no more threads, or the interpreter is about to end."""

    def refuse(function: Any, arguments: Any) -> None:
        raise RuntimeError("can't start new thread")

    network = Network(UNFINISHED)
    with AgentTransport(max_sockets=1, **network.options) as transport, collecting():
        response = transport.handle_request(httpx.Request("GET", URL))
        monkeypatch.setattr(_thread, "start_new_thread", refuse)
        del response
        assert sum(transport.agent.status().sockets.values()) == 1
        request = httpx.Request("GET", URL, extensions={"timeout": {"pool": 1}})
        assert transport.handle_request(request).read() == b"ok"
    assert network.open == 0


def test_the_collector_in_the_middle_of_everything() -> None:
    """Forty threads, and a collector that runs all the time, in whichever thread and wherever that happens to be."""
    network = Network(default=Script(chunked(b"first", HANG, end=False), chunked(b"first", HANG, end=False)))
    agent = Agent(max_sockets=4, **network.options)
    transport = AgentTransport(agent=agent)
    failures: list[BaseException] = []

    def drop_some() -> None:
        try:
            for _ in range(5):
                wasted = Waste()
                request = httpx.Request("GET", URL, extensions={"timeout": {"pool": 20}})
                wasted.response = transport.handle_request(request)
        except BaseException as error:
            failures.append(error)

    before = gc.get_threshold()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.set_threshold(50, 2, 2)
        try:
            threads = [threading.Thread(target=drop_some) for _ in range(40)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                gc.collect()
        finally:
            gc.set_threshold(*before)
        gc.collect()
    assert failures == []
    assert len(caught) == 200
    anyio.run(World("sync").until, lambda: agent.sockets() == ())
    assert agent.status().request_error_count == 200
    assert network.open == 0
    assert network.peak == 4
    agent.close()


LOCKS: dict[str, Callable[[Agent], Any]] = {
    "the agent's": lambda agent: agent._dispatcher._lock,
    "a watcher's": lambda agent: agent._dispatcher.sync_home.watcher._lock,
    "that of the TLS sessions": lambda agent: agent._dispatcher.connector.sessions._lock,
    "none": lambda agent: nullcontext(),
}


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("what", ["a generator that closes its response", "an object that closes its client"])
def test_what_a_finaliser_closes_under_a_lock(lock: str, what: str) -> None:
    """B8: the collector runs it wherever it likes; what cannot be done there is done soon after, elsewhere."""
    network = Network(UNFINISHED)
    agent = Agent(max_sockets=1, **network.options)
    transport = AgentTransport(agent=agent)
    client = httpx.Client(transport=transport, timeout=5, trust_env=False)

    def read() -> Iterator[bytes]:
        with client.stream("GET", URL) as response:
            yield from response.iter_raw()

    class Wrapper:
        def __init__(self) -> None:
            self.itself = self
            self.parts = read()
            next(self.parts)

        def __del__(self) -> None:
            if what == "an object that closes its client":
                agent.close()

    def collect() -> None:
        with LOCKS[lock](agent):
            gc.collect()
        done.set()

    done = threading.Event()
    with collecting():
        wrapper = Wrapper()
        assert network.open == 1
        del wrapper
        threading.Thread(target=collect, daemon=True).start()
        assert done.wait(5)
        assert client.get(URL).text == "ok"
    assert len(transport._pool._requests) == 0  # type: ignore[arg-type]
    anyio.run(World("sync").until, lambda: agent.status().request_error_count == 1)
    agent.close()
    assert network.open == 0
