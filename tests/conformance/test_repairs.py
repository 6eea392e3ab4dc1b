"""The tables of repairs in the documentation against the switches of the model."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from . import corpus
from .explain import repairs_shown
from .model import REPAIRS

DOCS = Path(__file__).parents[2] / "docs"

#: Repairs that no scenario can show, so that the model has no switch for them; "Node's rules" names their tests.
WITHOUT_A_SWITCH = {
    "N18": "Node's own agent has no option for the age of a socket; agentkeepalive's is A4, A5 and A6",
    "N22": "a default, and a limit that Node does not have",
    "N23": "repaired in Node 26, which recorded the traces: C42",
    "N24": "how pools are told apart inside",
    "N25": "who owns a socket at what moment",
    "N26": "what the system is told",
    "N27": "what is shown to users",
    "N30": "in none does a request time out on a used socket while others are free and were not heard from since",
    "A8": "how options are read",
    "A9": "a race within one turn of the event loop",
    "A10": "how options are read",
    "A11": "a sentence of agentkeepalive's documentation",
    "A13": "what the code reaches into",
}

#: Decisions, not repairs; the model has a switch for the first only.
DECIDED = {"N13", "N19", "N20", "N21"}


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the first table below a heading, by the ids in their first cells."""
    _, _, rest = (DOCS / page).read_text(encoding="utf-8").partition(f"\n{heading}\n")
    table = re.search(r"(?:^\|.*\|\n)+", rest, re.MULTILINE)
    assert table is not None
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:]]
    return {row[0].strip(): row[1:] for row in cells}


@cache
def scenarios_showing() -> dict[str, set[str]]:
    """The hand-made scenarios whose answers each switch changes."""
    shown: dict[str, set[str]] = {repair: set() for repair in REPAIRS}
    for trace in corpus.traces("conformance"):
        for repair in repairs_shown(trace):
            shown[repair].add(trace.name)
    return shown


def test_each_switch_is_a_repair_of_the_table_and_each_repair_has_one_or_a_reason() -> None:
    repaired = rows("from-node.md", "## What is repaired").keys()
    decided = rows("from-node.md", "### Decided").keys()
    assert decided == DECIDED
    assert repaired == (REPAIRS.keys() - DECIDED) | WITHOUT_A_SWITCH.keys()


@pytest.mark.parametrize("repair", sorted(REPAIRS))
def test_the_page_names_the_scenarios_that_show_the_repair(repair: str) -> None:
    named = rows("node-rules.md", "## Repairs")[repair][0].split()
    assert named == sorted(scenarios_showing()[repair])


@pytest.mark.parametrize("repair", sorted(WITHOUT_A_SWITCH))
def test_the_page_names_no_scenario_for_what_none_can_show(repair: str) -> None:
    assert rows("node-rules.md", "## Repairs")[repair][0] == ""
