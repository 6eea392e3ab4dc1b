"""The fixtures, as a user's tests have them; and what the kit needs to be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import httpx_agent.testing
from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import ChaosServer, VirtualClock
from httpx_agent.testing.fixtures import chaos_server, virtual_clock  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[2]


def test_a_server(chaos_server: ChaosServer) -> None:  # noqa: F811
    with httpx.Client(transport=AgentTransport()) as client:
        assert client.get(chaos_server.url_of("interim")).text == "ok"
        assert chaos_server.open == 1


def test_a_clock(virtual_clock: VirtualClock) -> None:  # noqa: F811
    assert Agent()._dispatcher.now() == virtual_clock.time == 1000.0


def test_the_kit_needs_nothing_but_the_library() -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(["pytest", "_pytest", "h2", "trustme", "trio", "hypothesis", "tests"]))
import httpx_agent.testing
httpx_agent.testing.Network, httpx_agent.testing.ChaosServer()
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_every_public_name_is_there_and_described() -> None:
    names = httpx_agent.testing.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in names:
        value = getattr(httpx_agent.testing, name)
        if isinstance(value, type) or callable(value):
            assert value.__doc__, name


@pytest.mark.parametrize("name", ["ChaosServer", "Network", "VirtualClock", "Gate", "Connection", "Peer"])
def test_every_public_method_is_described(name: str) -> None:
    for attribute, member in vars(getattr(httpx_agent.testing, name)).items():
        if not attribute.startswith("_") and (callable(member) or isinstance(member, property)):
            assert member.__doc__, attribute
