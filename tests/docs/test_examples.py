"""The programs in `examples/` run and print what the documentation shows, and its pages show no other code.

`python -m tests.docs.test_examples` runs every program and writes what it printed to `examples/output/`, where the pages
include it from; the tests compare.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import httpx_agent
from httpx_agent import AgentOptions

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
OUTPUT = EXAMPLES / "output"
PROGRAMS = sorted(path for path in EXAMPLES.glob("*.py") if path.name != "server.py")
PAGES = sorted((ROOT / "docs").rglob("*.md"))

FENCE = re.compile(r"^( *)```(.*?)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def run(program: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as a reader would, with this library importable."""
    package = Path(httpx_agent.__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(EXAMPLES)]), "NO_PROXY": "*"}
    return subprocess.run(
        [sys.executable, "-W", "error", program.name],
        cwd=program.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,  # that of a deadlock; pytest's is a minute
        check=False,
    )


def mask(text: str) -> str:
    """Replace what differs from run to run: ports, by the order in which they appear, and measured times."""
    ports: dict[str, str] = {}
    text = re.sub(
        r"(?<=127\.0\.0\.1:)\d+(?![\d.])", lambda found: ports.setdefault(found[0], str(50001 + len(ports))), text
    )
    text = re.sub(r"\b\d+\.\d{3}(?=\s+s\b)", "0.001", text)
    return re.sub(r"\[Errno \d+\]", "[Errno 111]", text)  # the number of ECONNREFUSED is the system's


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return [(found[2].split(" ")[0], found[3]) for found in FENCE.finditer(page.read_text(encoding="utf-8"))]


def rows(page: Path, heading: str, table: int = 0) -> list[list[str]]:
    """The cells of a table below a heading, the first or a later one, without its head."""
    text = page.read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    lines = re.findall(r"(?:^\|.*\n)+", re.split(r"\n##+ ", text)[0], re.MULTILINE)[table].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_prints_what_the_documentation_shows(program: Path) -> None:
    """It ends well, warns of nothing, and its output is the recorded one."""
    finished = run(program)

    assert finished.stderr == ""
    assert finished.returncode == 0
    assert mask(finished.stdout) == (OUTPUT / f"{program.stem}.txt").read_text(encoding="utf-8")


def test_there_is_no_output_without_a_program() -> None:
    """What was renamed leaves nothing behind."""
    assert {path.stem for path in OUTPUT.glob("*.txt")} == {path.stem for path in PROGRAMS}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_is_shown(program: Path) -> None:
    """Every program, and what it prints, stands on some page."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)

    assert f'--8<-- "examples/{program.name}' in text
    assert f'--8<-- "examples/output/{program.stem}.txt' in text


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_code_on_a_page_comes_from_the_examples(page: Path) -> None:
    """Blocks are includes; only commands of one line for the shell are written by hand."""
    for language, text in blocks(page):
        if language in ("sh", "console"):
            assert len(text.splitlines()) == 1, text
        else:
            for line in filter(str.strip, text.splitlines()):
                assert re.fullmatch(r'\s*--8<-- "examples/.+"', line), f"{language}: {line}"


def test_code_in_the_readme_comes_from_the_examples() -> None:
    """It cannot include, so it repeats them."""
    programs = {path.name: re.sub(r" *# --8<-- .*\n", "", path.read_text(encoding="utf-8")) for path in PROGRAMS}
    python = [text for language, text in blocks(ROOT / "README.md") if language == "python"]

    assert len(python) == 2
    for text in python:
        assert any(text in program for program in programs.values()), text


def test_the_table_of_options_for_node_has_every_option_with_its_default() -> None:
    """Each option that has a name in Node or agentkeepalive, as the docstring says, with the default that holds."""
    described = inspect.getdoc(AgentOptions) or ""
    of_node = re.findall(r"^    (\w+): (?:(?!^    \w+:).)*?\((?:Node )?`[a-zA-Z]+`", described, re.M | re.S)
    table = {name.strip("`"): default.strip("`") for name, _, default, *_ in rows(_page("from-node"), "Options")}

    assert len(of_node) == 11
    assert set(of_node) <= set(table)
    assert table == {name: str(getattr(AgentOptions(), name)) for name in table}


def test_the_table_of_repairs_has_every_defect() -> None:
    """Each defect of `http.Agent` and of agentkeepalive that is repaired stands in it once."""
    listed = [number for number, *_ in rows(_page("from-node"), "What is repaired")]

    node = [n for n in range(1, 31) if n not in (13, 19, 20, 21, 28)]
    assert listed == [f"N{n}" for n in node] + [f"A{n}" for n in range(1, 14) if n != 12]


def _page(name: str) -> Path:
    return ROOT / "docs" / f"{name}.md"


def record(programs: list[Path], output: Path) -> None:
    """Run programs and keep what they print."""
    output.mkdir(exist_ok=True)
    for program in programs:
        finished = run(program)
        sys.stderr.write(finished.stderr)
        finished.check_returncode()
        (output / f"{program.stem}.txt").write_text(mask(finished.stdout), encoding="utf-8")


if __name__ == "__main__":
    record(PROGRAMS, OUTPUT)
