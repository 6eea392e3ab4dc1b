"""Thousands of sockets need more file descriptors than a process usually starts with."""

from __future__ import annotations


def allow_many_files() -> None:
    """Raise the soft limit of this process to the hard one, where there is such a thing."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
