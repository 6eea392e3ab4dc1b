"""The arguments: what they are, and what an unsuitable one is told, in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import NoReturn

import httpx

from httpx_agent import Agent, AgentOptions, __version__

from .load import Load


class UsageError(Exception):
    """The arguments cannot be used; the message says why."""


class Demo:
    """The command `demo`, which has no arguments."""


def parse(argv: Sequence[str]) -> Demo | Load:
    """Reads the arguments.

    Whether the agent's options are suitable is the agent's to say, so it is made here.

    Raises:
        UsageError: If they cannot be used.
        SystemExit: After `--help` and `--version`.
    """
    given = _parser().parse_args(argv)
    if given.command == "demo":
        return Demo()
    options = {name: getattr(given, name) for name in _OPTIONS if hasattr(given, name)}
    # A client that sends no timeouts of its own leaves them to the agent only if the agent was given one.
    options = {"timeout": AgentOptions.timeout, **options}
    try:
        agent = Agent(verify=not given.insecure, http2=given.http2, proxy=given.proxy, **options)
    except (TypeError, ValueError, ImportError, httpx.InvalidURL) as error:
        raise UsageError(f"httpx-agent get: error: {_in_terms_of_arguments(str(error))}") from None
    return Load(
        agent=agent,
        urls=tuple(given.urls),
        requests=given.requests,
        concurrency=given.concurrency,
        in_threads=given.sync,
    )


class _Parser(argparse.ArgumentParser):
    """Errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: error: {message}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="httpx-agent",
        description="Sends HTTP requests through httpx, over sockets that an agent manages as Node's http.Agent does.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"httpx-agent {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser(
        "demo",
        help="show the agent's rules at work, on a server of its own",
        description=(
            "Starts a small server on this machine, sends requests to it, sync and async, and shows which socket "
            "serves which request and why: queueing, lifo and fifo, the server's hint, the free-socket timeout, "
            "the TTL. Takes a few seconds."
        ),
    )
    _add_get(commands)
    return parser


def _add_get(commands: argparse._SubParsersAction[_Parser]) -> None:
    get = commands.add_parser(
        "get",
        help="send many GET requests, then report speed, latency and sockets",
        description=(
            "Sends GET requests, in turn to each URL, and reports requests per second, latency, sockets opened and "
            "reused, time waited in the agent's queue, and the agent's status. Redirects are not followed; a response "
            "of any status counts as one."
        ),
        epilog=(
            "Times are seconds; 'none' means no limit. "
            "Exit status: 0, 1 if a request failed, 2 for bad arguments, 130 after Ctrl-C."
        ),
        allow_abbrev=False,
    )
    get.add_argument("urls", metavar="URL", nargs="+", type=_url, help="an http:// or https:// URL")
    get.add_argument(
        "-n", "--requests", metavar="N", type=_count, default=50, help="requests in all (default: %(default)s)"
    )
    get.add_argument(
        "-c", "--concurrency", metavar="N", type=_count, default=10, help="requests at a time (default: %(default)s)"
    )
    get.add_argument("--sync", action="store_true", help="use httpx.Client in threads, not httpx.AsyncClient")
    agent = get.add_argument_group("the agent")
    default = AgentOptions()
    for name, (metavar, read, text) in _OPTIONS.items():
        value = getattr(default, name)
        shown = "none" if value is None else f"{value:g}" if isinstance(value, float) else value
        agent.add_argument(
            "--" + name.replace("_", "-"),
            metavar=metavar,
            type=read,
            default=argparse.SUPPRESS,
            help=f"{text} (default: {shown})",
        )
    agent.add_argument("--http2", action="store_true", help="speak HTTP/2 where the server does; needs the extra http2")
    agent.add_argument("--proxy", metavar="URL", help="an http, https or socks5 proxy (default: none)")
    agent.add_argument("--insecure", action="store_true", help="do not verify TLS certificates")


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    if url.scheme not in ("http", "https"):
        raise argparse.ArgumentTypeError(f"{text!r}: accepted are http:// and https:// URLs")
    if not url.host:
        raise argparse.ArgumentTypeError(f"{text!r}: the host is missing")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted is a port from 1 to 65535")
    return url


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted is a whole number, 1 or more")
    return number


def _limit(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted is a whole number or 'none'") from None


def _seconds(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted is a number of seconds or 'none'") from None


#: The agent's options that are arguments too.
_OPTIONS: dict[str, tuple[str, Callable[[str], object], str]] = {
    "scheduling": ("{lifo,fifo}", str, "which free socket serves next"),
    "max_sockets": ("N", _limit, "open sockets per origin"),
    "max_total_sockets": ("N", _limit, "open sockets over all origins"),
    "max_free_sockets": ("N", _limit, "free sockets kept per origin"),
    "free_socket_timeout": ("S", _seconds, "how long a socket may stay free"),
    "socket_active_ttl": ("S", _seconds, "how old a socket may grow"),
    "timeout": ("S", _seconds, "inactivity while connecting, reading or writing"),
}


def _in_terms_of_arguments(message: str) -> str:
    """Turn `max_sockets=0: …` into `argument --max-sockets: 0: …`, as argparse says it, in words one can type."""
    for pythons, ours in _WORDS:
        message = message.replace(pythons, ours)
    message = re.sub(r"^proxy( with)?:? ", "argument --proxy: ", message)
    return re.sub(r"^(\w+)=", lambda found: f"argument --{found[1].replace('_', '-')}: ", message)


#: What the agent says of values, and how they are typed here.
_WORDS = (
    (", math.inf or None for no limit", ", or 'none' for no limit"),
    (", or None for no limit", ", or 'none' for no limit"),
    ("an int >=", "a whole number >="),
    (" (int, float or datetime.timedelta)", ""),
    (
        "a str, httpx.URL or httpx.Proxy of http, https, socks5 or socks5h, or None",
        "an http, https, socks5 or socks5h URL",
    ),
)
