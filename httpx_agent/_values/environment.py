"""Proxies of the environment, as httpx's clients understand them."""

from __future__ import annotations

import ipaddress
from urllib.request import getproxies

from .origins import to_ascii


def proxies_from_environment() -> dict[str, str | None]:
    """Map URL patterns to proxies, by `http_proxy`, `https_proxy` and `all_proxy`; to ``None`` for those of `no_proxy`.

    The keys are patterns for httpx's `mounts`. The variables count in lower and upper case, as in
    `urllib.request.getproxies`, which also looks at the system's settings on macOS and Windows.

    Raises:
        ValueError: If `no_proxy` has a name that is none.
    """
    found = getproxies()
    exceptions = [entry.strip() for entry in found.get("no", "").split(",")]
    if "*" in exceptions:
        return {}
    proxies: dict[str, str | None] = {}
    for scheme in ("http", "https", "all"):
        url = found.get(scheme)
        if url:
            proxies[f"{scheme}://"] = url if "://" in url else f"http://{url}"
    for entry in exceptions:
        if entry:
            proxies[_pattern(entry)] = None
    return proxies


def _pattern(entry: str) -> str:
    """Turn an entry of `no_proxy` into a pattern: a URL, an address, `localhost`, or a name with all that is below it.

    Where httpx would make a pattern that it then refuses, or that no URL matches, return the closest that it accepts.
    """
    if "://" in entry:
        return entry
    if entry.startswith(("[", "*.")):
        return f"all://{entry}"
    address = entry.partition("/")[0]  # of a network the address alone counts, as in httpx
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        name = _name(entry)
        is_alone = name.lower() == "localhost" or name.startswith("xn--")  # no star can stand before the latter
        return f"all://{name}" if is_alone else f"all://*{name}"
    return f"all://{entry}" if version == 4 else f"all://[{address}]"


def _name(entry: str) -> str:
    try:
        return to_ascii(entry)
    except UnicodeError as error:
        raise ValueError(f"no_proxy: {entry!r} is not a valid host name: {error}") from None
