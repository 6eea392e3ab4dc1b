"""A program that never closes its client ends cleanly: no warning from us, and no thread that delays it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import Certificates, Server
from tests.support.worlds import clean_environment

SYNC = """
import sys, httpx
from httpx_agent import AgentTransport
kind = {"httpx": httpx.HTTPTransport, "agent": AgentTransport}[sys.argv[2]]
client = httpx.Client(transport=kind(verify=False))
for _ in range(2):
    print(client.get(sys.argv[1] + "/bytes/3").status_code)
"""

ASYNC = """
import sys, anyio, httpx
from httpx_agent import AgentTransport

async def main():
    client = httpx.AsyncClient(transport=AgentTransport(verify=False, http1_engine=sys.argv[4]))
    for _ in range(2):
        print((await client.get(sys.argv[1] + "/bytes/3")).status_code)
    if sys.argv[3] == "global":
        globals()["keep"] = client

loop = sys.argv[2]
options = {"use_uvloop": True} if loop == "uvloop" else {}
anyio.run(main, backend="asyncio" if loop == "uvloop" else loop, backend_options=options)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["local", "global"])
@pytest.mark.parametrize("name", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("engine", ["httptools", "h11"])
@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_async_programs(certificates: Certificates, name: str, kept: str, engine: str, kind: str) -> None:
    with Server(tls=certificates.server() if kind == "tls" else None) as server:
        assert run(ASYNC, server, name, kept, engine) == ""
        server.wait_closed()
        assert server.accepted == 1


@pytest.mark.slow
def test_sync_programs(server: Server) -> None:
    """Python itself tells of the socket that is left, with either transport; the agent adds nothing to that."""
    errors = [run(SYNC, server, kind) for kind in ("httpx", "agent")]

    assert [re.findall(r"^\w+(?= ignored in|: unclosed <socket)", text, re.MULTILINE) for text in errors] == [
        ["Exception", "ResourceWarning"]
    ] * 2
    assert [len(text.splitlines()) for text in errors] == [2, 2]
    server.wait_closed()
    assert server.accepted == 2


def run(program: str, server: Server, *arguments: str) -> str:
    """Run a program with all warnings on, and give what it says of errors."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, server.url, *arguments]
    folder = Path(__file__).parents[2]

    result = subprocess.run(
        command, cwd=folder, env=dict(clean_environment()), capture_output=True, text=True, timeout=20, check=False
    )

    assert (result.returncode, result.stdout.split()) == (0, ["200", "200"])
    # What a debugging event loop says on a busy machine says nothing of the program.
    return re.sub(r"^Executing <.* took .* seconds\n", "", result.stderr, flags=re.MULTILINE)
