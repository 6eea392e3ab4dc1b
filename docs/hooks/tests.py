"""A hook of mkdocs: tests that a page links to become pages, so that a link to a test leads to its code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

#: `(../tests/behaviour/test_options.py#test_a_default)`, as a page has it that is read as a file.
LINK = re.compile(r"\]\(((?:\.\./)*)\.\./(tests/[\w/]+)\.py(#\w+)?\)")

HEAD = """---
hide: [navigation]
search:
  exclude: true
---
# `{path}`

[Back to Node's rules]({back}node-rules.md)
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs when it has found the files: adds one page for each test file."""
    root = Path(config.config_file_path).parent
    linked = {name for page in files.documentation_pages() for _, name, _ in LINK.findall(page.content_string)}
    for name in sorted(linked):
        source = (root / f"{name}.py").read_text(encoding="utf-8")
        files.append(File.generated(config, f"{name}.md", content=as_page(f"{name}.py", source)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs with the text of each page: links lead to those pages, which stand beside it."""
    return LINK.sub(r"](\1\2.md\3)", markdown)


def as_page(path: str, source: str) -> str:
    """The whole file, in order, with a heading over each test."""
    lines = source.splitlines()
    parts = [HEAD.format(path=path, back="../" * path.count("/"))]
    done = 0
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            assert node.end_lineno is not None
            parts += [
                code(lines[done:start]),
                f"## {in_words(node.name)} {{ #{node.name} }}\n",
                code(lines[start : node.end_lineno]),
            ]
            done = node.end_lineno
    return "\n".join([*parts, code(lines[done:])])


def in_words(name: str) -> str:
    """A test's name is a sentence."""
    return name.removeprefix("test_").replace("_s_", "'s ").replace("_", " ")


def code(lines: list[str]) -> str:
    """A block of Python; nothing where there is nothing."""
    text = "\n".join(lines).strip("\n")
    return f"````python\n{text}\n````\n" if text else ""
