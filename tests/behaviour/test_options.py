"""Every option: its default, what it accepts, what it is told otherwise, and how it is read and set."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import inspect
import math
import numbers
import socket
import ssl
import subprocess
import sys
import threading
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentOptions, AgentTransport
from httpx_agent._options import LIVE_OPTIONS, ORIGIN_OPTIONS, UNSET, AgentKeywords
from httpx_agent.testing import Gate, Network, Script, respond
from tests.support.worlds import World

URL = "http://a.test/"

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


def test_the_tables_cover_every_option() -> None:
    fields = list(AgentOptions.__dataclass_fields__)
    assert list(DEFAULTS) == fields
    assert list(ACCEPTED) == fields
    assert {name for name, *_ in REFUSED} == set(fields)


@pytest.mark.rule("R30")
@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_a_default(name: str, default: object) -> None:
    for agent in (Agent(), AgentTransport().agent):
        value = getattr(agent.options, name)
        assert value == default
        assert type(value) is type(default)


@pytest.mark.parametrize(
    ("name", "given", "kept"), [(name, *case) for name, cases in ACCEPTED.items() for case in cases]
)
def test_what_is_accepted(name: str, given: Any, kept: object) -> None:
    """On an agent and on a transport; read back as an attribute and among the options."""
    if name == "socket_options" and given is not None:
        given = list(given) or []
    for agent in (Agent(**{name: given}), AgentTransport(**{name: given}).agent):
        value = getattr(agent, name)
        assert value == kept
        assert type(value) is type(kept) or name == "per_origin"
        assert getattr(agent.options, name) is value


@pytest.mark.rule("A8")
@pytest.mark.parametrize(("name", "value", "exception", "message"), REFUSED)
def test_what_is_refused(name: str, value: Any, exception: type[Exception], message: str) -> None:
    """At once, on an agent and on a transport, with the option, the value and what is accepted."""
    for make in (Agent, AgentTransport):
        with pytest.raises(exception) as caught:
            make(**{name: value})
        assert type(caught.value) is exception
        text = str(caught.value)
        assert message in text
        assert "secret" not in text
        assert "sec/ret" not in text


@pytest.mark.parametrize("name", ["timeout", "max_sockets"])
def test_an_int_that_python_does_not_write_down_is_refused_like_others(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}=<int>: accepted is "):
        Agent(**{name: -(10**5000)})  # type: ignore[arg-type]


def test_an_iterator_of_socket_options_is_read_once() -> None:
    agent = Agent(socket_options=iter([NODELAY]))
    assert agent.socket_options == (NODELAY,)
    assert agent.options.socket_options == (NODELAY,)


@pytest.mark.parametrize("given", ["http://a.test:3128", "https://a.test", "socks5://a.test", "socks5h://a.test"])
def test_proxies_may_be_texts_and_urls(given: str) -> None:
    for value in (given, httpx.URL(given), httpx.Proxy(given)):
        proxy = Agent(proxy=value).proxy
        assert isinstance(proxy, httpx.Proxy)
        assert str(proxy.url) == given


def test_a_proxy_of_https_may_have_a_context_of_its_own() -> None:
    assert Agent(proxy=httpx.Proxy("https://a.test", ssl_context=CONTEXT)).proxy.ssl_context is CONTEXT


def test_a_proxy_keeps_its_credentials() -> None:
    assert Agent(proxy="http://user:secret@a.test").proxy.auth == ("user", "secret")


def test_the_httptools_engine_can_be_asked_for() -> None:
    assert Agent(http1_engine="httptools").http1_engine == "httptools"


@pytest.mark.parametrize(
    "hindrance",
    [
        {"proxy": "http://a.test"},
        {"http2": True},
        {"http1": False},
        {"network_backend": httpcore.MockBackend([])},
        {"async_network_backend": httpcore.AsyncMockBackend([])},
    ],
    ids=lambda hindrance: next(iter(hindrance)),
)
def test_the_httptools_engine_asked_for_by_name_goes_with_nothing_that_it_cannot_serve(
    hindrance: dict[str, Any],
) -> None:
    name = next(iter(hindrance))
    for make in (Agent, AgentTransport):
        with pytest.raises(ValueError, match=f"^http1_engine='httptools' does not go with {name}: accepted is"):
            make(http1_engine="httptools", **hindrance)


def test_the_httptools_engine_without_httptools() -> None:
    """By name it is an error that says what to do; otherwise h11 serves."""
    program = """
import sys
sys.modules["httptools"] = None
import httpx_agent, httpx
from httpx_agent._connector import Key
agent = httpx_agent.Agent()
wire = agent._engine.connector.wire(Key("http", "a.test", 80, None), None, agent.options)
print(type(agent._engine.connector.sync_connection(Key("http", "a.test", 80, None), wire)).__module__)
try:
    httpx_agent.Agent(http1_engine="httptools")
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.splitlines() == [
        "httpcore",
        "http1_engine='httptools' needs the package 'httptools': pip install \"httpx-agent[fast]\"",
    ]


# Where the arguments stand --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Agent, AgentTransport])
@pytest.mark.parametrize("theirs", [httpx.HTTPTransport, httpx.AsyncHTTPTransport])
def test_the_arguments_of_httpx_keep_their_places(make: type, theirs: type) -> None:
    def positional(function: Any) -> list[str]:
        parameters = inspect.signature(function).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert positional(make) == positional(theirs)
    assert all(p.default is UNSET for name, p in inspect.signature(make).parameters.items() if name in positional(make))


def test_a_signature_shows_that_an_option_not_given_is_another_thing_than_its_default() -> None:
    assert str(inspect.signature(AgentTransport).parameters["retries"]) == "retries: 'int | Unset' = <default>"


def test_httpx_s_defaults_are_ours() -> None:
    """But for `limits`, whose place the agent's own options take."""
    for name, parameter in inspect.signature(httpx.HTTPTransport).parameters.items():
        assert name == "limits" or DEFAULTS[name] == parameter.default, name


def test_the_agent_s_own_options_are_keyword_only() -> None:
    own = set(DEFAULTS) - set(inspect.signature(httpx.HTTPTransport).parameters)
    assert set(AgentKeywords.__annotations__) == own
    for make in (Agent, AgentTransport):
        with pytest.raises(TypeError, match="positional argument"):
            make(*[True, None, True, True, False, None, None, None, None, 0, None], 5)


def test_positional_arguments() -> None:
    given = (CONTEXT, None, False, True, False, LIMITS, PROXY, "/run/a", "127.0.0.2", 4, [NODELAY])
    names = list(inspect.signature(httpx.HTTPTransport).parameters)
    kept = (*given[:-1], (NODELAY,))
    for agent in (Agent(*given), AgentTransport(*given).agent):
        assert {name: getattr(agent, name) for name in names} == dict(zip(names, kept, strict=True))


# limits ---------------------------------------------------------------------------------------------------------------


def test_limits_are_mapped() -> None:
    limits = httpx.Limits(max_connections=7, max_keepalive_connections=3, keepalive_expiry=9)
    agent = Agent(limits=limits)
    assert (agent.max_total_sockets, agent.max_total_free_sockets, agent.free_socket_timeout) == (7, 3, 9.0)
    assert agent.limits is limits
    assert (agent.max_sockets, agent.max_free_sockets) == (None, 256)


def test_limits_of_none_are_no_limits() -> None:
    agent = Agent(limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None))
    assert (agent.max_total_sockets, agent.max_total_free_sockets, agent.free_socket_timeout) == (None, None, None)


def test_an_option_given_by_name_wins_over_limits() -> None:
    limits = httpx.Limits(max_connections=7, max_keepalive_connections=3, keepalive_expiry=9)
    agent = Agent(limits=limits, max_total_sockets=5, max_total_free_sockets=None, free_socket_timeout=0)
    assert (agent.max_total_sockets, agent.max_total_free_sockets, agent.free_socket_timeout) == (5, None, 0.0)


def test_a_value_of_limits_that_does_not_count_is_not_checked() -> None:
    assert Agent(limits=httpx.Limits(max_connections=0), max_total_sockets=5).max_total_sockets == 5


# agent= ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_agent_goes_with_no_other_option(name: str, default: Any) -> None:
    """Not even with one that is given as its default."""
    with pytest.raises(TypeError) as caught:
        AgentTransport(agent=Agent(), **{name: default})
    assert str(caught.value) == f"agent= goes with no other option, but {name} was given: give it to the agent"


def test_all_options_beside_agent_are_named() -> None:
    with pytest.raises(TypeError, match="but http2, max_sockets was given"):
        AgentTransport(agent=Agent(), max_sockets=5, http2=False)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (5, "int"),
        ("agent", "str"),
        (Agent, "type"),
        (AgentTransport(), f"{AgentTransport.__module__}.AgentTransport"),
        (httpx.HTTPTransport(), f"{LIBRARY}.HTTPTransport"),
    ],
    ids=["int", "str", "class", "transport", "library's transport"],
)
def test_an_agent_of_a_wrong_type(value: Any, kind: str) -> None:
    with pytest.raises(TypeError) as caught:
        AgentTransport(agent=value)
    assert str(caught.value) == f"agent={value!r}: accepted is an {Agent.__module__}.Agent, not {kind}"


def test_an_agent_may_be_of_a_subclass_and_none_is_none() -> None:
    class Special(Agent):
        pass

    agent = Special()
    assert AgentTransport(agent=agent).agent is agent
    assert AgentTransport(agent=None, max_sockets=3).agent.max_sockets == 3


# Reading and setting --------------------------------------------------------------------------------------------------


def test_the_options_are_frozen() -> None:
    agent = Agent(per_origin={"all://a.test": {"max_sockets": 3}})
    assert isinstance(agent.options, AgentOptions)
    with pytest.raises(dataclasses.FrozenInstanceError):
        agent.options.max_sockets = 5  # type: ignore[misc]
    assert agent.per_origin is not None
    with pytest.raises(TypeError):
        agent.per_origin["all://"] = {}  # type: ignore[index]
    with pytest.raises(TypeError):
        agent.per_origin["all://a.test"]["max_sockets"] = 5  # type: ignore[index]


@pytest.mark.rule("A10")
def test_what_was_given_is_left_as_it_was_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """A10: agentkeepalive changes the caller's options, and prints lines on stdout."""
    options: dict[str, Any] = {
        "timeout": timedelta(seconds=5),
        "limits": httpx.Limits(max_connections=5, keepalive_expiry=None),
        "socket_options": [(6, 1, 1)],
        "per_origin": {"http://a.test": {"max_sockets": math.inf, "free_socket_timeout": timedelta(0)}},
    }
    before = copy.deepcopy(options)
    agent = Agent(**options)
    agent.max_sockets = 7
    assert options == before
    assert agent.status().sockets == {}
    assert capfd.readouterr() == ("", "")


def test_what_the_user_changes_later_in_his_mapping_is_not_seen() -> None:
    changes = {"max_sockets": 3}
    per_origin = {"all://a.test": changes}
    agent = Agent(per_origin=per_origin)
    changes["max_sockets"] = 5
    per_origin["all://"] = {}
    assert agent.per_origin == {"all://a.test": {"max_sockets": 3}}


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) - LIVE_OPTIONS))
def test_most_options_are_fixed(name: str) -> None:
    agent = Agent()
    with pytest.raises(AttributeError) as caught:
        setattr(agent, name, DEFAULTS[name])
    assert str(caught.value) == (
        f"{name} is fixed when the agent is made; these may be set: "
        "max_free_sockets, max_sockets, max_total_sockets, scheduling"
    )


@pytest.mark.parametrize(
    ("name", "value", "exception", "message"), [case for case in REFUSED if case[0] in LIVE_OPTIONS]
)
def test_setting_checks_as_making_does(name: str, value: Any, exception: type[Exception], message: str) -> None:
    agent = Agent()
    with pytest.raises(exception) as caught:
        setattr(agent, name, value)
    assert message in str(caught.value)
    assert getattr(agent, name) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "given", "kept"), [(name, *case) for name in sorted(LIVE_OPTIONS) for case in ACCEPTED[name]]
)
def test_what_may_be_set(name: str, given: Any, kept: object) -> None:
    agent = Agent()
    before = agent.options
    setattr(agent, name, given)
    assert getattr(agent, name) == kept
    assert agent.options == dataclasses.replace(before, **{name: kept})
    assert getattr(before, name) == DEFAULTS[name]


@pytest.mark.rule("R5", "N5")
@pytest.mark.parametrize("name", ["max_sockets", "max_total_sockets"])
@pytest.mark.parametrize(("limit", "served"), [(3, 3), (None, 4)])
async def test_raising_a_limit_serves_the_waiting_requests_at_once(
    world: World, name: str, limit: int | None, served: int
) -> None:
    """N5: as many as now may go, from any thread, with no other request needed."""
    gate = Gate()
    network = Network(default=Script(then=[gate, respond()]))
    agent = Agent(**{name: 1}, **network.options)  # type: ignore[arg-type]
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        for _ in range(4):
            tasks.start(client.get, URL)
        await world.until(lambda: agent.status().requests == {"http://a.test:80": 3})
        await world.until(lambda: network.request_count == 1)
        assert network.open == 1
        setattr(agent, name, limit)
        await world.until(lambda: network.request_count == served)
        assert network.open == served
        assert sum(agent.status().requests.values()) == 4 - served
        gate.open()
    assert agent.status().request_count == 4
    await world.close(agent)


@pytest.mark.rule("R12")
async def test_lowering_a_limit_closes_nothing_in_use_and_holds_from_then_on(world: World) -> None:
    """What comes free above the limit is closed (R12)."""
    network = Network(default=Script(then=respond(b"x" * 70_000)))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with (
            client.stream("GET", URL) as one,
            client.stream("GET", URL) as two,
            client.stream("GET", URL) as three,
        ):
            agent.max_sockets = 1
            assert network.open == 3
            for response, left in ((one, 2), (two, 1), (three, 1)):
                await response.aread()
                assert network.open == left
        assert agent.status().free_sockets == {"http://a.test:80": 1}
    await world.close(agent)


async def test_setting_the_free_list_and_its_order(world: World) -> None:
    """`max_free_sockets` and `scheduling` hold for the next socket that comes free, and the next choice."""
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL) as first, client.stream("GET", URL) as second:
            await second.aread()
            await first.aread()
        assert (await client.get(URL)).extensions["agent"].socket_id == 0
        agent.scheduling = "fifo"
        assert (await client.get(URL)).extensions["agent"].socket_id == 1
        agent.max_free_sockets = 0
        await client.get(URL)
        assert network.open == 1
    await world.close(agent)


# When construction fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"max_sockets": 0}, {"nonsense": 1}, {"verify": 5}, {"proxy": "ftp://a.test"}])
def test_nothing_is_left_of_an_agent_that_could_not_be_made(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread is started and no socket made; nor are they for an agent that could."""
    made: list[object] = []
    monkeypatch.setattr(threading.Thread, "start", made.append)
    monkeypatch.setattr(socket, "socket", lambda *args, **kwargs: made.append(args))
    monkeypatch.setattr(socket, "socketpair", lambda *args, **kwargs: made.append(args))
    for make in (Agent, AgentTransport):
        with pytest.raises((TypeError, ValueError)):
            make(**options)
        make()
    assert made == []


def test_http2_needs_h2(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "h2")
    with pytest.raises(ImportError) as caught:
        AgentTransport(http2=True)
    assert str(caught.value) == "http2=True needs the package 'h2': pip install \"httpx-agent[http2]\""
    assert AgentTransport(http2=False).agent.http2 is False


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_needs_socksio(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    hide(monkeypatch, "socksio")
    for proxy in (f"{scheme}://proxy.test", httpx.Proxy(f"{scheme}://proxy.test")):
        with pytest.raises(ImportError) as caught:
            AgentTransport(proxy=proxy)
        assert (
            str(caught.value) == "proxy: a SOCKS proxy needs the package 'socksio': pip install \"httpx-agent[socks]\""
        )
    assert AgentTransport(proxy="http://proxy.test").agent.proxy.url.host == "proxy.test"


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package look as if it were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more))
    monkeypatch.setitem(sys.modules, package, None)


def test_the_names_of_the_options_that_may_differ_are_options() -> None:
    assert set(DEFAULTS) > ORIGIN_OPTIONS
    assert set(DEFAULTS) > LIVE_OPTIONS


def test_a_backend_of_httpcore_is_accepted() -> None:
    agent = Agent(network_backend=httpcore.SyncBackend(), async_network_backend=httpcore.AnyIOBackend())
    assert isinstance(agent.network_backend, httpcore.SyncBackend)
    assert isinstance(agent.async_network_backend, httpcore.AnyIOBackend)


@pytest.mark.parametrize(
    ("name", "value"), [("network_backend", httpcore.AnyIOBackend()), ("async_network_backend", httpcore.SyncBackend())]
)
def test_a_backend_of_the_other_world_is_refused(name: str, value: Any) -> None:
    """It would fail at its first use, with an error that tells nothing of the option."""
    with pytest.raises(
        TypeError, match=rf"^{name}=.*: accepted is an httpcore2?\.(Async)?NetworkBackend or None, not "
    ):
        Agent(**{name: value})
    assert Agent(network_backend=Connects()).network_backend is not None


class Connects:
    """A backend of nobody's kind."""

    connect_tcp = print
