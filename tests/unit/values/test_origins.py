"""URL patterns: which origins they match, and which of several applies."""

from __future__ import annotations

from typing import Any

import httpcore
import httpx
import pytest
from httpx._utils import URLPattern

from httpx_agent import Agent
from httpx_agent._values.origins import OriginPattern

#: Patterns of httpx's `mounts`, from its documentation and beyond.
PATTERNS = [
    "all://",
    "all://*",
    "http://",
    "https://",
    "http://*",
    "ws://",
    "all://a.test",
    "https://a.test",
    "HTTP://A.Test",
    "all://*.a.test",
    "all://*a.test",
    "https://*a.test:8443",
    "all://*:8080",
    "all://:8080",
    "http://a.test:8080",
    "http://a.test:80",
    "https://a.test:443",
    "https://a.test:80",
    "ws://a.test:80",
    "wss://a.test:443",
    "all://a.test:8443",
    "http://a.test/",
    "all://[::1]",
    "http://[::1]:8080",
    "all://127.0.0.1",
    "all://bücher.test",
    "all://faß.test",
    "all://xn--bcher-kva.test",
    "all://sub.a.test",
    "all://*.sub.a.test",
]

URLS = [
    "http://a.test",
    "https://a.test",
    "ws://a.test",
    "wss://a.test",
    "ws://a.test:8080",
    "http://a.test:8080",
    "https://a.test:8443",
    "https://a.test:80",
    "http://sub.a.test",
    "https://sub.a.test:8443",
    "http://deep.sub.a.test",
    "http://aa.test",
    "http://axtest",
    "http://sub.axtest",
    "http://sub.a.test.b.test",
    "http://b.test:8080",
    "http://[::1]",
    "http://[::1]:8080",
    "http://127.0.0.1",
    "http://127.0.0.10",
    "http://bücher.test",
    "http://xn--bcher-kva.test",
    "http://faß.test",
    "http://fass.test",
]

USUAL = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def is_ours_to_match(pattern: str, url: str) -> bool:
    """Whether our pattern means the origin of a URL, as a request names it."""
    parsed = httpx.URL(url)
    port = parsed.port or USUAL[parsed.scheme]
    return OriginPattern(pattern).matches(parsed.scheme, parsed.raw_host.decode("ascii"), port)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_they_mean_in_mounts(pattern: str) -> None:
    theirs = URLPattern(pattern)
    expected = {url: theirs.matches(httpx.URL(url)) for url in URLS}
    # httpx compares a name with what the user sees of it, so that one in ASCII's clothes is never met.
    if pattern == "all://xn--bcher-kva.test":
        expected.update({"http://bücher.test": True, "http://xn--bcher-kva.test": True})
    assert {url: is_ours_to_match(pattern, url) for url in URLS} == expected


def test_every_url_is_met_by_some_pattern_and_none_by_all() -> None:
    """The tables above tell patterns apart."""
    met = {pattern: tuple(is_ours_to_match(pattern, url) for url in URLS) for pattern in PATTERNS}
    assert all(any(row) for row in met.values())
    assert len(set(met.values())) > 20


def test_a_port_is_a_port_under_any_scheme() -> None:
    """In httpx the usual port of a URL is hidden: `all://a.test:80` meets nothing there; here it means port 80."""
    assert not URLPattern("all://a.test:80").matches(httpx.URL("http://a.test"))
    assert is_ours_to_match("all://a.test:80", "http://a.test")
    assert is_ours_to_match("all://a.test:80", "https://a.test:80")
    assert not is_ours_to_match("all://a.test:80", "https://a.test")


def test_a_star_may_stand_before_a_name_beyond_ascii() -> None:
    assert is_ours_to_match("all://*.bücher.test", "http://www.bücher.test")
    assert not is_ours_to_match("all://*.bücher.test", "http://bücher.test")
    assert is_ours_to_match("all://*bücher.test", "http://bücher.test")


def test_the_most_specific_pattern_comes_first() -> None:
    """A port, then the longest host, then the longest scheme; in httpx's own order."""
    ordered = [
        "https://sub.a.test:8443",
        "all://*a.test:8443",
        "all://:8443",
        "https://sub.a.test",
        "http://sub.a.test",
        "all://sub.a.test",
        "https://*.a.test",
        "all://*.a.test",
        "https://",
        "all://",
    ]
    shuffled = sorted(ordered)
    assert shuffled != ordered
    assert sorted(shuffled, key=lambda text: OriginPattern(text).priority) == ordered
    assert sorted(shuffled, key=lambda text: URLPattern(text).priority) == ordered


def test_the_order_of_the_mapping_does_not_matter() -> None:
    """The most specific pattern that matches counts, alone: nothing is taken over from the others."""
    patterns: dict[str, dict[str, Any]] = {
        "all://": {"max_sockets": 1},
        "all://*.a.test": {"max_sockets": 2},
        "all://sub.a.test": {"max_free_sockets": 3},
        "all://:8443": {"max_sockets": 4},
    }
    for items in (list(patterns.items()), list(patterns.items())[::-1]):
        agent = Agent(per_origin=dict(items))
        found = {}
        for url in ("http://b.test", "http://www.a.test", "http://sub.a.test", "https://sub.a.test:8443"):
            options = agent._dispatcher.options_for(agent._dispatcher.key_of(httpcore_request(url)))
            found[url] = (options.max_sockets, options.max_free_sockets)
        assert list(found.values()) == [(1, 256), (2, 256), (None, 3), (4, 256)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.test",
        "http",
        "http:a.test",
        "://a.test",
        "//a.test",
        "http://a.test:port",
        "http://a.test:99999",
        "http://[::1",
        "http://a test",
        "http://a.*.test",
        "http://**.a.test",
        "http://*.",
        "http://.a.test",
        "http://bü..test",
    ],
)
def test_what_is_no_pattern(text: str) -> None:
    accepted = "expected a URL pattern such as 'https://example.com', 'all://*.example.com' or 'http://'"
    with pytest.raises(ValueError, match="expected") as caught:
        Agent(per_origin={text: {}})
    assert str(caught.value) == f"per_origin: {text!r}: {accepted}"


@pytest.mark.parametrize(
    "text",
    ["http://a.test/path", "http://a.test?query", "http://a.test/#part", "http://user@a.test", "http://:p@a.test"],
)
def test_a_pattern_names_an_origin_and_no_more(text: str) -> None:
    with pytest.raises(ValueError, match=r"; an origin has no path, query or user$"):
        Agent(per_origin={text: {}})


def httpcore_request(url: str) -> Any:
    return httpcore.Request("GET", url)
