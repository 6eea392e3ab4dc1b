"""An exception at one chosen place of a decision or of its consequences, raised without a tracer.

`test_every_instruction` raises everywhere; here each repair has the case that it is there for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._pool import exchange as exchange_module
from httpx_agent._pool.bodies import Body
from httpx_agent._pool.dispatcher import Dispatcher
from httpx_agent._pool.exchange import Exchange
from httpx_agent._pool.socket import Socket
from httpx_agent._rules.core import Core
from httpx_agent._runtime.homes import Home
from httpx_agent._runtime.watchers import ThreadWatcher
from httpx_agent.testing import Gate, Network, Script, assert_no_leaks, chunked, respond
from tests.support.interrupting import Interrupted, in_another_thread
from tests.support.servers import Server

A, B = "http://a.test/", "http://b.test/"

RaiseIn = Callable[..., None]


@pytest.fixture
def raise_in(monkeypatch: pytest.MonkeyPatch) -> RaiseIn:
    """Have a method raise `Interrupted`, before it does anything or after it has done everything."""

    def patch(owner: type, name: str, *, after: bool = False, times: int = 1) -> None:
        method, left = getattr(owner, name), [None] * times

        def run(*args: Any, **options: Any) -> Any:
            if not left:
                return method(*args, **options)
            left.pop()
            if after:
                method(*args, **options)
            raise Interrupted

        monkeypatch.setattr(owner, name, run)

    return patch


def check(agent: Agent) -> None:
    """Whoever looks finds books that balance, and a request is served."""
    in_another_thread(agent.status)
    in_another_thread(agent.sockets)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        assert in_another_thread(lambda: client.get("http://z.test/", timeout=5)).status_code == 200
    assert_no_leaks(agent)
    assert not agent._dispatcher._unfinished
    assert not agent._dispatcher._is_deciding
    assert not agent._dispatcher._is_unswept
    agent.close()


def test_an_option_whose_consequences_are_interrupted(raise_in: RaiseIn) -> None:
    """The limit is raised, and the request that it lets go is woken."""
    gate = Gate()
    network = Network(Script([gate, respond()]))
    agent = Agent(max_sockets=1, **network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        threads = [threading.Thread(target=client.get, args=(A,), kwargs={"timeout": 5}) for _ in range(2)]
        for number, thread in enumerate(threads):
            thread.start()
            network.wait_for(lambda number=number: len(agent._dispatcher.tickets()) == number + 1)
        raise_in(Dispatcher, "_carry_out")
        with pytest.raises(Interrupted):
            agent.max_sockets = 2
        assert agent.max_sockets == 2
        threads[1].join(5)
        assert not threads[1].is_alive()
        gate.open()
        threads[0].join(5)
    check(agent)


def test_giving_up_free_sockets_is_interrupted(raise_in: RaiseIn) -> None:
    network = Network()
    agent = Agent(**network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        client.get(A)
        raise_in(Dispatcher, "_carry_out")
        with pytest.raises(Interrupted):
            agent._dispatcher.close_free_sockets()
        network.wait_for(lambda: network.open == 0)
        check(agent)


def test_a_thread_that_is_interrupted_again_finishes_with_its_next_request(raise_in: RaiseIn) -> None:
    network = Network()
    agent = Agent(max_total_sockets=1, **network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        client.get(A)
        raise_in(Dispatcher, "_carry_out")
        raise_in(Dispatcher, "mend")
        with pytest.raises(Interrupted):  # it has to close the socket of the other origin
            client.get(B)
        assert threading.get_ident() in agent._dispatcher._unfinished
        assert client.get(B, timeout=5).status_code == 200
        check(agent)


def test_closing_a_socket_is_interrupted_twice(raise_in: RaiseIn) -> None:
    """It is tried once more, and its slot is free then, whatever comes of that."""
    network = Network(Script(respond(headers=[("Connection", "close")])))
    agent = Agent(max_sockets=1, **network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        raise_in(Socket, "close", times=2)
        with pytest.raises(Interrupted):
            client.get(A)
        assert client.get(A, timeout=5).status_code == 200
        check(agent)


def test_closing_an_agent_is_interrupted(raise_in: RaiseIn) -> None:
    network = Network()
    agent = Agent(**network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        client.get(A)
        raise_in(Dispatcher, "_carry_out")
        with pytest.raises(Interrupted):
            agent.close()
        network.wait_for(lambda: network.open == 0)
        check(agent)


def test_the_end_of_a_request_is_interrupted_when_its_socket_is_to_be_watched(raise_in: RaiseIn) -> None:
    """Its socket is free, and is watched all the same."""
    network = Network()
    agent = Agent(**network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        client.get(A)
        raise_in(ThreadWatcher, "watch_later")
        watched = threading.Event()
        sockets_to_watch = Dispatcher.sockets_to_watch

        def look(dispatcher: Dispatcher, home: Home) -> Any:
            found = sockets_to_watch(dispatcher, home)
            watched.set()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Dispatcher, "sockets_to_watch", look)
            with pytest.raises(Interrupted):
                client.get(A)
            assert watched.wait(5)
        check(agent)


def test_a_sweep_finds_a_socket_that_is_watched(raise_in: RaiseIn) -> None:
    """It stays so."""
    agent = Agent()
    with Server() as server, httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        client.get(f"{server.url}/echo")
        [one] = agent._dispatcher._sockets.values()
        deadline = threading.Event()
        for _ in range(5000):
            if one.watched is not None:
                break
            deadline.wait(0.001)
        assert one.watched is not None
        raise_in(Dispatcher, "_carry_out")
        with pytest.raises(Interrupted):
            agent.max_sockets = 3
        assert one.watched is not None
        server.close_idle()
        for _ in range(5000):
            if not agent.sockets():
                break
            deadline.wait(0.001)
        assert agent.sockets() == ()
    agent.close()


def test_a_finaliser_in_the_middle_of_a_decision_finds_it_going_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it looks at is not taken for something that was broken off."""
    network = Network()
    agent = Agent(**network.options)
    submit, seen = Core.submit, []

    def submit_and_look(core: Core, *args: Any, **options: Any) -> Any:
        seen.append(agent._dispatcher.counters())
        return submit(core, *args, **options)

    monkeypatch.setattr(Core, "submit", submit_and_look)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        assert client.get(A).status_code == 200
        assert len(seen) == 1
        assert not agent._dispatcher._is_unswept
        check(agent)


def test_the_end_of_an_event_loop_is_interrupted(raise_in: RaiseIn) -> None:
    """Nobody is there any more to close its sockets: they leave the books, and their slots are free."""
    network = Network()
    agent = Agent(max_total_sockets=1, **network.options)

    async def ask() -> None:
        transport = AgentTransport(agent=agent)
        response = await transport.handle_async_request(httpx.Request("GET", A))
        await response.aread()
        raise_in(Core, "end_home")
        await agent._dispatcher.end_home(agent._dispatcher.find_async_home())

    with suppress(Interrupted):
        asyncio.run(ask())
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        assert client.get(B, timeout=5).status_code == 200
        check(agent)


def test_a_socket_is_closed_and_the_books_do_not_say_so(raise_in: RaiseIn) -> None:
    network = Network(Script(respond(headers=[("Connection", "close")])))
    agent = Agent(max_sockets=1, **network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        raise_in(Core, "closed", after=True)
        with pytest.raises(Interrupted):
            client.get(A)
        assert agent._dispatcher.snapshot()[1] == []
        assert client.get(A, timeout=5).status_code == 200
        check(agent)


def test_a_request_is_over_before_the_books_know_its_socket(raise_in: RaiseIn) -> None:
    """The core has opened a socket for it that nobody will open: it counts as closed."""
    network = Network()
    agent = Agent(max_sockets=1, **network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        raise_in(Core, "submit", after=True)
        raise_in(Exchange, "_fail")
        raise_in(Dispatcher, "give_up")
        with pytest.raises(Interrupted):
            client.get(A)
        assert agent._dispatcher._is_deciding
        [ticket] = agent._dispatcher._tickets.values()
        ticket.over = True
        assert agent.sockets() == ()
        assert agent.status().create_socket_error_count == 1
        assert client.get(A, timeout=5).status_code == 200
        agent.close()


def test_a_socket_stops_being_watched_and_is_interrupted(raise_in: RaiseIn) -> None:
    """The lock of its home is free."""
    network = Network()
    agent = Agent(max_total_sockets=1, **network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        client.get(A)
        [one] = agent._dispatcher._sockets.values()
        one.watched = 10_000  # no descriptor of the scripted network's is watched
        raise_in(ThreadWatcher, "unwatch")
        with pytest.raises(Interrupted):
            client.get(A)
        one.watched = None
        check(agent)


def test_a_request_is_interrupted_that_has_left_with_its_socket(raise_in: RaiseIn) -> None:
    """R25: the socket is nobody's, so it is closed."""
    network = Network(Script(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"))
    agent = Agent(max_sockets=1, **network.options)
    headers = {"Connection": "upgrade", "Upgrade": "echo"}
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        raise_in(Body, "__init__")
        with pytest.raises(Interrupted):
            client.get(A, headers=headers)
        assert agent.status().detached_socket_count == 1
        network.wait_for(lambda: network.open == 0)
        check(agent)


def test_closing_a_response_is_interrupted(raise_in: RaiseIn) -> None:
    network = Network(Script(chunked(b"one", b"two")))
    agent = Agent(max_sockets=1, **network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        response = client.send(client.build_request("GET", A), stream=True)
        raise_in(Exchange, "close")
        with pytest.raises(Interrupted):
            response.close()
        assert agent._dispatcher.tickets() == []
        check(agent)


def test_a_request_that_waits_in_the_thread_of_an_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The response that a task holds there is not lost: no collection is made for it."""
    network = Network()
    agent = Agent(max_sockets=1, **network.options)
    monkeypatch.setattr(exchange_module, "LOST_AFTER", 0.001)

    async def main() -> None:
        transport = AgentTransport(agent=agent)
        response = await transport.handle_async_request(httpx.Request("GET", A))
        with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
            with pytest.raises(httpx.PoolTimeout):
                client.get(A, timeout=httpx.Timeout(5, pool=0.01))
        await response.aread()
        await agent.aclose()

    asyncio.run(main())
