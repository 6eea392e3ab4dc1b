"""Explain unknown names: an option as another library calls it, or a misspelt one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import NamedTuple

#: How similar two names must be, from 0 to 1, for one to pass as a misspelling of the other.
_ALIKE = 0.75
_ALL_BUT_THE_SAME = 0.93


class _Elsewhere(NamedTuple):
    """A name from another library.

    Attributes:
        library: The other library.
        name: The name in that library.
        option: The corresponding option here; empty if there is none.
        answer: The difference; if there is no corresponding option, what to do instead.
    """

    library: str
    name: str
    option: str = ""
    answer: str = ""

    def __str__(self) -> str:
        if not self.option:
            return f"{self.name} in {self.library} {self.answer}"
        return f"{self.name} in {self.library} is {self.option} here" + (f", {self.answer}" if self.answer else "")


_SECONDS = "in seconds, not milliseconds"
_NO_LIMIT = "where None, not 0, means no limit"
_CONTEXT = "as an ssl.SSLContext"
_PHASES = "is not an agent option: pass the client a Timeout with separate connect, read, write and pool values"

#: Options as other libraries' documentation calls them. Spellings that differ only in style may be from several.
_OPTIONS = (
    _Elsewhere("Node", "keepAlive", "keep_alive"),
    _Elsewhere("Node", "keepAliveMsecs", "keep_alive_initial_delay", _SECONDS),
    _Elsewhere("Node", "maxSockets", "max_sockets"),
    _Elsewhere("Node", "maxTotalSockets", "max_total_sockets"),
    _Elsewhere("Node", "maxFreeSockets", "max_free_sockets", "where 0 means none are kept"),
    _Elsewhere("Node", "maxCachedSessions", "max_cached_sessions"),
    _Elsewhere("Node", "agentKeepAliveTimeoutBuffer", "keep_alive_timeout_buffer", _SECONDS),
    _Elsewhere("Node", "noDelay", "socket_options", "where TCP_NODELAY is set unless they say otherwise"),
    _Elsewhere("Node", "localAddress", "local_address"),
    _Elsewhere("Node", "socketPath", "uds"),
    _Elsewhere("Node", "rejectUnauthorized", "verify"),
    _Elsewhere("Node", "ca", "verify", _CONTEXT),
    _Elsewhere("Node", "key", "cert", "the second of (certificate, key)"),
    _Elsewhere("Node", "proxyEnv", "proxy", "or AgentTransport.mounts_from_env()"),
    _Elsewhere("Node", "createConnection", "network_backend", "or async_network_backend"),
    _Elsewhere("Node", "lookup", "network_backend", "or async_network_backend"),
    _Elsewhere("agentkeepalive", "freeSocketTimeout", "free_socket_timeout", _SECONDS),
    _Elsewhere("agentkeepalive", "freeSocketKeepAliveTimeout", "free_socket_timeout", _SECONDS),
    _Elsewhere("agentkeepalive", "socketActiveTTL", "socket_active_ttl", _SECONDS),
    _Elsewhere("undici", "connections", "max_sockets"),
    _Elsewhere("undici", "keepAliveTimeout", "free_socket_timeout", _SECONDS),
    _Elsewhere("undici", "keepAliveTimeoutThreshold", "keep_alive_timeout_buffer", _SECONDS),
    _Elsewhere("undici", "keepAliveMaxTimeout", "free_socket_timeout", f"which caps every server's hint, {_SECONDS}"),
    _Elsewhere("undici", "clientTtl", "socket_active_ttl", _SECONDS),
    _Elsewhere("undici", "allowH2", "http2"),
    _Elsewhere("httpx.Limits", "max_connections", "max_total_sockets"),
    _Elsewhere("httpx.Limits", "max_keepalive_connections", "max_total_free_sockets"),
    _Elsewhere("httpx.Limits", "keepalive_expiry", "free_socket_timeout"),
    _Elsewhere("httpcore", "ssl_context", "verify"),
    _Elsewhere("aiohttp", "limit", "max_total_sockets", f"which counts free sockets too, and {_NO_LIMIT}"),
    _Elsewhere("aiohttp", "limit_per_host", "max_sockets", f"which counts free sockets too, and {_NO_LIMIT}"),
    _Elsewhere("aiohttp", "keepalive_timeout", "free_socket_timeout"),
    _Elsewhere("aiohttp", "force_close", "keep_alive", "with the opposite meaning"),
    _Elsewhere("aiohttp", "ssl", "verify"),
    _Elsewhere("aiohttp", "verify_ssl", "verify"),
    _Elsewhere("aiohttp", "local_addr", "local_address", "without a port"),
    _Elsewhere("aiohttp", "resolver", "async_network_backend"),
    _Elsewhere("aiohttp", "socket_factory", "socket_options", "or async_network_backend"),
    _Elsewhere("urllib3", "maxsize", "max_free_sockets", "or max_sockets if block was True"),
    _Elsewhere("urllib3", "block", "max_sockets", "the number at which requests wait"),
    _Elsewhere("urllib3", "cert_reqs", "verify"),
    _Elsewhere("urllib3", "ca_certs", "verify", _CONTEXT),
    _Elsewhere("urllib3", "cert_file", "cert"),
    _Elsewhere("urllib3", "key_file", "cert", "the second of (certificate, key)"),
    _Elsewhere("urllib3", "source_address", "local_address", "without a port"),
    _Elsewhere("requests", "pool_maxsize", "max_free_sockets", "or max_sockets if pool_block was True"),
    _Elsewhere("requests", "pool_block", "max_sockets", "the number at which requests wait"),
    _Elsewhere("requests", "max_retries", "retries", "of connecting only"),
    _Elsewhere("requests", "proxies", "proxy", "one URL; for several, mounts of the client"),
    _Elsewhere("Go", "MaxConnsPerHost", "max_sockets", _NO_LIMIT),
    _Elsewhere("Go", "MaxIdleConnsPerHost", "max_free_sockets", "where 0 means none are kept"),
    _Elsewhere("Go", "MaxIdleConns", "max_total_free_sockets", _NO_LIMIT),
    _Elsewhere("Go", "IdleConnTimeout", "free_socket_timeout", f"in seconds, {_NO_LIMIT}"),
    _Elsewhere("Go", "DisableKeepAlives", "keep_alive", "with the opposite meaning"),
    _Elsewhere("Go", "TLSClientConfig", "verify", _CONTEXT),
    _Elsewhere("Go", "ForceAttemptHTTP2", "http2"),
    _Elsewhere("Go", "DialContext", "network_backend", "or async_network_backend"),
    _Elsewhere("reqwest", "pool_max_idle_per_host", "max_free_sockets"),
    _Elsewhere("reqwest", "pool_idle_timeout", "free_socket_timeout"),
    _Elsewhere("reqwest", "tcp_keepalive", "keep_alive_initial_delay"),
)

#: Names from other libraries that have no corresponding option here.
ANSWERS = (
    _Elsewhere("Node", "servername", answer="is given with a request: extensions={'sni_hostname': …}"),
    _Elsewhere(
        "undici", "pipelining", answer="has no counterpart here: a socket of HTTP/1.1 serves one request at a time"
    ),
    _Elsewhere("undici", "maxRequestsPerClient", answer="has no counterpart here"),
    _Elsewhere("undici", "connectTimeout", answer=_PHASES),
    _Elsewhere("undici", "headersTimeout", answer=_PHASES),
    _Elsewhere("undici", "bodyTimeout", answer=_PHASES),
    _Elsewhere("AgentTransport", "agent", answer="is the agent to borrow: AgentTransport(agent=…)"),
    _Elsewhere("httpx.Client", "transport", answer="is an argument of the client that uses this transport"),
    *(
        _Elsewhere("httpx.Client", name, answer="is an argument of the client: pass it there, next to transport=")
        for name in (
            *("auth", "params", "headers", "cookies", "follow_redirects", "max_redirects", "event_hooks", "base_url"),
            *("default_encoding", "mounts"),
        )
    ),
    _Elsewhere("aiohttp", "ttl_dns_cache", answer="has no counterpart here: each new socket looks up its name"),
    _Elsewhere("aiohttp", "use_dns_cache", answer="has no counterpart here: each new socket looks up its name"),
    _Elsewhere("aiohttp", "enable_cleanup_closed", answer="is not needed here: closed sockets do not linger"),
    _Elsewhere("urllib3", "num_pools", answer="has no counterpart here: origins have no limit, only their sockets"),
    _Elsewhere("requests", "pool_connections", answer="has no counterpart here: origins have no limit"),
    _Elsewhere("reqwest", "connect_timeout", answer=_PHASES),
    _Elsewhere("reqwest", "read_timeout", answer=_PHASES),
    _Elsewhere("urllib3", "pool_timeout", answer=_PHASES),
)

_LIMITS = frozenset(entry.name for entry in _OPTIONS if entry.library == "httpx.Limits")

#: Methods and attributes of other libraries' pools that are not options.
CALLS = (
    _Elsewhere("Node", "destroy", answer="is close() here, or await aclose()"),
    _Elsewhere("Node", "freeSockets", answer="is status().free_sockets here"),
    _Elsewhere("Node", "requests", answer="is status().requests here"),
    _Elsewhere("Node", "totalSocketCount", answer="is len(sockets()) here"),
    _Elsewhere("Node", "getName", answer="has no counterpart here: the key is scheme, host, port and sni_hostname"),
    _Elsewhere("agentkeepalive", "getCurrentStatus", answer="is status() here"),
    _Elsewhere("undici", "stats", answer="is status() here"),
    _Elsewhere("httpcore", "connections", answer="is sockets() here"),
    _Elsewhere("urllib3", "num_connections", answer="is status().create_socket_count here"),
    _Elsewhere("urllib3", "num_requests", answer="is status().request_count here"),
    _Elsewhere("urllib3", "clear", answer="is close() here"),
)


def hint(name: str, own: Collection[str], answers: Collection[_Elsewhere] = ANSWERS) -> str | None:
    """Explain what an unknown name was probably meant to be.

    Args:
        name: The unknown name.
        own: The valid names.
        answers: Names from other libraries that have no corresponding option but do have an answer.

    Returns:
        The explanation, to be put in brackets after the name; ``None`` if nothing is similar.
    """
    found = _find(name, own, answers)
    return "; ".join(f"did you mean {each}?" if isinstance(each, str) else str(each) for each in found) or None


def option_meant(name: str, own: Collection[str]) -> str | None:
    """Return the option that a name was probably meant to be, or ``None``."""
    found = [each if isinstance(each, str) else each.option for each in _find(name, own, ())]
    return found[0] if found else None


def _find(name: str, own: Collection[str], answers: Collection[_Elsewhere]) -> list[_Elsewhere | str]:
    """Return the entries with exactly this name, otherwise the one most similar: from another library, or our own."""
    known = [*answers, *(entry for entry in _OPTIONS if entry.option in own)]
    wanted = _plain(name)
    alike = [entry for entry in known if _plain(entry.name) == wanted]
    if alike:
        return [*([entry for entry in alike if entry.name == name] or alike)]
    plain: dict[str, _Elsewhere | str] = {_plain(entry.name): entry for entry in reversed(known)}
    plain.update((_plain(each), each) for each in own)
    return [plain[near] for near in get_close_matches(wanted, plain, n=1, cutoff=_ALIKE)]


def is_all_but_one(name: str, own: Collection[str]) -> bool:
    """Return whether a name is so similar to an option's that it cannot be meant for anything else."""
    if name.islower():
        plain = list(map(_plain, own))
        return name in _LIMITS or bool(get_close_matches(_plain(name), plain, n=1, cutoff=_ALL_BUT_THE_SAME))
    return any(_plain(entry.name) == _plain(name) for entry in _OPTIONS if entry.option in own)


def no_such_option(names: Iterable[object], own: Collection[str]) -> str:
    """Return an error message that lists unknown options and what each was probably meant to be."""
    hints = [(name, hint(str(name), own)) for name in names]
    message = ", ".join(f"{name!r} ({text})" if text else repr(name) for name, text in hints)
    return f"no such option: {message}" + (
        "" if all(text for _, text in hints) else f"; available options: {', '.join(own)}"
    )


def _plain(name: str) -> str:
    """Reduce a name to what all styles share: `maxSockets`, `max_sockets` and `max-sockets` become the same."""
    return name.replace("_", "").replace("-", "").lower()
