"""The page "Node's rules": every rule is there, and the options, repairs, tests and scenarios that it names exist."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re

import pytest

from httpx_agent import AgentOptions
from tests.docs.node_rules import PAGE, with_links
from tests.support.marks import ROOT, marked

SCENARIOS = ROOT / "tests/conformance/traces/conformance.jsonl.gz"

RULES = [f"R{number}" for number in range(1, 42)]
WITHOUT_TESTS = {"R29", "R35"}
"""Rules that the agent does not have."""

LINK = re.compile(r"\[[^]]+\]\(\.\./tests/[\w/]+\.py#test_\w+\)")
SCENARIO = re.compile(r"\b[CKT]\d\d\b")


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def sections() -> dict[str, str]:
    """What the page says of each rule, by its number."""
    rules, _, _ = page().partition("\n## Repairs\n")
    parts = re.split(r"^### (R\d+): .*\{ #(r\d+) \}$", rules, flags=re.MULTILINE)
    assert [number.lower() for number in parts[1::3]] == parts[2::3]
    return dict(zip(parts[1::3], parts[3::3], strict=True))


def fields(section: str) -> dict[str, list[str]]:
    """The entries of a rule's list, by their names."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in section.splitlines():
        if line.startswith(":   "):
            found[name].append(line[4:])
        elif re.fullmatch(r"[A-Z][a-z]+( Node)?", line):
            name = line
            found[name] = []
    return found


def repairs() -> set[str]:
    """The ids in the tables of repairs and decisions."""
    return set(re.findall(r"^\| ([NA]\d+) \|", (ROOT / "docs/from-node.md").read_text(encoding="utf-8"), re.MULTILINE))


def test_every_rule_is_there_once() -> None:
    assert sorted(sections(), key=RULES.index) == RULES
    assert len(re.findall(r"^### R\d+", page(), re.MULTILINE)) == len(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_says_what_node_does_what_happens_here_and_what_shows_it(rule: str) -> None:
    entries = fields(sections()[rule])
    assert entries.keys() <= {"In Node", "Here", "Option", "Scenarios", "Tests"}
    for name in ("In Node", "Here"):
        (sentence,) = entries[name]
        assert sentence[0].isupper() or sentence[0] == "`"
        assert sentence.endswith(".")
    if rule in WITHOUT_TESTS:
        (reason,) = entries["Tests"]
        assert reason.startswith("None: ")
    else:
        assert entries["Tests"]
        assert all(LINK.fullmatch(entry) for entry in entries["Tests"])


def test_the_tests_that_are_named_are_those_that_say_so() -> None:
    """After a mark or a name has changed: `python -m tests.docs.node_rules`."""
    assert page() == with_links(page())
    links = LINK.findall(page())
    assert len(links) == page().count("](../tests/") == sum(len(tests) for tests in marked("rule").values())


def test_tests_are_marked_with_rules_and_repairs_that_exist() -> None:
    assert marked("rule").keys() == (set(RULES) - WITHOUT_TESTS) | repairs()


def test_every_option_that_is_named_exists() -> None:
    options = {field.name for field in dataclasses.fields(AgentOptions)}
    named = set()
    for section in sections().values():
        for entry in fields(section).get("Option", []):
            links = re.findall(r"\[`(\w+)`\]\(reference\.md#httpx_agent\.AgentOptions\)", entry)
            assert len(links) == entry.count("](")
            named |= set(links)
    assert named <= options
    own = {"keep_alive", "max_sockets", "scheduling", "timeout", "free_socket_timeout", "socket_active_ttl"}
    assert own <= named


def test_every_repair_is_there_with_what_shows_it() -> None:
    _, _, table = page().partition("\n## Repairs\n")
    rows = re.findall(r"^\| ([NA]\d+) \| (.*?) \| (.*) \|$", table, re.MULTILINE)
    assert {number for number, _, _ in rows} == repairs()
    assert len(rows) == len(repairs())
    for number, _, tests in rows:
        assert LINK.search(tests), f"no test is named for {number}"


def test_every_repair_that_a_rule_names_exists() -> None:
    named = set(re.findall(r"\b[NA]\d+\b", "".join(sections().values())))
    assert named <= repairs()


def test_every_scenario_exists() -> None:
    """In the corpus that was recorded from Node; and each of those shows a rule."""
    with gzip.open(SCENARIOS, "rt", encoding="utf-8") as lines:
        names = {json.loads(line)["name"] for line in lines}
    named = {name for section in sections().values() for name in SCENARIO.findall(section)}
    assert named == names
    _, _, table = page().partition("\n## Repairs\n")
    assert set(SCENARIO.findall(table)) <= names
