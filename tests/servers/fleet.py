"""Third-party servers, each set to close connections as it does in real life, only sooner.

All serve the places of `tests.servers.apps`, plain and, where they can, over TLS: those of Python and JavaScript by
themselves, the others in front of a backend, as they mostly are.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.programs import HERE, Running, found, free_port, nginx_command, started

#: Seconds for which a connection may be idle.
IDLE = 1

#: Requests that a connection may serve, of servers that have such a limit.
REQUESTS = 20

#: Bytes that a body may have, of servers that have such a limit.
LIMIT = 2_000_000

#: Bytes that a body may have in the places that refuse, of servers that refuse nothing but what is too long.
LITTLE = 64_000

APPS = HERE / "apps"


@dataclass(frozen=True)
class Place:
    """Where a program is to serve."""

    port: int
    folder: Path
    certificate: dict[str, str] | None
    """Over TLS, with these paths of `certificate` and `key`, or plain."""
    backend: int
    """The port of what a proxy stands in front of."""


@dataclass(frozen=True)
class Server:
    """A program, how it is started, and what it was seen to do."""

    name: str
    program: str
    command: Callable[[Place], list[str]]
    stop: signal.Signals = signal.SIGTERM
    """What tells it to stop gracefully."""
    tls: bool = True
    is_proxy: bool = False
    requests: int | None = None
    """How many requests a connection serves."""
    limits: bool = False
    """It has a limit for bodies, and refuses longer ones by itself."""
    tells_idle: bool = False
    """It says in `Keep-Alive` how long a connection may be idle, to those who ask for one that is kept."""
    finishes: bool = True
    """Told to stop, it answers the requests that it has begun with."""
    deserts: bool = False
    """After an upload that it refused it keeps the connection, and may leave the next request on it unanswered."""

    @property
    def needs(self) -> list[str]:
        """The programs that must be installed."""
        return [self.program, "uvicorn"] if self.is_proxy else [self.program]


@dataclass(frozen=True)
class Started:
    """A server that runs, plain and over TLS, a program for each."""

    server: Server
    programs: dict[str, Running]

    @property
    def urls(self) -> dict[str, str]:
        """Where it is, by scheme."""
        hosts = {"http": "127.0.0.1", "https": "localhost"}
        return {scheme: f"{scheme}://{hosts[scheme]}:{program.port}" for scheme, program in self.programs.items()}

    def stop(self) -> None:
        """Tell it to stop gracefully."""
        for program in self.programs.values():
            program.process.send_signal(self.server.stop)

    def said(self) -> str:
        """Its logs."""
        return "\n".join(f"{scheme}: {program.said()}" for scheme, program in self.programs.items())


@contextmanager
def backend(folder: Path) -> Iterator[int]:
    """What proxies stand in front of; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.servers.apps.asgi:app", "--port", str(port), *QUIET_UVICORN]
    with started(command, port, folder / "backend.log", {"CALLS": str(folder / "calls")}) as program:
        program.listens()
        yield port


@contextmanager
def start(server: Server, folder: Path, certificate: dict[str, str], backend: int, calls: Path) -> Iterator[Started]:
    """Start a server, and end it.

    Args:
        server: Which.
        folder: For its files.
        certificate: The paths of certificate and key.
        backend: The port of what it stands in front of, if it is a proxy.
        calls: The file for the calls that its applications had.
    """
    environment = {"CALLS": str(calls), "PYTHONUNBUFFERED": "1"}
    with ExitStack() as stack:
        programs = {}
        for scheme in ("http", "https") if server.tls else ("http",):
            own = folder / server.name / scheme
            own.mkdir(parents=True)
            place = Place(free_port(), own, certificate if scheme == "https" else None, backend)
            context = started(server.command(place), place.port, own / "log", environment)
            programs[scheme] = stack.enter_context(context)
        for program in programs.values():
            program.listens()
        yield Started(server, programs)


def _nginx(place: Place) -> list[str]:
    tls = place.certificate
    http = f"""
  keepalive_timeout {IDLE}s;
  keepalive_requests {REQUESTS};
  client_max_body_size {LIMIT};
  server {{
    listen 127.0.0.1:{place.port} {"ssl" if tls else ""};
    {f"ssl_certificate {tls['certificate']}; ssl_certificate_key {tls['key']};" if tls else ""}
    location / {{ proxy_pass http://127.0.0.1:{place.backend}; }}
    location /refused {{ return 413; }}
  }}
"""
    return nginx_command(place.folder, http, workers=True)


def _apache2(place: Place) -> list[str]:
    modules = ["mpm_event", "authz_core", "proxy", "proxy_http", *(["ssl"] if place.certificate else [])]
    if (tls := place.certificate) is not None:
        secure = f"SSLEngine on\nSSLCertificateFile {tls['certificate']}\nSSLCertificateKeyFile {tls['key']}"
    else:
        secure = ""
    config = place.folder / "apache2.conf"
    config.write_text(f"""
{"".join(f"LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so{chr(10)}" for module in modules)}
ServerName localhost
ServerRoot {place.folder}
DefaultRuntimeDir {place.folder}
PidFile {place.folder}/pid
ErrorLog {place.folder}/log
{"User www-data" if os.getuid() == 0 else ""}
{"Group www-data" if os.getuid() == 0 else ""}
Listen 127.0.0.1:{place.port}
StartServers 1
KeepAlive on
KeepAliveTimeout {IDLE}
MaxKeepAliveRequests {REQUESTS}
DocumentRoot /
{secure}
ProxyPass /refused !
ProxyPass / http://127.0.0.1:{place.backend}/ disablereuse=on
<Location /refused>
  LimitRequestBody {LITTLE}
</Location>
""")
    return [found("apache2"), "-f", str(config), "-D", "FOREGROUND"]


def _haproxy(place: Place) -> list[str]:
    bind = f"127.0.0.1:{place.port}"
    if (tls := place.certificate) is not None:
        together = place.folder / "both.pem"
        together.write_bytes(Path(tls["certificate"]).read_bytes() + Path(tls["key"]).read_bytes())
        bind += f" ssl crt {together}"
    config = place.folder / "haproxy.cfg"
    config.write_text(f"""
global
  maxconn 200
defaults
  mode http
  http-reuse never
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout http-keep-alive {IDLE}s
frontend front
  bind {bind}
  http-request deny deny_status 413 if {{ path_beg /refused }}
  http-request deny deny_status 413 if {{ req.hdr_val(content-length) gt {LIMIT} }}
  default_backend back
backend back
  server one 127.0.0.1:{place.backend}
""")
    return [found("haproxy"), "-db", "-f", str(config)]


def _lighttpd(place: Place) -> list[str]:
    secure = ""
    if (tls := place.certificate) is not None:
        secure = f'ssl.engine = "enable"\nssl.pemfile = "{tls["certificate"]}"\nssl.privkey = "{tls["key"]}"'
    config = place.folder / "lighttpd.conf"
    config.write_text(f"""
server.modules = ("mod_access", "mod_proxy"{', "mod_openssl"' if tls else ""})
server.document-root = "{place.folder}"
server.bind = "127.0.0.1"
server.port = {place.port}
server.max-keep-alive-idle = {IDLE}
server.max-keep-alive-requests = {REQUESTS}
server.max-request-size = {LIMIT // 1024}
{secure}
$HTTP["url"] =~ "^/refused" {{ server.max-request-size = {LITTLE // 1024} }}
proxy.server = ("" => (("host" => "127.0.0.1", "port" => {place.backend})))
""")
    return [found("lighttpd"), "-D", "-f", str(config)]


#: Without its words on each request, and what else is not looked at.
QUIET_UVICORN = ("--log-level", "warning", "--lifespan", "off")


def _uvicorn(parser: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        arguments = [sys.executable, "-m", "uvicorn", "tests.servers.apps.asgi:app", "--port", str(place.port)]
        arguments += ["--timeout-keep-alive", str(IDLE), "--http", parser, *QUIET_UVICORN]
        if (tls := place.certificate) is not None:
            arguments += ["--ssl-certfile", tls["certificate"], "--ssl-keyfile", tls["key"]]
        return arguments

    return command


def _hypercorn(place: Place) -> list[str]:
    arguments = [sys.executable, "-m", "hypercorn", "--bind", f"127.0.0.1:{place.port}", "--keep-alive", str(IDLE)]
    if (tls := place.certificate) is not None:
        arguments += ["--certfile", tls["certificate"], "--keyfile", tls["key"]]
    config = place.folder / "hypercorn.toml"
    config.write_text(f"keep_alive_max_requests = {REQUESTS}\n")
    return [*arguments, "--config", str(config), "tests.servers.apps.asgi:app"]


def _gunicorn(worker: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        arguments = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{place.port}", "--keep-alive", str(IDLE)]
        arguments += ["--worker-class", worker, "--threads", "8" if worker == "gthread" else "1"]
        arguments += ["--workers", "1" if worker == "gthread" else "4", "--no-control-socket", "--log-level", "warning"]
        if (tls := place.certificate) is not None:
            arguments += ["--certfile", tls["certificate"], "--keyfile", tls["key"]]
        return [*arguments, "tests.servers.apps.wsgi:app"]

    return command


def _granian(place: Place) -> list[str]:
    arguments = [sys.executable, "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port"]
    arguments += [str(place.port), "--no-ws", "--http", "1", "--http1-header-read-timeout", str(IDLE * 1000)]
    arguments += ["--log-level", "warning"]
    if (tls := place.certificate) is not None:
        arguments += ["--ssl-certificate", tls["certificate"], "--ssl-keyfile", tls["key"]]
    return [*arguments, "tests.servers.apps.asgi:app"]


def _waitress(place: Place) -> list[str]:
    arguments = [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{place.port}", f"--channel-timeout={IDLE}"]
    arguments += [f"--cleanup-interval={IDLE}", f"--max-request-body-size={LIMIT}", "--threads=8"]
    return [*arguments, "tests.servers.apps.wsgi:app"]


def _own(module: str) -> Callable[[Place], list[str]]:
    """Those that a program starts."""

    def command(place: Place) -> list[str]:
        arguments = [sys.executable, "-m", f"tests.servers.apps.{module}", "--port", str(place.port)]
        arguments += ["--idle", str(IDLE), "--limit", str(LIMIT)]
        if (tls := place.certificate) is not None:
            arguments += ["--certificate", tls["certificate"], "--key", tls["key"]]
        return arguments

    return command


def _javascript(program: str, app: str, limit: int) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        tls = place.certificate
        paths = [tls["certificate"], tls["key"]] if tls is not None else []
        return [found(program), str(APPS / app), str(place.port), str(IDLE), str(limit), *paths]

    return command


SERVERS = [
    Server("nginx", "nginx", _nginx, stop=signal.SIGQUIT, is_proxy=True, requests=REQUESTS, limits=True),
    Server("apache2", "apache2", _apache2, stop=signal.SIGWINCH, is_proxy=True, requests=REQUESTS + 1, tells_idle=True),
    Server("haproxy", "haproxy", _haproxy, stop=signal.SIGUSR1, is_proxy=True, limits=True),
    Server("lighttpd", "lighttpd", _lighttpd, stop=signal.SIGINT, is_proxy=True, requests=REQUESTS + 1, limits=True),
    Server("uvicorn-h11", "uvicorn", _uvicorn("h11")),
    Server("uvicorn-httptools", "uvicorn", _uvicorn("httptools")),
    Server("hypercorn", "hypercorn", _hypercorn, requests=REQUESTS, finishes=False, deserts=True),
    Server("gunicorn-sync", "gunicorn", _gunicorn("sync"), requests=1),
    Server("gunicorn-gthread", "gunicorn", _gunicorn("gthread")),
    Server("granian", "granian", _granian),
    Server("twisted", "twisted", _own("twisted_app"), finishes=False),
    Server("tornado", "tornado", _own("tornado_app"), finishes=False),
    Server("waitress", "waitress", _waitress, stop=signal.SIGINT, tls=False, limits=True),
    Server("cheroot", "cheroot", _own("wsgi"), limits=True),
    Server("aiohttp", "aiohttp", _own("aiohttp_app"), limits=True),
    Server("node20", "node20", _javascript("node20", "node_app.mjs", REQUESTS), requests=REQUESTS, tells_idle=True),
    Server("node26", "node26", _javascript("node26", "node_app.mjs", REQUESTS), requests=REQUESTS, tells_idle=True),
    Server("bun", "bun", _javascript("bun", "bun_app.mjs", LIMIT), limits=True),
]
