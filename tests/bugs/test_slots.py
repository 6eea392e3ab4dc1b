"""Slots that are lost, taken twice, or given away at the wrong moment: B1 to B9, B14, B19, B20, B23.

Each docstring says what happened on the stock transport: see `tests.bugs.on_stock`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import warnings
from contextlib import suppress
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from httpx_agent._locks import Signal
from httpx_agent.testing import HANG, Gate, Network, Script, chunked, respond
from httpx_agent.testing import _network as scripted
from tests.bugs.stock import Stack
from tests.support.worlds import World, _Counted

A, B, C = "http://a.test/", "http://b.test/", "http://c.test/"

AT_ONCE = httpx.Timeout(5.0, pool=0.2)
"""More than a request needs that finds a slot; one that has to wait for a lost one gives up."""

UNFINISHED = chunked(b"first", HANG, end=False)


@pytest.mark.bug("B1")
@pytest.mark.in_loops
async def test_b01_a_cancellation_between_connect_and_request_gives_the_slot_back(world: World, stack: Stack) -> None:
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
def test_b02_a_cancellation_in_the_tick_of_the_assignment_gives_the_slot_back(stack: Stack) -> None:
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


class LateEvent(threading.Event):
    """A wait of some fifty seconds ends when the event is set, and says that the time was over."""

    def wait(self, timeout: float | None = None) -> bool:
        happened = super().wait(timeout)
        return happened and not is_long(timeout)


def is_long(timeout: float | None) -> bool:
    """As no other wait in these tests."""
    return timeout is not None and 40 < timeout <= 50


LONG = httpx.Timeout(5.0, pool=50.0)


@pytest.mark.bug("B3")
def test_b03_a_pool_timeout_that_meets_the_assignment_gives_the_slot_back(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx: `PoolTimeout` of the next request."""
    monkeypatch.setattr(threading, "Event", LateEvent)
    network = Network(Script(UNFINISHED))
    transport = stack.transport(is_sync=True, max_total_sockets=1, **network.options)
    with httpx.Client(transport=transport, timeout=LONG, trust_env=False) as client:
        holder = client.send(client.build_request("GET", A), stream=True)

        def wait_in_line() -> None:
            with suppress(httpx.PoolTimeout):
                client.get(B)

        waiter = threading.Thread(target=wait_in_line)
        waiter.start()
        anyio.run(World("sync").until, lambda: stack.waiting(transport) == 1)
        holder.close()
        waiter.join()
        assert client.get(C, timeout=AT_ONCE).status_code == 200
    assert network.peak == 1


@pytest.mark.bug("B4")
async def test_b04_the_limit_of_free_sockets_counts_free_sockets(world: World, stack: Stack) -> None:
    """httpx: 7 connects. While three requests are in flight no socket is kept, as four are more than two."""
    gate = Gate()
    network = Network(*[Script([gate, respond()])] * 3)
    transport = stack.transport(is_sync=world.is_sync, max_total_free_sockets=2, **network.options)
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        for _ in range(3):
            tasks.start(client.get, A)
        await world.until(lambda: network.request_count == 3)
        for _ in range(4):
            await client.get(A)
        connects = len(network.connections)
        gate.open()
    assert connects == 4


@pytest.mark.bug("B5")
async def test_b05_a_release_wakes_one_request(world: World, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx: with twenty in line a request waits 10 times on average (sync), and is resumed more often the longer the
    line is (in loops).
    """
    waits = 0

    class CountingEvent(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal waits
            waits += is_long(timeout)
            return super().wait(timeout)

    monkeypatch.setattr(threading, "Event", CountingEvent)

    async def cost(count: int) -> float:
        nonlocal waits
        waits = 0
        gates = [Gate() for _ in range(count)]
        network = Network(Script(*[[gate, respond()] for gate in gates]))
        transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
        async with world.client(transport=transport, timeout=LONG) as client:

            async def get() -> None:
                nonlocal waits
                request = _Counted(client.get(A), 0, lambda: None)
                await request
                if not world.is_sync:
                    waits += request.suspensions

            async with world.tasks() as tasks:
                for _ in range(count):
                    tasks.start(get)
                for turn, gate in enumerate(gates):  # each has its turn, and the others wait again
                    left = count - 1 - turn
                    await world.until(
                        lambda turn=turn, left=left: (
                            network.request_count == turn + 1 and stack.waiting(transport) == left
                        )
                    )
                    gate.open()
        return waits / count

    few, many = await cost(5), await cost(20)
    assert many <= few + 1


@pytest.mark.bug("B6")
async def test_b06_the_pool_timeout_is_one_deadline(world: World, stack: Stack) -> None:
    """httpx: served after some 0.75 s, where 0.3 were allowed; the time begins anew whenever another is faster."""
    gates = [Gate() for _ in range(5)]
    network = Network(Script(*[[gate, respond()] for gate in gates]))
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
    async with world.client(transport=transport, timeout=10) as client, world.tasks() as tasks:
        for number in range(5):
            tasks.start(client.get, A)
            await world.until(lambda number=number: network.request_count + stack.waiting(transport) == number + 1)
        impatient = tasks.start(client.get, A, timeout=httpx.Timeout(10, pool=0.3))
        for gate in gates:  # one after the other is served, in less than its timeout
            await anyio.sleep(0.15)
            gate.open()
    assert isinstance(impatient.exception, httpx.PoolTimeout)


@pytest.mark.bug("B7")
def test_b07_a_socket_is_not_closed_under_a_request(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx: `ReadError`; the free socket that had been assigned is closed for another origin.

    `second` is held between its assignment and its first step, until `other` is about to close something, or waits;
    and `other` is held there until `second` has sent its request.
    """
    woken, go_on = threading.Event(), threading.Event()

    def hold(wait: Any) -> Any:
        def wait_and_be_held(self: Any, timeout: float | None = None) -> Any:
            happened = wait(self, timeout)
            if is_long(timeout):
                woken.set()
                go_on.wait(10)
            return happened

        return wait_and_be_held

    class HeldEvent(threading.Event):
        wait = hold(threading.Event.wait)

    class Closing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("close.started") and not go_on.is_set():
                go_on.set()
                network.wait_for(lambda: network.request_count >= 2)

    monkeypatch.setattr(threading, "Event", HeldEvent)
    monkeypatch.setattr(Signal, "wait", hold(Signal.wait))
    first_gate, second_gate = Gate(), Gate()
    network = Network(Script([first_gate, respond()], [second_gate, respond()]))
    transport = stack.transport(is_sync=True, max_total_sockets=1, **network.options)
    logger = logging.getLogger("httpcore.connection")
    handler = Closing()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    outcomes: dict[str, Any] = {}

    def get(name: str, url: str, timeout: httpx.Timeout) -> threading.Thread:
        def run() -> None:
            try:
                outcomes[name] = client.get(url, timeout=timeout).status_code
            except httpx.HTTPError as error:
                outcomes[name] = repr(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    with httpx.Client(transport=transport, trust_env=False) as client:
        threads = [get("first", A, LONG)]
        network.wait_for(lambda: network.request_count == 1)
        threads.append(get("second", A, LONG))
        anyio.run(World("sync").until, lambda: stack.waiting(transport) == 1)
        first_gate.open()
        assert woken.wait(10)
        threads.append(get("other", B, httpx.Timeout(5.0)))
        anyio.run(World("sync").until, lambda: go_on.is_set() or (not stack.is_stock and stack.waiting(transport) == 1))
        go_on.set()
        network.wait_for(lambda: network.request_count >= 2)
        if stack.is_stock:
            threads[2].join()  # it has closed the socket, and gone on
        second_gate.open()
        for thread in threads:
            thread.join()
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)
    assert outcomes == {"first": 200, "second": 200, "other": 200}
    assert network.peak == 1


@pytest.mark.bug("B8")
def test_b08_the_collector_may_run_in_the_middle_of_a_decision(stack: Stack) -> None:
    """httpx: a deadlock; the finaliser of a response that is half read wants the lock that its own thread holds."""
    network = Network(Script(UNFINISHED))
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
async def test_b09_a_dropped_response_gives_its_slot_back(world: World, stack: Stack) -> None:
    """httpx: `PoolTimeout`."""
    network = Network(default=Script(then=UNFINISHED))
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
async def test_b14_a_half_read_response_leaves_nothing_behind(world: World, stack: Stack) -> None:
    """httpx2 (httpx does not have it): ten requests stay in the pool's list, and the next one has a `PoolTimeout`."""
    network = Network(default=Script(then=UNFINISHED), library=stack.httpcore)
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


@pytest.mark.bug("B19")
async def test_b19_a_socket_counts_until_it_is_closed(
    world: World, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx: two sockets are open where one is allowed; the new one connects while the old one is being closed."""
    gate, slow = Gate(), Gate()
    network = Network(Script([gate, respond()]))
    network.adopt(slow)
    close, aclose = scripted._Stream.close, scripted._AsyncStream.aclose
    closing = 0

    def close_slowly(self: Any) -> None:
        nonlocal closing
        closing += 1
        network._wait(lambda: slow.is_open, None, AssertionError)
        close(self)

    async def aclose_slowly(self: Any) -> None:
        nonlocal closing
        closing += 1
        await network._wait_async(lambda: slow.is_open, None, AssertionError)
        await aclose(self)

    monkeypatch.setattr(scripted._Stream, "close", close_slowly)
    monkeypatch.setattr(scripted._AsyncStream, "aclose", aclose_slowly)
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        tasks.start(client.get, A)
        await world.until(lambda: network.request_count == 1)
        other = tasks.start(client.get, B)
        await world.until(lambda: stack.waiting(transport) == 1)
        gate.open()
        await world.until(lambda: closing == 1)
        if stack.is_stock:
            await world.until(lambda: len(network.connections) == 2)
        slow.open()
    assert other.result().status_code == 200
    assert network.peak == 1
    assert network.open == 0


@pytest.mark.bug("B20")
async def test_b20_closing_fails_those_that_wait(world: World, stack: Stack) -> None:
    """httpx: they go on waiting; when the one in flight is over, they open sockets in the closed pool."""
    gate = Gate()
    network = Network(Script([gate, respond()]))
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        tasks.start(client.get, A)
        await world.until(lambda: network.request_count == 1)
        waiting = [tasks.start(client.get, url) for url in (A, B)]
        await world.until(lambda: stack.waiting(transport) == 2)
        await world.close(transport)
        gate.open()
        for job in waiting:
            assert isinstance((await job.wait()).exception, httpx.ConnectError)
    assert len(network.connections) == 1
    assert network.open == 0


@pytest.mark.bug("B23")
async def test_b23_only_the_chosen_socket_is_polled(world: World, stack: Stack) -> None:
    """httpx: 10 free sockets are polled for each request, 220 times in all."""
    network = Network()
    transport = stack.transport(is_sync=world.is_sync, **network.options)
    urls = [f"http://{number}.test/" for number in range(10)]
    async with world.client(transport=transport) as client:
        for url in urls:
            await client.get(url)
        before = network.polls
        for url in urls:
            await client.get(url)
        assert network.polls - before <= len(urls)
        assert len(network.connections) == len(urls)
