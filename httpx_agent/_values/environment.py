"""Read proxies from the environment, as httpx's clients do."""

from __future__ import annotations

import ipaddress
from urllib.request import getproxies

from .origins import to_ascii


def proxies_from_environment() -> dict[str, str | None]:
    """Map URL patterns to proxies: those of `http_proxy`, `https_proxy` and `all_proxy`; ``None`` for `no_proxy`.

    The keys are patterns for httpx's `mounts`. The variables may be in lower or upper case, as in
    `urllib.request.getproxies`, which on macOS and Windows also reads the system's settings.

    Raises:
        ValueError: If `no_proxy` contains an invalid host name.
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
    """Turn an entry of `no_proxy` into a pattern: a URL, an address, `localhost`, or a name and its subdomains.

    Where httpx would create a pattern that it then rejects, or that no URL matches, return the closest valid one.
    """
    if "://" in entry:
        return entry
    if entry.startswith(("[", "*.")):
        return f"all://{entry}"
    address = entry.partition("/")[0]  # for a network, httpx looks only at the address
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        name = _name(entry)
        is_alone = name.lower() == "localhost" or name.startswith("xn--")  # a star cannot precede the latter
        return f"all://{name}" if is_alone else f"all://*{name}"
    return f"all://{entry}" if version == 4 else f"all://[{address}]"


def _name(entry: str) -> str:
    try:
        return to_ascii(entry)
    except UnicodeError as error:
        raise ValueError(f"no_proxy: {entry!r} is not a valid host name: {error}") from None
