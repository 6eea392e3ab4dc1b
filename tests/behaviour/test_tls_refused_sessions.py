"""A server refuses a TLS session that it issued: no caller notices, and the session is not offered again (R28).

Servers do so that ask for client certificates and have no session id context: OpenSSL ends the handshake with an alert.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network.sessions import SessionCache
from httpx_agent.testing import HANG, REFUSED, RST, TIMEOUT, Network, Script, assert_no_leaks
from httpx_agent.testing._server import Hangup, LoopbackServer, Peer
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.tls import (
    Choosy,
    Connection,
    Session,
    Spoiling,
    alert,
    client_context,
)
from tests.support.worlds import WORLDS, World, cancel_at

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])

LOOPS_TOO = pytest.mark.parametrize("world", [*WORLDS, World("uvloop")], ids=lambda world: world.name)


def hang_up(peer: Peer) -> None:
    """Without a word."""


def reset(peer: Peer) -> None:
    raise Hangup(reset=True)


def check_books(agent: Agent, sockets: int) -> None:
    """So many sockets were opened and closed, and nothing else happened."""
    status = agent.status()
    assert (status.create_socket_count, status.create_socket_error_count) == (sockets, 0)
    assert (status.close_socket_count, status.error_socket_count, status.timeout_socket_count) == (sockets, 0, 0)
    assert status.request_error_count == 0


@pytest.mark.rule("R28")
@VERSIONS
@LOOPS_TOO
@pytest.mark.parametrize("refuse", [alert, hang_up, reset])
async def test_a_refused_session_is_not_noticed(
    world: World, certificates: Certificates, engine: str, version: ssl.TLSVersion, refuse: Callable[[Peer], None]
) -> None:
    """The handshake is done once more without it, for the same socket; and sessions are offered ever more rarely."""
    agent = Agent(verify=client_context(certificates, version), max_cached_sessions=9, http1_engine=engine)
    with Choosy(refuse, tls=certificates.server()) as server:
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            refused = []
            for number in range(12):
                response = await client.get(f"{server.url}/close")
                info = response.extensions["agent"]
                assert (response.status_code, info.socket_id, info.requests_on_socket) == (200, number, 1)
                assert not info.retried
                refused.append(server.refused)
        assert refused == [0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3]
        assert server.accepted == 12 + 3
    await world.close(agent)
    check_books(agent, 12)
    assert_no_leaks(agent)


@pytest.mark.parametrize("way", ["http", "https", "socks5"])
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
@LOOPS_TOO
async def test_through_proxies_and_over_http2(world: World, certificates: Certificates, way: str, http2: bool) -> None:
    """The tunnel is made anew."""
    proxies: dict[str, Callable[[], LoopbackServer]] = {
        "http": Proxy,
        "https": lambda: Proxy(tls=certificates.server()),
        "socks5": Socks,
    }
    context = certificates.client() if way == "https" else None
    server = Choosy(alert, tls=certificates.server(alpn=["h2", "http/1.1"]))
    with server, proxies[way]() as proxy:
        agent = Agent(
            verify=certificates.client(),
            proxy=httpx.Proxy(f"{way}://{proxy.netloc}", ssl_context=context),
            http2=http2,
            max_cached_sessions=9,
        )
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            for _ in range(3):
                response = await client.get(f"{server.url}/echo")
                assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
                for peer in server.peers:
                    peer.shut_down()
                await world.until(lambda: not agent.status().free_sockets)
        assert (server.refused, server.accepted, proxy.accepted) == (1, 4, 4)
    await world.close(agent)
    check_books(agent, 3)


@pytest.mark.in_loops
async def test_those_who_wait_for_a_shared_connection_do_not_notice_either(
    world: World, certificates: Certificates
) -> None:
    agent = Agent(verify=certificates.client(), http2=True, max_cached_sessions=9)
    with Choosy(alert, tls=certificates.server(alpn=["h2", "http/1.1"])) as server:
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            await client.get(f"{server.url}/echo")
            for peer in server.peers:
                peer.shut_down()
            await world.until(lambda: not agent.status().free_sockets)
            responses = await world.gather(*[lambda: client.get(f"{server.url}/echo")] * 5)
            assert {response.extensions["agent"].socket_id for response in responses} == {1}
        assert (server.refused, server.accepted) == (1, 3)
    await world.close(agent)


async def test_many_at_once_are_refused_and_none_notices(world: World, certificates: Certificates, engine: str) -> None:
    """All of them had been offered the same session."""
    agent = Agent(verify=certificates.client(), max_cached_sessions=9, http1_engine=engine)
    with Choosy(alert, tls=certificates.server()) as server:
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            await client.get(f"{server.url}/close")
            responses = await world.gather(*[lambda: client.get(f"{server.url}/close")] * 8)
            assert [response.status_code for response in responses] == [200] * 8
        assert server.refused >= 1
    await world.close(agent)
    check_books(agent, 9)


@pytest.mark.rule("R28")
async def test_a_refusal_costs_no_retry(world: World, certificates: Certificates, engine: str) -> None:
    """`retries` are for other failures; and no attempt of theirs offers the session again."""
    agent = Agent(verify=certificates.client(), max_cached_sessions=9, retries=1, http1_engine=engine)

    class Failing(Choosy):
        fails = False

        def welcome(self, peer: Peer) -> None:
            super().welcome(peer)
            if self.refused and not self.fails:
                self.fails = True
                raise Hangup(reset=True)

    with Failing(alert, tls=certificates.server()) as server:
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            for _ in range(2):
                assert (await client.get(f"{server.url}/close")).status_code == 200
        assert (server.fails, server.refused, server.accepted) == (True, 1, 4)
    await world.close(agent)


@pytest.mark.slow
async def test_a_retry_after_a_timeout_offers_no_session_again(
    world: World, certificates: Certificates, engine: str
) -> None:
    """A handshake without an answer failed as well; but no time is left to do it once more at once."""
    agent = Agent(verify=certificates.client(), max_cached_sessions=9, retries=1, http1_engine=engine)
    with Choosy(lambda peer: peer.wait_for_end(), tls=certificates.server()) as server:
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            await client.get(f"{server.url}/close")
            response = await client.get(f"{server.url}/close", timeout=httpx.Timeout(10, connect=1))
            assert response.status_code == 200
        assert (server.refused, server.accepted) == (1, 3)
    await world.close(agent)


# On a scripted network ------------------------------------------------------------------------------------------------
URL = "https://a.test/"


def agent_with_session(network: Network, **options: Any) -> Agent:
    """An agent that knows a session, as far as it can see, for the server at `URL`."""
    agent = Agent(**network.options, **options)
    cache = agent._dispatcher.factory.sessions
    key = agent._dispatcher.key_of(SimpleNamespace(url=httpx_url(), extensions={}))
    cache.learn(key, Connection(Session()), cache.generation)
    return agent


def httpx_url() -> Any:
    return SimpleNamespace(scheme=b"https", host=b"a.test", port=None)


async def test_both_handshakes_have_one_deadline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def tick() -> float:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr("httpx_agent._network.opening.time", SimpleNamespace(monotonic=tick))
    network = Network(Script(tls=RST), Script())
    agent = agent_with_session(network)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL, timeout=httpx.Timeout(5, connect=60))
    timeouts = [(op.name, op.details["timeout"]) for op in network.ops if op.name in ("connect", "start_tls")]
    assert [name for name, _ in timeouts] == ["connect", "start_tls"] * 2
    left = [timeout for _, timeout in timeouts]
    assert left[0] == 60
    assert left == sorted(left, reverse=True)
    assert len(set(left)) == 4
    await world.close(agent)


async def test_no_deadline_is_none_for_both(world: World) -> None:
    network = Network(Script(tls=RST), Script())
    agent = agent_with_session(network)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        await client.get(URL)
    assert {op.details["timeout"] for op in network.ops if op.name in ("connect", "start_tls")} == {None}
    await world.close(agent)


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (Script(connect=REFUSED), httpx.ConnectError),
        (Script(tls=RST), httpx.ConnectError),
        (Script(tls=TIMEOUT), httpx.ConnectTimeout),
    ],
)
async def test_the_second_failure_is_told(world: World, second: Script, error: type[Exception]) -> None:
    """As if it had been the only one."""
    network = Network(Script(tls=RST), second, default=Script())
    agent = agent_with_session(network)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(error) as caught:
            await client.get(URL)
        assert str(caught.value).startswith("GET https://a.test:443: ")
        assert "attempt" not in str(caught.value)
        assert len(network.connections) == 2
        status = agent.status()
        assert (status.create_socket_count, status.create_socket_error_count) == (1, 1)
        assert network.open == 0
        assert (await client.get(URL)).text == "ok"
    await world.close(agent)
    assert_no_leaks(agent)


@pytest.mark.slow
async def test_an_agent_that_is_closed_meanwhile_opens_nothing_anew(world: World) -> None:
    network = Network(Script(tls=HANG), default=Script())
    agent = agent_with_session(network)
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        job = tasks.start(client.get, URL)
        await world.until(lambda: any(op.name == "start_tls" for op in network.ops))
        await world.close(agent)
        await job.wait()
        assert isinstance(job.exception, httpx.ConnectError)
        assert "the agent was closed; nothing was sent" in str(job.exception)
    assert (len(network.connections), network.open) == (1, 0)
    assert_no_leaks(agent)


@pytest.mark.slow
@pytest.mark.in_loops
async def test_a_request_can_be_cancelled_anywhere(world: World) -> None:
    """Also between the two handshakes: nothing is left, and the next request is served."""
    for step in itertools.count(1):
        network = Network(Script(tls=RST), default=Script())
        agent = agent_with_session(network, max_sockets=1)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            cancelled = await cancel_at(step, client.get, URL)
            assert not agent.status().sockets
            assert network.open == sum(agent.status().free_sockets.values())
            network.scripts = ()
            assert (await client.get(URL)).text == "ok"
        await world.close(agent)
        assert network.open == 0
        assert_no_leaks(agent)
        if not cancelled:
            break
    assert step > 8


async def test_closing_what_failed_may_fail(world: World) -> None:
    network = Network(Script(tls=RST, close=RST), Script())
    agent = agent_with_session(network)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert (await client.get(URL)).text == "ok"
    await world.close(agent)


@pytest.mark.slow
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
@LOOPS_TOO
async def test_a_refusal_after_the_handshake(
    world: World, certificates: Certificates, engine: str, http2: bool
) -> None:
    """The request may have been sent by then, and is sent again where that is safe: as on a socket that died."""
    tls = certificates.server(alpn=["h2", "http/1.1"])
    with Server(tls=tls) as server, Spoiling(server) as proxy:
        agent = Agent(verify=certificates.client(), max_cached_sessions=9, http2=http2, http1_engine=engine)
        async with world.client(transport=AgentTransport(agent=agent)) as client:

            async def ask(method: str = "GET") -> bool:
                response = await client.request(method, f"https://{proxy.netloc}/echo")
                assert response.status_code == 200
                for peer in server.peers:
                    peer.shut_down()
                await world.until(lambda: not agent.status().free_sockets)
                retried: bool = response.extensions["agent"].retried
                return retried

            assert [await ask() for _ in range(4)] == [False, True, False, False]
            assert (proxy.spoiled, proxy.accepted) == (1, 5)
            with pytest.raises(httpx.ReadError, match=r"(?i)alert"):
                await ask("POST")
            assert not await ask("POST")  # it has been forgotten
            assert (proxy.spoiled, proxy.accepted) == (2, 7)
        await world.close(agent)
        assert [request.method for request in server.requests] == ["GET"] * 4 + ["POST"]
    assert_no_leaks(agent)


async def test_no_request_is_sent_again_where_that_is_switched_off(
    world: World, certificates: Certificates, engine: str
) -> None:
    with Server(tls=certificates.server()) as server, Spoiling(server) as proxy:
        agent = Agent(
            verify=certificates.client(), max_cached_sessions=9, retry_stale_sockets=False, http1_engine=engine
        )
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert (await client.get(f"https://{proxy.netloc}/close")).status_code == 200
            with pytest.raises(httpx.ReadError, match=r"(?i)alert"):
                await client.get(f"https://{proxy.netloc}/close")
        await world.close(agent)


async def test_the_end_of_a_connection_that_resumed_is_no_refusal(
    world: World, tls_server: Server, certificates: Certificates, engine: str
) -> None:
    """Without an alert nobody can tell it from a server that hung up on the request."""
    agent = Agent(verify=certificates.client(), max_cached_sessions=9, http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(f"{tls_server.url}/close")
        with pytest.raises(httpx.TransportError):
            await client.get(f"{tls_server.url}/reset")
        assert tls_server.accepted == 2
    await world.close(agent)


# What is remembered ---------------------------------------------------------------------------------------------------
def test_a_session_that_failed_goes_and_a_newer_one_stays() -> None:
    cache = SessionCache(2)
    old, new = Session("old"), Session("new")
    cache.learn("a", Connection(old), 0)
    cache.learn("a", Connection(new), 0)
    cache.refuse("a", old)  # type: ignore[arg-type]
    assert cache.get("a") is new
    cache.refuse("a", new)  # type: ignore[arg-type]
    assert cache.get("a") is None
    cache.refuse("a", new)  # type: ignore[arg-type]


@pytest.mark.parametrize("leaks", [False, True])
def test_a_server_that_refuses_is_trusted_again_when_it_resumes(monkeypatch: pytest.MonkeyPatch, leaks: bool) -> None:
    """Until then each refusal doubles the number of connections after which it is asked again."""
    monkeypatch.setattr("httpx_agent._network.sessions.GIVING_LEAKS", leaks)
    cache = SessionCache(2)

    def connections_until_it_is_known() -> int:
        for count in itertools.count():
            session = cache.get("a")
            if session is not None:
                return count
            cache.learn("a", Connection(Session()), 0)
        raise AssertionError

    found = []
    for _ in range(3):
        found.append(connections_until_it_is_known())
        session = cache.get("a")
        assert session is not None
        cache.refuse("a", session)
    assert found == [1, 3, 5]
    connections_until_it_is_known()
    cache.learn("a", Connection(Session(), reused=True), 0)
    session = cache.get("a")
    assert session is not None
    cache.refuse("a", session)
    assert connections_until_it_is_known() == 3
