"""Send many requests at once: `fire` sends them, a `Tally` records the results."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx

from httpx_agent import Agent, AgentStatus, AgentTransport, RequestInfo

#: Seconds until Ctrl-C is noticed, at the latest: if it comes just before Python begins to wait, it ends no wait.
NOTICED = 0.5


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send.

    Attributes:
        agent: Manages the sockets; closed at the end.
        urls: The URLs to request, each in turn.
        requests: Total number of requests.
        concurrency: Number of requests at a time.
        in_threads: Whether to use `httpx.Client` in threads instead of `httpx.AsyncClient`.
    """

    agent: Agent
    urls: tuple[httpx.URL, ...]
    requests: int
    concurrency: int
    in_threads: bool


class Tally:
    """Results of the requests, recorded by threads or tasks.

    Args:
        load: What to send.
        advance: Called after each request.

    Attributes:
        statuses: Responses by status code.
        versions: Responses by HTTP version.
        latencies: Seconds from sending a request, including its wait in the queue, to the end of its response.
        infos: What the agent reports about each response.
        seconds: From the first request to the end of the last.
        status: The agent's status at the end, before it is closed.
        connecting: Sockets that were not open yet at the end.
        interrupted: Whether it was stopped by Ctrl-C.
    """

    def __init__(self, load: Load, advance: Callable[[], None]) -> None:
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.infos: list[RequestInfo] = []
        self.seconds = 0.0
        self.status: AgentStatus = load.agent.status()
        self.connecting = 0
        self.interrupted = False
        self._load = load
        self._advance = advance
        self._lock = threading.Lock()
        self._begun = 0
        self._over = False
        self._failures: Counter[tuple[str, ...]] = Counter()
        self._messages: dict[tuple[str, ...], str] = {}
        self._start = time.perf_counter()

    @property
    def failed(self) -> int:
        """Requests without a response."""
        return self._failures.total()

    @property
    def done(self) -> int:
        """Requests that have ended."""
        return len(self.latencies) + self.failed

    def failures(self) -> list[tuple[str, int]]:
        """Return the reasons for failures and their counts, most frequent first, in the words of the first failure."""
        return [(self._messages[reason], count) for reason, count in self._failures.most_common()]

    def turns(self) -> Iterator[httpx.URL]:
        """Yield URLs to one worker, until all requests have been handed out."""
        while True:
            with self._lock:
                number = self._begun
                self._begun += 1
            if self._over or number >= self._load.requests:
                return
            yield self._load.urls[number % len(self._load.urls)]

    def answered(self, response: httpx.Response, began: float) -> None:
        """Record a response that was read to its end."""
        latency = time.perf_counter() - began
        with self._lock:
            self.statuses[response.status_code] += 1
            self.versions[response.http_version] += 1
            self.latencies.append(latency)
            self.infos.append(response.extensions["agent"])
            self._advance()

    def went_wrong(self, url: httpx.URL, error: Exception) -> None:
        """Record a failed request, unless it failed because everything is ending."""
        text = str(error)
        message = f"{type(error).__name__}: {text}" if text else type(error).__name__
        if url.host not in message:
            message += f" ({url.copy_with(userinfo=b'', path='/', query=None, fragment=None)})"
        # Durations, ports and the like vary without making it a different reason.
        reason = (url.scheme, url.netloc.decode("ascii"), re.sub(r"\d+(\.\d+)?", "0", message))
        with self._lock:
            if not self._over:
                self._failures[reason] += 1
                self._messages.setdefault(reason, message)
                self._advance()

    def end(self) -> None:
        """Let no further request begin, and record the final figures, once."""
        with self._lock:
            if self._over:
                return
            self.seconds = time.perf_counter() - self._start
            agent = self._load.agent
            self.connecting = sum(socket.state == "connecting" for socket in agent.sockets())
            self.status = agent.status()
            self._over = True


def fire(load: Load, advance: Callable[[], None]) -> Tally:
    """Send the requests, until all have ended or Ctrl-C is pressed.

    Args:
        load: What to send.
        advance: Called after each request, by one thread at a time.
    """
    tally = Tally(load, advance)
    try:
        if load.in_threads:
            _fire_in_threads(load, tally)
        else:
            asyncio.run(_fire_in_tasks(load, tally))
    except KeyboardInterrupt:
        tally.interrupted = True
        tally.end()
    return tally


def _fire_in_threads(load: Load, tally: Tally) -> None:
    workers = min(load.concurrency, load.requests)

    def work(client: httpx.Client) -> None:
        for url in tally.turns():
            began = time.perf_counter()
            try:
                with client.stream("GET", url) as response:
                    for _ in response.iter_raw():
                        pass
            except Exception as error:
                tally.went_wrong(url, error)
            else:
                tally.answered(response, began)

    with load.agent, httpx.Client(transport=AgentTransport(agent=load.agent), timeout=None) as client:
        ended: list[None] = []  # one entry per thread; after Ctrl-C, `is_alive` of Python 3.11 cannot be trusted
        all_ended = threading.Event()

        def run() -> None:
            try:
                work(client)
            finally:
                ended.append(None)
                if len(ended) == workers:
                    all_ended.set()

        threads = [threading.Thread(target=run) for _ in range(workers)]
        try:
            _start(threads)
            while not all_ended.wait(NOTICED):
                pass
        finally:  # entered before the first request, so that Ctrl-C at any moment ends the threads
            tally.end()
            while len(ended) < sum(thread.ident is not None for thread in threads):
                # This wakes threads that wait for a response. One that is just asking for a socket is woken next time.
                load.agent.close()
                all_ended.wait(0.02)


def _start(threads: list[threading.Thread]) -> None:
    for number, thread in enumerate(threads):
        try:
            thread.start()
        except RuntimeError:  # the system allows no more threads
            message = f"cannot start more than {number} threads: use a lower --concurrency"
            raise OSError(message) from None


async def _fire_in_tasks(load: Load, tally: Tally) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for url in tally.turns():
            began = time.perf_counter()
            try:
                async with client.stream("GET", url) as response:
                    async for _ in response.aiter_raw():
                        pass
            except Exception as error:
                tally.went_wrong(url, error)
            else:
                tally.answered(response, began)

    async with load.agent, httpx.AsyncClient(transport=AgentTransport(agent=load.agent), timeout=None) as client:
        tasks = [asyncio.create_task(work(client)) for _ in range(min(load.concurrency, load.requests))]
        try:
            left = set(tasks)
            while left:
                done, left = await asyncio.wait(left, timeout=NOTICED, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
        finally:
            tally.end()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
