"""Certificates are loaded outside event loops, once for everything that waits, within the connect timeout."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network.tls import TlsContext
from httpx_agent.testing import assert_no_leaks
from tests.behaviour.test_fork import child
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.tls import Watched, construct
from tests.support.worlds import WORLDS, World

VERSIONS = {True: "HTTP/2", False: "HTTP/1.1"}

#: Where a loop must not be held up.
LOOPS = pytest.mark.parametrize(
    "world", [World("asyncio"), World("uvloop"), World("trio")], ids=lambda world: world.name
)

ALL = pytest.mark.parametrize("world", [*WORLDS, World("uvloop")], ids=lambda world: world.name)


class Loading:
    """Certificates that take their time to load: until the test says so."""

    def __init__(self, make: Callable[[], ssl.SSLContext]) -> None:
        self._make = make
        self.started, self.may_end = threading.Event(), threading.Event()
        self.threads: list[int] = []
        self.failure: Exception | None = None

    def __call__(self, *_: object, **__: object) -> ssl.SSLContext:
        self.threads.append(threading.get_ident())
        self.started.set()
        assert self.may_end.wait(5), "the loop stands still"
        if self.failure is not None:
            raise self.failure
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
    factory = agent._dispatcher.factory
    contexts = [factory._tls, factory._proxy_tls]
    before = [(tls._making, tls.get()) for tls in contexts if tls is not None]
    agent._dispatcher.after_fork()
    after = [(tls._making, tls.get()) for tls in contexts if tls is not None]
    assert [made for _, made in before] == [made for _, made in after]
    assert not {id(lock) for lock, _ in before} & {id(lock) for lock, _ in after}


@ALL
async def test_what_fails_to_load_may_be_mended(world: World, tls_server: Server, loading: Loading) -> None:
    """In a loop they are loaded while the socket connects; if that fails, its handshake tries again, and says why."""
    loading.failure = FileNotFoundError(2, "No such file or directory")
    loading.may_end.set()
    agent = Agent()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.ConnectError, match=r"GET https://127\.0\.0\.1:\d+: \[Errno 2\] .*No such file"):
            await client.get(f"{tls_server.url}/echo")
        loading.failure = None
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
    build = agent._dispatcher.factory._tls.begin()
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
