"""The chaos server does what it promises, as seen by a plain socket."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from httpx_agent.testing import FAULTS, FIN, HANG, REFUSED, RST, ChaosServer, Fault, Gate, Peer, respond
from tests.support.servers import Certificates

LIMIT = 10.0


@contextmanager
def connect(server: ChaosServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT) as sock:
        yield sock


def ask(sock: socket.socket, path: str = "/", body: bytes = b"") -> None:
    sock.sendall(b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body))


def read_to_the_end(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


def read(sock: socket.socket, end: bytes = b"\r\n\r\nok") -> bytes:
    data = b""
    while not data.endswith(end):
        more = sock.recv(65536)
        assert more, data
        data += more
    return data


def test_a_plain_request_gets_a_plain_answer_that_names_it() -> None:
    with ChaosServer() as server, connect(server) as sock:
        for number in range(2):
            ask(sock, f"/path?{number}", b"body")
            assert f"X-Target: /path?{number}".encode() in read(sock)
        assert [request.path for request in server.requests] == ["/path", "/path"]
        assert [request.query for request in server.requests] == ["0", "1"]
        assert [request.body_length for request in server.requests] == [4, 4]
        assert (server.accepted, server.open, server.requests_per_connection) == (1, 1, [2])
    assert server.open == 0


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_sends_what_its_steps_say(name: str) -> None:
    """And ends as they say; where nothing is said, the connection stays."""
    fault = FAULTS[name]
    expected = b"".join(step for step in fault.steps if isinstance(step, bytes))
    with ChaosServer() as server, connect(server) as sock:
        if fault.early:  # the body never comes
            sock.sendall(b"POST /%s HTTP/1.1\r\nContent-Length: 4\r\n\r\n" % name.encode())
        else:
            ask(sock, f"/{name}")
        received = b""
        reset = False
        try:
            while len(received) < len(expected) or fault.steps[-1] in (FIN, RST):
                more = sock.recv(65536)
                received += more
                if not more:
                    break
        except ConnectionResetError:
            reset = True
        assert reset == (fault.steps[-1] is RST)
        assert received == expected or (reset and expected.startswith(received))
        if fault.steps[-1] in (FIN, RST):
            server.wait_closed()
        else:
            server.wait_for(lambda: server.requests)
            assert server.open == 1
        assert server.url_of(name) == f"{server.url}/{name}"


def test_each_fault_says_what_it_does_and_has_the_name_it_is_kept_under() -> None:
    for name, fault in FAULTS.items():
        assert fault.name == name
        assert fault.what
    assert len({fault.what for fault in FAULTS.values()}) == len(FAULTS)


def test_the_next_requests_meet_what_they_were_meant_to_meet() -> None:
    mine = Fault("mine", "says so", (respond(b"ok", 418),))
    with ChaosServer() as server, connect(server) as sock:
        server.next("interim", mine, respond(b"ok", 299), [respond(b"ok", 298), FIN])
        for expected in (b"HTTP/1.1 103", b"HTTP/1.1 418", b"HTTP/1.1 299", b"HTTP/1.1 298"):
            ask(sock, "/reset")  # what comes next wins over the path
            assert expected in read(sock)
        assert sock.recv(1) == b""


def test_a_gate_holds_an_answer() -> None:
    gate = Gate("answer")
    with ChaosServer() as server, connect(server) as sock:
        server.next([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", gate, b"ok"])
        ask(sock)
        assert read(sock, b"\r\n\r\n")
        assert repr(gate) == "<Gate answer shut>"
        gate.open()
        assert read(sock, b"ok") == b"ok"


def test_the_end_of_the_server_opens_its_gates() -> None:
    with ChaosServer() as server, connect(server) as sock:
        server.next(Gate())
        ask(sock)
        server.wait_for(lambda: server.requests)
    assert server.open == 0


@pytest.mark.parametrize(
    ("steps", "expected"), [((FIN,), b""), ((b"hello",), b"hello"), ((b"hello", FIN), b"hello")], ids=repr
)
def test_a_connection_may_be_met_before_it_says_anything(steps: tuple[Any, ...], expected: bytes) -> None:
    with ChaosServer() as server:
        server.next_connection(*steps)
        server.next_connection(RST)
        with connect(server) as first:
            received = read_to_the_end(first) if steps[-1] is FIN else first.recv(100)
            assert received == expected
        with pytest.raises(ConnectionResetError), connect(server) as second:  # at times the connect meets it already
            second.recv(1)
        with connect(server) as third:
            ask(third)
            assert read(third)


def test_a_connection_that_hangs_ends_when_the_client_leaves() -> None:
    with ChaosServer() as server:
        server.next_connection(HANG)
        with connect(server) as sock:
            ask(sock)
            server.wait_for(lambda: server.open == 1)
            assert server.requests == []
        server.wait_closed()


def test_answers_may_take_their_time() -> None:
    with ChaosServer(pace=0.01) as server, connect(server) as sock:
        ask(sock, "/trickle")
        received = read(sock)
        assert received == b"".join(step for step in FAULTS["trickle"].steps if isinstance(step, bytes))


def test_a_client_that_asks_for_the_end_gets_it() -> None:
    with ChaosServer() as server, connect(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert read_to_the_end(sock).endswith(b"ok")


def test_idle_connections_can_be_closed_reset_and_written_to() -> None:
    with ChaosServer() as server:
        with connect(server) as sock:
            server.send_idle(b"unasked")
            assert sock.recv(100) == b"unasked"
            server.close_idle()
            assert sock.recv(100) == b""
        with connect(server) as sock:
            server.reset_idle()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def test_a_connection_whose_response_was_read_is_taken_for_idle_though_its_thread_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()
    wait_idle = Peer.wait_idle

    def late(peer: Peer) -> None:
        if peer.requests:
            assert go_on.wait(LIMIT)
        wait_idle(peer)

    class Watched(ChaosServer):
        def wait_for(self, predicate: Callable[[], Any], timeout: float = LIMIT) -> None:
            if not predicate():
                go_on.set()
            super().wait_for(predicate, timeout)

    monkeypatch.setattr(Peer, "wait_idle", late)
    with Watched() as server, connect(server) as never_asked, connect(server) as sock:
        ask(sock)
        read(sock)
        ChaosServer.wait_for(server, lambda: server.idle == 1)
        server.send_idle(b"unasked")
        go_on.set()
        assert never_asked.recv(100) == sock.recv(100) == b"unasked"


def test_connects_are_refused_and_then_taken_again() -> None:
    with ChaosServer() as server, connect(server) as before:
        server.wait_for(lambda: server.idle == 1)
        with server.refusing():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT)
            ask(before)
            assert read(before)
        with connect(server) as after:
            ask(after)
            assert read(after)


def test_connects_get_no_answer_and_are_then_taken_again() -> None:
    with ChaosServer() as server:
        with server.unresponsive():
            with pytest.raises(TimeoutError):
                socket.create_connection(("127.0.0.1", server.port), timeout=0.05)
        with connect(server) as after:
            ask(after)
            assert read(after)


def test_tls(certificates: Certificates) -> None:
    with ChaosServer(ssl_context=certificates.server()) as server:
        with httpx.Client(verify=certificates.client(), trust_env=False) as client:
            assert server.url.startswith("https://")
            assert client.get(server.url).text == "ok"
            with pytest.raises(httpx.RemoteProtocolError):
                client.get(server.url_of("fin"))
            server.next_connection(RST)
            with pytest.raises(httpx.ConnectError):
                client.get(server.url)
        with httpx.Client(verify=ssl.create_default_context(), trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                client.get(server.url)
        server.wait_for(lambda: server.handshake_errors)


def test_connections_that_are_left_open_fail_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx_agent.testing._chaos.GRACE", 0.01)
    server = ChaosServer(must_be_closed=True)

    def leave_one_open(sock: socket.socket) -> None:
        with server:
            sock.connect(("127.0.0.1", server.port))
            ask(sock, "/some/path")
            read(sock)
            server.wait_for(lambda: server.idle == 1)

    with socket.socket() as sock, pytest.raises(AssertionError) as caught:
        leave_one_open(sock)
    assert str(caught.value) == (
        "the client left 1 connections open: [<connection 0: idle, 1 requests, the last for /some/path>]"
    )
    assert server.open == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ChaosServer")]


def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    def fail(sock: socket.socket) -> None:
        with ChaosServer(must_be_closed=True) as server:
            sock.connect(("127.0.0.1", server.port))
            raise ValueError("mine")

    with socket.socket() as sock, pytest.raises(ValueError, match="mine"):
        fail(sock)


def test_what_does_not_come_true_names_the_connections() -> None:
    with ChaosServer() as server, connect(server):
        server.wait_for(lambda: server.idle == 1)
        with pytest.raises(AssertionError, match=r"condition not met within 0\.01 s; connections: \[<connection 0: "):
            server.wait_for(lambda: False, timeout=0.01)


def test_a_request_that_makes_no_sense_is_an_error_of_the_test() -> None:
    def talk_nonsense() -> None:
        with ChaosServer() as server, connect(server) as sock:
            sock.sendall(b"nonsense\r\n\r\n")
            server.wait_for(lambda: server.errors)

    with pytest.raises(AssertionError, match="not enough values to unpack"):
        talk_nonsense()


def test_a_body_that_waits_to_be_asked_for_is_asked_for() -> None:
    with ChaosServer() as server, connect(server) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert read(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"body")
        assert read(sock)


class Slow(ChaosServer):
    """Reads the first byte by itself; what it meets then is no error of its own."""

    expected_errors = (ZeroDivisionError,)

    def serve(self, peer: Peer) -> None:
        """Look whether more has come, and fail."""
        assert peer.wait() == [peer.sock]
        assert peer.sock.recv(1) == b"G"
        peer.sock.sendall(b"more" if peer.wait() == [peer.sock] else b"none")
        raise ZeroDivisionError


def test_what_tls_has_read_already_is_seen(certificates: Certificates) -> None:
    """And an error that a subclass expects is none of the test."""
    with Slow(ssl_context=certificates.server()) as server, connect(server) as plain:
        with certificates.client().wrap_socket(plain, server_hostname="localhost") as sock:
            sock.sendall(b"GET")
            assert sock.recv(4) == b"more"
            assert sock.recv(1) == b""
        server.wait_closed()


@pytest.mark.parametrize("step", [REFUSED, ValueError("no"), 3, None])
def test_what_only_a_scripted_network_can_do_is_refused(step: Any) -> None:
    server = ChaosServer()
    with pytest.raises(TypeError, match="expected the name of a fault, bytes, FIN, RST, HANG, a Gate, or"):
        server.next([b"", step])
    with pytest.raises(TypeError):
        server.next_connection(step)


def test_a_name_that_no_fault_has() -> None:
    with pytest.raises(KeyError, match="resett"):
        ChaosServer().next("resett")
