"""Tests of code that must cope with failing servers."""

# --8<-- [start:code]
import httpx

from httpx_agent import Agent, AgentTransport


def fetch(url: str, agent: Agent) -> str:
    """The code under test: tries once more if the connection breaks."""
    with httpx.Client(transport=AgentTransport(agent=agent), timeout=1) as client:
        try:
            return client.get(url).text
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            return client.get(url).text


# --8<-- [end:code]
# --8<-- [start:server]
import pytest

from httpx_agent.testing import FIN, ChaosServer, assert_no_leaks, respond


@pytest.mark.parametrize("fault", ["reset", "fin-in-head", "garbage", "interim-flood"])
def test_a_broken_connection(chaos_server: ChaosServer, fault: str) -> None:
    chaos_server.next(fault)
    with Agent() as agent:
        assert fetch(chaos_server.url, agent) == "ok"
        assert_no_leaks(agent)
    assert len(chaos_server.requests) == 2


def test_steps_of_my_own(chaos_server: ChaosServer) -> None:
    chaos_server.next(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"too short", FIN],
        respond(b"better"),
    )
    with Agent() as agent:
        assert fetch(chaos_server.url, agent) == "better"


def test_a_server_that_is_down_for_a_while(chaos_server: ChaosServer) -> None:
    with Agent() as agent:
        with chaos_server.refusing(), pytest.raises(httpx.ConnectError):
            fetch(chaos_server.url, agent)
        assert fetch(chaos_server.url, agent) == "ok"


# --8<-- [end:server]
# --8<-- [start:network]
from httpx_agent.testing import TIMEOUT, Network, Script


def test_without_sockets() -> None:
    network = Network(
        Script(connect=TIMEOUT),  # the first connection
        Script(respond(b"one"), respond(b"two")),  # the second
    )
    with Agent(retries=1, **network.options) as agent:
        assert fetch("https://a.test/", agent) == "one"
        assert fetch("https://a.test/", agent) == "two"
    assert [connection.state for connection in network.connections] == [
        "failed",
        "closed",
    ]


# --8<-- [end:network]
# --8<-- [start:leaks]
def test_a_leak_is_reported() -> None:
    network = Network()
    agent = Agent(debug=True, **network.options)
    client = httpx.Client(transport=AgentTransport(agent=agent))
    response = client.send(client.build_request("GET", "http://a.test/"), stream=True)

    with pytest.raises(AssertionError, match=r"requested at .*test_with_faults\.py:"):
        assert_no_leaks(agent)

    response.close()
    assert_no_leaks(agent)
    agent.close()


# --8<-- [end:leaks]
# --8<-- [start:clock]
from httpx_agent.testing import VirtualClock


def test_no_real_time_passes(virtual_clock: VirtualClock) -> None:
    network = Network()
    with Agent(free_socket_timeout=15, **network.options) as agent:
        fetch("http://a.test/", agent)
        virtual_clock.advance(14)
        assert len(agent.sockets()) == 1
        virtual_clock.advance(1)
        assert len(agent.sockets()) == 0


# --8<-- [end:clock]
