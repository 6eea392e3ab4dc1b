"""`python -m tests.conformance`, which explains any recorded trace."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import pytest

from . import __main__ as command
from . import corpus
from .trace import TRACES


def test_a_corpus_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["conformance"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "C01 (node): as in Node" in lines
    assert "C18 (node): N1 N2" in lines
    assert f"C52 (node): as in Node; model only: {corpus.MODEL_ONLY['C52']}" in lines
    assert "K15 (agentkeepalive): N6 A1" in lines
    assert lines[-1] == "unexplained: 0"
    assert len(lines) == 90


def test_any_file_will_do_and_steps_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with gzip.open(TRACES / "conformance.trace.jsonl.gz", "rt") as lines:
        first = next(line for line in lines if '"C18"' in line)
    path = tmp_path / "some.jsonl"
    path.write_text(first + "null\n", encoding="utf-8")
    assert command.main([str(path), "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert "    C18 step 2 {'op': 'finish', 'id': 1}: pools: expected {" in printed


def test_what_nothing_explains_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = corpus.traces("conformance")[0]
    wrong = dataclasses.replace(trace.record.steps[0], created=9)
    record = dataclasses.replace(trace.record, steps=[wrong, *trace.record.steps[1:]])
    monkeypatch.setattr(corpus, "traces", lambda name: (dataclasses.replace(trace, record=record),))
    assert command.main(["conformance"]) == 1
    printed = capsys.readouterr().out
    assert "  ! the model is not Node: C01 step 0" in printed
    assert "created: expected 9, got 1" in printed
    assert printed.endswith("unexplained: 1\n")
