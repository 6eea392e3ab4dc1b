"""An exception in the middle of a handshake, or of the first request of HTTP/2, as a signal's handler may raise it.

What is interrupted here is mostly not ours: codecs, context managers and semaphores that are written in Python, and
`ssl`, which takes a descriptor from one object and gives it to another.
"""

from __future__ import annotations

import contextlib
import encodings.idna
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network.tls import _borrowed, read_protocols
from httpx_agent._network.wire import close_forgotten
from httpx_agent._runtime import process as _fork
from httpx_agent._runtime.causes import out_of_codec
from tests.support.interrupting import Interrupted, Interruption, SoftLimit, in_another_thread
from tests.support.servers import Certificates, Proxy, Server


class In(Interruption):
    """Counts the instructions of the functions of one name in one file."""

    def __init__(self, at: int, error: BaseException, file: str, name: str) -> None:
        super().__init__(at, error, files=(file,), instructions=True)
        self._name = name

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        return super()._enter(frame, event, argument) if frame.f_code.co_name == self._name else None


@pytest.fixture(scope="module")
def tls_server(certificates: Certificates) -> Iterator[Server]:
    with Server(tls=certificates.server(alpn=["h2", "http/1.1"])) as server:
        yield server


def get(agent: Agent, url: str) -> int:
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        return client.get(url, timeout=5).status_code


def interrupt(agent: Agent, url: str, interruption: Interruption) -> BaseException | None:
    """What a request raises that is interrupted; whatever it is, the next one works, from any thread."""
    raised: BaseException | None = None
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        try:
            with interruption:
                client.get(url, timeout=5)
        except BaseException as error:
            raised = error
        assert in_another_thread(lambda: get(agent, url)) == 200
    return raised


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_error", [Interrupted, SoftLimit])
def test_the_codec_of_names(make_error: type[BaseException], tls_server: Server, certificates: Certificates) -> None:
    """Until Python 3.11 what it raises is another exception of that type, for the address as for the TLS name."""
    for at in range(1, 80, 3):
        agent, error = Agent(verify=certificates.client(), max_sockets=1), make_error("the limit")
        interruption = Interruption(at, error, files=(encodings.idna.__file__,))
        raised = interrupt(agent, tls_server.url, interruption)
        assert raised is (None if interruption.where is None else error), interruption.where
        agent.close()


def test_an_error_that_is_of_no_codec_stays() -> None:
    for message in ((), ("of something else",), (1,)):
        error = ValueError(*message)
        error.__cause__ = ValueError("first")
        assert out_of_codec(error) is error
    wrapped = ValueError("encoding with 'idna' codec failed (ValueError: own)")
    assert out_of_codec(wrapped) is wrapped
    wrapped.__cause__ = KeyError("another type")
    assert out_of_codec(wrapped) is wrapped
    wrapped.__cause__ = own = ValueError("own")
    assert out_of_codec(wrapped) is own


# Contexts -------------------------------------------------------------------------------------------------------------


def test_a_context_is_not_kept_by_an_exception(tls_server: Server, certificates: Certificates) -> None:
    """A context manager that is interrupted on its way in does not come to its way out while the exception lives."""
    context, kept = certificates.client(), []
    for at in range(1, 400):
        agent = Agent(verify=context, max_sockets=1)
        interruption = In(at, Interrupted(), contextlib.__file__, "__enter__")
        with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
            try:
                with interruption:
                    client.get(tls_server.url, timeout=5)
            except Interrupted as error:
                kept.append(error)
        in_another_thread(lambda: _borrowed.lend(context, ["h2"], read_protocols))
        agent.close()
        if interruption.where is None:
            break
    assert interruption.where is None
    assert len(kept) > 50


def test_a_context_that_was_not_put_back_is_by_the_next(certificates: Certificates) -> None:
    class Mine(ssl.SSLContext):
        fails = False

        def set_alpn_protocols(self, protocols: Any) -> None:
            if protocols == ["theirs"] and self.fails:
                raise Interrupted
            super().set_alpn_protocols(protocols)

    context = Mine(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["theirs"])
    context.fails = True
    with pytest.raises(Interrupted):
        _borrowed.lend(context, ["h2"], lambda _: None)
    assert read_protocols(context) == ["h2"]
    context.fails = False
    assert _borrowed.lend(context, ["http/1.1"], read_protocols) == ["http/1.1"]
    assert read_protocols(context) == ["theirs"]


# Descriptors ----------------------------------------------------------------------------------------------------------


class Handshake(ssl.SSLSocket):
    """Half made over a number, as `ssl` makes it."""

    def __init__(self, number: int = -1) -> None:
        super(ssl.SSLSocket, self).__init__(fileno=number)

    def fail(self) -> None:
        del self._io_refs  # type: ignore[attr-defined]
        raise Interrupted


def failed(handshake: Handshake) -> BaseException:
    with pytest.raises(Interrupted) as caught:
        handshake.fail()
    return caught.value


def test_the_socket_below_stays_its_owners() -> None:
    """With TLS within TLS it is an `ssl.SSLSocket`, too, and was made to let go of its descriptor."""
    with socket.socket() as plain:
        number = plain.detach()
    below = Handshake(number)
    error = failed(below)
    descriptors = _fork.Descriptors()
    descriptors.note(number)
    close_forgotten(error, below, descriptors)
    assert below.fileno() == number
    socket.SocketType.close(below)


def test_a_number_that_is_anothers_by_now_is_not_closed() -> None:
    """The one that a handshake began with may be closed when `ssl` has made another of its number."""
    descriptors = _fork.Descriptors()
    with socket.socket() as other:
        plain = socket.socket()
        number = plain.fileno()
        descriptors.note(number)
        half_made = Handshake(number)
        plain.close()
        os.dup2(other.fileno(), number)
        close_forgotten(failed(half_made), plain, descriptors)
        assert half_made.fileno() == -1
        assert os.fstat(number).st_ino == os.fstat(other.fileno()).st_ino
        os.close(number)


def test_a_number_that_nobody_else_has_is_closed() -> None:
    descriptors = _fork.Descriptors()
    plain = socket.socket()
    number = plain.detach()
    descriptors.note(number)
    close_forgotten(failed(Handshake(number)), plain, descriptors)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_socket_that_is_not_the_connections_is_let_alone() -> None:
    with socket.socket() as plain:
        number = plain.detach()
    theirs = Handshake(number)
    close_forgotten(failed(theirs), None, _fork.Descriptors())
    assert theirs.fileno() == number
    socket.SocketType.close(theirs)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Python closes a socket that nobody has
def test_tls_within_tls_leaves_no_descriptor(tls_server: Server, certificates: Certificates) -> None:
    context = certificates.client()
    with Proxy(tls=certificates.server()) as proxy:
        for at in range(1, 400, 3):
            agent = Agent(verify=context, proxy=httpx.Proxy(proxy.url, ssl_context=context), max_sockets=1)
            error = Interrupted()
            interruption = Interruption(at, error, files=(ssl.__file__,))
            raised = interrupt(agent, tls_server.url, interruption)
            assert raised is (None if interruption.where is None else error)
            agent.close()
            raised = error.__traceback__ = None
            proxy.wait_closed()
            if interruption.where is None:
                break
        assert interruption.where is None


# HTTP/2 ---------------------------------------------------------------------------------------------------------------


def test_the_semaphore_of_http2(tls_server: Server, certificates: Certificates) -> None:
    """It is taken and freed a hundred times while a connection begins, and locked for ever where that is broken off."""
    context, at = certificates.client(), 1
    while True:
        agent = Agent(verify=context, http2=True, max_sockets=1)
        error = Interrupted()
        interruption = In(at, error, threading.__file__, "__enter__")
        raised = interrupt(agent, tls_server.url, interruption)
        agent.close()
        if interruption.where is None:
            break
        assert raised is error
        at += 29
    assert at > 300
