"""A server sees the client certificate that the agent has now, and not an earlier one."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network.sessions import SessionCache
from tests.support.servers import Certificates, Server
from tests.support.tls import Connection, Session, resumed
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def identities(server: Server) -> list[str]:
    """Whom the server saw, by connection."""
    return [str(peer.client_certificate and peer.client_certificate["subjectAltName"][0][1]) for peer in server.peers]


def change(certificates: Certificates, context: ssl.SSLContext, name: str) -> None:
    """Load a certificate of another client."""
    certificates.authority.issue_cert(name).configure_cert(context)


@VERSIONS
async def test_a_certificate_that_is_changed_in_the_user_s_context_is_seen(
    world: World, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    """The agent cannot see that, so it resumes no session there unless it is told to."""
    context = certificates.client()
    context.maximum_version = context.minimum_version = version
    change(certificates, context, "old@example.com")
    with Server(tls=certificates.server(client_certificate=True)) as server:
        agent = Agent(verify=context)
        assert agent.max_cached_sessions == agent.options.max_cached_sessions == 0
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            for _ in range(2):
                await client.get(f"{server.url}/close")
            change(certificates, context, "new@example.com")
            for _ in range(2):
                await client.get(f"{server.url}/close")
        await world.close(agent)
        assert identities(server) == ["old@example.com"] * 2 + ["new@example.com"] * 2


@VERSIONS
@pytest.mark.parametrize("forget", [True, False])
async def test_who_wants_sessions_forgets_them_when_the_certificate_changes(
    world: World, certificates: Certificates, version: ssl.TLSVersion, forget: bool
) -> None:
    context = certificates.client()
    context.maximum_version = context.minimum_version = version
    change(certificates, context, "old@example.com")
    with Server(tls=certificates.server(client_certificate=True)) as server:
        agent = Agent(verify=context, max_cached_sessions=9)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert [await resumed(world, client, f"{server.url}/close") for _ in range(2)] == [False, True]
            change(certificates, context, "new@example.com")
            if forget:
                agent.forget_sessions()
            assert [await resumed(world, client, f"{server.url}/close") for _ in range(2)] == [not forget, True]
        await world.close(agent)
        assert identities(server) == ["old@example.com"] * 2 + ["new@example.com" if forget else "old@example.com"] * 2


async def test_a_connection_from_before_brings_no_session_back(world: World, certificates: Certificates) -> None:
    """Sessions are learnt with the first response; that of an older connection comes too late."""
    context = certificates.client()
    change(certificates, context, "old@example.com")
    with Server(tls=certificates.server(client_certificate=True)) as server:
        agent = Agent(verify=context, max_cached_sessions=9)
        async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
            job = tasks.start(client.get, f"{server.url}/hold/before")
            await world.until(lambda: server.gate("before").waiting)
            change(certificates, context, "new@example.com")
            agent.forget_sessions()
            server.gate("before").open()
            await job.wait()
            server.close_idle()
            await world.until(lambda: not agent.status().free_sockets)
            for _ in range(2):
                await client.get(f"{server.url}/close")
        await world.close(agent)
        assert identities(server) == ["old@example.com"] + ["new@example.com"] * 2


async def test_the_sessions_of_one_origin_are_forgotten(world: World, certificates: Certificates) -> None:
    """Under all its names; those of others stay."""
    with Server(tls=certificates.server()) as one, Server(tls=certificates.server()) as other:
        agent = Agent(verify=certificates.client(), max_cached_sessions=9)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            name = {"extensions": {"sni_hostname": "name.example"}}

            async def ask() -> list[bool]:
                ways: list[tuple[str, dict[str, Any]]] = [(one.url, {}), (one.url, name), (other.url, {})]
                return [await resumed(world, client, f"{url}/close", **more) for url, more in ways]

            assert await ask() == [False, False, False]
            agent.forget_sessions(f"{one.url}/some/path?of=it")
            assert await ask() == [False, False, True]
            agent.forget_sessions(httpx.URL(other.url))
            assert await ask() == [True, True, False]
            agent.forget_sessions("https://another.example")
            assert await ask() == [True, True, True]
        await world.close(agent)


@pytest.mark.parametrize(
    ("origin", "error", "message"),
    [
        (7, TypeError, "origin: expected a str or {httpx}.URL such as 'https://example.com', or None for all orig"),
        ("https://a:hunter2@b.test:x", ValueError, "origin: not a valid URL; expected a str or {httpx}.URL"),
        ("http://a:hunter2@a.test", ValueError, "origin with scheme 'http' and host 'a.test': expected a str"),
        ("example.com", ValueError, "origin with scheme '' and host '': expected a str"),
        ("https://", ValueError, "origin with scheme 'https' and host '': expected a str"),
    ],
)  # fmt: skip
def test_what_is_no_origin(origin: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        Agent().forget_sessions(origin)
    assert str(caught.value).startswith(message.format(httpx=httpx.__name__))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (lambda context, paths: {}, 100),
        (lambda context, paths: {"verify": False}, 100),
        (lambda context, paths: {"verify": context}, 0),
        (lambda context, paths: {"verify": context, "max_cached_sessions": 7}, 7),
        (lambda context, paths: {"max_cached_sessions": 0}, 0),
        (lambda context, paths: {"cert": (paths["cert"], paths["key"])}, 100),
    ],
)
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_how_many_sessions_are_kept(
    certificates: Certificates, tmp_path: Path, options: Callable[[Any, Any], dict[str, Any]], kept: int
) -> None:
    """None where others have their hands on the context, unless a number is given."""
    agent = Agent(**options(certificates.client(), certificates.write(tmp_path)))
    assert agent.max_cached_sessions == kept


def test_sessions_are_forgotten_while_they_are_learnt() -> None:
    """In whatever order the two happen."""
    cache = SessionCache(9)
    begun = cache.generation
    cache.clear(lambda key: True)
    cache.learn("a", Connection(Session()), begun)
    assert cache.get("a") is None

    class Meanwhile(Connection):
        @property
        def session(self) -> Session:
            thread = threading.Thread(target=cache.clear, args=(lambda key: True,))
            thread.start()
            thread.join(10)
            return super().session

    cache.learn("a", Meanwhile(Session()), cache.generation)
    assert cache.get("a") is None
    cache.learn("a", Connection(Session()), cache.generation)
    assert cache.get("a") is not None
