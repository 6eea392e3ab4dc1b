"""TLS contexts: a user's is left as it was, whoever shares it; certificates are loaded in no event loop."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import truststore

from httpx_agent import Agent, AgentTransport, _tls
from httpx_agent._locks import Lock
from httpx_agent._tls import Offer, SlowContext, TlsContext, read_protocols, server_name
from httpx_agent.testing import Network, Script, assert_no_leaks
from tests.behaviour.test_fork import child
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.worlds import WORLDS, World

VERSIONS = {True: "HTTP/2", False: "HTTP/1.1"}

#: Where a loop must not be held up.
LOOPS = pytest.mark.parametrize(
    "world", [World("asyncio"), World("uvloop"), World("trio")], ids=lambda world: world.name
)
ALL = pytest.mark.parametrize("world", [*WORLDS, World("uvloop")], ids=lambda world: world.name)


# The user's own contexts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theirs", [[], ["http/1.1"], ["h2"], ["one/1", "two/2"]])
@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.both_engines
async def test_a_user_s_context_is_left_as_it_was(
    world: World, certificates: Certificates, h2_server: Server, theirs: list[str], http2: bool
) -> None:
    """Whatever it offers for its own ends, the agent offers what it speaks. The user may change it at any time."""
    context = certificates.client()
    context.set_alpn_protocols(["before"])
    agent = Agent(verify=context, http2=http2)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for now in (["before"], theirs):
            context.set_alpn_protocols(now)
            response = await client.get(f"{h2_server.url}/echo", headers={"Connection": "close"} if not http2 else {})
            assert response.http_version == VERSIONS[http2]
            assert read_protocols(context) == now
            for peer in h2_server.peers:
                peer.shut_down()
            await world.until(lambda: not agent.status().free_sockets)
    await world.close(agent)


async def test_one_context_for_an_origin_and_its_proxy(
    world: World, certificates: Certificates, h2_server: Server
) -> None:
    """HTTP/2 is for the origin, and the proxy is not offered it."""
    context = certificates.client()
    with Proxy(tls=certificates.server(alpn=["h2", "http/1.1"])) as proxy:
        agent = Agent(verify=context, http2=True, proxy=httpx.Proxy(proxy.url, ssl_context=context))
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert (await client.get(f"{h2_server.url}/echo")).http_version == "HTTP/2"
        await world.close(agent)
        assert [peer.http_version for peer in proxy.peers] == ["HTTP/1.1"]
    assert read_protocols(context) == []


class Watched:
    """The lock of a context, which tells when somebody has to wait for it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.waits = threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.waits.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Interfering(ssl.SSLContext):
    """Between the setting of its protocols and the next handshake, another agent begins one."""

    other: Callable[[], None] | None = None

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        super().set_alpn_protocols(alpn_protocols)
        other, self.other = self.other, None
        if other is not None:
            other()


@pytest.mark.parametrize("first", [False, True], ids=["HTTP/1.1 first", "HTTP/2 first"])
@ALL
async def test_two_agents_that_share_a_context_never_mix(
    world: World, certificates: Certificates, h2_server: Server, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """The second begins at the worst moment; it has to wait, or is done before the first goes on."""
    lock = Watched()

    class Loan(_tls._Loan):
        def __init__(self) -> None:
            super().__init__()
            self.lock = lock  # type: ignore[assignment]

    monkeypatch.setattr(_tls, "_Loan", Loan)
    context = Interfering(ssl.PROTOCOL_TLS_CLIENT)
    certificates.authority.configure_trust(context)
    spoken = {}
    done = threading.Event()
    threads: list[threading.Thread] = []

    def ask_other() -> None:
        with httpx.Client(transport=AgentTransport(verify=context, http2=not first), trust_env=False) as client:
            spoken[not first] = client.get(f"{h2_server.url}/echo").http_version
        done.set()

    def interfere() -> None:
        threads.append(threading.Thread(target=ask_other))
        threads[0].start()
        while not (lock.waits.wait(0.001) or done.is_set()):
            pass

    context.other = interfere
    agent = Agent(verify=context, http2=first)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        spoken[first] = (await client.get(f"{h2_server.url}/echo")).http_version
    await anyio.to_thread.run_sync(threads[0].join)
    assert spoken == VERSIONS
    assert lock.waits.is_set()
    assert read_protocols(context) == []
    await world.close(agent)


@pytest.mark.both_engines
def test_threads_that_hammer_two_agents_on_one_context(certificates: Certificates, h2_server: Server) -> None:
    context = certificates.client()
    agents = {http2: Agent(verify=context, http2=http2, max_free_sockets=0) for http2 in VERSIONS}
    context.set_alpn_protocols(["theirs"])

    def ask(number: int) -> bool:
        http2 = number % 2 == 0
        with httpx.Client(transport=AgentTransport(agent=agents[http2]), trust_env=False) as client:
            return client.get(f"{h2_server.url}/echo").http_version == VERSIONS[http2]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(300)))
    assert read_protocols(context) == ["theirs"]
    for agent in agents.values():
        assert agent.status().create_socket_count == 150
        agent.close()


def test_a_fork_while_a_context_is_lent(certificates: Certificates) -> None:
    """The child has it as the user left it, and nobody holds its lock there."""
    context = certificates.client()
    context.set_alpn_protocols(["theirs"])
    lent, over = threading.Event(), threading.Event()

    def borrow() -> None:
        _tls._borrowed.lend(context, ["h2"], lambda _: (lent.set(), over.wait(10)))

    thread = threading.Thread(target=borrow)
    thread.start()
    assert lent.wait(10)

    def look() -> list[list[str]]:
        before = read_protocols(context)
        within = _tls._borrowed.lend(context, ["h2"], read_protocols)
        return [before, within, read_protocols(context)]

    with child(look) as running:
        assert running.tell() == [["theirs"], ["h2"], ["theirs"]]
    over.set()
    thread.join(10)
    assert read_protocols(context) == ["theirs"]
    with child(look) as running:
        assert running.tell() == [["theirs"], ["h2"], ["theirs"]]


def test_what_a_child_does_about_contexts_that_are_lent(certificates: Certificates) -> None:
    """The same in this process, where it can be counted."""
    lent, other = certificates.client(), certificates.client()
    for context in (lent, other):
        context.set_alpn_protocols(["theirs"])
    assert _tls._borrowed.lend(other, ["h2"], read_protocols) == ["h2"]

    def look(context: ssl.SSLContext) -> list[str]:
        _tls._borrowed.begin_anew()
        return read_protocols(context)

    assert _tls._borrowed.lend(lent, ["h2"], look) == ["theirs"]
    assert read_protocols(lent) == read_protocols(other) == ["theirs"]


class Pinning(ssl.SSLContext):
    """Looks at the certificate when the handshake is done, in the methods that it has for that."""

    seen: list[str]

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        wrapped = super().wrap_socket(*args, **kwargs)
        certificate: Any = wrapped.getpeercert()
        self.seen.append(certificate["subjectAltName"][0][1])
        return wrapped


def test_a_context_that_looks_at_the_certificate_itself(certificates: Certificates, tls_server: Server) -> None:
    """Its `wrap_socket` comes back after the handshake, as httpcore has it."""
    context = Pinning(ssl.PROTOCOL_TLS_CLIENT)
    context.seen = []
    certificates.authority.configure_trust(context)
    with httpx.Client(transport=AgentTransport(verify=context)) as client:
        assert client.get(f"{tls_server.url}/echo").status_code == 200
    assert len(context.seen) == 1


@pytest.mark.parametrize("http2", [False, True])
@ALL
async def test_a_context_of_truststore(
    world: World, certificates: Certificates, h2_server: Server, monkeypatch: pytest.MonkeyPatch, http2: bool
) -> None:
    """It reads the system's certificates for each handshake, which takes 25 ms: in a thread, where a loop waits."""
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificates.authority.configure_trust(context)  # type: ignore[arg-type]
    threads = set()

    @contextmanager
    def configure(_: object) -> Iterator[None]:
        threads.add(threading.get_ident())
        yield

    monkeypatch.setattr(sys.modules[truststore.SSLContext.__module__], "_configure_context", configure)
    agent = Agent(verify=context, http2=http2)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for _ in range(2):
            assert (await client.get(f"{h2_server.url}/echo")).http_version == VERSIONS[http2]
            for peer in h2_server.peers:
                peer.shut_down()
            await world.until(lambda: not agent.status().free_sockets)
    await world.close(agent)
    if world.name in ("asyncio", "uvloop"):  # trio makes the object itself, and has no way to wait
        assert threading.get_ident() not in threads
    assert read_protocols(context) == []


def test_a_handshake_that_fails_in_a_thread_closes_its_socket(certificates: Certificates, tls_server: Server) -> None:
    agent = Agent(verify=Certificates().client())
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            client.get(f"{tls_server.url}/echo")
    tls_server.wait_closed()
    agent.close()


def test_what_stands_in_for_a_context_is_used_as_one(certificates: Certificates, tls_server: Server) -> None:
    """By network backends of the user's, in whatever way Python has: also for a socket that is connected later."""
    tls = TlsContext(certificates.client, is_own=True)
    for kind in (ssl.SSLContext, SlowContext):
        stand_in = tls.stand_in(kind)
        assert type(stand_in) is kind
        stand_in.set_alpn_protocols(["http/1.1"])
        with socket.create_connection(("127.0.0.1", tls_server.port)) as sock:
            with stand_in.wrap_socket(sock, do_handshake_on_connect=False, server_hostname="localhost") as wrapped:
                assert wrapped.version() is None
                wrapped.do_handshake()
                assert wrapped.selected_alpn_protocol() == "http/1.1"
    assert Offer.of(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) is None


@ALL
async def test_a_stream_that_is_the_caller_s_is_secured_with_the_context_that_he_gives(
    world: World, certificates: Certificates, tls_server: Server
) -> None:
    """After a CONNECT of his own."""
    context = certificates.client()
    context.set_alpn_protocols(["http/1.1"])
    with Proxy() as proxy:
        agent = Agent()
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            target = {"target": tls_server.netloc.encode()}
            async with client.stream("CONNECT", proxy.url, extensions=target) as response:
                stream = response.extensions["network_stream"]
                secured = await world.call(stream.start_tls, context, "localhost.", 5)
                ssl_object = secured.get_extra_info("ssl_object")
                assert ssl_object.selected_alpn_protocol() == "http/1.1"
                await world.close(secured)
        await world.close(agent)
    assert tls_server.server_names == ["localhost"]


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.test", "a.test"),
        ("a.test.", "a.test"),
        ("a.test..", "a.test."),
        (".", "."),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%25eth0", "fe80::1"),
    ],
)
def test_names_in_tls(host: str, name: str) -> None:
    assert server_name(host) == name


# Certificates are loaded elsewhere ------------------------------------------------------------------------------------


class Loading:
    """Certificates that take their time to load: until the test says so."""

    def __init__(self, make: Callable[[], ssl.SSLContext]) -> None:
        self._make = make
        self.started, self.may_end = threading.Event(), threading.Event()
        self.threads: list[int] = []
        self.failures: list[Exception] = []

    def __call__(self, *_: object, **__: object) -> ssl.SSLContext:
        self.threads.append(threading.get_ident())
        self.started.set()
        assert self.may_end.wait(5), "the loop stands still"
        if self.failures:
            raise self.failures.pop()
        return self._make()


@pytest.fixture
def loading(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loading]:
    loading = Loading(certificates.client)
    monkeypatch.setattr(httpx, "create_ssl_context", loading)
    yield loading
    loading.may_end.set()


WAYS: dict[str, dict[str, Any]] = {
    "httptools": {"http1_engine": "httptools"},
    "h11": {"http1_engine": "h11"},
    "HTTP/2": {"http2": True},
}


@pytest.mark.parametrize("way", WAYS)
@LOOPS
async def test_a_loop_turns_while_certificates_are_loaded(
    world: World, h2_server: Server, loading: Loading, way: str
) -> None:
    """Once, in a thread of their own, for all who wait; who is cancelled meanwhile takes nothing from the others."""
    if world.name == "trio" and way == "httptools":
        way = "h11"
    agent = Agent(**WAYS[way])
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        jobs = [tasks.start(client.get, f"{h2_server.url}/echo") for _ in range(3)]
        await world.until(loading.started.is_set)
        await world.settle()
        jobs[0].cancel()
        await jobs[0].wait()
        assert jobs[0].cancelled
        loading.may_end.set()
        for job in jobs[1:]:
            await job.wait()
            assert job.result().http_version == VERSIONS["http2" in WAYS[way]]
    assert len(loading.threads) == 1
    assert threading.get_ident() not in loading.threads
    await world.close(agent)
    assert_no_leaks(agent)


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
@LOOPS
async def test_nor_do_proxies_hold_it_up(
    world: World, certificates: Certificates, tls_server: Server, monkeypatch: pytest.MonkeyPatch, loading: Loading,
    scheme: str,
) -> None:  # fmt: skip
    """That of an https proxy without a context of its own is httpcore's default; once, and not for each connection."""
    proxys = Loading(certificates.client)
    monkeypatch.setattr(httpx_agent_family().httpcore, "default_ssl_context", proxys)
    servers: dict[str, Callable[[], Any]] = {
        "http": Proxy, "https": lambda: Proxy(tls=certificates.server()), "socks5": Socks,
    }  # fmt: skip
    with servers[scheme]() as proxy:
        agent = Agent(proxy=f"{scheme}://{proxy.netloc}")
        async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
            job = tasks.start(client.get, f"{tls_server.url}/close")
            if scheme == "https":
                await world.until(proxys.started.is_set)
                proxys.may_end.set()
            await world.until(loading.started.is_set)
            loading.may_end.set()
            await job.wait()
            assert job.result().status_code == 200
            assert (await client.get(f"{tls_server.url}/close")).status_code == 200
        await world.close(agent)
    assert (len(loading.threads), len(proxys.threads)) == (1, int(scheme == "https"))
    assert threading.get_ident() not in loading.threads + proxys.threads


def httpx_agent_family() -> Any:
    return Agent.family


@LOOPS
async def test_threads_and_loops_share_what_is_loaded(world: World, tls_server: Server, loading: Loading) -> None:
    agent = Agent()
    client = httpx.Client(transport=AgentTransport(agent=agent), trust_env=False)
    async with world.client(transport=AgentTransport(agent=agent)) as own, world.tasks() as tasks:
        first = tasks.start(own.get, f"{tls_server.url}/echo")
        await world.until(loading.started.is_set)
        second = tasks.start(anyio.to_thread.run_sync, client.get, f"{tls_server.url}/echo")
        await world.until(lambda: agent.status().sockets or second.done)
        loading.may_end.set()
        for job in (first, second):
            await job.wait()
            assert job.result().status_code == 200
    client.close()
    assert len(loading.threads) == 1
    await world.close(agent)
    await anyio.to_thread.run_sync(agent.close)


def test_who_comes_while_they_are_loaded_waits_for_that(loading: Loading) -> None:
    tls = TlsContext(loading, is_own=True)
    tls._making = lock = Watched()  # type: ignore[assignment]
    with ThreadPoolExecutor() as threads:
        first = threads.submit(tls.get)
        assert loading.started.wait(10)
        second = threads.submit(tls.get)
        assert lock.waits.wait(10)
        loading.may_end.set()
        assert first.result(10) is second.result(10)
    assert len(loading.threads) == 1


def test_what_a_child_does_about_certificates_that_are_loaded(certificates: Certificates) -> None:
    """It knows of no thread that does so, and waits for no lock; what has been loaded stays."""
    proxy = httpx.Proxy("https://proxy.test", ssl_context=certificates.client())
    agent = Agent(proxy=proxy, verify=certificates.client())
    connector = agent._engine.connector
    contexts = [connector._tls, connector._proxy_tls]
    before = [(tls._making, tls.get()) for tls in contexts if tls is not None]
    agent._engine.begin_anew()
    after = [(tls._making, tls.get()) for tls in contexts if tls is not None]
    assert [made for _, made in before] == [made for _, made in after]
    assert not {id(lock) for lock, _ in before} & {id(lock) for lock, _ in after}


@ALL
async def test_what_fails_to_load_may_be_mended(world: World, tls_server: Server, loading: Loading) -> None:
    """In a loop they are loaded while the socket connects; if that fails, its handshake tries again, and says why."""
    loading.failures = [FileNotFoundError(2, "No such file or directory")] * (1 if world.is_sync else 2)
    loading.may_end.set()
    agent = Agent()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.ConnectError, match=r"GET https://127\.0\.0\.1:\d+: \[Errno 2\] .*No such file"):
            await client.get(f"{tls_server.url}/echo")
        assert (await client.get(f"{tls_server.url}/echo")).status_code == 200
    await world.close(agent)
    assert_no_leaks(agent)


@LOOPS
async def test_loading_counts_in_the_connect_timeout(world: World, tls_server: Server, loading: Loading) -> None:
    agent = Agent(retries=1)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.ConnectTimeout, match=r"no connection within 0\.05 s"):
            await client.get(f"{tls_server.url}/echo", timeout=httpx.Timeout(10, connect=0.05))
        assert len(loading.threads) == 1
        loading.may_end.set()
        assert (await client.get(f"{tls_server.url}/echo")).status_code == 200
    await world.close(agent)
    assert_no_leaks(agent)


@LOOPS
async def test_an_agent_is_closed_while_certificates_are_loaded(
    world: World, tls_server: Server, loading: Loading
) -> None:
    """Who waits for them is told at once."""
    agent = Agent()
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        job = tasks.start(client.get, f"{tls_server.url}/echo")
        await world.until(loading.started.is_set)
        await world.until(lambda: tls_server.accepted)
        await world.settle()
        await world.close(agent)
        await job.wait()
        assert isinstance(job.exception, httpx.ConnectError)
        assert "the agent was closed; nothing was sent" in str(job.exception)
        assert not loading.may_end.is_set()
    tls_server.wait_closed()
    assert_no_leaks(agent)


@LOOPS
async def test_where_no_thread_can_be_had_they_are_loaded_here(
    world: World, tls_server: Server, loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading.may_end.set()

    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    agent = Agent()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(TlsContext, "begin", patched(TlsContext.begin, patch, no_more))
            assert (await client.get(f"{tls_server.url}/echo")).status_code == 200
    assert loading.threads == [threading.get_ident()]
    await world.close(agent)


def patched(begin: Any, patch: pytest.MonkeyPatch, start: Any) -> Any:
    """`begin`, and no thread that it wants can be started."""

    def run(self: TlsContext) -> Any:
        with patch.context() as inner:
            inner.setattr(threading.Thread, "start", start)
            return begin(self)

    return run


def test_a_fork_while_certificates_are_loaded(tls_server: Server, loading: Loading) -> None:
    """No thread in the child would ever be done with them."""
    agent = Agent()
    build = agent._engine.connector._tls.begin()
    assert build is not None
    assert loading.started.wait(10)

    def ask() -> int:
        loading.may_end.set()
        with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
            return client.get(f"{tls_server.url}/echo").status_code

    with child(ask) as running:
        assert running.tell() == 200
    loading.may_end.set()
    build.result(10)


# Making an agent ------------------------------------------------------------------------------------------------------

DEPRECATED = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")


@DEPRECATED
@ALL
async def test_an_agent_that_is_made_in_a_loop_loads_no_authorities_there(
    world: World, certificates: Certificates, tls_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of one they are loaded at once, and what is wrong with them is told."""
    paths = certificates.write(tmp_path)
    make = httpx.create_ssl_context
    loaded: list[tuple[bool, bool]] = []

    def create(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is not False and not isinstance(verify, ssl.SSLContext):
            loaded.append((isinstance(verify, str), threading.get_ident() == here))
        if verify is True:
            verify = certificates.client()
        return make(verify=verify, cert=cert, trust_env=trust_env)

    monkeypatch.setattr(httpx, "create_ssl_context", create)
    here = threading.get_ident()
    for options in ({"verify": paths["ca"]}, {"cert": (paths["cert"], paths["key"])}):
        is_path = "verify" in options
        del loaded[:]
        agent = await construct(world, options)
        assert loaded == ([(is_path, False)] if world.is_sync else [])
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert (await client.get(f"{tls_server.url}/echo")).status_code == 200
        assert loaded == [(is_path, False)]
        await world.close(agent)


@DEPRECATED
@ALL
@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"verify": "nowhere.pem"}, FileNotFoundError),
        ({"cert": "nowhere.pem"}, FileNotFoundError),
        ({"cert": "garbage"}, ssl.SSLError),
        ({"verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "cert": "garbage"}, ssl.SSLError),
    ],
)
async def test_a_wrong_path_is_told_at_once(
    world: World, tmp_path: Path, option: dict[str, Any], error: type[Exception]
) -> None:
    """In a loop as well."""
    (tmp_path / "garbage").write_text("garbage")
    given = {name: str(tmp_path / value) if isinstance(value, str) else value for name, value in option.items()}
    with pytest.raises(error):
        await construct(world, given)


async def construct(world: World, options: dict[str, Any]) -> Agent:
    """Make an agent in a thread without a loop, or right in the loop."""
    if world.is_sync:
        agent: Agent = await world.call(Agent, **options)
        return agent
    return Agent(**options)


def test_no_context_is_made_for_what_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> ssl.SSLContext:
        raise AssertionError

    monkeypatch.setattr(httpx, "create_ssl_context", fail)
    network = Network(Script())
    with httpx.Client(transport=AgentTransport(proxy="http://proxy.test", **network.options)) as client:
        assert client.get("http://a.test/").text == "ok"
