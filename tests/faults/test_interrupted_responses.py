"""An exception between a response's way out of the transport and the caller, as a signal's handler may raise it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Network, Script, respond
from tests.support.interrupting import Interrupted


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
