r"""Run the tests with httpx2.

    python -m pytest -p tests.support.over_httpx2 tests/behaviour

A plugin for a pytest process of its own. In it `import httpx` means httpx2 and `import httpcore` httpcore2, as
`httpx2.alias_httpx()` makes it, and the classes that tests import from `httpx_agent` are those of `httpx_agent.httpx2`.
So the same tests, word for word, hold for both families; they cannot know of which one they speak.

It must come before whatever imports httpx, plugins of pytest included; `-p` on the command line does. Programs that a
test starts are not turned. `.ci/run` names the folders that are run so.
"""

from __future__ import annotations

from pathlib import Path

import httpx2

httpx2.alias_httpx()

import httpx_agent  # noqa: E402

httpx_agent._EXPORTS.update(Agent=".httpx2", AgentTransport=".httpx2")

#: What tells the families apart, and a mock that knows the other one only.
_OF_BOTH_OR_THE_OTHER = {"test_httpx2.py", "test_respx.py"}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Skip the tests that cannot run with httpx2."""
    return True if collection_path.name in _OF_BOTH_OR_THE_OTHER else None
