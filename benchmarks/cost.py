"""The pool's own cost: what a request takes among few and among many sockets, waiting requests and origins.

The transport alone is measured, without a client, with one request made once for each origin. With h11 it goes over the
network in memory of `scripted`; a custom network is always served by h11, so with httptools it goes over a Unix socket
to the benchmark's own server. All sockets of a case are opened before its time begins.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .cases import BODIES
from .contenders import TIMEOUT

if TYPE_CHECKING:
    import httpx

    from .cases import Case
    from .measure import Answer, Order, Tally

WARM_UP = 0.5
"""How long the warm-up is at least, as a part of the time measured; each task has had a response by its end."""

PAUSE = 0.02
"""Seconds between two looks whether that is so."""

STACK = 256 * 1024
"""Bytes of stack for a thread, of which thousands wait."""


def open_transport(case: Case, order: Order, engine: str) -> Any:
    """An `AgentTransport` for the case."""
    from httpx_agent import AgentTransport

    where: dict[str, Any]
    if engine == "none":
        return Relay(case)
    if engine == "h11":
        from . import scripted
        from .server import response

        answer = response(b"x" * BODIES[case.body])
        where = {
            "network_backend": scripted.Network(answer),
            "async_network_backend": scripted.AsyncNetwork(answer),
        }
    else:
        where = {"uds": order.path, "http1_engine": engine}
    return AgentTransport(max_sockets=case.sockets, max_free_sockets=case.sockets, free_socket_timeout=TIMEOUT, **where)


def make_requests(order: Order) -> list[httpx.Request]:
    """A request for each origin, as a client with a timeout makes them."""
    import httpx

    timeout = httpx.Timeout(TIMEOUT).as_dict()
    return [httpx.Request("GET", url, extensions={"timeout": timeout}) for url in order.urls]


async def measure_in_loop(case: Case, order: Order, engine: str, tally: Tally) -> Answer:
    """Measure on asyncio. Tasks that still work are left to the end of the process."""
    transport, requests = open_transport(case, order, engine), make_requests(order)

    async def begin(request: httpx.Request) -> Any:
        return (await transport.handle_async_request(request)).stream

    async def finish(stream: Any) -> None:
        length = 0
        async for part in stream:
            length += len(part)
        await stream.aclose()
        tally.read(length)

    async def work(number: int) -> None:
        for request in itertools.cycle(requests):
            await finish(await begin(request))
            fresh.discard(number)

    held = [await begin(request) for request in requests for _ in range(case.sockets or 1)]
    while held:
        await finish(held.pop())
    fresh = set(range(case.tasks))
    ended: list[asyncio.Task[None]] = []
    tasks = [asyncio.ensure_future(work(number)) for number in range(case.tasks)]
    for task in tasks:
        task.add_done_callback(ended.append)
    await asyncio.sleep(order.seconds * WARM_UP)
    while fresh and not ended:
        await asyncio.sleep(PAUSE)
    tally.start()
    await asyncio.sleep(order.seconds)
    answer = tally.stop()
    for task in ended:
        task.result()  # raises what ended it
    check(case, transport)
    return answer


def measure_in_threads(case: Case, order: Order, engine: str, tally: Tally) -> Answer:
    """Measure in threads, which are left to the end of the process."""
    transport, requests = open_transport(case, order, engine), make_requests(order)
    read = [0] * case.tasks
    failures: list[Exception] = []

    def finish(stream: Any) -> int:
        length = sum(map(len, stream))
        stream.close()
        return length

    def work(number: int) -> None:
        try:
            for request in itertools.cycle(requests):
                if finish(transport.handle_request(request).stream) == tally.length:
                    read[number] += 1
        except Exception as error:
            failures.append(error)

    held = [transport.handle_request(request).stream for request in requests for _ in range(case.sockets or 1)]
    while held:
        finish(held.pop())
    threading.stack_size(STACK)
    for number in range(case.tasks):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    time.sleep(order.seconds * WARM_UP)
    while not all(read) and not failures:
        time.sleep(PAUSE)
    before = sum(read)
    tally.start()
    time.sleep(order.seconds)
    tally.requests = sum(read) - before
    answer = tally.stop()
    if failures:
        raise failures[0]
    check(case, transport)
    return answer


class Relay:
    """As many threads as a case has, as many tokens as it has sockets, and nothing else: no pool, no request.

    Thousands of threads that wake each other cost time of the system's, whatever they wait for; this tells how much.
    """

    def __init__(self, case: Case) -> None:
        self.free = case.sockets or 1
        self.waiting: deque[threading.Event] = deque()
        self.lock = threading.Lock()
        self.body = [b"x" * BODIES[case.body]]

    def handle_request(self, request: httpx.Request) -> _Turn:
        """Wait for a token."""
        event = None
        with self.lock:
            if self.free:
                self.free -= 1
            else:
                event = threading.Event()
                self.waiting.append(event)
        if event is not None:
            event.wait(TIMEOUT)
        return _Turn(self)

    def hand_on(self) -> None:
        """Give the token to who has waited longest."""
        with self.lock:
            event = self.waiting.popleft() if self.waiting else None
            self.free += event is None
        if event is not None:
            event.set()


class _Turn:
    """What stands for a response, and for its stream."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.stream = self

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.relay.body)

    def close(self) -> None:
        self.relay.hand_on()


def check(case: Case, transport: Any) -> None:
    """What was to be there is there: the sockets, and the requests that wait.

    Raises:
        RuntimeError: If it is not; then something else was measured.
    """
    if isinstance(transport, Relay):
        return
    status = transport.agent.status()
    sockets = sum(status.sockets.values()) + sum(status.free_sockets.values())
    waiting = sum(status.requests.values())
    expected = (case.sockets or 1) * case.origins
    others = case.tasks - expected  # some of those that wait are just being served
    if sockets != expected or waiting < others - expected:
        raise RuntimeError(f"{sockets} sockets were open, not {expected}, and {waiting} requests waited")
