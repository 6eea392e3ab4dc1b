"""Servers in processes of their own: nginx where it is installed, else the one of `server`.

Both have one worker: a client under measure is one process too, and a second worker would take the processor that the
client needs on a small machine. How busy the server was is noted with every measurement; near 100 % it was the server
that was measured.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .cases import BODIES, Case
from .descriptors import allow_many_files

_NGINX = """
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    default_type application/octet-stream;
    client_body_temp_path {directory}/client;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=10;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    server {{
        {listen}
        root {directory}/root;
        location = /small {{ return 200 "{small}"; }}
        location = /close/small {{ keepalive_timeout 0; return 200 "{small}"; }}
    }}
}}
"""
_NGINX_FULL = """
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        ssl_session_tickets off;
        ssl_session_cache off;
        location = /close/small {{ keepalive_timeout 0; return 200 "{small}"; }}
    }}
}}
"""


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        name: What it is, for people.
        pids: Its processes.
        hosts: The addresses at which it listens.
        ports: The port for each `cases.Port`.
        path: Its Unix socket, if it has one; there it is any origin.
    """

    name: str
    pids: tuple[int, ...]
    hosts: tuple[str, ...]
    ports: dict[str, int]
    path: str | None = None

    def urls(self, case: Case) -> list[str]:
        """The URLs to which the requests of a case go, in turn."""
        if case.kind == "cost":
            return [f"http://{number}.test/{case.body}" for number in range(case.origins)]
        path = f"hold/{case.tasks}" if case.kind == "memory" else case.body if case.reuse else f"close/{case.body}"
        scheme = case.port.partition("-")[0]
        return [f"{scheme}://{host}:{self.ports[case.port]}/{path}" for host in self.hosts[: case.origins]]


def hosts(count: int) -> tuple[str, ...]:
    """That many addresses of the loopback interface. More than one work on Linux, where 127.0.0.0/8 is all loopback."""
    return tuple(f"127.0.{index // 250}.{index % 250 + 1}" for index in range(count))


def nginx() -> str | None:
    """The path of nginx, if it is installed."""
    return shutil.which("nginx")


@contextmanager
def running_nginx(path: str, addresses: tuple[str, ...], certificate: Path, directory: Path) -> Iterator[Server]:
    """Run nginx with its files in `directory`."""
    root = directory / "root"
    root.mkdir()
    for name, length in BODIES.items():
        (root / name).write_bytes(b"x" * length)
    ports = _free_ports("http", "https", "https-full")
    listen = [f"listen {address}:{ports['http']} backlog=4096;" for address in addresses]
    listen.append(f"listen 127.0.0.1:{ports['https']} ssl backlog=4096;")
    small = "x" * BODIES["small"]
    main = _NGINX.format(
        user=f"user {_user()};" if os.geteuid() == 0 else "",
        directory=directory,
        certificate=certificate,
        listen="\n        ".join(listen),
        small=small,
    )
    full = _NGINX_FULL.format(port=ports["https-full"], small=small)
    configuration = directory / "nginx.conf"
    configuration.write_text(main.rstrip().removesuffix("}") + full)
    process = subprocess.Popen(
        [path, "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(configuration)],
        preexec_fn=allow_many_files,
    )
    try:
        _wait_for(process, ports["http"])
        version = subprocess.run([path, "-v"], capture_output=True, text=True, check=True).stderr
        yield Server(version.strip().removeprefix("nginx version: "), _family(process.pid), addresses, ports)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def running_own(addresses: tuple[str, ...], certificate: Path, path: Path | None = None) -> Iterator[Server]:
    """Run the server of `server`, also on a Unix socket if a path is given."""
    unix_socket = None if path is None else str(path)
    configuration = json.dumps({"hosts": addresses, "certificate": str(certificate), "path": unix_socket})
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", configuration],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with status {process.wait()}")
        yield Server("the benchmark's own server", (process.pid,), addresses, json.loads(line), unix_socket)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.terminate()
        process.wait()


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _free_ports(*names: str) -> dict[str, int]:
    """A free port of 127.0.0.1 for each name; all are held until the last is found, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: raw.getsockname()[1] for name, raw in zip(names, sockets, strict=True)}
    for raw in sockets:
        raw.close()
    return ports


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as error:
            if process.poll() is not None:
                raise RuntimeError(f"nginx ended with status {process.returncode}") from error
            if time.monotonic() > deadline:
                raise RuntimeError("nginx did not listen within 10 s") from error
            time.sleep(0.05)
        else:
            return


def _family(pid: int) -> tuple[int, ...]:
    """A process and its children, where the system tells."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return (pid, *map(int, children))
