"""Starts servers and proxies that others wrote, on loopback, and ends them."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: The package of Debian that has each program.
PACKAGES = {"nginx": "nginx-light", "tinyproxy": "tinyproxy", "microsocks": "microsocks"}

#: Seconds for a program to start, and to end.
PATIENCE = 20.0


def find(program: str) -> str | None:
    """Where the program is, also where servers stand that are not in every `PATH`; some are packages of Python's."""
    if program not in PACKAGES:
        found = importlib.util.find_spec(program)
        return found.origin if found is not None else None
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")


def version(program: str) -> str:
    """Which version of a program Debian's package has, without Debian's part of it."""
    command = ["dpkg-query", "--show", "--showformat", "${Version}", PACKAGES[program]]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return found.rpartition("-")[0]


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A program that listens on a port; what it says is in the log."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT)
        try:
            _wait_until_listening(process, port, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    begun = time.monotonic()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() - begun > PATIENCE:
                raise AssertionError(f"{process.args!r} does not listen: {log.read_text(errors='replace')}") from None
            time.sleep(0.01)  # there is nothing else to wait for


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
    temporary = "\n".join(
        f"  {name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
{temporary}
  access_log off;
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
}}
""")
    program = find("nginx")
    assert program is not None
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "early.log")]
    with running(command, ports["http/1.1"], folder / "nginx.log"):
        yield {
            "http/1.1": f"http://127.0.0.1:{ports['http/1.1']}",
            "tls": f"https://localhost:{ports['tls']}",
            "http/2": f"https://localhost:{ports['http/2']}",
        }


@contextmanager
def uvicorn(folder: Path, *, keep_alive: int) -> Iterator[str]:
    """Over HTTP/1.1; closes a free socket after so many seconds."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.servers.echo:app", "--port", str(port)]
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
    command = [sys.executable, "-m", "hypercorn", "--config", str(config), "tests.servers.echo:app"]
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
    program = find("tinyproxy")
    assert program is not None
    with running([program, "-d", "-c", str(config)], port, folder / "tinyproxy.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def microsocks(folder: Path) -> Iterator[str]:
    """A SOCKS5 server."""
    port = free_port()
    program = find("microsocks")
    assert program is not None
    with running([program, "-i", "127.0.0.1", "-p", str(port)], port, folder / "microsocks.log"):
        yield f"socks5://127.0.0.1:{port}"
