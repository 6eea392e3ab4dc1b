"""Every option: its default, the values it accepts, and the errors for others, as tables."""

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

#: What is expected, and what is made of it.
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

LIMIT_TEXT = "expected an int >= {}, math.inf or None for no limit"

TIME_TEXT = "expected seconds {} 0 (int, float or datetime.timedelta)"

FLAG_TEXT = "expected True or False"


def wrong_numbers(name: str, text: str, minimum: int, *, none: bool) -> list[tuple[str, Any, type[Exception], str]]:
    """What every option that is a count refuses."""
    expected = LIMIT_TEXT.format(minimum) if none else f"expected an int >= {minimum}"
    cases: list[tuple[str, Any, type[Exception], str]] = [
        (name, minimum - 1, ValueError, f"{name}={minimum - 1}: {expected}"),
        (name, -(10**400), ValueError, f"{name}=-1"),
        (name, math.nan, ValueError, f"{name}=nan: {expected}"),
        (name, True, TypeError, f"{name}=True: {expected}, got bool"),
        (name, "5", TypeError, f"{name}='5': {expected}, got str"),
        (name, 2.0, TypeError, f"{name}=2.0: {expected}, got float"),
        (name, -math.inf, TypeError, f"{name}=-inf: {expected}, got float"),
        (name, timedelta(1), TypeError, f"{name}=datetime.timedelta(days=1): {expected}, got datetime.timedelta"),
        (name, [1], TypeError, f"{name}=[1]: {expected}, got list"),
        (name, Array(), TypeError, f"{name}=array([1, 2]): {expected}, got {__name__}.Array"),
        (name, Decimal(3), TypeError, f"{name}=Decimal('3'): {expected}, got decimal.Decimal"),
        (name, Unprintable(), TypeError, f"{name}=<{__name__}.Unprintable>: {expected}, got {__name__}.Unprintable"),
        (name, "5" * 1000, TypeError, f"{name}='{'5' * 198}…: {expected}, got str"),
    ]
    if not none:
        cases.append((name, None, TypeError, f"{name}=None: {expected}, got NoneType"))
        cases.append((name, math.inf, TypeError, f"{name}=inf: {expected}, got float"))
    return cases


def wrong_times(name: str, *, zero: bool, none: bool) -> list[tuple[str, Any, type[Exception], str]]:
    """What every option that is a time refuses."""
    expected = TIME_TEXT.format(">=" if zero else ">") + (", or None for no limit" if none else "")
    cases: list[tuple[str, Any, type[Exception], str]] = [
        (name, -1, ValueError, f"{name}=-1: {expected}"),
        (name, -0.001, ValueError, f"{name}=-0.001: {expected}"),
        (name, timedelta(seconds=-1), ValueError, f"{name}=datetime.timedelta(days=-1, seconds=86399): {expected}"),
        (name, math.nan, ValueError, f"{name}=nan: {expected}"),
        (name, -math.inf, ValueError, f"{name}=-inf: {expected}"),
        (name, 10**400, ValueError, f": {expected}"),
        (name, True, TypeError, f"{name}=True: {expected}, got bool"),
        (name, "5", TypeError, f"{name}='5': {expected}, got str"),
        (name, [5], TypeError, f"{name}=[5]: {expected}, got list"),
        (name, Array(), TypeError, f"{name}=array([1, 2]): {expected}, got {__name__}.Array"),
        (name, Decimal(-1), ValueError, f"{name}=Decimal('-1'): {expected}"),
        (name, Decimal("NaN"), ValueError, f"{name}=Decimal('NaN'): {expected}"),
        (name, Decimal("sNaN"), ValueError, f"{name}=Decimal('sNaN'): {expected}"),
        (name, 3j, TypeError, f"{name}=3j: {expected}, got complex"),
    ]
    if not zero:
        cases.append((name, 0, ValueError, f"{name}=0: {expected}"))
        cases.append((name, timedelta(0), ValueError, f"{name}=datetime.timedelta(0): {expected}"))
    if not none:
        cases.append((name, None, TypeError, f"{name}=None: {expected}, got NoneType"))
        cases.append((name, math.inf, ValueError, f"{name}=inf: {expected}"))
    return cases


def wrong_flags(name: str) -> list[tuple[str, Any, type[Exception], str]]:
    """What every option that is on or off refuses: Node's truthiness is not taken."""
    values = [(None, "NoneType"), (1, "int"), (0, "int"), ("yes", "str")]
    return [(name, value, TypeError, f"{name}={value!r}: {FLAG_TEXT}, got {kind}") for value, kind in values]


def wrong_choices(name: str, text: str) -> list[tuple[str, Any, type[Exception], str]]:
    """What every option that is one of a few words refuses."""
    return [
        (name, "LIFO", ValueError, f"{name}='LIFO': expected {text}"),
        (name, "", ValueError, f"{name}='': expected {text}"),
        (name, None, TypeError, f"{name}=None: expected {text}, got NoneType"),
        (name, 1, TypeError, f"{name}=1: expected {text}, got int"),
    ]


SOCKET_OPTIONS_TEXT = "expected (level, option, value) or (level, option, None, length) tuples, or None"

ORIGIN_OPTIONS_TEXT = (
    "free_socket_timeout, keep_alive, keep_alive_initial_delay, keep_alive_timeout_buffer, max_free_sockets, "
    "max_sockets, scheduling, socket_active_ttl, timeout"
)

LIBRARY = httpx.__name__  # httpx2 where these tests are turned to it

PROXY_TEXT = f"expected a str, {LIBRARY}.URL or {LIBRARY}.Proxy of http, https, socks5 or socks5h, or None"

VERIFY_TEXT = "expected True, False, an ssl.SSLContext or the path of a file or directory as a str"

CERT_TEXT = "expected the path of a file, (certificate, key), (certificate, key, password) or None"

PATTERN_TEXT = "expected a URL pattern such as 'https://example.com', 'all://*.example.com' or 'http://'"

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
    ("per_origin", [], TypeError, "per_origin=[]: expected a mapping of URL pattern to options, or None, got list"),
    ("per_origin", "https://", TypeError, "per_origin='https://': expected a mapping of URL pattern to options"),
    ("per_origin", {5: {}}, TypeError, "per_origin: 5 is not a URL pattern; expected a str such as"),
    ("per_origin", {"a.test": {}}, ValueError, f"'a.test': {PATTERN_TEXT}"),
    ("per_origin", {"all://": 5}, TypeError, "per_origin['all://']=5: expected a mapping of options, got int"),
    (
        "per_origin",
        {"all://": {"max_total_sockets": 5}},
        TypeError,
        f"per_origin['all://']: 'max_total_sockets' cannot differ between origins; these can: {ORIGIN_OPTIONS_TEXT}",
    ),
    (
        "per_origin",
        {"all://": {"max_sockets": 0}},
        ValueError,
        "per_origin['all://']: max_sockets=0: " + LIMIT_TEXT.format(1),
    ),
    ("per_origin", {"all://": {"timeout": "5"}}, TypeError, "per_origin['all://']: timeout='5': expected seconds"),
    *wrong_flags("debug"),
    *wrong_flags("retry_stale_sockets"),
    ("verify", None, TypeError, f"verify=None: {VERIFY_TEXT}, got NoneType"),
    ("verify", 1, TypeError, f"verify=1: {VERIFY_TEXT}, got int"),
    ("cert", 5, TypeError, f"cert: {CERT_TEXT}, got int"),
    ("cert", (), TypeError, f"cert: {CERT_TEXT}, got tuple"),
    ("cert", ("a", "b", "c", "d"), TypeError, f"cert: {CERT_TEXT}, got tuple"),
    ("cert", ("a", 5), TypeError, f"cert: {CERT_TEXT}, got tuple"),
    ("cert", (None, "a"), TypeError, f"cert: {CERT_TEXT}, got tuple"),
    ("cert", ("a", "b", Path("secret")), TypeError, f"cert: {CERT_TEXT}, got tuple"),
    *wrong_flags("trust_env"),
    *wrong_flags("http1"),
    *wrong_flags("http2"),
    ("limits", 5, TypeError, f"limits=5: expected {LIBRARY}.Limits or None, got int"),
    (
        "limits",
        httpx.Timeout(5),
        TypeError,
        f"limits=Timeout(timeout=5): expected {LIBRARY}.Limits or None, got {LIBRARY}.Timeout",
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
        "limits.keepalive_expiry=-1: expected seconds >= 0",
    ),
    ("proxy", 5, TypeError, f"proxy: {PROXY_TEXT}, got int"),
    ("proxy", b"http://user:secret@proxy.test", TypeError, f"proxy: {PROXY_TEXT}, got bytes"),
    ("proxy", "ftp://user:secret@a.test", ValueError, f"proxy with scheme 'ftp' and host 'a.test': {PROXY_TEXT}"),
    ("proxy", "socks4://a.test", ValueError, f"proxy with scheme 'socks4' and host 'a.test': {PROXY_TEXT}"),
    ("proxy", httpx.URL("proxy.test"), ValueError, f"proxy with scheme '' and host '': {PROXY_TEXT}"),
    ("proxy", "http://", ValueError, f"proxy with scheme 'http' and host '': {PROXY_TEXT}"),
    ("proxy", "http://user:sec/ret@proxy.test", ValueError, f"proxy: not a valid URL; {PROXY_TEXT}"),
    (
        "proxy",
        httpx.Proxy("http://proxy.test", ssl_context=CONTEXT),
        ValueError,
        "proxy with scheme 'http' and an ssl_context: an ssl_context requires scheme 'https'",
    ),
    ("proxy", "http://a.test:65536", ValueError, "proxy with port 65536: expected a port from 1 to 65535"),
    ("proxy", "http://\udcff", ValueError, f"proxy: not a valid URL; {PROXY_TEXT}"),
    ("uds", "", ValueError, "uds='': expected the path of a Unix socket as a str, or None"),
    ("uds", b"/run/a.socket", TypeError, "uds=b'/run/a.socket': expected a str or None, got bytes"),
    ("uds", 5, TypeError, "uds=5: expected a str or None, got int"),
    ("local_address", ("a", 0), TypeError, "local_address=('a', 0): expected a str or None, got tuple"),
    ("local_address", 5, TypeError, "local_address=5: expected a str or None, got int"),
    *wrong_numbers("retries", "", 0, none=False),
    ("socket_options", 5, TypeError, f"socket_options=5: {SOCKET_OPTIONS_TEXT}, got int"),
    ("socket_options", "abc", TypeError, f"socket_options='abc': {SOCKET_OPTIONS_TEXT}, got str"),
    ("socket_options", b"abc", TypeError, f"socket_options=b'abc': {SOCKET_OPTIONS_TEXT}, got bytes"),
    ("socket_options", (1, 2, 3), TypeError, f"socket_options=(1, 2, 3): {SOCKET_OPTIONS_TEXT}, got 1"),
    ("socket_options", [(1, 2)], TypeError, f"socket_options=((1, 2),): {SOCKET_OPTIONS_TEXT}, got (1, 2)"),
    ("socket_options", [("a", 2, 3)], TypeError, f"{SOCKET_OPTIONS_TEXT}, got ('a', 2, 3)"),
    ("socket_options", [(1, 2, "3")], TypeError, f"{SOCKET_OPTIONS_TEXT}, got (1, 2, '3')"),
    ("socket_options", [(1, 2, 3, 4)], TypeError, f"{SOCKET_OPTIONS_TEXT}, got (1, 2, 3, 4)"),
    ("socket_options", [(1, 2, None, "4")], TypeError, f"{SOCKET_OPTIONS_TEXT}, got (1, 2, None, '4')"),
    (
        "network_backend",
        5,
        TypeError,
        f"network_backend=5: expected an {httpcore.__name__}.NetworkBackend or None, got int",
    ),
    (
        "async_network_backend",
        5,
        TypeError,
        f"async_network_backend=5: expected an {httpcore.__name__}.AsyncNetworkBackend or None, got int",
    ),
]  # fmt: skip
