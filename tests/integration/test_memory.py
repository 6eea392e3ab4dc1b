"""What is streamed is not kept: a hundred megabytes pass through a process that hardly grows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import BLOCK, Server
from tests.support.worlds import World, clean_environment

GIGABYTE = 1024**3

TOTAL = 1600 * len(BLOCK)
ALLOWED = 16 * 1024 * 1024


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_hundred_megabytes(world: World, server: Server, direction: str) -> None:
    command = [sys.executable, "-m", "tests.integration.memory_client", world.name, direction, server.url, str(TOTAL)]

    result = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=dict(clean_environment()),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["moved"] == TOTAL
    assert found["grew"] <= ALLOWED
    assert server.accepted == 1


@pytest.mark.parametrize("direction", ["unread", "unheard"])
def test_a_gigabyte_that_nobody_takes(world: World, direction: str) -> None:
    """A download that nobody reads, an upload to a server that does not read: each end makes the other wait."""
    command = [sys.executable, "-m", "tests.integration.memory_client", world.name, direction, "", str(GIGABYTE)]

    result = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=dict(clean_environment()),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert 0 < found["moved"] < GIGABYTE / 10
    assert found["grew"] <= ALLOWED
