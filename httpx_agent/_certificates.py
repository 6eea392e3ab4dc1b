"""Make an `ssl.SSLContext` of the options, with errors that name the option and the path."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._options import AgentOptions

_ACCEPTED = {
    "verify": "the path of a file or a folder of CA certificates, an ssl.SSLContext, True or False",
    "SSL_CERT_FILE": "the path of a file of CA certificates; trust_env=False ignores the variable",
    "SSL_CERT_DIR": "the path of a folder of CA certificates; trust_env=False ignores the variable",
    "cert": "the path of a file with certificate and key, or a tuple of certificate, key, and the key's password",
}


def create_ssl_context(httpx: Any, options: AgentOptions) -> ssl.SSLContext:
    """Return the context that `verify`, `cert` and `trust_env` ask for, as the client library makes it.

    Raises:
        OSError: If a file cannot be read (`FileNotFoundError` and the like), or holds nothing of use (`ssl.SSLError`).
        ValueError: If a key is encrypted, and no password was given.
    """
    _check_paths(options)
    _check_key(options.cert)
    try:
        context: ssl.SSLContext = httpx.create_ssl_context(
            verify=options.verify, cert=_as_text(options.cert), trust_env=options.trust_env
        )
        if isinstance(options.verify, str) and options.cert is not None:  # httpx 0.28 forgets the one over the other
            context.load_cert_chain(*_parts(options.cert))
    except OSError as error:
        name = _culprit(httpx, options)
        path = next((str(path) for other, path in _paths(options) if other == name), "")
        problem = error.strerror or str(error)
        raise type(error)(error.errno, f"{name}={path!r}: {problem}; accepted is {_ACCEPTED[name]}") from error
    return context


def check_files(httpx: Any, options: AgentOptions) -> None:
    """Raise as `create_ssl_context` would, as far as that can be told without reading authorities: they take 50 ms."""
    _check_paths(options)
    if options.cert is not None:
        create_ssl_context(httpx, replace(options, verify=False))


def _check_paths(options: AgentOptions) -> None:
    for name, path in _paths(options):
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, f"{name}={path!r}: no such file; accepted is {_ACCEPTED[name]}")


def _paths(options: AgentOptions) -> Iterator[tuple[str, str]]:
    """Yield the files that will be read, by option or variable."""
    if isinstance(options.verify, str):
        yield "verify", options.verify
    elif options.verify is True and options.trust_env:
        for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            if path := os.environ.get(variable):
                yield variable, path
                break  # httpx looks at the first only
    for part in _parts(options.cert)[:2]:
        yield "cert", os.fspath(part)


def _parts(cert: Any) -> list[Any]:
    parts = [cert] if isinstance(cert, (str, os.PathLike)) else list(cert or ())
    return [part for part in parts if part is not None]


def _as_text(cert: Any) -> Any:
    """Return a path as a string: a tuple may hold any kind, but alone it must be one."""
    return os.fspath(cert) if isinstance(cert, os.PathLike) else cert


def _check_key(cert: Any) -> None:
    """Raise for an encrypted key without a password: OpenSSL would ask for it at the terminal, and wait."""
    parts = _parts(cert)
    if 0 < len(parts) < 3:
        path = os.fspath(parts[-1])
        if b"ENCRYPTED" in Path(path).read_bytes():
            raise ValueError(f"cert: the key in {path!r} is encrypted; accepted is {_ACCEPTED['cert']}")


def _culprit(httpx: Any, options: AgentOptions) -> str:
    """Return which option it was that no context could be made of."""
    if options.cert is not None:
        try:
            httpx.create_ssl_context(verify=options.verify, trust_env=options.trust_env)
        except OSError:
            pass
        else:
            return "cert"
    return next(_paths(options), ("verify", ""))[0]
