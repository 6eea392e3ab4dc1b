"""The servers themselves, in the ways that other tests rely on."""

from __future__ import annotations

import gc
import socket
import threading
from pathlib import Path

import httpx
import pytest

from tests.support.servers import BLOCK, Certificates, Proxy, Server, Socks, hanging_port, refusing_port


def client(**options: object) -> httpx.Client:
    return httpx.Client(trust_env=False, **options)


def test_connections_and_requests_are_counted(server: Server) -> None:
    with client() as session:
        for _ in range(3):
            assert session.get(f"{server.url}/bytes/3").content == BLOCK[:3]
        assert (server.accepted, server.open, server.requests_per_connection) == (1, 1, [3])

    server.wait_closed()
    assert (server.accepted, server.open) == (1, 0)


@pytest.mark.parametrize("how", ["close_idle", "reset_idle"])
def test_idle_connections_can_be_ended(server: Server, how: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"GET /bytes/1 HTTP/1.1\r\n\r\n")
        data = b""
        while not data.endswith(b"\r\n\r\n\x00"):
            data += sock.recv(1000)
        getattr(server, how)()
        if how == "close_idle":
            assert sock.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def test_bytes_can_be_sent_on_idle_connections(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        server.send_idle(b"unasked")
        assert sock.recv(7) == b"unasked"


def test_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    with Server() as server, client() as session:
        session.get(server.url)
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before


def test_tls_and_client_certificates(certificates: Certificates) -> None:
    with Server(tls=certificates.server(client_certificate=True)) as server:
        with client(verify=certificates.client(certificate=True)) as session:
            assert session.get(server.url).status_code == 200
        assert server.peers[0].client_certificate is not None
        with client(verify=certificates.client()) as session, pytest.raises(httpx.HTTPError):
            session.get(server.url)
        server.wait_for(lambda: len(server.handshake_errors) == 1)


def test_http2_by_alpn_and_by_prior_knowledge(h2_server: Server, certificates: Certificates) -> None:
    with client(http2=True, verify=certificates.client()) as session:
        response = session.get(f"{h2_server.url}/stream/300000")
        assert (response.http_version, len(response.content)) == ("HTTP/2", 300_000)
        assert response.content == (BLOCK * 5)[:300_000]
        assert session.post(h2_server.url, content=BLOCK * 3).json()["length"] == 3 * len(BLOCK)
    with Server(h2=True) as server, client(http1=False, http2=True) as session:
        assert session.get(server.url).http_version == "HTTP/2"
        assert (server.accepted, server.peers[0].peak_streams) == (1, 1)


def test_goaway_ends_a_connection_once_its_streams_are_done() -> None:
    with Server(h2=True) as server, client(http1=False, http2=True) as session:
        session.get(server.url)
        server.goaway()
        server.wait_closed()
        session.get(server.url)
        assert server.requests_per_connection == [1, 1]


def test_proxies(server: Server, tls_server: Server, certificates: Certificates) -> None:
    with Proxy(credentials=("user", "pass"), tls=certificates.server()) as proxy:
        with_user = httpx.Proxy(proxy.url, auth=("user", "pass"), ssl_context=certificates.client())
        without = httpx.Proxy(proxy.url, ssl_context=certificates.client())
        with client(proxy=with_user, verify=certificates.client()) as session:
            assert session.get(f"{server.url}/echo").json()["target"] == f"{server.url}/echo"
            assert session.get(f"{tls_server.url}/echo").json()["target"] == "/echo"
        with client(proxy=without) as session:
            assert session.get(server.url).status_code == 407
        assert [request.method for request in proxy.requests] == ["GET", "CONNECT", "GET"]


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # httpcore leaves the socket of a refusal open
def test_socks(server: Server) -> None:
    with Socks(credentials=("user", "pass")) as proxy:
        with client(proxy=f"socks5://user:pass@{proxy.netloc}") as session:
            assert session.get(server.url).status_code == 200
        with client(proxy=f"socks5://user:wrong@{proxy.netloc}") as session, pytest.raises(httpx.ProxyError):
            session.get(server.url)
        gc.collect()
        assert proxy.targets == [(1, "127.0.0.1", server.port)]


def test_unix_sockets(tmp_path: Path) -> None:
    with Server(uds=str(tmp_path / "socket")) as server:
        with client(transport=httpx.HTTPTransport(uds=server.uds)) as session:
            assert session.get("http://anything/").status_code == 200


def test_ports_that_refuse_and_that_hang() -> None:
    with client() as session:
        with refusing_port() as port, pytest.raises(httpx.ConnectError):
            session.get(f"http://127.0.0.1:{port}/")
        with hanging_port() as port, pytest.raises(httpx.ConnectTimeout):
            session.get(f"http://127.0.0.1:{port}/", timeout=0.05)
