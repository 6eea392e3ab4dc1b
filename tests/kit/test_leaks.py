"""What `assert_no_leaks` accepts, and what it says about the rest."""

from __future__ import annotations

import re
from dataclasses import replace

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import HANG, Gate, Network, Script, assert_no_leaks, chunked
from tests.support.worlds import World

URL = "http://a.test/secret?secret"


async def test_an_agent_with_free_sockets_leaks_nothing(world: World) -> None:
    network = Network()
    agent = Agent(**network.options)
    assert_no_leaks(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        assert network.open == 1
        assert_no_leaks(agent)
    await world.close(agent)
    assert_no_leaks(agent)


@pytest.mark.parametrize("debug", [False, True])
async def test_a_response_that_is_not_closed_is_named(world: World, debug: bool) -> None:
    """With the socket it holds, and where it was asked for if the agent remembers; nothing secret."""
    network = Network(Script(chunked(b"a", HANG, end=False)))
    agent = Agent(debug=debug, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL):
            with pytest.raises(AssertionError) as caught:
                assert_no_leaks(agent)
        assert_no_leaks(agent)
    where = r", requested at \S+\.py:\d+" if debug else ""
    hint = "" if debug else r"\nAgent\(debug=True\) records where each was requested\."
    what = rf"GET http://a\.test:80{where}: holds socket 0; read or close its response"
    assert re.fullmatch(rf"1 request\(s\) have not ended:\n  {what}{hint}", str(caught.value))
    await world.close(agent)


async def test_a_request_that_waits_is_named(world: World) -> None:
    gate = Gate()
    network = Network(Script([gate, b"HTTP/1.1 204 No Content\r\n\r\n"]))
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        tasks.start(client.get, URL)
        await world.until(lambda: network.request_count == 1)
        tasks.start(client.post, URL)
        await world.until(lambda: agent.status().requests)
        with pytest.raises(
            AssertionError, match=r"2 request\(s\).*\n.*\n  POST http://a\.test:80: is waiting for a socket\n"
        ):
            assert_no_leaks(agent)
        gate.open()
    assert_no_leaks(agent)
    await world.close(agent)


def test_books_that_do_not_balance_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(**Network().options)
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        client.get(URL)
    status = replace(agent.status(), close_socket_count=1)
    monkeypatch.setattr(agent, "status", lambda: status)
    with pytest.raises(AssertionError, match=r"of 1 sockets 2 are accounted for\ncounter +value"):
        assert_no_leaks(agent)
    agent.close()
