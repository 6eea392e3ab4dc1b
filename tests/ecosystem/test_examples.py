"""The programs in `examples/integrations` run, print what the documentation shows, and its table is correct.

`python -m tests.ecosystem.test_examples` runs every program and writes what it printed to
`examples/integrations/output/`.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.test_examples import PAGES, ROOT, mask, record, rows, run
from tests.ecosystem.conftest import PROGRAMS as FOLDER

for package in ("hishel", "mcp", "openai", "pytest_httpx", "vcr"):
    pytest.importorskip(package, reason="needs the extra integrations")

OUTPUT = FOLDER / "output"
TESTS = FOLDER / "test_your_code.py"
PROGRAMS = [path for path in sorted(FOLDER.glob("*.py")) if not path.stem.endswith("_server") and path != TESTS]
TABLE = ROOT / "docs" / "integrations" / "index.md"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_prints_what_the_documentation_shows(program: Path) -> None:
    """It ends well, warns of nothing, and its output is the recorded one."""
    finished = run(program)

    assert finished.stderr == ""
    assert finished.returncode == 0
    assert mask(finished.stdout) == (OUTPUT / f"{program.stem}.txt").read_text(encoding="utf-8")


def test_the_tests_that_the_documentation_shows_pass() -> None:
    """Their names lead nowhere: what a mock let through would fail."""
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", TESTS.name],
        cwd=FOLDER,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert "5 passed" in finished.stdout, finished.stdout
    assert finished.returncode == 0


def test_there_is_no_output_without_a_program() -> None:
    """What was renamed leaves nothing behind."""
    assert {path.stem for path in OUTPUT.glob("*.txt")} == {path.stem for path in PROGRAMS}


def test_every_example_is_shown() -> None:
    """Every program, and what it prints, stands on some page."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)

    for program in PROGRAMS:
        assert f'--8<-- "examples/integrations/{program.name}' in text
        assert f'--8<-- "examples/integrations/output/{program.stem}.txt' in text
    sections = re.findall(r"\[start:(\w+)\]", TESTS.read_text(encoding="utf-8"))
    assert sections
    for section in sections:
        assert f'--8<-- "examples/integrations/{TESTS.name}:{section}"' in text


def test_the_table_has_every_integration_with_the_version_that_is_tested_here() -> None:
    """Those that the extra names, and httpx itself."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    pinned = (re.sub(r"\[.+?\]", "", line) for line in extras["integrations"] if "==" in line)
    named = dict(line.split("==") for line in pinned)
    named["httpx"] = importlib.metadata.version("httpx")
    table = {re.sub(r"\[(.+)\]\(.+\)", r"\1", name): version for name, version, *_ in rows(TABLE, "What was tested")}

    assert table == named
    assert table == {name: importlib.metadata.version(name) for name in named}


if __name__ == "__main__":
    record(PROGRAMS, OUTPUT)
