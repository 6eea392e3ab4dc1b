"""Servers on Unix sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Server
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines


PATIENT = httpx.Timeout(5.0)

BRIEF = httpx.Timeout(5.0, connect=0.05)

URL = "http://a.test/"


@contextmanager
def full_queue(path: Path) -> Iterator[Callable[[], None]]:
    """A Unix socket whose queue is full; call it to make room, and have one request answered."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        clients: list[socket.socket] = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        accepted: list[socket.socket] = []

        def serve() -> None:
            listener.settimeout(5)
            for _ in clients[1:]:
                accepted.append(listener.accept()[0])
            sock, _ = listener.accept()
            accepted.append(sock)
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

        thread = threading.Thread(target=serve)
        try:
            yield thread.start
        finally:
            if thread.ident is not None:
                thread.join(10)
            for sock in (*clients, *accepted):
                sock.close()


async def test_a_full_queue_is_waited_for(world: World, tmp_path: Path) -> None:
    path = tmp_path / "s"
    transport = AgentTransport(uds=str(path))
    with full_queue(path) as make_room:
        async with world.client(transport=transport, timeout=PATIENT) as client, world.tasks() as tasks:
            job = tasks.start(client.get, "http://unix/")
            await world.until(lambda: bool(transport.agent.sockets()))
            make_room()
            await job.wait()
    assert job.result().text == "ok"


@pytest.mark.parametrize("options", [{}, {"http2": True, "http1": False}], ids=["HTTP/1.1", "HTTP/2"])
async def test_a_queue_that_stays_full(
    world: World, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tries again and again, but not all the time: with pauses of up to 0.05 s."""
    path = tmp_path / "s"
    tries: list[Any] = []
    connect = socket.socket.connect

    def count(sock: socket.socket, address: Any) -> None:
        tries.append(address)
        connect(sock, address)

    with full_queue(path):
        monkeypatch.setattr(socket.socket, "connect", count)
        async with world.client(transport=AgentTransport(uds=str(path), **options), timeout=BRIEF) as client:
            with pytest.raises(httpx.ConnectTimeout) as caught:
                await client.get("http://unix/")
    assert f"(Unix socket to unix:80; tried {path})" not in str(caught.value)
    assert f"(Unix socket; tried {path})" in str(caught.value)
    assert 0 < len(tries) < 12


@pytest.mark.in_loops
@pytest.mark.parametrize("anyio_is_old", [False, True])
async def test_http2_over_a_unix_socket(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_is_old: bool
) -> None:
    path = str(tmp_path / "s")
    if anyio_is_old:
        for kind in (anyio.abc.UNIXSocketStream, anyio.abc.SocketStream):
            monkeypatch.delattr(kind, "from_socket")
    with Server(uds=path, h2=True) as server:
        async with world.client(transport=AgentTransport(uds=path, http2=True, http1=False), timeout=PATIENT) as client:
            response = await client.get("http://unix/")
            assert (response.status_code, response.http_version) == (200, "HTTP/2")
        options = {"socket_options": [(-1, -1, 0)]}
        async with world.client(transport=AgentTransport(uds=path, http2=True, http1=False, **options)) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("http://unix/")
        server.wait_closed()


async def test_an_option_that_a_unix_socket_does_not_take(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with Server(uds=path) as server:
        transport = AgentTransport(uds=path, socket_options=[(-1, -1, 0)])
        async with world.client(transport=transport, timeout=PATIENT) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("http://unix/")
        server.wait_closed()


async def test_a_queue_that_stays_full_until_the_agent_is_closed(world: World, tmp_path: Path) -> None:
    path = tmp_path / "s"
    transport = AgentTransport(uds=str(path))
    with full_queue(path):
        async with world.client(transport=transport, timeout=None) as client, world.tasks() as tasks:
            job = tasks.start(client.get, "http://unix/")
            await world.until(lambda: bool(transport.agent.sockets()))
            transport.agent.close()
            await job.wait()
    assert type(job.exception) is httpx.ConnectError


async def test_no_unix_socket_is_there(world: World, tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    async with world.client(transport=AgentTransport(uds=str(path)), timeout=PATIENT) as client:
        with pytest.raises(httpx.ConnectError, match="No such file") as caught:
            await client.get("http://unix/")
    assert f"(Unix socket; tried {path})" in str(caught.value)


async def test_a_unix_socket_has_paths_for_addresses(world: World, tmp_path: Any) -> None:
    path = str(tmp_path / "socket")
    options = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)]
    with Server(uds=path):
        agent = Agent(uds=path, socket_options=options)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert (await client.get(URL)).status_code == 200
            assert agent.sockets()[0].peer_address == path
        await world.close(agent)
