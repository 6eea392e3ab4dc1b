"""Every option: its default, what it accepts, and what it is told otherwise, as tables."""

from __future__ import annotations

import math
import numbers
import socket
import ssl
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpcore
import httpx

from httpx_agent.testing import Network

#: The table of the design: every option and its default.
DEFAULTS: dict[str, Any] = {
    "keep_alive": True,
    "keep_alive_initial_delay": 1.0,
    "max_sockets": None,
    "max_total_sockets": None,
    "max_free_sockets": 256,
    "max_total_free_sockets": None,
    "scheduling": "lifo",
    "timeout": 30.0,
    "free_socket_timeout": 15.0,
    "socket_active_ttl": None,
    "keep_alive_timeout_buffer": 1.0,
    "max_cached_sessions": 100,
    "http1_engine": "auto",
    "per_origin": None,
    "debug": False,
    "retry_stale_sockets": True,
    "verify": True,
    "cert": None,
    "trust_env": True,
    "http1": True,
    "http2": False,
    "limits": None,
    "proxy": None,
    "uds": None,
    "local_address": None,
    "retries": 0,
    "socket_options": None,
    "network_backend": None,
    "async_network_backend": None,
}

NETWORK = Network()

CONTEXT = ssl.create_default_context()

LIMITS = httpx.Limits()

PROXY = httpx.Proxy("http://proxy.test:3128")

NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Index:
    """A number that is no `int`, as numpy's are."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


class Number(numbers.Real):
    """A number that is no `float`, as numpy's narrower ones are."""

    __abs__ = __add__ = __ceil__ = __eq__ = __floor__ = __floordiv__ = __hash__ = __le__ = __lt__ = __mod__ = None  # type: ignore[assignment]
    __mul__ = __neg__ = __pos__ = __pow__ = __radd__ = __rfloordiv__ = __rmod__ = __rmul__ = __round__ = None  # type: ignore[assignment]
    __rpow__ = __rtruediv__ = __truediv__ = __trunc__ = None  # type: ignore[assignment]

    def __float__(self) -> float:
        return 0.5


class Array:
    """Has an index, but not always, and compares to many truths, as an array of numpy's does."""

    def __index__(self) -> int:
        raise TypeError("only integer scalar arrays can be converted to a scalar index")

    def __eq__(self, other: object) -> Any:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "array([1, 2])"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


TIMES = [
    (3, 3.0),
    (Number(), 0.5),
    (Decimal("2.5"), 2.5),
    (Fraction(1, 4), 0.25),
    (0.5, 0.5),
    (timedelta(minutes=2), 120.0),
    (timedelta(milliseconds=1), 0.001),
    (10**300, 1e300),
]

TIMES_WITHOUT_LIMIT = [(None, None), (math.inf, None)]

FLAGS = [(True, True), (False, False)]

#: What is accepted, and what is made of it.
ACCEPTED: dict[str, list[tuple[Any, Any]]] = {
    "keep_alive": FLAGS,
    "keep_alive_initial_delay": [*TIMES, *TIMES_WITHOUT_LIMIT],
    "max_sockets": [(1, 1), (10**9, 10**9), (Index(7), 7), (None, None), (math.inf, None)],
    "max_total_sockets": [(1, 1), (10**9, 10**9), (Index(7), 7), (None, None), (math.inf, None)],
    "max_free_sockets": [(0, 0), (1, 1), (Index(7), 7), (None, None), (math.inf, None)],
    "max_total_free_sockets": [(0, 0), (1, 1), (Index(7), 7), (None, None), (math.inf, None)],
    "scheduling": [("lifo", "lifo"), ("fifo", "fifo")],
    "timeout": [*TIMES, *TIMES_WITHOUT_LIMIT],
    "free_socket_timeout": [*TIMES, *TIMES_WITHOUT_LIMIT, (0, 0.0), (timedelta(0), 0.0)],
    "socket_active_ttl": [*TIMES, *TIMES_WITHOUT_LIMIT],
    "keep_alive_timeout_buffer": [*TIMES, (0, 0.0), (0.0, 0.0), (timedelta(0), 0.0)],
    "max_cached_sessions": [(0, 0), (1, 1), (Index(7), 7)],
    "http1_engine": [("auto", "auto"), ("h11", "h11")],
    "per_origin": [
        (None, None),
        ({}, {}),
        ({"all://*.a.test": {"timeout": timedelta(seconds=2)}}, {"all://*.a.test": {"timeout": 2.0}}),
        ({"https://": {"max_sockets": math.inf}}, {"https://": {"max_sockets": None}}),
        ({"http://": {"keep_alive": False}, "ws://": {}}, {"http://": {"keep_alive": False}, "ws://": {}}),
    ],
    "debug": FLAGS,
    "retry_stale_sockets": FLAGS,
    "verify": [(True, True), (False, False), (CONTEXT, CONTEXT)],
    "cert": [(None, None)],
    "trust_env": FLAGS,
    "http1": FLAGS,
    "http2": FLAGS,
    "limits": [(None, None), (LIMITS, LIMITS)],
    "proxy": [(None, None), (PROXY, PROXY)],
    "uds": [(None, None), ("/run/a.socket", "/run/a.socket")],
    "local_address": [(None, None), ("127.0.0.2", "127.0.0.2")],
    "retries": [(0, 0), (3, 3), (Index(7), 7)],
    "socket_options": [
        (None, None),
        ([], ()),
        ([NODELAY], (NODELAY,)),
        (iter([list(NODELAY)]), (NODELAY,)),
        ([(1, 2, b"x"), (1, 2, None, 4)], ((1, 2, b"x"), (1, 2, None, 4))),
    ],
    "network_backend": [(None, None), (NETWORK.backend, NETWORK.backend)],
    "async_network_backend": [(None, None), (NETWORK.async_backend, NETWORK.async_backend)],
}  # fmt: skip

LIMIT_TEXT = "accepted is an int >= {}, math.inf or None for no limit"

TIME_TEXT = "accepted is seconds {} 0 (int, float or datetime.timedelta)"

FLAG_TEXT = "accepted is True or False"


def wrong_numbers(name: str, text: str, minimum: int, *, none: bool) -> list[tuple[str, Any, type[Exception], str]]:
    """What every option that is a count refuses."""
    accepted = LIMIT_TEXT.format(minimum) if none else f"accepted is an int >= {minimum}"
    cases: list[tuple[str, Any, type[Exception], str]] = [
        (name, minimum - 1, ValueError, f"{name}={minimum - 1}: {accepted}"),
        (name, -(10**400), ValueError, f"{name}=-1"),
        (name, math.nan, ValueError, f"{name}=nan: {accepted}"),
        (name, True, TypeError, f"{name}=True: {accepted}, not bool"),
        (name, "5", TypeError, f"{name}='5': {accepted}, not str"),
        (name, 2.0, TypeError, f"{name}=2.0: {accepted}, not float"),
        (name, -math.inf, TypeError, f"{name}=-inf: {accepted}, not float"),
        (name, timedelta(1), TypeError, f"{name}=datetime.timedelta(days=1): {accepted}, not datetime.timedelta"),
        (name, [1], TypeError, f"{name}=[1]: {accepted}, not list"),
        (name, Array(), TypeError, f"{name}=array([1, 2]): {accepted}, not {__name__}.Array"),
        (name, Decimal(3), TypeError, f"{name}=Decimal('3'): {accepted}, not decimal.Decimal"),
        (name, Unprintable(), TypeError, f"{name}=<{__name__}.Unprintable>: {accepted}, not {__name__}.Unprintable"),
        (name, "5" * 1000, TypeError, f"{name}='{'5' * 198}…: {accepted}, not str"),
    ]
    if not none:
        cases.append((name, None, TypeError, f"{name}=None: {accepted}, not NoneType"))
        cases.append((name, math.inf, TypeError, f"{name}=inf: {accepted}, not float"))
    return cases


def wrong_times(name: str, *, zero: bool, none: bool) -> list[tuple[str, Any, type[Exception], str]]:
    """What every option that is a time refuses."""
    accepted = TIME_TEXT.format(">=" if zero else ">") + (", or None for no limit" if none else "")
    cases: list[tuple[str, Any, type[Exception], str]] = [
        (name, -1, ValueError, f"{name}=-1: {accepted}"),
        (name, -0.001, ValueError, f"{name}=-0.001: {accepted}"),
        (name, timedelta(seconds=-1), ValueError, f"{name}=datetime.timedelta(days=-1, seconds=86399): {accepted}"),
        (name, math.nan, ValueError, f"{name}=nan: {accepted}"),
        (name, -math.inf, ValueError, f"{name}=-inf: {accepted}"),
        (name, 10**400, ValueError, f": {accepted}"),
        (name, True, TypeError, f"{name}=True: {accepted}, not bool"),
        (name, "5", TypeError, f"{name}='5': {accepted}, not str"),
        (name, [5], TypeError, f"{name}=[5]: {accepted}, not list"),
        (name, Array(), TypeError, f"{name}=array([1, 2]): {accepted}, not {__name__}.Array"),
        (name, Decimal(-1), ValueError, f"{name}=Decimal('-1'): {accepted}"),
        (name, Decimal("NaN"), ValueError, f"{name}=Decimal('NaN'): {accepted}"),
        (name, Decimal("sNaN"), ValueError, f"{name}=Decimal('sNaN'): {accepted}"),
        (name, 3j, TypeError, f"{name}=3j: {accepted}, not complex"),
    ]
    if not zero:
        cases.append((name, 0, ValueError, f"{name}=0: {accepted}"))
        cases.append((name, timedelta(0), ValueError, f"{name}=datetime.timedelta(0): {accepted}"))
    if not none:
        cases.append((name, None, TypeError, f"{name}=None: {accepted}, not NoneType"))
        cases.append((name, math.inf, ValueError, f"{name}=inf: {accepted}"))
    return cases


def wrong_flags(name: str) -> list[tuple[str, Any, type[Exception], str]]:
    """What every option that is on or off refuses: Node's truthiness is not taken."""
    values = [(None, "NoneType"), (1, "int"), (0, "int"), ("yes", "str")]
    return [(name, value, TypeError, f"{name}={value!r}: {FLAG_TEXT}, not {kind}") for value, kind in values]


def wrong_choices(name: str, text: str) -> list[tuple[str, Any, type[Exception], str]]:
    """What every option that is one of a few words refuses."""
    return [
        (name, "LIFO", ValueError, f"{name}='LIFO': accepted is {text}"),
        (name, "", ValueError, f"{name}='': accepted is {text}"),
        (name, None, TypeError, f"{name}=None: accepted is {text}, not NoneType"),
        (name, 1, TypeError, f"{name}=1: accepted is {text}, not int"),
    ]


SOCKET_OPTIONS_TEXT = "accepted are (level, option, value) or (level, option, None, length) tuples, or None"

ORIGIN_OPTIONS_TEXT = (
    "free_socket_timeout, keep_alive, keep_alive_initial_delay, keep_alive_timeout_buffer, max_free_sockets, "
    "max_sockets, scheduling, socket_active_ttl, timeout"
)

LIBRARY = httpx.__name__  # httpx2 where these tests are turned to it

PROXY_TEXT = f"accepted is a str, {LIBRARY}.URL or {LIBRARY}.Proxy of http, https, socks5 or socks5h, or None"

VERIFY_TEXT = "accepted is True, False, an ssl.SSLContext or the path of a file or folder as a str"

CERT_TEXT = "accepted is the path of a file, (certificate, key), (certificate, key, password) or None"

PATTERN_TEXT = "accepted is a URL pattern such as 'https://example.com', 'all://*.example.com' or 'http://'"

#: What is refused, with which exception and message.
REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    *wrong_flags("keep_alive"),
    *wrong_times("keep_alive_initial_delay", zero=False, none=True),
    *wrong_numbers("max_sockets", LIMIT_TEXT, 1, none=True),
    *wrong_numbers("max_total_sockets", LIMIT_TEXT, 1, none=True),
    *wrong_numbers("max_free_sockets", LIMIT_TEXT, 0, none=True),
    *wrong_numbers("max_total_free_sockets", LIMIT_TEXT, 0, none=True),
    *wrong_choices("scheduling", "'lifo' or 'fifo'"),
    *wrong_times("timeout", zero=False, none=True),
    *wrong_times("free_socket_timeout", zero=True, none=True),
    *wrong_times("socket_active_ttl", zero=False, none=True),
    *wrong_times("keep_alive_timeout_buffer", zero=True, none=False),
    *wrong_numbers("max_cached_sessions", "", 0, none=False),
    *wrong_choices("http1_engine", "'auto' or 'httptools' or 'h11'"),
    ("per_origin", [], TypeError, "per_origin=[]: accepted is a mapping of URL pattern to options, or None, not list"),
    ("per_origin", "https://", TypeError, "per_origin='https://': accepted is a mapping of URL pattern to options"),
    ("per_origin", {5: {}}, TypeError, "per_origin: 5 is no URL pattern; accepted is a str such as"),
    ("per_origin", {"a.test": {}}, ValueError, f"'a.test': {PATTERN_TEXT}"),
    ("per_origin", {"all://": 5}, TypeError, "per_origin['all://']=5: accepted is a mapping of options, not int"),
    (
        "per_origin",
        {"all://": {"max_total_sockets": 5}},
        TypeError,
        f"per_origin['all://']: 'max_total_sockets' cannot differ between origins; accepted: {ORIGIN_OPTIONS_TEXT}",
    ),
    (
        "per_origin",
        {"all://": {"max_sockets": 0}},
        ValueError,
        "per_origin['all://']: max_sockets=0: " + LIMIT_TEXT.format(1),
    ),
    ("per_origin", {"all://": {"timeout": "5"}}, TypeError, "per_origin['all://']: timeout='5': accepted is seconds"),
    *wrong_flags("debug"),
    *wrong_flags("retry_stale_sockets"),
    ("verify", None, TypeError, f"verify=None: {VERIFY_TEXT}, not NoneType"),
    ("verify", 1, TypeError, f"verify=1: {VERIFY_TEXT}, not int"),
    ("cert", 5, TypeError, f"cert: {CERT_TEXT}, not this int"),
    ("cert", (), TypeError, f"cert: {CERT_TEXT}, not this tuple"),
    ("cert", ("a", "b", "c", "d"), TypeError, f"cert: {CERT_TEXT}, not this tuple"),
    ("cert", ("a", 5), TypeError, f"cert: {CERT_TEXT}, not this tuple"),
    ("cert", (None, "a"), TypeError, f"cert: {CERT_TEXT}, not this tuple"),
    ("cert", ("a", "b", Path("secret")), TypeError, f"cert: {CERT_TEXT}, not this tuple"),
    *wrong_flags("trust_env"),
    *wrong_flags("http1"),
    *wrong_flags("http2"),
    ("limits", 5, TypeError, f"limits=5: accepted is {LIBRARY}.Limits or None, not int"),
    (
        "limits",
        httpx.Timeout(5),
        TypeError,
        f"limits=Timeout(timeout=5): accepted is {LIBRARY}.Limits or None, not {LIBRARY}.Timeout",
    ),
    (
        "limits",
        httpx.Limits(max_connections=0),
        ValueError,
        "limits.max_connections=0: " + LIMIT_TEXT.format(1),
    ),
    (
        "limits",
        httpx.Limits(max_keepalive_connections=-1),
        ValueError,
        "limits.max_keepalive_connections=-1: " + LIMIT_TEXT.format(0),
    ),
    (
        "limits",
        httpx.Limits(keepalive_expiry=-1),
        ValueError,
        "limits.keepalive_expiry=-1: accepted is seconds >= 0",
    ),
    ("proxy", 5, TypeError, f"proxy: {PROXY_TEXT}, not int"),
    ("proxy", b"http://user:secret@proxy.test", TypeError, f"proxy: {PROXY_TEXT}, not bytes"),
    ("proxy", "ftp://user:secret@a.test", ValueError, f"proxy with scheme 'ftp' and host 'a.test': {PROXY_TEXT}"),
    ("proxy", "socks4://a.test", ValueError, f"proxy with scheme 'socks4' and host 'a.test': {PROXY_TEXT}"),
    ("proxy", httpx.URL("proxy.test"), ValueError, f"proxy with scheme '' and host '': {PROXY_TEXT}"),
    ("proxy", "http://", ValueError, f"proxy with scheme 'http' and host '': {PROXY_TEXT}"),
    ("proxy", "http://user:sec/ret@proxy.test", ValueError, f"proxy: this is no URL; {PROXY_TEXT}"),
    (
        "proxy",
        httpx.Proxy("http://proxy.test", ssl_context=CONTEXT),
        ValueError,
        "proxy with scheme 'http' and an ssl_context: accepted is one with 'https' only",
    ),
    ("proxy", "http://a.test:65536", ValueError, "proxy with port 65536: accepted is a port from 1 to 65535"),
    ("proxy", "http://\udcff", ValueError, f"proxy: this is no URL; {PROXY_TEXT}"),
    ("uds", "", ValueError, "uds='': accepted is the path of a Unix socket as a str, or None"),
    ("uds", b"/run/a.socket", TypeError, "uds=b'/run/a.socket': accepted is a str or None, not bytes"),
    ("uds", 5, TypeError, "uds=5: accepted is a str or None, not int"),
    ("local_address", ("a", 0), TypeError, "local_address=('a', 0): accepted is a str or None, not tuple"),
    ("local_address", 5, TypeError, "local_address=5: accepted is a str or None, not int"),
    *wrong_numbers("retries", "", 0, none=False),
    ("socket_options", 5, TypeError, f"socket_options=5: {SOCKET_OPTIONS_TEXT}, not int"),
    ("socket_options", "abc", TypeError, f"socket_options='abc': {SOCKET_OPTIONS_TEXT}, not str"),
    ("socket_options", b"abc", TypeError, f"socket_options=b'abc': {SOCKET_OPTIONS_TEXT}, not bytes"),
    ("socket_options", (1, 2, 3), TypeError, f"socket_options=(1, 2, 3): {SOCKET_OPTIONS_TEXT}, not 1"),
    ("socket_options", [(1, 2)], TypeError, f"socket_options=((1, 2),): {SOCKET_OPTIONS_TEXT}, not (1, 2)"),
    ("socket_options", [("a", 2, 3)], TypeError, f"{SOCKET_OPTIONS_TEXT}, not ('a', 2, 3)"),
    ("socket_options", [(1, 2, "3")], TypeError, f"{SOCKET_OPTIONS_TEXT}, not (1, 2, '3')"),
    ("socket_options", [(1, 2, 3, 4)], TypeError, f"{SOCKET_OPTIONS_TEXT}, not (1, 2, 3, 4)"),
    ("socket_options", [(1, 2, None, "4")], TypeError, f"{SOCKET_OPTIONS_TEXT}, not (1, 2, None, '4')"),
    (
        "network_backend",
        5,
        TypeError,
        f"network_backend=5: accepted is an {httpcore.__name__}.NetworkBackend or None, not int",
    ),
    (
        "async_network_backend",
        5,
        TypeError,
        f"async_network_backend=5: accepted is an {httpcore.__name__}.AsyncNetworkBackend or None, not int",
    ),
]  # fmt: skip
