"""Which name a TLS server is asked for, who shares its sockets, and whose session is resumed (R27, R28, N24)."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._sessions import SessionCache
from httpx_agent.testing import Network, Script
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.worlds import World

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _absolute_names_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every system knows `localhost.`, which it is to be asked for."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        return look_up("localhost" if host in ("localhost.", b"localhost.") else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.rule("R28")
@pytest.mark.parametrize(
    ("host", "arguments", "name", "host_header"),
    [
        ("localhost", {}, "localhost", "localhost:{port}"),
        ("127.0.0.1", {}, None, "127.0.0.1:{port}"),
        ("localhost", {"extensions": {"sni_hostname": "name.example"}}, "name.example", "localhost:{port}"),
        ("127.0.0.1", {"extensions": {"sni_hostname": "name.example"}}, "name.example", "127.0.0.1:{port}"),
        ("localhost.", {}, "localhost", "localhost.:{port}"),
        ("localhost.", {"extensions": {"sni_hostname": "name.example"}}, "name.example", "localhost.:{port}"),
        ("localhost", {"headers": {"Host": "name.example"}}, "localhost", "name.example"),
        ("127.0.0.1", {"headers": {"Host": "name.example"}}, None, "name.example"),
    ],
    ids=[
        "a name",
        "an address",
        "sni_hostname",
        "sni_hostname over an address",
        "an absolute name",
        "sni_hostname over an absolute name",
        "Host",
        "Host over an address",
    ],
)
async def test_the_name_that_the_server_is_asked_for(
    world: World,
    tls_server: Server,
    certificates: Certificates,
    engine: str,
    host: str,
    arguments: dict[str, Any],
    name: str | None,
    host_header: str,
) -> None:
    """R28: the URL's host, none for an address, or `sni_hostname`. In Node the Host header decides; here it does not,
    as nowhere in httpx: it is sent, and that is all.
    """
    agent = Agent(verify=certificates.client(), http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        response = await client.get(f"https://{host}:{tls_server.port}/echo", **arguments)
        assert response.status_code == 200
    assert tls_server.server_names == [name]
    assert tls_server.requests[0].get_all("host") == [host_header.format(port=tls_server.port)]
    await world.close(agent)


@pytest.mark.rule("R28")
@pytest.mark.parametrize("way", ["http", "https", "socks5"])
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
async def test_an_absolute_name_through_a_proxy(
    world: World, certificates: Certificates, way: str, http2: bool
) -> None:
    """The dot is for whoever looks the name up, and for `Host`; it is neither in SNI nor in a certificate."""
    proxies: dict[str, Any] = {"http": Proxy, "https": lambda: Proxy(tls=certificates.server()), "socks5": Socks}
    context = certificates.client() if way == "https" else None
    server = Server(tls=certificates.server(alpn=["h2", "http/1.1"]))
    with server, proxies[way]() as proxy:
        via = httpx.Proxy(f"{way}://localhost.:{proxy.port}", ssl_context=context)
        agent = Agent(proxy=via, verify=certificates.client(), http2=http2)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            response = await client.get(f"https://localhost.:{server.port}/echo")
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        await world.close(agent)
        assert server.server_names == ["localhost"]
        assert server.requests[0].get("host") == f"localhost.:{server.port}"
        assert proxy.server_names == (["localhost"] if way == "https" else [])
        if way == "socks5":
            assert proxy.targets == [(3, "localhost.", server.port)]
        else:
            assert proxy.requests[0].target == f"localhost.:{server.port}"


@pytest.mark.parametrize(
    ("url", "extensions", "name"),
    [
        ("https://a.test./", {}, "a.test"),
        ("https://[fe80::1%25eth0]/", {}, "fe80::1"),
        ("https://[fe80::1%eth0]/", {}, "fe80::1"),
        ("https://a.test/", {"sni_hostname": "b.test."}, "b.test."),  # as it was given
    ],
)
async def test_what_is_no_part_of_a_name_in_tls(world: World, url: str, extensions: dict[str, str], name: str) -> None:
    network = Network(Script())
    async with world.client(transport=AgentTransport(**network.options)) as client:
        assert (await client.get(url, extensions=extensions)).text == "ok"
    assert network.connections[0].tls == [name]


async def test_an_absolute_name_has_sockets_of_its_own(world: World) -> None:
    """To name servers it is another one."""
    network = Network(Script(), Script())
    async with world.client(transport=AgentTransport(**network.options)) as client:
        numbers = [
            (await client.get(url)).extensions["agent"].socket_id
            for url in ("https://a.test/", "https://a.test./", "https://a.test/")
        ]
    assert numbers == [0, 1, 0]
    assert [connection.host for connection in network.connections] == ["a.test", "a.test."]


@pytest.mark.rule("R27", "N24")
async def test_each_server_name_has_sockets_of_its_own(
    world: World, tls_server: Server, certificates: Certificates, engine: str
) -> None:
    """R27, N24: `sni_hostname` is part of the key, and of nothing else; `max_sockets` counts for each key."""
    agent = Agent(verify=certificates.client(), max_sockets=1, http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:

        async def ask(name: str | None, **arguments: Any) -> int:
            extensions = {} if name is None else {"sni_hostname": name}
            response = await client.get(f"{tls_server.url}/echo", extensions=extensions, **arguments)
            number: int = response.extensions["agent"].socket_id
            return number

        assert [await ask(name) for name in (None, "name.example", "localhost")] == [0, 1, 2]
        assert [await ask(name) for name in ("localhost", None, "name.example")] == [2, 0, 1]
        assert await ask(None, headers={"Host": "name.example"}) == 0  # in Node that would be another pool
    assert tls_server.server_names == [None, "name.example", "localhost"]
    assert agent.status().free_sockets == {
        tls_server.url: 1,
        f"{tls_server.url} (name.example)": 1,
        f"{tls_server.url} (localhost)": 1,
    }
    await world.close(agent)


@pytest.mark.rule("R27")
async def test_a_path_and_credentials_make_no_other_key(world: World, server: Server, engine: str) -> None:
    """N24: nothing but scheme, host, port and `sni_hostname` tells two keys apart."""
    agent = Agent(http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for url in (f"{server.url}/echo", f"{server.url}/status/204?a=1", f"http://user:pass@{server.netloc}/echo"):
            await client.get(url)
        await client.get(f"http://localhost:{server.port}/echo")
    assert server.requests_per_connection == [3, 1]
    await world.close(agent)


# Sessions -------------------------------------------------------------------------------------------------------------


async def resumed(world: World, client: Any, url: str, **arguments: Any) -> bool:
    """Whether the socket of a request resumed a session; looked at while it is open."""
    async with client.stream("GET", url, **arguments) as response:
        ssl_object = response.extensions["network_stream"].get_extra_info("ssl_object")
        await response.aread()
        return bool(ssl_object.session_reused)


def client_context(certificates: Certificates, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = certificates.client()
    context.maximum_version = context.minimum_version = version
    return context


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


class Session:
    """What Python tells of a session."""

    def __init__(self, name: str = "", *, has_ticket: bool = True, id: bytes = b"") -> None:
        self.name = name
        self.has_ticket = has_ticket
        self.id = id


class Connection:
    """What Python tells of a connection; counts how often it is asked for its session."""

    def __init__(self, session: Session, *, version: str = "TLSv1.3", reused: bool = False) -> None:
        self._session = session
        self._version = version
        self.session_reused = reused
        self.asked = 0

    @property
    def session(self) -> Session:
        self.asked += 1
        return self._session

    def version(self) -> str:
        return self._version


@pytest.mark.parametrize(
    ("leaks", "reused", "taken"), [(True, True, False), (True, False, True), (False, True, True), (False, False, True)]
)
def test_a_session_is_not_taken_anew_where_that_costs_memory(
    monkeypatch: pytest.MonkeyPatch, leaks: bool, reused: bool, taken: bool
) -> None:
    """Python 3.11 never gives the memory of a session back that it was asked for."""
    monkeypatch.setattr("httpx_agent._sessions.GIVING_LEAKS", leaks)
    cache = SessionCache(2)
    connection = Connection(Session(), reused=reused)
    cache.learn("a", connection, cache.generation)
    assert (cache.get("a") is not None, connection.asked) == (taken, int(taken))
    cache.learn("b", None, cache.generation)
    assert cache.get("b") is None


def test_the_sessions_that_are_kept() -> None:
    cache = SessionCache(2)
    sessions = {name: Session(name) for name in ("a1", "b1", "a2", "c1")}
    for name, session in sessions.items():
        cache.learn(name[0], Connection(session), cache.generation)
    assert [cache.get(key) for key in "abc"] == [None, sessions["b1"], sessions["c1"]]
    cache.evict("b")
    cache.evict("nothing")
    assert cache.get("b") is None
    nothing = SessionCache(0)
    nothing.learn("a", Connection(Session()), nothing.generation)
    assert nothing.get("a") is None


@pytest.mark.parametrize(
    ("version", "has_ticket", "id", "kept"),
    [
        ("TLSv1.2", False, b"", False),
        ("TLSv1.2", False, b"number", True),
        ("TLSv1.2", True, b"", True),
        ("TLSv1.3", False, b"made up", False),  # by this end, which needs some number
        ("TLSv1.3", True, b"made up", True),
    ],
)
def test_a_session_that_cannot_be_resumed_is_not_kept(version: str, has_ticket: bool, id: bytes, kept: bool) -> None:
    cache = SessionCache(1)
    cache.learn("a", Connection(Session(has_ticket=has_ticket, id=id), version=version), cache.generation)
    assert (cache.get("a") is not None) is kept


def test_a_server_whose_sessions_cannot_be_resumed_is_asked_ever_more_rarely() -> None:
    """Its sessions would cost some half of a handshake, for nothing; it may change its mind."""
    cache = SessionCache(2)
    barren = Connection(Session(has_ticket=False))
    turns = []
    for turn in range(10_000):
        before = barren.asked
        cache.learn("a", barren, cache.generation)
        turns += [turn] if barren.asked > before else []
    assert turns[:6] == [0, 3, 8, 17, 34, 67]
    assert [after - before for before, after in zip(turns[-3:], turns[-2:], strict=False)] == [1025, 1025]
    other = Connection(Session(has_ticket=False))
    cache.learn("b", other, cache.generation)
    assert other.asked == 1
    fertile = Connection(Session())
    for _ in range(1025):
        cache.learn("a", fertile, cache.generation)
    assert cache.get("a") is not None
    cache.learn("a", fertile, cache.generation)
    assert fertile.asked > 1  # every one counts again


# What it costs --------------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr("httpx_agent._sessions.GIVING_LEAKS", leaks)
    context = CountingContext(ssl.PROTOCOL_TLS_CLIENT)
    certificates.authority.configure_trust(context)
    context.maximum_version = context.minimum_version = version
    kept: list[ssl.SSLSession] = []
    with Server(tls=certificates.server()) as server:
        agent = Agent(verify=context, max_cached_sessions=limit, http1_engine=engine)
        key = agent._engine.key_of(httpcore.Request("GET", server.url))
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            for path in ("echo", "echo", "close", "echo", "close", "echo"):
                assert (await client.get(f"{server.url}/{path}")).status_code == 200
                session = agent._engine.connector.sessions.get(key)
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
