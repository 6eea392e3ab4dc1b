"""Load certificates and keys from files; errors name the option or variable that the path came from."""

from __future__ import annotations

import os
import re
import ssl
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .._values.options import AgentOptions

_EXPECTED_VERIFY = "expected True, False, an ssl.SSLContext, or a path to certificates in PEM format"
_EXPECTED_CERT = "expected the path of a PEM file, (certificate, key) or (certificate, key, password)"

#: How OpenSSL names certificates in a directory: by a hash of the subject.
_HASHED = re.compile(r"[0-9a-fA-F]{8}\.\d+")


class _Source(NamedTuple):
    """A path, and the option or variable that it came from."""

    name: str
    path: str | bytes | os.PathLike[Any]
    expected: str

    def error(self, error: OSError, what: str = "") -> OSError:
        """Return an error of the same class that says what is wrong, where, and what to do."""
        text = f"{self.name}={os.fsdecode(self.path)!r}: {what or error.strerror}; {self.expected}"
        if not isinstance(error, ssl.SSLError):
            return OSError(error.errno, text)  # Python chooses the subclass by the number
        better: Any = type(error)(error.errno, text)
        for name in ("library", "reason"):
            setattr(better, name, getattr(error, name, None))
        raised: ssl.SSLError = better
        return raised


def check_files(httpx: Any, options: AgentOptions) -> None:
    """Raise as `create_ssl_context` would, but do not read the authorities, which takes 50 ms."""
    source = _authorities(options)
    if source is not None:
        _check_readable(source)
    if options.cert is not None:
        create_ssl_context(httpx, replace(options, verify=False))


def create_ssl_context(httpx: Any, options: AgentOptions) -> ssl.SSLContext:
    """Make the context that `verify`, `cert` and `trust_env` ask for, as the client library makes it.

    Unlike the client library, use `cert` even if `verify` is a path, and never ask at the terminal for the password of
    a key.

    Args:
        httpx: The client library.
        options: The options.

    Raises:
        OSError: If a file cannot be read, such as a `FileNotFoundError`.
        ssl.SSLError: If its content is invalid, such as a file without a certificate; this is also an `OSError`.
        ValueError: If a path is invalid.
    """
    source = _authorities(options)
    if source is not None:
        _check_readable(source)
    try:
        context: ssl.SSLContext = httpx.create_ssl_context(verify=options.verify, trust_env=options.trust_env)
    except OSError as error:
        log = os.environ.get("SSLKEYLOGFILE")
        if not isinstance(error, ssl.SSLError) and log:  # the files themselves can be read
            expected = "expected a writable file; or unset the variable"
            raise _Source("SSLKEYLOGFILE", log, expected).error(error) from error
        if source is not None:
            if isinstance(error, ssl.SSLError):
                raise source.error(error, "it contains no certificate") from error
            raise source.error(error) from error
        raise type(error)(
            error.errno, f"verify=True: cannot load the default certificates: {error.strerror}"
        ) from error
    if options.cert is not None:
        _load_cert(httpx, context, options.cert)
    return context


def _authorities(options: AgentOptions) -> _Source | None:
    """Return the path that the authorities come from, if one was given."""
    if isinstance(options.verify, str):
        return _Source("verify", options.verify, _EXPECTED_VERIFY)
    if options.verify is True and options.trust_env:
        for name, kind in (("SSL_CERT_FILE", "file"), ("SSL_CERT_DIR", "directory")):
            if path := os.environ.get(name):
                expected = (
                    f"expected a {kind} of certificates in PEM format; or unset the variable, or pass trust_env=False"
                )
                return _Source(name, path, expected)
    return None


def _parts(cert: Any) -> tuple[_Source, ...]:
    """Return the paths of a client certificate: the certificate, and the key if it is in a separate file."""
    paths = cert if isinstance(cert, (tuple, list)) else (cert,)
    names = ("cert", "the key of cert")
    return tuple(_Source(names[at], path, _EXPECTED_CERT) for at, path in enumerate(paths[:2]) if path is not None)


def _look(source: _Source, look: Any) -> Any:
    try:
        return look(source.path)
    except OSError as error:
        raise source.error(error) from None
    except ValueError as error:  # a null byte
        raise ValueError(f"{source.name}={os.fsdecode(source.path)!r}: {error}; {source.expected}") from None


def _read(path: Any) -> bytes:
    with open(path, "rb") as file:
        return file.read(1)


def _check_readable(source: _Source) -> None:
    """Check that a file can be read, or that a directory has certificates where OpenSSL looks for them."""
    if source.name == "SSL_CERT_DIR":
        directories = os.fsdecode(source.path).split(os.pathsep)
    elif source.name == "verify" and os.path.isdir(source.path):
        directories = [os.fsdecode(source.path)]
    else:
        _look(source, _read)
        return
    found = [directory for directory in directories if os.path.isdir(directory)]
    if not found:
        _look(source, os.stat)
    if not any(map(_has_certificates, found)):
        what = "it contains no certificate with a name such as 5ed36f99.0; run `openssl rehash`"
        raise source.error(ssl.SSLError(), what)


def _has_certificates(directory: str) -> bool:
    with suppress(OSError):  # a directory that cannot be listed may still be searched
        return any(map(_HASHED.fullmatch, os.listdir(directory)))
    return True


class _Password:
    """A password callback for OpenSSL that records whether it was called."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self.asked = False

    def __call__(self) -> Any:
        self.asked = True
        if self._given is None:
            raise _NoPasswordError
        return self._given() if callable(self._given) else self._given


class _NoPasswordError(Exception):
    """Raised if a key is encrypted, but no password was given."""


def _load_cert(httpx: Any, context: ssl.SSLContext, cert: Any) -> None:
    sources = _parts(cert)
    certificate, key = sources[0], sources[-1]
    for source in sources:
        _look(source, _read)
    given = cert[2] if isinstance(cert, (tuple, list)) and len(cert) == 3 else None
    password = _Password(given)
    try:
        httpx.create_ssl_context(verify=context, cert=(certificate.path, key.path, password), trust_env=False)
    except _NoPasswordError:
        raise key.error(ssl.SSLError(), "the key is encrypted, but no password was given") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise key.error(
                error, f"the key does not match the certificate {os.fsdecode(certificate.path)!r}"
            ) from error
        if password.asked:
            raise key.error(error, "wrong password for the key") from error
        if not _holds_certificate(certificate.path):
            raise certificate.error(error, "it contains no certificate") from error
        if error.reason is None:  # for PEM, OpenSSL says only that it cannot read the data
            raise key.error(error, "it contains no private key") from error
        raise certificate.error(error, f"OpenSSL rejected it: {error}") from error


def _holds_certificate(path: Any) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True
