"""Turns the tests to httpx2: `python -m pytest -p tests.support.over_httpx2 tests/behaviour tests/face`.

A plugin for a pytest process of its own. In it `import httpx` means httpx2 and `import httpcore` httpcore2, as
`httpx2.alias_httpx()` makes it, and the classes that tests import from `httpx_agent` are those of `httpx_agent.httpx2`.
So the same tests, word for word, hold for both families; they cannot know of which one they speak.

It must come before whatever imports httpx, plugins of pytest included; `-p` on the command line does.
"""

from __future__ import annotations

import httpx2

httpx2.alias_httpx()

import httpx_agent  # noqa: E402

httpx_agent._HOMES.update(Agent=".httpx2", AgentTransport=".httpx2")
