"""TLS contexts: a user's is left unchanged, even if shared; certificates are never loaded in an event loop."""

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

from httpx_agent import Agent, AgentTransport
from httpx_agent._network import tls as _tls
from httpx_agent._network.tls import Offer, SlowContext, TlsContext, read_protocols
from httpx_agent.testing import Network, Script
from tests.behaviour.test_fork import child
from tests.support.servers import Certificates, Proxy, Server
from tests.support.tls import Watched, construct
from tests.support.worlds import WORLDS, World

VERSIONS = {True: "HTTP/2", False: "HTTP/1.1"}

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
        def __init__(self, context: ssl.SSLContext) -> None:
            super().__init__(context)
            self._lock = lock  # type: ignore[assignment]

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
    _tls._borrowed.lend(other, ["h2"], lambda _: None)

    def fork(_: ssl.SSLContext) -> None:
        _tls._borrowed.after_fork()
        assert read_protocols(lent) == ["theirs"]

    _tls._borrowed.lend(lent, ["h2"], fork)
    assert read_protocols(lent) == read_protocols(other) == ["theirs"]


def test_a_context_that_was_not_put_back(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was to do it was interrupted: the next handshake does, and does not take the list for the user's."""
    context = certificates.client()
    context.set_alpn_protocols(["theirs"])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_tls._Loan, "_put_back", interrupt)
        with pytest.raises(KeyboardInterrupt):
            _tls._borrowed.lend(context, ["h2"], lambda _: None)
    assert read_protocols(context) == ["h2"]
    assert _tls._borrowed.lend(context, ["http/1.1"], read_protocols) == ["http/1.1"]
    assert read_protocols(context) == ["theirs"]


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


# Making an agent ------------------------------------------------------------------------------------------------------
DEPRECATED = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")


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


def test_no_context_is_made_for_what_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> ssl.SSLContext:
        raise AssertionError

    monkeypatch.setattr(httpx, "create_ssl_context", fail)
    network = Network(Script())
    with httpx.Client(transport=AgentTransport(proxy="http://proxy.test", **network.options)) as client:
        assert client.get("http://a.test/").text == "ok"
