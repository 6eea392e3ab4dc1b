"""Run the tests of the known bugs on the transports that have them: `python -m tests.bugs.on_stock`.

Each bug's tests, marked `bug("B7")`, run in a process of their own, because some of them are deadlocks. A line for each
bug: how many of its tests failed on which library, and how. It ends with an error if a bug did not show itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import version

from tests.support.marks import ROOT, marked

#: Those that only httpx2 has, of all the others.
ONLY_IN_HTTPX2 = {"B14"}

#: A hang counts as a failure.
LIMIT = 300


def bugs() -> list[str]:
    """B1, B2, … as the tests are marked."""
    return sorted(marked("bug"), key=lambda bug: int(bug[1:]))


def try_bug(bug: str, library: str) -> tuple[int, int, Counter[str]]:
    """Runs the tests of a bug on a library's own transport; how many failed, how many passed, and with what."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "tests.bugs.stock", "--stock", library, "--timeout", "40"]
    tests = [f"{test.path}::{test.name}" for test in marked("bug")[bug]]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        result = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "400"},  # pytest cuts what is longer
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, 0, Counter(["does not come back"])
    failed = len(re.findall(r"^FAILED ", result.stdout, re.MULTILINE))
    passed = int(next(iter(re.findall(r"(\d+) passed", result.stdout)), 0))
    if not failed and result.returncode:  # pytest-timeout ended the process
        return 1, passed, Counter(["does not come back"])
    reasons = re.findall(r"^FAILED .*? - (?:\w+\.)*(\w+)", result.stdout, re.MULTILINE)
    return failed, passed, Counter(reasons)


def main() -> int:
    """Prints the table."""
    silent = []
    print("  ".join(f"{name} {version(name)}" for name in ("httpx", "httpcore", "httpx2", "httpcore2")))
    for bug in bugs():
        library = "httpx2" if bug in ONLY_IN_HTTPX2 else "httpx"
        failed, passed, reasons = try_bug(bug, library)
        print(f"{bug:3} on {library:6}: {failed} failed, {passed} passed; {', '.join(reasons)}", flush=True)
        if not failed:
            silent.append(bug)
    if silent:
        print("did not show:", ", ".join(silent))
    return bool(silent)


if __name__ == "__main__":
    sys.exit(main())
