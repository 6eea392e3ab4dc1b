"""Generate the links from "Node's rules" to the tests that show them, from the tests' marks: `python -m tests.docs.node_rules`.

A test says which rules and repairs it shows, `@pytest.mark.rule("R2", "N8")`; this writes the links into the page. They
are paths within the repository, so that they work where the page is read as a file; `docs/hooks/tests.py` turns them
into pages of the site.
"""

from __future__ import annotations

import re

from tests.support.marks import ROOT, Marked, marked

PAGE = ROOT / "docs" / "node-rules.md"


def link(test: Marked) -> str:
    """Return a link to a test, as seen from the page."""
    return f"[{test.title}](../{test.path}#{test.name})"


def with_links(page: str) -> str:
    """Return the page with its links as the marks have them; what is said where no test is marked stays."""
    tests = marked("rule")

    def of_a_rule(match: re.Match[str]) -> str:
        links = "".join(f":   {link(test)}\n" for test in tests.get(match["rule"], []))
        return match["before"] + (links or match["links"])

    def of_a_repair(match: re.Match[str]) -> str:
        links = "<br>".join(link(test) for test in tests.get(match["repair"], []))
        return f"{match['before']}{links or match['links']} |"

    rules, heading, repairs = page.partition("\n## Repairs\n")
    rules = re.sub(
        r"(?P<before>^### (?P<rule>R\d+): (?:(?!^### ).*\n)+?Tests\n)(?P<links>(?::   .*\n)+)",
        of_a_rule,
        rules,
        flags=re.MULTILINE,
    )
    repairs = re.sub(
        r"(?P<before>^\| (?P<repair>[NA]\d+) \| [^|]*\| )(?P<links>.*) \|$", of_a_repair, repairs, flags=re.MULTILINE
    )
    return rules + heading + repairs


if __name__ == "__main__":
    PAGE.write_text(with_links(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
