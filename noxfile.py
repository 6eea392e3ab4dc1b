"""What a contributor runs: `nox -l` lists it, `CONTRIBUTING.md` explains it."""

from __future__ import annotations

import os
import shutil

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "docs", "tests"]

NOT_SLOW = "not slow and not servers"
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


@nox.session
def unit(session: nox.Session) -> None:
    """Run the unit tests, except randomised searches; takes seconds."""
    session.install("-e", ".[test]")
    session.run("pytest", "-q", "-m", NOT_SLOW, "tests/unit", *session.posargs)


@nox.session
def fast(session: nox.Session) -> None:
    """Run what shows most mistakes within a minute: how the package is built, its units, and its behaviour."""
    session.install("-e", ".[test]")
    folders = ["tests/architecture", "tests/unit", "tests/behaviour"]
    workers = str(2 * (os.cpu_count() or 1))  # half of the time, a test waits
    session.run("pytest", "-q", "-n", workers, "-m", NOT_SLOW, *folders, *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run every case of every test, and measure coverage."""
    session.install("-e", ".[test]")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-q", "--every-case", *session.posargs)
    session.run("coverage", "combine", "-q")
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check formatting, lint, and which module imports which."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy and pyright."""
    session.install("-e", ".[dev]")
    session.run("mypy")
    session.run("pyright", "--pythonpath", str(session.virtualenv.location) + "/bin/python")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; any warning is an error."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", "--site-dir", session.create_tmp(), env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def integrations(session: nox.Session) -> None:
    """Run the tests with SDKs, mocks and telemetry at pinned versions."""
    session.install("-e", ".[integrations]")
    session.run("pytest", "-q", "tests/ecosystem", *session.posargs)


@nox.session
def servers(session: nox.Session) -> None:
    """Run the tests with servers and proxies that others wrote; skip those that are not installed."""
    session.install("-e", ".[servers]")
    if shutil.which("npm"):
        command = ["npm", "install", "--prefix", "tests/servers", "--ignore-scripts", "--no-package-lock"]
        session.run(*command, external=True)
    session.run("pytest", "-q", "-m", "servers", *session.posargs)
