"""Run the command line, from the first argument to the exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from .arguments import UsageError, in_terms_of_arguments, parse
from .demo import show
from .load import Load, fire
from .report import report_load
from .screen import one_line
from .terminal import screen_for

#: Exit statuses, numbered as shells do for programs that a signal ended.
INTERRUPTED = 128 + 2
BROKEN_PIPE = 128 + 13


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit status: 0; 1 if a request or the output failed; 2 for bad arguments; 130 after Ctrl-C; 141 if the
        reader of the output went away.
    """
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # while a closed pipe can still be handled
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _mute()
        return BROKEN_PIPE
    except OSError as error:  # a full disk, say; failures of requests are counted and never get here
        _mute()
        screen_for(sys.stderr).line(f"httpx-agent: error: {error}")
        return 1
    return status


def _run(argv: Sequence[str]) -> int:
    try:
        command = parse(argv)
    except UsageError as error:
        screen_for(sys.stderr).line(one_line(str(error)))
        return 2
    except SystemExit:  # --help and --version have printed their text
        return 0
    if isinstance(command, Load):
        return _get(command)
    show(screen_for(sys.stdout))
    return 0


def _get(load: Load) -> int:
    errors = screen_for(sys.stderr)
    with errors.progress(load.requests, "requests") as advance:
        tally = fire(load, advance)
    report_load(screen_for(sys.stdout), tally)
    for message, count in tally.failures():
        reason = in_terms_of_arguments(message)
        errors.line(f"httpx-agent: error: {count} of {load.requests} requests failed: {reason}")
    if tally.interrupted:
        errors.line(f"httpx-agent: interrupted after {tally.done} of {load.requests} requests")
        return INTERRUPTED
    return 1 if tally.failed else 0


def _mute() -> None:
    """Redirect streams that cannot be written to the null device, so that the interpreter's last flush succeeds."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere, suppress(OSError):  # a stream may have no descriptor
                os.dup2(nowhere.fileno(), stream.fileno())
