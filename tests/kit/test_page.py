"""The page on the kit: its tests pass, and its table has every fault."""

from __future__ import annotations

import os
import subprocess
import sys

from httpx_agent.testing import FAULTS
from tests.docs.test_examples import EXAMPLES, ROOT, _page, rows


def test_the_examples_pass() -> None:
    """As a user's own tests, in a pytest of their own, with the page's `conftest.py`."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", ".", "."],
        cwd=EXAMPLES / "testing",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "9 passed" in done.stdout, done.stdout + done.stderr


def test_the_table_has_every_fault() -> None:
    assert rows(_page("testing"), "A server that fails") == [
        [f"`{name}`", fault.what] for name, fault in FAULTS.items()
    ]
