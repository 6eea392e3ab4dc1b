"""Explain errors: what, where, how long, which limit, what to do. Their classes do not change."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Protocol

import h11

from .._network.descriptor_limit import is_out_of_descriptors
from .._network.opening import Phase
from .._rules.resend import MAX_GOAWAYS, Loss, Verdict
from .._runtime.causes import walk_causes

if TYPE_CHECKING:
    from .._rules.core import Grant
    from .dispatcher import Dispatcher, Standing
    from .socket import Socket

#: Why a request was not sent again, as the message ends.
_WHY_NOT = {
    Verdict.SWITCHED_OFF: "retry_stale_sockets is off",
    Verdict.ALREADY_RESENT: "it had already been sent again once",
    Verdict.NOT_IDEMPOTENT: "the method is not idempotent (an Idempotency-Key header would allow it)",
    Verdict.BODY_IS_GONE: "its body cannot be replayed",
    Verdict.TOO_MANY_LOSSES: f"it had already lost {MAX_GOAWAYS} connections this way",
}

CLOSED = "the agent was closed"
CUT_SHORT = "the response was closed while it was being read"
FORKED = "the process was forked"


class FailedRequest(Protocol):
    """The parts of a request that messages use; an `Exchange` has them."""

    dispatcher: Dispatcher
    request: Any
    socket: Socket | None
    grant: Grant | None
    started: bool
    refused: bool
    cut_short: bool

    @property
    def title(self) -> str:
        """The method and the origin."""
        raise NotImplementedError

    def loss_and_verdict(self, error: BaseException) -> tuple[Loss, Verdict] | None:
        """Return how the error cost the request its connection, and whether it is sent again."""
        raise NotImplementedError


def explain(error: BaseException, failed: FailedRequest) -> BaseException:
    """Return the error to raise instead of ``error``: of the same class, if that is one of httpcore's.

    Any other error that can only come from the network becomes one of the httpcore class that fits.
    """
    if not isinstance(error, Exception):  # a cancellation, an interrupt
        return error
    httpcore = failed.dispatcher.family.httpcore
    better = _explain(error, failed, httpcore)
    assert isinstance(better, BaseException)
    return better


def cause_of(error: BaseException, failed: FailedRequest) -> BaseException | None:
    """Return the cause to set on an explained error, or ``None`` if its message would repeat the request's content."""
    return None if isinstance(error, failed.dispatcher.family.httpcore.LocalProtocolError) else error


def _explain(error: Exception, failed: FailedRequest, httpcore: Any) -> Any:
    socket = failed.socket
    what = failed.title
    if failed.cut_short:
        return httpcore.ReadError(f"{what}: {CUT_SHORT}")
    connecting = socket is None or not socket.usable or not failed.started
    if failed.refused or (socket is not None and socket.wire.broken):
        if connecting:
            return httpcore.ConnectError(f"{what}: {CLOSED}; nothing was sent")
        why = FORKED if socket is not None and socket.wire.inherited else CLOSED
        return httpcore.ReadError(f"{what}: {why} while the request was in flight")
    loss, verdict = failed.loss_and_verdict(error) or (None, Verdict.RESEND)
    if loss is not None and loss.is_http2:
        return httpcore.RemoteProtocolError(f"{what}: {_goaway(error, loss)}; not sent again: {_WHY_NOT[verdict]}")
    if isinstance(error, httpcore.PoolTimeout):
        return error
    where = _where(socket) if connecting else ""
    if isinstance(error, httpcore.TimeoutException):
        return type(error)(f"{what}: {_timeout(error, failed)}{where}")
    if connecting and is_out_of_descriptors(error):
        return httpcore.ConnectError(f"{what}: {_out_of_descriptors(failed)}{where}")
    if isinstance(error, ssl.SSLError):
        return (httpcore.ConnectError if connecting else httpcore.ReadError)(f"{what}: {error}{where}")
    if connecting and isinstance(error, (OSError, UnicodeError)):
        return httpcore.ConnectError(f"{what}: {error}{where}")
    if connecting and type(error).__module__.startswith("socksio."):  # httpcore does not convert it
        return httpcore.ProxyError(f"{what}: the proxy closed the connection or does not speak SOCKS5 ({error}){where}")
    if loss is Loss.STALE:
        text = _text(error).removesuffix(".")
        return type(error)(f"{what}: {text}. {_stale(failed)} Not sent again: {_WHY_NOT[verdict]}.")
    if isinstance(error, (httpcore.LocalProtocolError, h11.LocalProtocolError)):  # httpcore converts only some of h11's
        return httpcore.LocalProtocolError(f"{what}: {_without_values(str(error), failed.request.headers)}")
    if isinstance(error, (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError)):
        return type(error)(f"{what}: {_text(error)}{where}")
    return error


def _where(socket: Socket | None) -> str:
    """Say how far the opening of a socket came: its phase, to whom, and by which addresses."""
    reached = "" if socket is None else socket.wire.opening.describe()
    if not reached or socket is None:
        return ""
    own = socket.wire.options.local_address
    if own and reached.startswith(Phase.TCP.value):  # it may not be an address of this machine
        reached += f"; from local_address={own!r}"
    return f" ({reached})"


def _text(error: BaseException) -> str:
    """Return the message of an error or, as trio's have none, of the error that caused it."""
    return next((words for found in walk_causes(error) if (words := str(found))), "the connection broke")


def _without_values(message: str, headers: list[tuple[bytes, bytes]]) -> str:
    """Remove the values of headers from a message: an `Authorization` with a trailing line break is still a secret."""
    for name, value in headers:
        message = message.replace(repr(value), f"of {name.decode('latin-1')}")
    return message


def _timeout(error: BaseException, failed: FailedRequest) -> str:
    """Say which timeout expired, and how long it was."""
    kind = type(error).__name__.removesuffix("Timeout").lower()
    seconds = failed.request.extensions.get("timeout", {}).get(kind)
    limit = f"{seconds:g} s" if isinstance(seconds, (int, float)) else "the time allowed"
    happened = {
        "connect": f"no connection within {limit}",
        "read": f"no data received for {limit}",
        "write": f"no data could be sent for {limit}",
    }[kind]
    return f"{happened} ({kind} timeout, set by the request or by the agent's `timeout`)"


def pool_timeout_text(failed: FailedRequest, standing: Standing) -> str:
    """Say which limit keeps a request waiting beyond its pool timeout, and what holds the sockets."""
    if standing.used >= standing.rules.max_sockets:
        limit = f"max_sockets={standing.rules.max_sockets:g} reached"
    elif standing.total >= standing.max_total:
        limit = f"max_total_sockets={standing.max_total} reached"
    else:
        limit = "waiting to learn whether the first socket speaks HTTP/2"
    held = ", ".join(f"{count} {state.value}" for state, count in standing.states.items()) or "none"
    timeout = failed.request.extensions["timeout"]["pool"]
    return (
        f"{failed.title}: no socket available within {timeout:g} s (pool timeout): {limit}; "
        f"sockets of this origin: {held}; of all origins: {standing.total}; "
        f"requests waiting for this origin, including this one: {standing.waiting}. "
        "Raise the limit or the pool timeout, and read or close every response."
    )


def _goaway(error: BaseException, loss: Loss) -> str:
    """Say how the server closed an HTTP/2 connection."""
    if loss is Loss.UNPROCESSED:
        return "the server stopped accepting requests on the HTTP/2 connection"
    return f"the server closed the HTTP/2 connection before responding ({error or 'no reason given'})"


def _out_of_descriptors(failed: FailedRequest) -> str:
    """Say how many sockets the agent holds."""
    _, sockets, _ = failed.dispatcher.snapshot()
    held = sum(socket is not failed.socket for _, socket in sockets)
    return (
        "no file descriptor is available to open a socket, even after closing the agent's free sockets; "
        f"{held} socket(s) are in use. Raise the limit (`ulimit -n`) or lower max_total_sockets."
    )


def _stale(failed: FailedRequest) -> str:
    """Say what the socket did before it was found dead."""
    grant = failed.grant
    assert grant is not None
    served = grant.requests_on_socket - 1
    idle = f" and been free for {grant.idle_for:.3f} s" if grant.idle_for is not None else ""
    return f"The socket was stale: it had served {served} request(s){idle}."
