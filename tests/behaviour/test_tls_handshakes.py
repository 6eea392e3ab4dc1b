"""TLS handshakes that fail, are cancelled, or take too long: no socket is left open."""

from __future__ import annotations

import errno
import gc
import os
import socket
import ssl
import struct
import threading
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import ChaosServer
from tests.bugs.stock import Stack
from tests.support.collecting import uncollected
from tests.support.raw import raw_server
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

CONTEXT = ssl.create_default_context()


@pytest.mark.bug("B17")
@pytest.mark.both_engines
@pytest.mark.in_loops
async def test_a_tls_handshake_that_is_cancelled(world: World, stack: Stack, server: Server) -> None:
    """httpx: the server sees the socket open, until the collector comes by."""
    transport = stack.transport(is_sync=False, verify=False)  # the server waits for HTTP, and does not answer a hello
    with uncollected():
        async with world.client(transport=transport) as client, world.tasks() as tasks:
            job = tasks.start(client.get, f"https://{server.netloc}/")
            await world.until(lambda: server.peers and server.peers[0].buffer)
            job.cancel()
            await job.wait()
            await world.until(lambda: server.open == 0)


@pytest.mark.bug("B17")
@pytest.mark.both_engines
async def test_a_connection_that_is_reset_before_its_tls_handshake(world: World, stack: Stack) -> None:
    """httpx: in the sync world, before Python 3.13, which forgets it, the socket stays open as long as the error lives.

    In the loops it passes.
    """
    was_reset = threading.Event()

    def reset() -> None:
        with listener.accept()[0] as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        was_reset.set()

    def wait(name: str, info: dict[str, Any]) -> None:
        if name == "connection.connect_tcp.complete":
            assert was_reset.wait(10)
            while world.is_sync and not info["return_value"].get_extra_info("is_readable"):
                pass  # the news is on its way

    transport = stack.transport(is_sync=world.is_sync, verify=CONTEXT)
    with socket.create_server(("127.0.0.1", 0)) as listener, uncollected():
        thread = threading.Thread(target=reset)
        thread.start()
        async with world.client(transport=transport) as client:
            before = open_sockets()
            with pytest.raises(httpx.ConnectError):
                await client.get(
                    f"https://127.0.0.1:{listener.getsockname()[1]}/", extensions={"trace": world.callback(wait)}
                )
            assert open_sockets() == before
        thread.join()


def open_sockets() -> list[str]:
    """TLS sockets of this process that have a descriptor."""
    return [repr(thing) for thing in gc.get_objects() if isinstance(thing, ssl.SSLSocket) and thing.fileno() >= 0]


def test_a_handshake_that_fails_in_a_thread_closes_its_socket(certificates: Certificates, tls_server: Server) -> None:
    agent = Agent(verify=Certificates().client())
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            client.get(f"{tls_server.url}/echo")
    tls_server.wait_closed()
    agent.close()


def too_many(number: int = errno.EMFILE) -> OSError:
    return OSError(number, os.strerror(number))


def test_a_handshake_without_a_descriptor_to_break_it_by(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync world has a second one for each handshake; it does without."""

    def fail(_: object) -> None:
        raise too_many()

    monkeypatch.setattr(os, "dup", fail)
    with ChaosServer(ssl_context=certificates.server()) as server:
        with httpx.Client(transport=AgentTransport(verify=certificates.client())) as client:
            assert client.get(server.url).text == "ok"
    assert server.accepted == 1


@pytest.mark.fast_engine
async def test_a_failed_handshake(world: World, tls_server: Server) -> None:
    transport = AgentTransport(verify=ssl.create_default_context())
    async with world.client(transport=transport) as client:
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await client.get(f"{tls_server.url}/bytes/3")
    tls_server.wait_closed()


@pytest.mark.fast_engine
async def test_a_server_that_closes_in_the_handshake(world: World) -> None:
    with raw_server(lambda peer: None) as url:
        async with world.client(transport=AgentTransport(verify=ssl.create_default_context())) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(url.replace("http", "https"))


@pytest.mark.fast_engine
async def test_a_handshake_that_takes_too_long(world: World) -> None:
    with raw_server(lambda peer: peer.wait_closed()) as url:
        async with world.client(transport=AgentTransport(verify=ssl.create_default_context())) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.get(url.replace("http", "https"), timeout=httpx.Timeout(5.0, connect=0.1))
