"""Names that are no option here: what is meant by them, if it can be told."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

_SECONDS = "in seconds, where the other has milliseconds"

#: What other libraries call our options: in small letters, without lines. With what differs, where something does.
_ELSEWHERE = {
    # Node's http.Agent and agentkeepalive; those that differ from ours by their case only are found without this.
    "keepalivemsecs": ("keep_alive_initial_delay", _SECONDS),
    "agentkeepalivetimeoutbuffer": ("keep_alive_timeout_buffer", _SECONDS),
    "keepalivetimeout": ("free_socket_timeout", "in seconds; undici and old versions of agentkeepalive call it so"),
    "freesocketkeepalivetimeout": ("free_socket_timeout", _SECONDS),
    "socketpath": ("uds", ""),
    "rejectunauthorized": ("verify", ""),
    "ca": ("verify", "an `ssl.SSLContext` that trusts it"),
    "key": ("verify", "an `ssl.SSLContext` with its `load_cert_chain`"),
    "nodelay": ("socket_options", "TCP_NODELAY is set unless they say otherwise"),
    # httpx.Limits, httpcore.ConnectionPool
    "maxconnections": ("max_total_sockets", ""),
    "maxkeepaliveconnections": ("max_total_free_sockets", ""),
    "keepaliveexpiry": ("free_socket_timeout", ""),
    "sslcontext": ("verify", ""),
    # aiohttp.TCPConnector
    "limit": ("max_total_sockets", "0 means no limit there, None here"),
    "limitperhost": ("max_sockets", "0 means no limit there, None here"),
    "ssl": ("verify", ""),
    "localaddr": ("local_address", "a host without a port"),
    "forceclose": ("keep_alive", "the other way round"),
    # requests, urllib3
    "maxsize": ("max_free_sockets", "with block=True it is max_sockets"),
    "poolmaxsize": ("max_free_sockets", "with pool_block=True it is max_sockets"),
    "block": ("max_sockets", "a number"),
    "poolblock": ("max_sockets", "a number"),
    "maxretries": ("retries", "of connecting only"),
    # undici, Go, reqwest
    "connections": ("max_sockets", ""),
    "maxidleconns": ("max_total_free_sockets", ""),
    "maxidleconnsperhost": ("max_free_sockets", ""),
    "maxconnsperhost": ("max_sockets", ""),
    "idleconntimeout": ("free_socket_timeout", "in seconds"),
    "poolidletimeout": ("free_socket_timeout", "in seconds"),
    "poolmaxidleperhost": ("max_free_sockets", ""),
}

#: What is elsewhere, too, and has another place here.
_OTHER_PLACES = {
    "servername": 'it is the extension of a request: `extensions={"sni_hostname": …}`',
    "proxyenv": "`AgentTransport.mounts_from_env()` reads the environment",
    "enablecleanupclosed": "there is nothing to switch on: sockets are always closed",
    "ttldnscache": "names are looked up for each new socket; socket_active_ttl says how long one may live",
    "usednscache": "names are looked up for each new socket; socket_active_ttl says how long one may live",
    "pipelining": "requests are never pipelined",
    "poolconnections": "there is no limit on how many origins are kept",
    "numpools": "there is no limit on how many origins are kept",
    "connecttimeout": "it is the client's: `timeout=httpx.Timeout(…, connect=…)`",
    "pooltimeout": "it is the client's: `timeout=httpx.Timeout(…, pool=…)`",
}


#: Names of so many letters mean an option; shorter ones, such as `key` and `limit`, may mean anything.
_SHORTEST_CERTAIN = 9


def advise(name: str, known: Collection[str]) -> str:
    """Return what to write in place of an unknown name, as ``did you mean max_sockets?``; empty if nobody knows.

    Args:
        name: The unknown name.
        known: The names that there are.
    """
    plain = re.sub("[^a-z0-9]", "", name.lower())
    by_plain = {option.replace("_", ""): option for option in known}
    if plain in by_plain:
        option = by_plain[plain]
        is_time = name != name.lower() and ("timeout" in option or "ttl" in option)
        return f"it is {option} here" + (f" ({_SECONDS})" if is_time else "")
    if plain in _OTHER_PLACES:
        return _OTHER_PLACES[plain]
    option, differs = _ELSEWHERE.get(plain, ("", ""))
    if option in known:
        return f"it is {option} here" + (f" ({differs})" if differs else "")
    close = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def is_meant_for(name: str, known: Collection[str]) -> bool:
    """Return whether a name is so close to a known one, or so well known elsewhere, that nothing else can be meant."""
    plain = re.sub("[^a-z0-9]", "", name.lower())
    if plain in {option.replace("_", "") for option in known}:
        return True
    if len(plain) >= _SHORTEST_CERTAIN and _ELSEWHERE.get(plain, ("",))[0] in known:
        return True
    return bool(get_close_matches(name.lower(), known, n=1, cutoff=0.85))
