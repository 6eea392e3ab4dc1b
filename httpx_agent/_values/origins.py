"""Keys of sockets, and patterns that match origins in the syntax of httpx's `mounts`."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

import idna

_USUAL_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

#: Nothing, a star, or a name, optionally with a star in front.
_HOST = re.compile(r"\*?|(\*\.?)?[^\s*.][^\s*]*")
_STAR = re.compile(r"(\*?\.?)(.*)", re.DOTALL)


class Key(NamedTuple):
    """The key that sockets are pooled by (R27); `max_sockets` applies per key."""

    scheme: str
    host: str
    port: int
    sni_hostname: str | None

    @property
    def origin(self) -> str:
        """The origin as ``scheme://host:port``, always with the port, followed by the server name if it differs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        name = f" ({self.sni_hostname})" if self.sni_hostname not in (None, self.host) else ""
        return f"{self.scheme}://{host}:{self.port}{name}"


class OriginPattern:
    """A pattern such as ``all://``, ``https://``, ``all://*.example.com``, ``http://example.com:8080``, ``all://*``.

    The rules are those of httpx's `mounts`: ``all`` matches any scheme; a missing host or ``*`` any host; ``*.x`` every
    subdomain of ``x``; ``*x`` those and ``x`` itself; a missing port any port.

    Raises:
        ValueError: If the text is not a valid pattern.
    """

    def __init__(self, text: str) -> None:
        expected = "expected a URL pattern such as 'https://example.com', 'all://*.example.com' or 'http://'"
        try:
            parts = urlsplit(text)
            self._port = parts.port
            host = to_ascii(parts.hostname or "")
        except ValueError:
            raise ValueError(f"{text!r}: {expected}") from None
        if "://" not in text or not parts.scheme or not _HOST.fullmatch(host):
            raise ValueError(f"{text!r}: {expected}")
        if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{text!r}: {expected}; an origin has no path, query or user")
        self._scheme = "" if parts.scheme == "all" else parts.scheme
        self._host = "" if host == "*" else host
        if self._port == _USUAL_PORTS.get(self._scheme):
            self._port = None  # as in httpx: the default port adds nothing to the scheme
        if self._host.startswith("*."):
            self._match = re.compile(rf"^.+\.{re.escape(self._host[2:])}$")
        elif self._host.startswith("*"):
            self._match = re.compile(rf"^(.+\.)?{re.escape(self._host[1:])}$")
        else:
            self._match = re.compile(rf"^{re.escape(self._host)}$")

    @property
    def priority(self) -> tuple[int, int, int]:
        """The sort key: most specific first, by port, then the longest host, then the longest scheme."""
        return (0 if self._port is not None else 1, -len(self._host), -len(self._scheme))

    def matches(self, scheme: str, host: str, port: int) -> bool:
        """Return whether the pattern matches an origin."""
        if self._scheme and self._scheme != scheme:
            return False
        if self._host and not self._match.match(host):
            return False
        return self._port is None or self._port == port


def to_ascii(host: str) -> str:
    """Encode a host as requests contain it, except for a leading star."""
    star, rest = _STAR.fullmatch(host).groups()  # type: ignore[union-attr]  # the pattern matches any text
    return host if rest.isascii() else star + idna.encode(rest).decode("ascii")
