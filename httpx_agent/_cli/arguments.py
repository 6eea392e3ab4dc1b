"""Define and parse the arguments; report unsuitable ones in a single line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NoReturn

import httpx

from httpx_agent import Agent, AgentOptions, __version__
from httpx_agent._values.option_hints import option_meant
from httpx_agent._values.options import check_option, check_proxy, shown

from .load import Load


class UsageError(Exception):
    """Raised for unusable arguments; the message says why."""


class Demo:
    """The command `demo`, which takes no arguments."""


def parse(argv: Sequence[str]) -> Demo | Load:
    """Parse the arguments.

    Raises:
        UsageError: If they cannot be used.
        SystemExit: After `--help` and `--version`.
    """
    parser, commands = _parser()
    before = list(takewhile(lambda argument: argument.startswith("-"), argv))
    parser.check_options(before)
    at = len(before)
    if at < len(argv) and argv[at] in commands:
        commands[argv[at]].check_options(argv[at + 1 :])
    given = parser.parse_args(argv)
    if given.command == "demo":
        return Demo()
    options = {name: getattr(given, name) for name in _OPTIONS if hasattr(given, name)}
    # A client with timeout=None leaves timeouts to the agent only if the agent was given one explicitly.
    options = {"timeout": AgentOptions.timeout, **options}
    try:
        agent = Agent(verify=not given.insecure, http2=given.http2, proxy=given.proxy, **options)
    except ImportError as error:
        raise UsageError(f"httpx-agent get: error: {in_terms_of_arguments(str(error))}") from None
    return Load(
        agent=agent,
        urls=tuple(given.urls),
        requests=given.requests,
        concurrency=given.concurrency,
        in_threads=given.sync,
    )


def in_terms_of_arguments(message: str) -> str:
    """Return a message of the agent with its options replaced by the arguments of the command line."""
    message = message.replace("http2=True", "argument --http2:")
    message = message.replace(", or pass trust_env=False", "")
    message = message.replace("set by the request or by the agent's `timeout`", "set by --timeout")
    return re.sub(r"\b[a-z]+_[a-z_]+\b", lambda word: _argument(word[0]) if word[0] in _OPTIONS else word[0], message)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage, and suggest what an unknown option may stand for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._options: list[str] = []
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Add an argument as usual, and remember its names."""
        return self.remember(super().add_argument(*args, **kwargs))

    def remember(self, action: argparse.Action) -> argparse.Action:
        """Remember the names of an argument that was added to a group."""
        self._options.extend(action.option_strings)
        return action

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: error: {message}")

    def check_options(self, arguments: Iterable[str]) -> None:
        """Reject unknown options first: argparse would take the value after one for a URL, and complain about that."""
        unknown = []
        for argument in takewhile(lambda argument: argument != "--", arguments):
            found = re.match("--[A-Za-z][^=]*|-[A-Za-z]", argument)
            if found and found[0] not in self._options:
                unknown.append(self._with_hint(found[0]))
        if unknown:
            self.error(f"unrecognized arguments: {', '.join(unknown)}; see {self.prog} --help")

    def _with_hint(self, argument: str) -> str:
        own = [name.removeprefix("--").replace("-", "_") for name in self._options if name.startswith("--")]
        meant = option_meant(argument, own) if argument.startswith("--") else None
        if meant is None:
            return argument
        return f"{argument} (did you mean {_argument(meant)}{', in seconds' if meant in _TIMES else ''}?)"


def _argument(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _parser() -> tuple[_Parser, Mapping[str, _Parser]]:
    """Return the main parser, and the parsers of the commands."""
    parser = _Parser(
        prog="httpx-agent",
        description="Send HTTP requests through httpx, over sockets that an agent manages as Node's http.Agent does.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"httpx-agent {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser(
        "demo",
        help="show the agent's rules at work, with a built-in server",
        description=(
            "Start a small server on this machine, send sync and async requests to it, and show which socket serves "
            "which request and why: queueing, lifo and fifo, the server's hint, the free-socket timeout, the TTL. "
            "Takes a few seconds."
        ),
    )
    _add_get(commands)
    return parser, commands.choices


def _add_get(commands: argparse._SubParsersAction[_Parser]) -> None:
    get = commands.add_parser(
        "get",
        help="send many GET requests, then report speed, latency and sockets",
        description=(
            "Send GET requests to each URL in turn, and report requests per second, latency, sockets opened and "
            "reused, time spent in the agent's queue, and the agent's status. Redirects are not followed; a response "
            "with any status counts as answered."
        ),
        epilog=(
            "Times are in seconds; 'none' means no limit. "
            "Exit status: 0, 1 if a request failed, 2 for bad arguments, 130 after Ctrl-C."
        ),
        allow_abbrev=False,
    )
    get.add_argument("urls", metavar="URL", nargs="+", type=_url, help="an http:// or https:// URL")
    get.add_argument(
        "-n", "--requests", metavar="N", type=_count, default=50, help="total number of requests (default: %(default)s)"
    )
    get.add_argument(
        "-c",
        "--concurrency",
        metavar="N",
        type=_count,
        default=10,
        help="requests sent at a time (default: %(default)s)",
    )
    get.add_argument("--sync", action="store_true", help="use httpx.Client in threads instead of httpx.AsyncClient")
    agent = get.add_argument_group("the agent")

    def add(*args: Any, **kwargs: Any) -> None:
        get.remember(agent.add_argument(*args, **kwargs))

    default = AgentOptions()
    for name, (metavar, read, expected, text) in _OPTIONS.items():
        value = getattr(default, name)
        usual = "none" if value is None else f"{value:g}" if isinstance(value, float) else value
        add(
            _argument(name),
            metavar=metavar,
            type=_option(name, read, expected),
            default=argparse.SUPPRESS,
            help=f"{text} (default: {usual})",
        )
    add("--http2", action="store_true", help="use HTTP/2 if the server supports it; needs the extra http2")
    add("--proxy", metavar="URL", type=_proxy, help="an http, https or socks5 proxy (default: none)")
    add("--insecure", action="store_true", help="do not verify TLS certificates")


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        # If there is a user, the invalid part may be in the password, so do not repeat it.
        message = f"{text!r}: {error}" if "@" not in text else "not a valid URL; percent-encode the part before the @"
        raise argparse.ArgumentTypeError(message) from None
    without_user = repr(_USER.sub("//", text))
    if url.scheme not in ("http", "https"):
        raise argparse.ArgumentTypeError(f"{without_user}: expected an http:// or https:// URL")
    if not url.host:
        raise argparse.ArgumentTypeError(f"{without_user}: the host is missing")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise argparse.ArgumentTypeError(f"{without_user}: expected a port from 1 to 65535")
    return url


def _proxy(text: str) -> httpx.Proxy:
    try:
        proxy: httpx.Proxy = check_proxy(text, httpx, "a proxy")
    except ImportError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("a proxy: ")) from None
    except ValueError as error:
        what = re.split("[:;] expected", str(error))[0].removeprefix("a proxy: ")
        expected = "expected a URL such as http://localhost:3128, with scheme http, https, socks5 or socks5h"
        raise argparse.ArgumentTypeError(f"{what}: {expected}") from None
    return proxy


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{shown(text)}: expected an integer >= 1")
    return number


def _option(name: str, read: Callable[[str], object], expected: str) -> Callable[[str], Any]:
    """Return a function that converts an option's argument. The agent validates; the error says what it expects."""

    def convert(text: str) -> Any:
        try:
            return check_option(name, None if text.lower() == "none" else read(text))
        except (TypeError, ValueError):
            raise argparse.ArgumentTypeError(f"{shown(text)}: expected {expected}") from None

    return convert


#: A user and a password in a URL.
_USER = re.compile("//[^/]*@")

_ONE_OR_NONE = "an integer >= 1, or none for no limit"
_ZERO_OR_NONE = "an integer >= 0, or none for no limit"
_SECONDS = "seconds > 0, or none for no limit"
_ZERO_SECONDS = "seconds >= 0, or none for no limit"

#: The agent's options that are also arguments: metavar, conversion, what is expected, help.
_OPTIONS: dict[str, tuple[str, Callable[[str], object], str, str]] = {
    "scheduling": ("{lifo,fifo}", str, "lifo or fifo", "which free socket to use next"),
    "max_sockets": ("N", int, _ONE_OR_NONE, "open sockets per origin"),
    "max_total_sockets": ("N", int, _ONE_OR_NONE, "open sockets for all origins together"),
    "max_free_sockets": ("N", int, _ZERO_OR_NONE, "free sockets kept per origin"),
    "free_socket_timeout": ("S", float, _ZERO_SECONDS, "how long a socket may stay free"),
    "socket_active_ttl": ("S", float, _SECONDS, "maximum age of a socket"),
    "timeout": ("S", float, _SECONDS, "inactivity while connecting, reading or writing"),
}

_TIMES = frozenset(name for name, (_, read, *_) in _OPTIONS.items() if read is float)
