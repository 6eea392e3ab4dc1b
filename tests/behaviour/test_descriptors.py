"""The limit on open files: free sockets are given up for a new one, once; then the error says what to do."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network.descriptor_limit import is_out_of_descriptors
from httpx_agent.testing import FIN, ChaosServer, Network, Script, assert_no_leaks, respond
from tests.support.servers import Certificates
from tests.support.worlds import World, clean_environment

ROOT = Path(__file__).parents[2]


def too_many(number: int = errno.EMFILE) -> OSError:
    return OSError(number, os.strerror(number))


def as_httpcore_does(error: BaseException) -> httpcore.ConnectError:
    raised = httpcore.ConnectError(str(error))
    raised.__cause__ = error
    return raised


@pytest.mark.parametrize(
    "error",
    [
        too_many(),
        as_httpcore_does(too_many(errno.ENFILE)),
        as_httpcore_does(ExceptionGroup("attempts", [ConnectionRefusedError(), too_many()])),
    ],
    ids=["as it is", "as a cause", "in a group"],
)
async def test_free_sockets_make_room_for_a_new_one(world: World, error: Exception) -> None:
    """Whatever they were for; the second attempt is made at once, and a body may come from an iterator."""
    network = Network(Script(), Script(), Script(connect=error), Script())
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get("http://a.test/")
        await client.get("http://b.test/")
        response = await client.post("http://c.test/", content=world.body([b"one", b"two"]))
        assert response.text == "ok"
        assert not response.extensions["agent"].retried
        assert [connection.state for connection in network.connections] == ["closed", "closed", "failed", "open"]
        status = agent.status()
        assert (status.create_socket_count, status.create_socket_error_count, status.close_socket_count) == (4, 1, 2)
        assert status.request_count == 3
    await world.close(agent)
    assert_no_leaks(agent)


async def test_the_second_failure_says_what_the_agent_holds_and_what_to_do(world: World) -> None:
    network = Network(Script(respond(b"much", length=False)), Script(), default=Script(connect=too_many()))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", "http://a.test/"):
            await client.get("http://b.test/")
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get("http://c.test/")
        assert str(caught.value) == (
            "GET http://c.test:80: no file descriptor is available to open a socket, even after closing the agent's "
            "free sockets; 1 socket(s) are in use. Raise the limit (`ulimit -n`) or lower max_total_sockets. "
            "(connect to c.test:80)"
        )
        assert len(network.connections) == 4
        assert agent.status().create_socket_error_count == 2
        assert agent.status().free_sockets == {}
    await world.close(agent)
    assert_no_leaks(agent)


async def test_other_errors_close_no_free_socket(world: World) -> None:
    network = Network(Script(), Script(connect=as_httpcore_does(ConnectionRefusedError(errno.ECONNREFUSED, "no"))))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get("http://a.test/")
        with pytest.raises(httpx.ConnectError):
            await client.get("http://b.test/")
        assert len(network.connections) == 2
        assert agent.status().free_sockets == {"http://a.test:80": 1}
    await world.close(agent)


async def test_a_body_that_meets_the_limit_is_the_users_own_error(world: World) -> None:
    """Something has been sent, and the socket was there: neither another attempt nor another message."""
    network = Network(Script(FIN))
    agent = Agent(**network.options)

    class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self) -> Any:
            raise too_many()

        def __aiter__(self) -> Any:
            raise too_many()

    request = httpx.Request(
        "POST", "http://a.test/", headers={"Host": "a.test", "Transfer-Encoding": "chunked"}, stream=Body()
    )
    with pytest.raises(OSError, match="Too many open files") as caught:
        await world.handle(AgentTransport(agent=agent), request)
    assert type(caught.value) is OSError
    assert len(network.connections) == 1
    await world.close(agent)


def test_a_name_that_cannot_be_looked_up_for_want_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system does not say that this is why."""
    error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert not is_out_of_descriptors(error)

    def fail(number: int) -> Any:
        def open_file(*_: Any) -> int:
            raise too_many(number)

        return open_file

    monkeypatch.setattr(os, "open", fail(errno.EMFILE))
    assert is_out_of_descriptors(as_httpcore_does(error))
    monkeypatch.setattr(os, "open", fail(errno.EACCES))
    assert not is_out_of_descriptors(error)


async def test_free_sockets_serve_where_nothing_is_left_to_watch_them_by(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a watcher's selector nor its pipe can be made; a socket that died is found before its next use."""

    class NoSelector:
        def __init__(self) -> None:
            raise too_many()

    agent = Agent(free_socket_timeout=15)
    with ChaosServer() as server:
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            with monkeypatch.context() as patch:
                patch.setattr(selectors, "DefaultSelector", NoSelector)
                await client.get(server.url)
                await client.get(server.url)
                assert server.accepted == 1
                server.close_idle()
                server.wait_closed()
                assert sum(agent.status().free_sockets.values()) == 1
                await client.get(server.url)
            assert server.accepted == 2
            await client.get(server.url)
        await world.close(agent)
        server.wait_closed()
    assert_no_leaks(agent)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux shows them")
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("way", ["sync", "asyncio", "trio"])
def test_a_process_at_its_limit(way: str, tls: bool, tmp_path: Path, certificates: Certificates) -> None:
    """With real sockets, and the limit lowered: each name is an origin of its own, so each needs a socket."""
    authority = certificates.write(tmp_path)["ca"]
    with ChaosServer(ssl_context=certificates.server() if tls else None) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.behaviour.at_the_limit", way, server.url, authority],
            cwd=ROOT,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        server.wait_closed()
    assert done.stderr == ""
    message, descriptors = done.stdout.splitlines()
    assert "0 socket(s) are in use. Raise the limit (`ulimit -n`) or lower max_total_sockets. (" in message
    assert int(descriptors) == 0
