"""The options of an agent: their meaning, the values they accept, and the errors for unsuitable values."""

from __future__ import annotations

import importlib.util
import math
import numbers
import operator
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, SupportsIndex, TypedDict

from .._protocol.http1 import is_installed
from .._rules.core import Rules
from .frozen import FrozenDict
from .option_hints import no_such_option
from .origins import OriginPattern

if TYPE_CHECKING:
    from .._family import Family

Seconds = float | timedelta
SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]

#: macOS uses a different name for it.
_TCP_KEEPIDLE: int = next(getattr(socket, n) for n in ("TCP_KEEPIDLE", "TCP_KEEPALIVE") if hasattr(socket, n))

#: The highest value that Linux accepts for TCP_KEEPIDLE.
_MAX_KEEP_IDLE = 32767


class Unset(Enum):
    """Mark an option that was not given, as opposed to one given with its default value."""

    UNSET = "the default"

    def __repr__(self) -> str:
        return "<default>"


UNSET: Final = Unset.UNSET


class AgentKeywords(TypedDict, total=False):
    """The agent's own options, as keyword arguments of `Agent` and `AgentTransport`."""

    keep_alive: bool
    keep_alive_initial_delay: Seconds | None
    max_sockets: int | float | None
    max_total_sockets: int | float | None
    max_free_sockets: int | float | None
    max_total_free_sockets: int | float | None
    scheduling: Literal["lifo", "fifo"]
    timeout: Seconds | None
    free_socket_timeout: Seconds | None
    socket_active_ttl: Seconds | None
    keep_alive_timeout_buffer: Seconds
    max_cached_sessions: int
    http1_engine: Literal["auto", "httptools", "h11"]
    per_origin: Mapping[str, Mapping[str, Any]] | None
    debug: bool
    retry_stale_sockets: bool
    network_backend: Any
    async_network_backend: Any


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """Every option of an agent, validated and normalised. Times are in seconds; ``None`` means no limit.

    Attributes:
        keep_alive: Whether to keep a socket open after its response (Node `keepAlive`).
        keep_alive_initial_delay: TCP keep-alive: idle seconds before the first probe, rounded up to whole seconds;
            ``None`` sends none (Node `keepAliveMsecs`, R26, repair N26).
        max_sockets: The maximum number of open sockets per origin: connecting, active, free and closing
            (Node `maxSockets`, R4).
        max_total_sockets: The same for all origins together (Node `maxTotalSockets`, R6).
        max_free_sockets: The maximum number of free sockets per origin; 0 keeps none. At the limit, a socket that
            becomes free is closed (Node `maxFreeSockets`, R12).
        max_total_free_sockets: The maximum number of free sockets for all origins together. Beyond it, the least
            recently used is closed.
        scheduling: Which free socket to use next: the one used last (``"lifo"``) or the one free for longest
            (``"fifo"``) (Node `scheduling`, R2).
        timeout: How long a socket in use may be inactive while connecting, reading or writing (Node `timeout`, R17,
            R33). A number in the request's own timeout takes precedence.
        free_socket_timeout: How long a socket may stay free; 0 keeps none (`freeSocketTimeout`, R31).
        socket_active_ttl: The maximum age of a socket; a socket in use is never cut off (`socketActiveTTL`, R34).
        keep_alive_timeout_buffer: Subtracted from the server's `Keep-Alive: timeout=` hint
            (`agentKeepAliveTimeoutBuffer`, R15).
        max_cached_sessions: How many TLS sessions to keep for resumption, one for each origin and server name; 0 keeps
            none (`maxCachedSessions`, R28). If `verify` is an `ssl.SSLContext`, the default is 0: a server that resumes
            a session would not see a certificate that is loaded into the context later. See `Agent.forget_sessions`.
        http1_engine: The HTTP/1.1 implementation: ``"auto"`` uses the fast one if httptools is installed and it can
            serve the connection, otherwise httpcore's; ``"httptools"`` requires the fast one; ``"h11"`` never uses it.
        per_origin: Different values of some options for some origins, by httpx's URL patterns.
        debug: Whether to record where each response was requested, so that warnings can name those never closed.
        retry_stale_sockets: Whether to send a request again when a used socket turns out to be dead (R19, N16).
        verify: TLS verification, as in `httpx.HTTPTransport`.
        cert: Client certificate, as in `httpx.HTTPTransport`.
        trust_env: Whether to use `SSL_CERT_FILE` and `SSL_CERT_DIR`, as in `httpx.HTTPTransport`.
        http1: Whether to allow HTTP/1.1.
        http2: Whether to allow HTTP/2.
        limits: The `httpx.Limits` that were given; the options above show their values.
        proxy: The proxy, as in `httpx.HTTPTransport`.
        uds: The path of a Unix socket to connect to instead.
        local_address: The address to connect from.
        retries: How many further attempts to connect to make.
        socket_options: Arguments for `socket.setsockopt`, applied last.
        network_backend: An `httpcore.NetworkBackend` to use instead of the usual one.
        async_network_backend: An `httpcore.AsyncNetworkBackend` to use instead of the usual ones.
    """

    keep_alive: bool = True
    keep_alive_initial_delay: float | None = 1.0
    max_sockets: int | None = None
    max_total_sockets: int | None = None
    max_free_sockets: int | None = 256
    max_total_free_sockets: int | None = None
    scheduling: Literal["lifo", "fifo"] = "lifo"
    timeout: float | None = 30.0
    free_socket_timeout: float | None = 15.0
    socket_active_ttl: float | None = None
    keep_alive_timeout_buffer: float = 1.0
    max_cached_sessions: int = 100
    http1_engine: Literal["auto", "httptools", "h11"] = "auto"
    per_origin: Mapping[str, Mapping[str, Any]] | None = None
    debug: bool = False
    retry_stale_sockets: bool = True
    verify: ssl.SSLContext | str | bool = True
    cert: Any = field(default=None, repr=False)
    trust_env: bool = True
    http1: bool = True
    http2: bool = False
    limits: Any = None
    proxy: Any = field(default=None, repr=False)  # its headers may hold a password
    uds: str | None = None
    local_address: str | None = None
    retries: int = 0
    socket_options: tuple[SocketOption, ...] | None = None
    network_backend: Any = None
    async_network_backend: Any = None

    def tcp_socket_options(self) -> tuple[SocketOption, ...]:
        """Return TCP keep-alive (R26), then the user's own options, which override it."""
        own = self.socket_options or ()
        delay = self.keep_alive_initial_delay
        if delay is None or not self.keep_alive:
            return own
        seconds = min(math.ceil(delay), _MAX_KEEP_IDLE)
        return ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, _TCP_KEEPIDLE, seconds), *own)


#: The options that may be set while the agent runs, as in Node.
LIVE_OPTIONS = frozenset({"max_sockets", "max_total_sockets", "max_free_sockets", "scheduling"})

#: The options that may differ between origins.
ORIGIN_OPTIONS = frozenset(
    {
        "max_sockets",
        "max_free_sockets",
        "scheduling",
        "keep_alive",
        "keep_alive_initial_delay",
        "keep_alive_timeout_buffer",
        "timeout",
        "free_socket_timeout",
        "socket_active_ttl",
    }
)


class OptionsPerOrigin:
    """The options in force for each origin: the agent's, as changed by `per_origin`."""

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        patterns = [(OriginPattern(text), changes) for text, changes in (options.per_origin or {}).items()]
        self._patterns = sorted(patterns, key=lambda entry: entry[0].priority)

    def options(self, scheme: str, host: str, port: int) -> AgentOptions:
        """Return the options for one origin; the most specific matching pattern applies."""
        return replace(self._options, **self._changes(scheme, host, port))

    def gives(self, option: str, scheme: str, host: str, port: int) -> bool:
        """Return whether an option has its own value for an origin."""
        return option in self._changes(scheme, host, port)

    def _changes(self, scheme: str, host: str, port: int) -> Mapping[str, Any]:
        if not self._patterns:
            return {}
        matching = (changes for pattern, changes in self._patterns if pattern.matches(scheme, host, port))
        return next(matching, {})


def rules_of(options: AgentOptions) -> Rules:
    """Return the part of an origin's options that the core needs."""
    return Rules(
        keep_alive=options.keep_alive,
        max_sockets=no_limit(options.max_sockets),
        max_free_sockets=no_limit(options.max_free_sockets),
        lifo=options.scheduling == "lifo",
        free_socket_timeout=no_limit(options.free_socket_timeout),
        socket_active_ttl=no_limit(options.socket_active_ttl),
        keep_alive_timeout_buffer=options.keep_alive_timeout_buffer,
    )


def no_limit(value: float | None) -> float:
    """Return infinity for ``None``, and any other value unchanged."""
    return math.inf if value is None else value


#: The options that correspond to the values of `httpx.Limits`.
_LIMITS = {
    "max_connections": "max_total_sockets",
    "max_keepalive_connections": "max_total_free_sockets",
    "keepalive_expiry": "free_socket_timeout",
}


#: Options whose values belong to a family of client library and core.
_BACKENDS = ("network_backend", "async_network_backend")
_OF_A_FAMILY = frozenset({*_BACKENDS, "limits", "proxy"})


def root_of(kind: type) -> str:
    """Return the top-level package of a class."""
    return kind.__module__.partition(".")[0]


def full_name(kind: type) -> str:
    """Return the name of a class with its module: httpx and httpx2 have classes with the same names."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


#: Beyond this length, a representation no longer helps the reader of a message.
_LONGEST_SHOWN = 200


def shown(value: object) -> str:
    """Return a value as messages show it. Never raises: even an int may be too long for Python to print."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{full_name(type(value))}>"
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def check_names(names: Iterable[str], *more: str) -> None:
    """Check that every name is an option, or one of the additional names.

    Raises:
        TypeError: If a name is unknown; the message lists the unknown names and what each was probably meant to be.
    """
    own = (*AgentOptions.__dataclass_fields__, *more)
    unknown = [name for name in names if name not in own]
    if unknown:
        raise TypeError(no_such_option(unknown, own))


def install(extra: str) -> str:
    """Return the command that installs an extra, in quotes because zsh would expand the brackets as a pattern."""
    return f'pip install "httpx-agent[{extra}]"'


def check_options(given: Mapping[str, Any], family: Family) -> AgentOptions:
    """Validate the options that a user gave, and return all of them.

    Args:
        given: The options by name, without those that were not given.
        family: The libraries whose `Limits`, `Proxy` and `NetworkBackend` are expected.

    Raises:
        TypeError: If an option is unknown, or a value has the wrong type.
        ValueError: If a value is invalid.
        ImportError: If an option needs a package that is not installed.
    """
    check_names(given)
    httpx = family.httpx
    values = {name: check_option(name, value) for name, value in given.items() if name not in _OF_A_FAMILY}
    values.update((name, _check_backend(name, given[name], family.httpcore)) for name in _BACKENDS if name in given)
    limits = given.get("limits")
    if limits is not None:
        if not isinstance(limits, httpx.Limits):
            expected = f"expected {httpx.__name__}.Limits or None"
            raise TypeError(f"limits={shown(limits)}: {expected}, got {full_name(type(limits))}")
        mapped = {
            name: _CHECKS[name](f"limits.{limit}", getattr(limits, limit))
            for limit, name in _LIMITS.items()
            if name not in values
        }
        values = {**mapped, **values, "limits": limits}
    if given.get("proxy") is not None:
        values["proxy"] = check_proxy(given["proxy"], httpx)
    if values.get("http2") and importlib.util.find_spec("h2") is None:
        raise ImportError(f"http2=True needs the package 'h2': {install('http2')}")
    if isinstance(values.get("verify"), ssl.SSLContext):
        values.setdefault("max_cached_sessions", 0)  # the user may load another certificate into the context later
    options = AgentOptions(**values)
    if options.http1_engine == "httptools":
        _check_fast_engine(options)
    return options


def _check_fast_engine(options: AgentOptions) -> None:
    """Check that the engine requested by name is installed and can serve every possible request."""
    if not is_installed():
        raise ImportError(f"http1_engine='httptools' needs the package 'httptools': {install('fast')}")
    for name, hinders in (
        ("proxy", options.proxy is not None),
        ("http2", options.http2),
        ("http1", not options.http1),
        ("network_backend", options.network_backend is not None),
        ("async_network_backend", options.async_network_backend is not None),
    ):
        if hinders:
            raise ValueError(f"http1_engine='httptools' cannot be combined with {name}: expected 'auto' or 'h11'")


def check_option(name: str, value: object) -> Any:
    """Validate one option, and return its value as the agent keeps it.

    Raises:
        TypeError: If the value has the wrong type.
        ValueError: If the value is invalid.
    """
    return _CHECKS[name](name, value)


def _count(minimum: int, *, none: bool) -> Callable[[str, object], int | None]:
    expected = f"an int >= {minimum}" + (", math.inf or None for no limit" if none else "")

    def check(name: str, value: object) -> int | None:
        if none and (value is None or (isinstance(value, float) and value == math.inf)):
            return None
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{name}={shown(value)}: expected {expected}")
        try:
            if isinstance(value, bool) or not isinstance(value, SupportsIndex):
                raise TypeError
            number = operator.index(value)  # raises a `TypeError` for an array
        except TypeError:
            message = f"{name}={shown(value)}: expected {expected}, got {full_name(type(value))}"
            raise TypeError(message) from None
        if number < minimum:
            raise ValueError(f"{name}={shown(value)}: expected {expected}")
        return number

    return check


def _time(*, zero: bool, none: bool) -> Callable[[str, object], float | None]:
    expected = f"seconds {'>=' if zero else '>'} 0 (int, float or datetime.timedelta)"
    expected += ", or None for no limit" if none else ""

    def check(name: str, value: object) -> float | None:
        if none and value is None:
            return None
        seconds = value.total_seconds() if isinstance(value, timedelta) else value
        if isinstance(seconds, bool) or not isinstance(seconds, (numbers.Real, Decimal)):
            raise TypeError(f"{name}={shown(value)}: expected {expected}, got {full_name(type(value))}")
        try:
            number = float(seconds)
        except (OverflowError, ValueError):  # an int beyond the largest float, or a signalling NaN
            number = math.nan
        if none and number == math.inf:
            return None
        if not 0 <= number <= sys.float_info.max or (number == 0 and not zero):
            raise ValueError(f"{name}={shown(value)}: expected {expected}")
        return number

    return check


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}={shown(value)}: expected True or False, got {full_name(type(value))}")
    return value


def _one_of(*expected: str) -> Callable[[str, object], str]:
    text = " or ".join(map(repr, expected))

    def check(name: str, value: object) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name}={shown(value)}: expected {text}, got {full_name(type(value))}")
        if value not in expected:
            raise ValueError(f"{name}={shown(value)}: expected {text}")
        return value

    return check


def _text(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name}={shown(value)}: expected a str or None, got {full_name(type(value))}")
    return value


def _path_of_socket(name: str, value: object) -> str | None:
    if value == "":
        raise ValueError(f"{name}='': expected the path of a Unix socket as a str, or None")
    return _text(name, value)


def _socket_options(name: str, value: object) -> tuple[SocketOption, ...] | None:
    expected = "expected (level, option, value) or (level, option, None, length) tuples, or None"
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name}={shown(value)}: {expected}, got {full_name(type(value))}")
    options = tuple(value)
    for option in options:
        if not _is_socket_option(option):
            raise TypeError(f"{name}={options!r}: {expected}, got {option!r}")
    return tuple(tuple(option) for option in options)


def _is_socket_option(option: object) -> bool:
    """Return whether `socket.setsockopt` accepts its types; the values are not checked."""
    if not isinstance(option, (tuple, list)) or not all(isinstance(number, int) for number in option[:2]):
        return False
    if len(option) == 4:
        return option[2] is None and isinstance(option[3], int)
    return len(option) == 3 and isinstance(option[2], (int, bytes, bytearray, memoryview))


def _verify(name: str, value: object) -> object:
    if not isinstance(value, (bool, str, ssl.SSLContext)):
        raise TypeError(
            f"{name}={shown(value)}: expected True, False, an ssl.SSLContext or the path of a file or directory as a "
            f"str, got {full_name(type(value))}"
        )
    return value


def _cert(name: str, value: object) -> object:
    parts = value if isinstance(value, (tuple, list)) else (value,)
    if value is None or (1 <= len(parts) <= 3 and _are_parts_of_cert(*parts)):
        return value
    # Do not show the value: its third part is a password.
    raise TypeError(
        f"{name}: expected the path of a file, (certificate, key), (certificate, key, password) or None, "
        f"got {full_name(type(value))}"
    )


def _are_parts_of_cert(certificate: object, key: object = None, password: object = None) -> bool:
    """Return whether `ssl.SSLContext.load_cert_chain` accepts these types; the files are not read."""
    path = (str, bytes, os.PathLike)
    return (
        isinstance(certificate, path)
        and (key is None or isinstance(key, path))
        and (password is None or callable(password) or isinstance(password, (str, bytes, bytearray)))
    )


def _per_origin(name: str, value: object) -> Mapping[str, Mapping[str, Any]] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        expected = "a mapping of URL pattern to options, or None"
        raise TypeError(f"{name}={shown(value)}: expected {expected}, got {full_name(type(value))}")
    checked: dict[str, Mapping[str, Any]] = {}
    for pattern, changes in value.items():
        if not isinstance(pattern, str):
            raise TypeError(f"{name}: {pattern!r} is not a URL pattern; expected a str such as 'https://example.com'")
        try:
            OriginPattern(pattern)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if not isinstance(changes, Mapping):
            raise TypeError(
                f"{name}[{pattern!r}]={changes!r}: expected a mapping of options, got {full_name(type(changes))}"
            )
        unknown = [option for option in changes if option not in AgentOptions.__dataclass_fields__]
        if unknown:
            raise TypeError(f"{name}[{pattern!r}]: {no_such_option(unknown, sorted(ORIGIN_OPTIONS))}")
        for option in changes:
            if option not in ORIGIN_OPTIONS:
                these = ", ".join(sorted(ORIGIN_OPTIONS))
                raise TypeError(f"{name}[{pattern!r}]: {option!r} cannot differ between origins; these can: {these}")
        checked[pattern] = FrozenDict(
            {option: _CHECKS[option](f"{name}[{pattern!r}]: {option}", setting) for option, setting in changes.items()}
        )
    return FrozenDict(checked)


def check_origin(value: Any, httpx: Any) -> tuple[str, str, int]:
    """Return scheme, host and port of a TLS origin. No message shows the whole value: it may contain a password.

    Raises:
        TypeError: If the value has the wrong type.
        ValueError: If the value is not a TLS origin.
    """
    name = httpx.__name__
    expected = f"expected a str or {name}.URL such as 'https://example.com', or None for all origins"
    if not isinstance(value, (str, httpx.URL)):
        raise TypeError(f"origin: {expected}, got {full_name(type(value))}")
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL:
        raise ValueError(f"origin: not a valid URL; {expected}") from None
    if url.scheme not in ("https", "wss") or not url.host:
        raise ValueError(f"origin with scheme {url.scheme!r} and host {url.host!r}: {expected}")
    return url.scheme, url.raw_host.decode("ascii"), url.port or 443


def check_proxy(value: Any, httpx: Any, option: str = "proxy") -> Any:
    """Validate a proxy, and return it as an `httpx.Proxy`. No message shows the value: it may contain a password.

    Args:
        value: The proxy.
        httpx: The module whose `Proxy` and `URL` are expected.
        option: The name of the option or variable, for messages.

    Raises:
        TypeError: If the value has the wrong type.
        ValueError: If the proxy is invalid.
        ImportError: If the proxy needs a package that is not installed.
    """
    name = httpx.__name__
    expected = f"expected a str, {name}.URL or {name}.Proxy of http, https, socks5 or socks5h, or None"
    if not isinstance(value, (str, httpx.URL, httpx.Proxy)):
        raise TypeError(f"{option}: {expected}, got {full_name(type(value))}")
    try:
        url = value.url if isinstance(value, httpx.Proxy) else httpx.URL(value)
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError(f"{option}: not a valid URL; {expected}") from None
    if url.scheme not in ("http", "https", "socks5", "socks5h") or not url.host:
        raise ValueError(f"{option} with scheme {url.scheme!r} and host {url.host!r}: {expected}")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ValueError(f"{option} with port {url.port}: expected a port from 1 to 65535")
    if url.scheme != "https" and getattr(value, "ssl_context", None) is not None:
        raise ValueError(
            f"{option} with scheme {url.scheme!r} and an ssl_context: an ssl_context requires scheme 'https'"
        )
    if url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ImportError(f"{option}: a SOCKS proxy needs the package 'socksio': {install('socks')}")
    return value if isinstance(value, httpx.Proxy) else httpx.Proxy(url)


def _check_backend(name: str, value: Any, httpcore: Any) -> Any:
    """Accept a backend of the family's own kind, or any other that can connect; reject httpcore's other kinds.

    A backend of the other family raises exceptions that the client does not know; a sync backend in an event loop, or
    an async one in threads, fails at its first use.
    """
    kind: type = httpcore.AsyncNetworkBackend if name.startswith("async") else httpcore.NetworkBackend
    is_of_another_kind = root_of(type(value)) in ("httpcore", "httpcore2") and not isinstance(value, kind)
    if value is not None and (is_of_another_kind or not callable(getattr(value, "connect_tcp", None))):
        expected = f"expected an {httpcore.__name__}.{kind.__name__} or None"
        raise TypeError(f"{name}={shown(value)}: {expected}, got {full_name(type(value))}")
    return value


_CHECKS: Mapping[str, Callable[[str, Any], object]] = {
    "keep_alive": _flag,
    "keep_alive_initial_delay": _time(zero=False, none=True),
    "max_sockets": _count(1, none=True),
    "max_total_sockets": _count(1, none=True),
    "max_free_sockets": _count(0, none=True),
    "max_total_free_sockets": _count(0, none=True),
    "scheduling": _one_of("lifo", "fifo"),
    "timeout": _time(zero=False, none=True),
    "free_socket_timeout": _time(zero=True, none=True),
    "socket_active_ttl": _time(zero=False, none=True),
    "keep_alive_timeout_buffer": _time(zero=True, none=False),
    "max_cached_sessions": _count(0, none=False),
    "http1_engine": _one_of("auto", "httptools", "h11"),
    "per_origin": _per_origin,
    "debug": _flag,
    "retry_stale_sockets": _flag,
    "verify": _verify,
    "cert": _cert,
    "trust_env": _flag,
    "http1": _flag,
    "http2": _flag,
    "uds": _path_of_socket,
    "local_address": _text,
    "retries": _count(0, none=False),
    "socket_options": _socket_options,
}
