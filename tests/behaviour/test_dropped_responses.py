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
from tests.bugs.stock import Stack
from tests.support.servers import Server
from tests.support.worlds import World

URL = "http://a.test/"

UNFINISHED = Script(chunked(b"first", HANG, end=False), then=respond(b"ok"))

A, B = "http://a.test/", "http://b.test/"

AT_ONCE = httpx.Timeout(5.0, pool=0.2)
"""More than a request needs that finds a slot; one that has to wait for a lost one gives up."""

HALF = chunked(b"first", HANG, end=False)

POOL = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 0.5}


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
        "the response to GET http://a.test:80 was neither read nor closed, so its socket cannot be reused"
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
    assert f", requested at {__file__}:" in str(warning.message)
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
    "that of the TLS sessions": lambda agent: agent._dispatcher.factory.sessions._lock,
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


@pytest.mark.bug("B8")
def test_the_collector_may_run_in_the_middle_of_a_decision(stack: Stack) -> None:
    """httpx: a deadlock; the finaliser of a response that is half read wants the lock that its own thread holds."""
    network = Network(Script(HALF))
    transport = stack.transport(is_sync=True, max_total_sockets=2, **network.options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.disable()
        client = httpx.Client(transport=transport, trust_env=False)
        response = client.send(client.build_request("GET", A), stream=True)
        iterator = response.iter_raw()
        next(iterator)
        garbage: list[Any] = [response, iterator]
        garbage.append(garbage)
        del response, iterator, garbage
        stack.under_the_lock(transport, gc.collect)
        statuses: list[int] = []
        thread = threading.Thread(target=lambda: statuses.append(client.get(B).status_code), daemon=True)
        thread.start()
        thread.join(5)
        gc.enable()
    assert statuses == [200]
    client.close()


@pytest.mark.bug("B9")
async def test_a_dropped_response_gives_its_slot_back(world: World, stack: Stack) -> None:
    """httpx: `PoolTimeout`."""
    network = Network(default=Script(then=HALF))
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            request = httpx.Request("GET", A, extensions={"timeout": AT_ONCE.as_dict()})
            if world.is_sync:  # here, not in a thread that keeps what it gave last
                response = transport.handle_request(request)
            else:
                response = await transport.handle_async_request(request)
            assert response.status_code == 200
            del response
            gc.collect()
    assert [str(warning.message).partition(" was ")[0] for warning in caught] == [
        "the response to GET http://a.test:80"
    ] * 3
    await world.close(transport)
    await world.until(lambda: network.open == 0)


@pytest.mark.bug("B14")
async def test_a_half_read_response_leaves_nothing_behind(world: World, stack: Stack) -> None:
    """httpx2 (httpx does not have it): ten requests stay in the pool's list, and the next one has a `PoolTimeout`."""
    network = Network(default=Script(then=HALF), library=stack.httpcore)
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(10):
            request = stack.httpx.Request("GET", A, extensions={"timeout": AT_ONCE.as_dict()})
            if world.is_sync:
                response = transport.handle_request(request)
                iterator = iter(response.stream)
                assert next(iterator) == b"first"
            else:
                response = await transport.handle_async_request(request)
                aiterator = aiter(response.stream)
                assert await anext(aiterator) == b"first"
                if hasattr(aiterator, "aclose"):
                    await aiterator.aclose()
                del aiterator
            iterator = None
            del response
            gc.collect()
            await world.settle()
    assert len(transport._pool._requests) == 0
    await world.close(transport)
    await world.until(lambda: network.open == 0)


@pytest.mark.both_engines
@pytest.mark.bug("B8")
@pytest.mark.parametrize("engine", ["httptools", "h11"])
def test_the_collector_may_run_in_the_middle_of_a_decision_over_real_sockets(
    stack: Stack, server: Server, engine: str
) -> None:
    """httpx: a deadlock, in the first of these tests; no collection of the process does anything after it."""
    transport = stack.transport(is_sync=True, max_total_sockets=2, http1_engine=engine)
    statuses: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.disable()
        client = httpx.Client(transport=transport, timeout=10, trust_env=False)
        response = client.send(client.build_request("GET", f"{server.url}/bytes/3000000"), stream=True)
        iterator = response.iter_raw()
        next(iterator)
        garbage: list[Any] = [response, iterator]
        garbage.append(garbage)
        del response, iterator, garbage
        stack.under_the_lock(transport, gc.collect)
        url = f"http://localhost:{server.port}/echo"
        thread = threading.Thread(target=lambda: statuses.append(client.get(url).status_code), daemon=True)
        thread.start()
        thread.join(5)
        gc.enable()
    assert statuses == [200]
    client.close()
    server.wait_closed()


@pytest.mark.both_engines
@pytest.mark.bug("B9", "B14")
@pytest.mark.parametrize("how", ["unread", "half read"])
async def test_a_dropped_response(world: World, stack: Stack, server: Server, how: str) -> None:
    """httpx: `PoolTimeout` where it is unread; half read its generator closes it. httpx2: both are lost."""
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):
            await drop(world, transport, f"{server.url}/bytes/3000000", how)
            gc.collect()
            await world.settle()  # the loop ends httpx's own generator, which held it
    assert len(transport._pool._requests) == 0
    await world.close(transport)
    server.wait_closed()


async def drop(world: World, transport: Any, url: str, how: str) -> None:
    """Asks for a response, in this thread, and forgets it."""
    request = httpx.Request("GET", url, extensions={"timeout": POOL})
    if world.is_sync:
        response = transport.handle_request(request)
        if how == "half read":
            assert next(iter(response.stream))
    else:
        response = await transport.handle_async_request(request)
        if how == "half read":
            assert await anext(aiter(response.stream))


@pytest.mark.rule("R18")
async def test_a_dropped_response_gives_its_slot_back_and_is_named(world: World) -> None:
    """Not closed and not read: once it is collected, the next request gets its slot."""
    network = Network(default=Script(then=chunked(b"first", HANG, end=False)))
    agent = Agent(max_sockets=1, debug=True, **network.options)
    transport = AgentTransport(agent=agent)
    for _ in range(3):
        request = httpx.Request("GET", URL, extensions={"timeout": {"pool": 1}})
        if world.is_sync:  # here, not in a thread that keeps what it gave last
            response = transport.handle_request(request)
        else:
            response = await transport.handle_async_request(request)
        assert response.status_code == 200
        kept = [response]
        del response
        with pytest.warns(ResourceWarning) as warned:
            kept.clear()
        assert str(warned[0].message).startswith(f"the response to GET http://a.test:80, requested at {__file__}:")
        assert str(warned[0].message).endswith("was neither read nor closed, so its socket cannot be reused")
    assert len(transport._pool._requests) == 0  # type: ignore[arg-type]
    await world.close(agent)
    await world.until(lambda: network.open == 0)


@pytest.mark.both_engines
@pytest.mark.parametrize("end", ["read", "close"])
async def test_a_body_that_has_ended_has_no_finaliser(world: World, server: Server, end: str) -> None:
    """Python swallows what a signal's handler raises in one, and most responses are read."""
    agent = Agent()
    transport = AgentTransport(agent=agent)
    request = httpx.Request("GET", f"{server.url}/echo")
    if world.is_sync:
        response = transport.handle_request(request)
    else:
        response = await transport.handle_async_request(request)
    stream: Any = response.stream
    body = stream._httpcore_stream
    assert hasattr(type(body), "__del__")
    finish = {"read": (response.read, response.aread), "close": (response.close, response.aclose)}[end]
    if world.is_sync:
        finish[0]()
    else:
        await finish[1]()
    assert not hasattr(type(body), "__del__")
    await world.close(agent)
