"""Many threads that switch every ten microseconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Certificates, Server

THREADS = 64


@contextmanager
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_threads(count: int, function: Callable[[int], Any]) -> list[BaseException]:
    """Calls in so many threads at once; gives what was raised."""
    failures: list[BaseException] = []

    def target(number: int) -> None:
        try:
            function(number)
        except BaseException as error:
            failures.append(error)

    with switching_often():
        threads = [threading.Thread(target=target, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return failures


def books_balance(agent: Agent) -> bool:
    status = agent.status()
    held = sum(status.sockets.values()) + sum(status.free_sockets.values())
    return status.create_socket_count == (
        status.create_socket_error_count + status.close_socket_count + status.detached_socket_count + held
    )


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def any_server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Server]:
    tls = certificates.server(alpn=["h2"]) if request.param == "HTTP/2" else None
    with Server(tls=tls) as running:
        yield running


def test_sixty_four_threads(any_server: Server, certificates: Certificates) -> None:
    """Each has its own answers; no limit is overstepped, and nothing is lost."""
    agent = Agent(max_sockets=10, http2=True, verify=certificates.client())
    with httpx.Client(transport=AgentTransport(agent=agent), timeout=30, trust_env=False) as client:

        def ask(number: int) -> None:
            for turn in range(8):
                size = 1000 * turn + number
                response = client.get(f"{any_server.url}/bytes/{size}")
                assert len(response.content) == size

        assert in_threads(THREADS, ask) == []
    assert agent.status().request_count == THREADS * 8
    assert any_server.accepted <= 10
    assert books_balance(agent)
    agent.close()
    any_server.wait_closed()


def test_closed_read_and_counted_while_requests_run(any_server: Server, certificates: Certificates) -> None:
    """Of 64 threads 48 ask, 8 close, 8 read options, status and sockets, and set limits, all the while."""
    agent = Agent(max_sockets=10, http2=True, verify=certificates.client())
    transport = AgentTransport(agent=agent)
    served = 0

    def work(number: int) -> None:
        nonlocal served
        if number % 8 == 0:
            for _ in range(5):
                transport.close()
                agent.close()
        elif number % 8 == 1:
            for turn in range(10):
                agent.max_sockets = 5 + turn % 5
                assert agent.options.http2
                assert sum(agent.status().sockets.values()) <= 10
                assert all(info.age >= 0 for info in agent.sockets())
                assert books_balance(agent)
                repr(agent)
        else:
            for _ in range(8):
                try:
                    assert client.get(f"{any_server.url}/echo").status_code == 200
                    served += 1
                except httpx.NetworkError as error:
                    assert "the agent was closed" in str(error)  # noqa: PT017

    with httpx.Client(transport=transport, timeout=30, trust_env=False) as client:
        assert in_threads(THREADS, work) == []
        assert client.get(f"{any_server.url}/echo").status_code == 200
    assert served
    assert books_balance(agent)
    agent.close()
    assert agent.sockets() == ()
    any_server.wait_closed()
