"""Which TLS session a new socket resumes, and which sessions are kept (R28)."""

from __future__ import annotations

import ssl
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network.sessions import SessionCache
from tests.support.servers import Certificates, Proxy, Server
from tests.support.tls import Connection, Session, client_context, resumed
from tests.support.worlds import World

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@pytest.mark.rule("R28")
@VERSIONS
@pytest.mark.parametrize("limit", [100, 0])
async def test_a_second_socket_resumes_the_session_of_the_first(
    world: World, certificates: Certificates, engine: str, version: ssl.TLSVersion, limit: int
) -> None:
    """In both versions of TLS; `max_cached_sessions=0` switches it off."""
    with Server(tls=certificates.server()) as server:
        agent = Agent(verify=client_context(certificates, version), max_cached_sessions=limit, http1_engine=engine)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert not await resumed(world, client, f"{server.url}/close")
            for _ in range(3):
                assert await resumed(world, client, f"{server.url}/close") is bool(limit)
            assert server.accepted == 4
        await world.close(agent)


@pytest.mark.rule("R28")
@VERSIONS
async def test_sessions_are_resumed_through_a_proxy_too(
    world: World, certificates: Certificates, engine: str, version: ssl.TLSVersion
) -> None:
    """The server's within the tunnel; the one of the proxy itself is left alone."""
    with Server(tls=certificates.server()) as server, Proxy(tls=certificates.server()) as proxy:
        agent = Agent(
            verify=client_context(certificates, version),
            proxy=httpx.Proxy(proxy.url, ssl_context=client_context(certificates, version)),
            max_cached_sessions=100,
            http1_engine=engine,
        )
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert [await resumed(world, client, f"{server.url}/close") for _ in range(3)] == [False, True, True]
            assert (server.accepted, proxy.accepted) == (3, 3)
        await world.close(agent)


@pytest.mark.rule("R28")
@pytest.mark.parametrize("path", ["garbage", "reset", "disconnect"])
async def test_a_socket_that_ends_with_an_error_takes_its_session_along(
    world: World, tls_server: Server, certificates: Certificates, engine: str, path: str
) -> None:
    """While a request was in flight. An end in place of the answer counts as well: Python's `ssl` tells a reset so."""
    agent = Agent(verify=certificates.client(), max_cached_sessions=100, http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert not await resumed(world, client, f"{tls_server.url}/close")
        with pytest.raises(httpx.TransportError):
            await client.get(f"{tls_server.url}/{path}")
        assert not await resumed(world, client, f"{tls_server.url}/close")
    await world.close(agent)


@pytest.mark.rule("R28")
@VERSIONS
async def test_keys_do_not_share_sessions(
    world: World, certificates: Certificates, engine: str, version: ssl.TLSVersion
) -> None:
    """Not two origins, nor two server names at one origin."""
    with Server(tls=certificates.server()) as one, Server(tls=certificates.server()) as other:
        agent = Agent(verify=client_context(certificates, version), max_cached_sessions=100, http1_engine=engine)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            name = {"extensions": {"sni_hostname": "name.example"}}
            assert not await resumed(world, client, f"{one.url}/close")
            assert not await resumed(world, client, f"{other.url}/close")
            assert not await resumed(world, client, f"{one.url}/close", **name)
            assert await resumed(world, client, f"{one.url}/close", **name)
            assert await resumed(world, client, f"{one.url}/close")
            assert await resumed(world, client, f"{other.url}/close")
        await world.close(agent)


@pytest.mark.rule("R28")
async def test_at_the_limit_the_session_that_came_first_goes(
    world: World, certificates: Certificates, engine: str
) -> None:
    """`max_cached_sessions` counts keys; that a session is renewed does not move it, as in Node."""
    with Server(tls=certificates.server()) as server:
        agent = Agent(verify=certificates.client(), max_cached_sessions=2, http1_engine=engine)
        async with world.client(transport=AgentTransport(agent=agent)) as client:

            async def ask(name: str) -> bool:
                return await resumed(world, client, f"{server.url}/close", extensions={"sni_hostname": name})

            assert [await ask(name) for name in ("localhost", "name.example")] == [False, False]
            assert [await ask(name) for name in ("name.example", "localhost")] == [True, True]
            assert not await resumed(world, client, f"{server.url}/close")  # a third: localhost, the first, goes
            assert [await ask(name) for name in ("name.example", "localhost")] == [True, False]
        await world.close(agent)


@pytest.mark.parametrize(
    ("leaks", "reused", "taken"), [(True, True, False), (True, False, True), (False, True, True), (False, False, True)]
)
def test_a_session_is_not_taken_anew_where_that_costs_memory(
    monkeypatch: pytest.MonkeyPatch, leaks: bool, reused: bool, taken: bool
) -> None:
    """Python 3.11 never gives the memory of a session back that it was asked for."""
    monkeypatch.setattr("httpx_agent._network.sessions.GIVING_LEAKS", leaks)
    cache = SessionCache(2)
    connection = Connection(Session(), reused=reused)
    cache.learn("a", connection, cache.generation)
    assert (cache.get("a") is not None, connection.asked) == (taken, int(taken))
    cache.learn("b", None, cache.generation)
    assert cache.get("b") is None


class CountingContext(ssl.SSLContext):
    """Notes for which name a handshake asks and whether it offers a session, and how often a session is asked for."""

    def __init__(self, protocol: int) -> None:
        super().__init__()
        self.handshakes: list[tuple[str, bool]] = []
        self.sessions_asked_for = 0

        def session(ssl_object: ssl.SSLObject) -> ssl.SSLSession | None:
            self.sessions_asked_for += 1
            return ssl.SSLObject.session.__get__(ssl_object)

        attributes = {"session": property(session, ssl.SSLObject.session.__set__)}
        self.sslobject_class = type("CountingObject", (ssl.SSLObject,), attributes)

    def _note(self, server_hostname: str | bytes, session: object = None, **_: object) -> None:
        name = server_hostname if isinstance(server_hostname, str) else server_hostname.decode()  # trio's
        self.handshakes.append((name, session is not None))

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        self._note(**kwargs)
        return super().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        self._note(**kwargs)
        return super().wrap_bio(*args, **kwargs)


@pytest.mark.rule("R28")
@VERSIONS
@pytest.mark.parametrize(
    ("limit", "handshakes", "leaks", "sessions"),
    [
        (0, [False, False, False], False, 0),
        (1, [False, True, True], False, 3),
        (1, [False, True, True], True, 1),
    ],
    ids=["off", "on", "on where it leaks"],
)
async def test_switched_off_it_costs_nothing(
    world: World,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    version: ssl.TLSVersion,
    limit: int,
    handshakes: list[bool],
    leaks: bool,
    sessions: int,
) -> None:
    """The user's own context makes every handshake; no session is passed in, none is asked for, none is kept. Switched
    on, each new socket is asked once, whatever it serves; where Python leaks, only one that resumed none.

    Before the first, the context is asked which protocols it offers: once, for it has methods of its own.
    """
    monkeypatch.setattr("httpx_agent._network.sessions.GIVING_LEAKS", leaks)
    context = CountingContext(ssl.PROTOCOL_TLS_CLIENT)
    certificates.authority.configure_trust(context)
    context.maximum_version = context.minimum_version = version
    kept: list[ssl.SSLSession] = []
    with Server(tls=certificates.server()) as server:
        agent = Agent(verify=context, max_cached_sessions=limit, http1_engine=engine)
        key = agent._dispatcher.key_of(httpcore.Request("GET", server.url))
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            for path in ("echo", "echo", "close", "echo", "close", "echo"):
                assert (await client.get(f"{server.url}/{path}")).status_code == 200
                session = agent._dispatcher.factory.sessions.get(key)
                if session is not None and not any(session is other for other in kept):
                    kept.append(session)
        await world.close(agent)
        assert server.requests_per_connection == [3, 2, 1]
    assert context.handshakes == [("name.invalid", False), *(("127.0.0.1", resumes) for resumes in handshakes)]
    assert len(kept) == sessions
    if not world.is_sync:  # there the object that knows the session is OpenSSL's own, and cannot be counted
        assert context.sessions_asked_for == sessions


@pytest.mark.rule("R28")
async def test_a_server_that_gives_no_tickets_costs_almost_nothing(
    world: World, certificates: Certificates, engine: str
) -> None:
    """Its sessions are neither passed on nor, after a few connections, asked for."""
    tls = certificates.server()
    tls.num_tickets = 0
    context = CountingContext(ssl.PROTOCOL_TLS_CLIENT)
    certificates.authority.configure_trust(context)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with Server(tls=tls) as server:
        agent = Agent(verify=context, max_cached_sessions=100, http1_engine=engine)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            for _ in range(12):
                assert not await resumed(world, client, f"{server.url}/close")
        await world.close(agent)
    assert [given for name, given in context.handshakes if name != "name.invalid"] == [False] * 12
    if not world.is_sync:
        assert context.sessions_asked_for == 3
