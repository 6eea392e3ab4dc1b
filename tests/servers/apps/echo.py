"""The common part of the applications for Python's servers."""

from __future__ import annotations

import argparse
import os
import ssl

#: How long the slow place takes, in seconds.
SLOW = 0.05

REFUSAL = b"refused"


def is_slow(target: str) -> bool:
    """Whether the answer has to wait."""
    return target.startswith("/slow")


def is_refused(target: str) -> bool:
    """Whether the body is not wanted."""
    return target.startswith("/refused")


def answer(method: str, target: str, size: int) -> bytes:
    """The body of the answer; writes the call down that it is for."""
    calls = os.environ.get("CALLS")
    if calls is not None and "call=" in target:
        with open(calls, "a", encoding="ascii") as file:  # one write for a line, so that workers do not mix theirs
            file.write(f"{target.partition('call=')[2]}\n")
    return f"{method} {target} {size}".encode()


def arguments() -> argparse.Namespace:
    """What a program is told that serves its application by itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--idle", type=int, required=True, help="how long a connection may be idle, in seconds")
    parser.add_argument("--limit", type=int, required=True, help="how long a body may be, in bytes")
    parser.add_argument("--certificate", help="path; with it, over TLS")
    parser.add_argument("--key", help="path")
    return parser.parse_args()


def context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """That of a server over TLS, or none."""
    if arguments.certificate is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(arguments.certificate, arguments.key)
    return made
