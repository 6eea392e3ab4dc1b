"""Every option: its default, the values it accepts, and the errors for others."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentOptions, AgentTransport
from tests.unit.values.options import (
    ACCEPTED,
    CONTEXT,
    DEFAULTS,
    NODELAY,
    REFUSED,
)


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
    with pytest.raises(ValueError, match=f"^{name}=<int>: expected "):
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
