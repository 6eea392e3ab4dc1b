"""Exceptions as a signal's handler may raise them, where the agent cannot see them, or once more on their way out."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._pool import dispatcher as _dispatcher
from httpx_agent._pool.exchange import Exchange
from httpx_agent.testing import Network, Script, assert_no_leaks, respond
from tests.support.interrupting import Interrupted, Interruption, in_another_thread
from tests.support.servers import Server


class Jar(httpx.Cookies):
    """Is interrupted whenever a response comes, as long as it is told so."""

    is_interrupted = True

    def extract_cookies(self, response: httpx.Response) -> None:
        if self.is_interrupted:
            raise Interrupted


@pytest.fixture
def no_collector() -> Iterator[None]:
    """It comes when much is made, which is long after."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.filterwarnings("ignore:the response to:ResourceWarning")
@pytest.mark.usefixtures("no_collector")
def test_a_thread_does_not_wait_for_a_response_that_it_has_lost() -> None:
    """Such a response refers to itself, and whoever waits makes nothing that has the collector come."""
    network = Network(Script(respond(), respond()), Script(respond(), respond()), Script(respond()))
    agent = Agent(**network.options, max_sockets=2)
    client = httpx.Client(transport=AgentTransport(agent=agent), trust_env=False)
    client._cookies = jar = Jar()
    for _ in range(2):
        with pytest.raises(Interrupted):
            client.get("http://a.test/")
    assert agent.status().sockets == {"http://a.test:80": 2}
    jar.is_interrupted = False
    timeout = httpx.Timeout(5, pool=0.5)
    assert client.get("http://a.test/", timeout=timeout).status_code == 200
    assert agent.status().sockets == {}
    client.close()
    agent.close()


@pytest.mark.usefixtures("no_collector")
def test_the_collector_does_not_come_for_what_is_read() -> None:
    """A thread that reads one response and waits to send another request has lost nothing."""
    network = Network(Script(respond(), respond()))
    agent = Agent(**network.options, max_sockets=1)
    client = httpx.Client(transport=AgentTransport(agent=agent), trust_env=False)
    before = gc.get_stats()[2]["collections"]
    with client.stream("GET", "http://a.test/") as response:
        parts = response.iter_raw(1)
        next(parts)
        with pytest.raises(httpx.PoolTimeout):
            client.get("http://a.test/", timeout=httpx.Timeout(5, pool=0.001))
    assert gc.get_stats()[2]["collections"] == before
    client.close()
    agent.close()


class Again(BaseException):
    """The second exception."""


def raise_again(*_: Any, **__: Any) -> Any:
    raise Again


def once(method: Any) -> Any:
    """The same, but that the first call raises."""
    calls: list[None] = []

    def run(*args: Any, **options: Any) -> Any:
        calls.append(None)
        return raise_again() if len(calls) == 1 else method(*args, **options)

    return run


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:the response to:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may be in a finaliser
@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("broken", ["_fail", "give_up"])
def test_a_second_exception(broken: str, is_used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first one had undone is not, and the next request finds that."""
    for at in range(1, 1000, 7):
        network = Network(Script(respond(), respond()), *(Script(respond()) for _ in range(3)))
        agent = Agent(**network.options, max_sockets=1)
        client = httpx.Client(transport=AgentTransport(agent=agent), trust_env=False)
        if is_used:
            client.get("http://a.test/")
        gc.collect()  # what an earlier round left must not be finalised in this one
        interruption = Interruption(at, Interrupted())
        with monkeypatch.context() as patch:
            owner = Exchange if broken == "_fail" else type(agent._dispatcher)
            patch.setattr(owner, broken, once(getattr(owner, broken)))
            try:
                with interruption:
                    client.get("http://a.test/")
            except (Interrupted, Again) as error:
                error.__context__ = None
                assert interruption.where is not None
        interruption.error.__traceback__ = None  # it has what it passed through, a response for one
        timeout = httpx.Timeout(5, pool=1)
        try:
            assert client.get("http://a.test/", timeout=timeout).status_code == 200
        except BaseException as error:
            error.add_note(f"interrupted at {interruption.where}")
            raise
        assert_no_leaks(agent)
        assert agent._dispatcher.tickets() == []
        client.close()
        agent.close()
        if interruption.where is None:
            break
    assert interruption.where is None


def test_a_second_exception_while_the_books_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lock is let go for a moment, to see whose it is: it is held again, and freed once."""
    agent = Agent()
    agent._dispatcher._is_deciding = True  # as the first one left it
    with monkeypatch.context() as patch:
        patch.setattr(_dispatcher, "is_held_here", raise_again)
        with pytest.raises(Again):
            agent.status()
    in_another_thread(agent.status)
    assert not agent._dispatcher._is_deciding
    agent.close()


@pytest.mark.parametrize("name", ["send", "recv"])
def test_a_time_limit_that_is_a_timeout_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for one of the network's it was not heard: a response that is there is read after a write that failed."""
    limit = TimeoutError("the limit")

    class Limited(socket.socket):
        __slots__ = ()

        def interrupted(self, *_: Any) -> Any:
            raise limit

    with Server() as server:
        agent = Agent(max_sockets=1)
        client = httpx.Client(transport=AgentTransport(agent=agent), trust_env=False)
        assert client.get(f"{server.url}/echo").status_code == 200
        [known] = agent._dispatcher._sockets.values()
        monkeypatch.setattr(Limited, name, Limited.interrupted, raising=False)
        known.connection._socket.__class__ = Limited
        with pytest.raises(TimeoutError) as caught:
            client.get(f"{server.url}/echo")
        assert caught.value is limit
        assert client.get(f"{server.url}/echo").status_code == 200
        client.close()
        agent.close()
