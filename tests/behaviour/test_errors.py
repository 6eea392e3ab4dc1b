"""The exception for a failed request: its class, its message and its causes."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FIN, Network, Script, assert_no_leaks
from tests.bugs.stock import Stack
from tests.support.errors import ring
from tests.support.servers import Certificates
from tests.support.worlds import World

URL = "http://a.test/"

TOO_MANY = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@contextmanager
def strict_server(context: ssl.SSLContext) -> Iterator[int]:
    """A TLS server that wants a certificate, says so, and reads on, so that its alert is not lost in a reset."""

    def serve() -> None:
        with listener.accept()[0] as plain:
            secure = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            with pytest.raises(ssl.SSLError):
                secure.do_handshake()
            with socket.socket(fileno=secure.detach()) as rest:
                rest.shutdown(socket.SHUT_WR)
                while rest.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.bug("B22")
@pytest.mark.both_engines
async def test_every_error_of_the_network_is_one_of_httpxs(
    world: World, stack: Stack, certificates: Certificates
) -> None:
    """httpx: `ssl.SSLError` in asyncio; the other worlds have a `ReadError`."""
    with strict_server(certificates.server(client_certificate=True)) as port:
        transport = stack.transport(is_sync=world.is_sync, verify=certificates.client())
        async with world.client(transport=transport) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"https://127.0.0.1:{port}/")


async def test_a_response_that_ends_unexpectedly(world: World) -> None:
    network = Network(Script([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", FIN]))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.RemoteProtocolError, match=r"^GET http://a\.test:80: peer closed connection"):
            await client.get(URL)
    await world.close(agent)


async def test_what_tls_says_of_a_connection_in_use(world: World) -> None:
    """On asyncio and trio it comes as it is, where the other end says no after the handshake."""
    network = Network(Script(ssl.SSLError("tlsv13 alert certificate required")))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.ReadError) as caught:
            await client.get("https://a.test/")
    assert str(caught.value).startswith("GET https://a.test:443: ")
    assert "tlsv13 alert certificate required" in str(caught.value)
    await world.close(agent)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "error",
    [
        ring(httpcore.ConnectError("refused"), RuntimeError("later")),
        ring(httpcore.ConnectError("refused")),
        ring(OSError("refused"), RuntimeError("later")),
    ],
    ids=["of two", "its own cause", "of the system"],
)
@pytest.mark.parametrize("step", ["connect", "tls"])
async def test_a_backend_that_raises_its_first_error_from_a_later_one(
    world: World, step: str, error: Exception
) -> None:
    network = Network(Script(**{step: error}), Script())
    agent = Agent(verify=ssl.create_default_context(), **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client:
        with pytest.raises(httpx.ConnectError, match=r"a\.test.*: refused"):
            await client.get("https://a.test/")
        assert (await client.get("https://a.test/")).text == "ok"
    await world.close(agent)
    assert_no_leaks(agent)


@pytest.mark.timeout(10)
async def test_a_ring_without_words(world: World) -> None:
    """An error that says nothing is given the words of its cause; where none has any, the usual ones."""
    silent = ring(httpcore.ConnectError(), RuntimeError())
    telling = ring(httpcore.ConnectError(), RuntimeError(), ValueError("no route"))
    network = Network(Script(connect=silent), Script(connect=telling))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client:
        for words in ("the connection broke", "no route"):
            with pytest.raises(httpx.ConnectError) as failed:
                await client.get("http://a.test/")
            assert str(failed.value) == f"GET http://a.test:80: {words} (connect to a.test:80)"
    await world.close(agent)
    assert_no_leaks(agent)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("event", ["connection.connect_tcp.started", "http11.send_request_headers.started"])
async def test_a_trace_callback_that_raises_its_first_error_from_a_later_one(world: World, event: str) -> None:
    network = Network()
    agent = Agent(**network.options)

    def callback(name: str, info: Any) -> None:
        if name == event:
            raise ring(ValueError("mine"), RuntimeError("later"))

    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client:
        with pytest.raises(ValueError, match="mine"):
            await client.get("http://a.test/", extensions={"trace": world.callback(callback)})
        assert (await client.get("http://a.test/")).text == "ok"
    await world.close(agent)
    assert_no_leaks(agent)


@pytest.mark.timeout(10)
async def test_a_request_made_while_the_limit_on_open_files_is_handled(world: World) -> None:
    """That was the caller's own; a server that refuses closes no free socket, and is not said to be for that."""
    network = Network(Script(), Script(connect=httpcore.ConnectError("refused")))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client:
        await client.get("http://a.test/")
        try:
            raise TOO_MANY
        except OSError:
            with pytest.raises(httpx.ConnectError, match=r"http://b\.test:80: refused"):
                await client.get("http://b.test/")
        assert agent.status().free_sockets == {"http://a.test:80": 1}
    await world.close(agent)
    assert_no_leaks(agent)


class NoFiles:
    """A backend that says what went wrong, but not why."""

    def __init__(self) -> None:
        self.attempts = 0

    def connect_tcp(self, *_: object, **__: object) -> Any:
        self.attempts += 1
        try:
            raise TOO_MANY
        except OSError:
            raise httpcore.ConnectError("no connection")  # noqa: B904


@pytest.mark.timeout(10)
def test_a_backend_that_does_not_name_the_cause() -> None:
    """What it handled when it raised is looked at, too."""
    backend = NoFiles()
    with httpx.Client(transport=AgentTransport(network_backend=backend)) as client:
        with pytest.raises(httpx.ConnectError, match="no file descriptor is available"):
            client.get("http://a.test/")
    assert backend.attempts == 2
