"""The cost of importing the package, and the names that it offers."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import httpx_agent
from httpx_agent import Agent, AgentTransport

ROOT = Path(__file__).parents[2]


def run_fresh(code: str) -> str:
    """What a new interpreter prints, in which nothing is imported yet."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, timeout=20)
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_the_module_imports_neither_httpx_nor_httpcore_nor_starts_a_thread() -> None:
    code = """
import httpx_agent
dir(httpx_agent), httpx_agent.__all__, httpx_agent.__version__
import sys
unwanted = {"httpx", "httpcore", "httpx2", "httpcore2", "anyio", "asyncio", "ssl", "idna", "trio", "h11", "respx"}
print(sorted(unwanted & set(sys.modules)), sorted(name for name in sys.modules if name.startswith("httpx_agent")))
import threading
print(threading.active_count())
"""
    assert run_fresh(code) == "[] ['httpx_agent']\n1"


def test_an_agent_that_has_done_nothing_has_no_thread() -> None:
    code = """
import threading
from httpx_agent import Agent, AgentTransport
agent = Agent()
transport = AgentTransport(agent=agent)
agent.status(), agent.sockets(), repr(transport)
print(threading.active_count(), "respx" in sys.modules)
"""
    assert run_fresh(code) == "1 False"


def test_the_values_need_neither_httpx_nor_httpcore() -> None:
    code = """
from httpx_agent import AgentOptions, AgentStatus, RequestInfo, SocketInfo
print(sorted({"httpx", "httpcore"} & set(sys.modules)))
"""
    assert run_fresh(code) == "[]"


def test_each_public_name_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first time that it is asked for; afterwards it is an attribute like any other."""
    assert httpx_agent.__all__ == [
        "Agent",
        "AgentOptions",
        "AgentStatus",
        "AgentTransport",
        "RequestInfo",
        "SocketInfo",
        "request_info",
    ]
    for name in httpx_agent.__all__:
        value = getattr(httpx_agent, name)
        monkeypatch.delitem(vars(httpx_agent), name)
        assert getattr(httpx_agent, name) is value
        assert vars(httpx_agent)[name] is value
        assert value.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError) as caught:
        httpx_agent.Agents  # noqa: B018
    assert str(caught.value) == "module 'httpx_agent' has no attribute 'Agents'"
    assert not hasattr(httpx_agent, "_httpx_")


def test_dir_lists_the_public_names_once_each() -> None:
    listed = dir(httpx_agent)
    assert set(httpx_agent.__all__) <= set(listed)
    assert "__version__" in listed
    assert len(listed) == len(set(listed))


def test_star_import_gives_the_public_names() -> None:
    code = """
before = set(globals())
from httpx_agent import *
print(sorted(set(globals()) - before - {"before"}))
"""
    assert run_fresh(code) == str(sorted(httpx_agent.__all__))


def test_every_public_name_has_a_docstring() -> None:
    """And every public method and property of its own or inherited from this library."""
    assert inspect.getdoc(httpx_agent)
    for name in httpx_agent.__all__:
        value = getattr(httpx_agent, name)
        assert value.__doc__, name
        assert not value.__doc__.startswith(f"{name}("), f"{name}: this is the docstring that dataclasses make"
        for attribute, member in inspect.getmembers(value):
            is_ours = (getattr(member, "__module__", None) or "").startswith("httpx_agent")
            if not attribute.startswith("_") and (isinstance(member, property) or (callable(member) and is_ours)):
                assert inspect.getdoc(member), f"{name}.{attribute}"


def test_every_field_of_the_values_is_described() -> None:
    for value in (httpx_agent.AgentOptions, httpx_agent.AgentStatus, httpx_agent.RequestInfo, httpx_agent.SocketInfo):
        doc = inspect.getdoc(value) or ""
        described = [line.split(":")[0].strip() for line in doc.partition("Attributes:")[2].splitlines()]
        assert [name for name in described if name in value.__dataclass_fields__] == list(value.__dataclass_fields__)


def test_a_transport_is_one_of_httpx_s_in_both_worlds() -> None:
    transport = AgentTransport()
    for kind in (httpx.BaseTransport, httpx.AsyncBaseTransport, httpx.HTTPTransport, httpx.AsyncHTTPTransport):
        assert isinstance(transport, kind)


@pytest.mark.rule("A13")
def test_a_transport_leaves_the_methods_alone_that_others_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own `handle_request` looks at the family only, and then calls what stands in httpx's class."""
    own = {name for kind in AgentTransport.__mro__ if kind.__module__.startswith("httpx_agent") for name in vars(kind)}
    assert not own & {"__enter__", "__aenter__", "close", "aclose"}
    patched = httpx.Response(418)

    def handle_request(transport: object, request: object) -> httpx.Response:
        return patched

    async def handle_async_request(transport: object, request: object) -> httpx.Response:
        return patched

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle_request)
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle_async_request)
    transport, request = AgentTransport(), httpx.Request("GET", "http://a.test/")
    assert transport.handle_request(request) is patched
    assert asyncio.run(transport.handle_async_request(request)) is patched


def test_the_module_of_the_public_classes_can_be_imported() -> None:
    for name in httpx_agent.__all__:
        value = getattr(httpx_agent, name)
        assert getattr(sys.modules[value.__module__], name) is value
    assert Agent.__module__.startswith("httpx_agent")
