"""Certificates from files: an error says which option or variable named the file, where it is, and what to do.

What httpx raises for it stays the class of what is raised.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

pytestmark = pytest.mark.filterwarnings("ignore:`(verify|cert)=:DeprecationWarning")

VERIFY = "expected True, False, an ssl.SSLContext, or a path to certificates in PEM format"
CERT = "expected the path of a PEM file, (certificate, key) or (certificate, key, password)"
FILE = "expected a file of certificates in PEM format; or unset the variable, or pass trust_env=False"
FOLDER = "expected a directory of certificates in PEM format; or unset the variable, or pass trust_env=False"
NOT_THERE = "No such file or directory"
NOT_HASHED = "it contains no certificate with a name such as 5ed36f99.0; run `openssl rehash`"

MAKERS = (Agent, AgentTransport)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path: Path, certificates: Certificates) -> dict[str, str]:
    """The paths of good files and of bad ones, by name."""
    files = certificates.write(tmp_path)
    key = serialization.load_pem_private_key(Path(files["key"]).read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    for name, content in {
        "junk": b"no certificate\n",
        "empty": b"",
        "other": trustme.CA().issue_cert("other@example.com").private_key_pem.bytes(),
        "locked": key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption),
    }.items():
        files[name] = str(tmp_path / f"{name}.pem")
        Path(files[name]).write_bytes(content)
    files["both"] = str(tmp_path / "both.pem")
    Path(files["both"]).write_bytes(Path(files["cert"]).read_bytes() + Path(files["key"]).read_bytes())
    files["missing"] = str(tmp_path / "missing.pem")
    files["folder"] = str(tmp_path / "folder")
    Path(files["folder"]).mkdir()
    (tmp_path / "folder" / "ca.pem").write_bytes(Path(files["ca"]).read_bytes())
    files["hashed"] = str(tmp_path / "hashed")
    Path(files["hashed"]).mkdir()
    (tmp_path / "hashed" / "5ed36f99.0").write_bytes(Path(files["ca"]).read_bytes())
    return files


Given = Callable[[dict[str, str]], dict[str, Any]]

#: What is given, the class of what is raised, and its text, in which {names} are paths.
WRONG: list[tuple[str, Given, type[OSError], str]] = [
    (
        "verify missing",
        lambda f: {"verify": f["missing"]},
        FileNotFoundError,
        f"verify={{missing}}: {NOT_THERE}; {VERIFY}",
    ),
    ("verify empty text", lambda f: {"verify": ""}, FileNotFoundError, f"verify='': {NOT_THERE}; {VERIFY}"),
    (
        "verify junk",
        lambda f: {"verify": f["junk"]},
        ssl.SSLError,
        f"verify={{junk}}: it contains no certificate; {VERIFY}",
    ),
    (
        "verify empty",
        lambda f: {"verify": f["empty"]},
        ssl.SSLError,
        f"verify={{empty}}: it contains no certificate; {VERIFY}",
    ),
    ("verify folder", lambda f: {"verify": f["folder"]}, ssl.SSLError, f"verify={{folder}}: {NOT_HASHED}; {VERIFY}"),
    ("cert missing", lambda f: {"cert": f["missing"]}, FileNotFoundError, f"cert={{missing}}: {NOT_THERE}; {CERT}"),
    (
        "cert missing, as bytes",
        lambda f: {"cert": (os.fsencode(f["missing"]), f["key"])},
        FileNotFoundError,
        f"cert={{missing}}: {NOT_THERE}; {CERT}",
    ),
    (
        "key missing",
        lambda f: {"cert": (f["cert"], Path(f["missing"]))},
        FileNotFoundError,
        f"the key of cert={{missing}}: {NOT_THERE}; {CERT}",
    ),
    ("cert folder", lambda f: {"cert": f["folder"]}, IsADirectoryError, f"cert={{folder}}: Is a directory; {CERT}"),
    (
        "key folder",
        lambda f: {"cert": (f["cert"], f["folder"])},
        IsADirectoryError,
        f"the key of cert={{folder}}: Is a directory; {CERT}",
    ),
    ("cert junk", lambda f: {"cert": f["junk"]}, ssl.SSLError, f"cert={{junk}}: it contains no certificate; {CERT}"),
    (
        "cert junk beside authorities",
        lambda f: {"cert": f["junk"], "verify": f["ca"]},
        ssl.SSLError,
        f"cert={{junk}}: it contains no certificate; {CERT}",
    ),
    (
        "cert junk beside a context",
        lambda f: {"cert": f["junk"], "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
        ssl.SSLError,
        f"cert={{junk}}: it contains no certificate; {CERT}",
    ),
    (
        "cert is a key",
        lambda f: {"cert": (f["key"], f["key"])},
        ssl.SSLError,
        f"cert={{key}}: it contains no certificate; {CERT}",
    ),
    (
        "no key in the only file",
        lambda f: {"cert": f["cert"]},
        ssl.SSLError,
        f"cert={{cert}}: it contains no private key; {CERT}",
    ),
    (
        "key junk",
        lambda f: {"cert": (f["cert"], f["junk"])},
        ssl.SSLError,
        f"the key of cert={{junk}}: it contains no private key; {CERT}",
    ),
    (
        "another's key",
        lambda f: {"cert": [f["cert"], f["other"]]},
        ssl.SSLError,
        f"the key of cert={{other}}: the key does not match the certificate {{cert}}; {CERT}",
    ),
    (
        "no password",
        lambda f: {"cert": (f["cert"], f["locked"])},
        ssl.SSLError,
        f"the key of cert={{locked}}: the key is encrypted, but no password was given; {CERT}",
    ),
    (
        "wrong password",
        lambda f: {"cert": (f["cert"], f["locked"], "sesame")},
        ssl.SSLError,
        f"the key of cert={{locked}}: wrong password for the key; {CERT}",
    ),
    (
        "wrong password of a function",
        lambda f: {"cert": (f["cert"], f["locked"], lambda: b"sesame")},
        ssl.SSLError,
        f"the key of cert={{locked}}: wrong password for the key; {CERT}",
    ),
]


@pytest.mark.parametrize(("given", "kind", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_wrong(files: dict[str, str], given: Given, kind: type[OSError], message: str) -> None:
    """When the agent is made, and by nothing else: nobody is asked for a password."""
    for make in MAKERS:
        with pytest.raises(kind) as caught:
            make(**given(files))
        assert type(caught.value) is kind
        expected = message.format_map({name: repr(path) for name, path in files.items()})
        if kind is ssl.SSLError:
            assert str(caught.value) == expected
        else:
            assert str(caught.value) == f"[Errno {caught.value.errno}] {expected}"
        assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kind"), [case[1:3] for case in WRONG if case[0] not in ("verify junk", "verify empty")]
)
@pytest.mark.in_loops
async def test_what_is_wrong_is_told_at_once_in_an_event_loop_too(
    world: World, files: dict[str, str], given: Given, kind: type[OSError]
) -> None:
    """But for what takes as long as reading all authorities."""
    for make in MAKERS:
        with pytest.raises(kind):
            make(**given(files))


def test_the_numbers_of_the_error_are_those_of_openssl(files: dict[str, str]) -> None:
    with pytest.raises(ssl.SSLError) as theirs:
        ssl.create_default_context(cafile=files["junk"])
    with pytest.raises(ssl.SSLError) as ours:
        Agent(verify=files["junk"])
    for name in ("errno", "library", "reason"):
        assert getattr(ours.value, name) == getattr(theirs.value, name)
    with pytest.raises(FileNotFoundError) as missing:
        Agent(verify=files["missing"])
    assert missing.value.errno == errno.ENOENT


@pytest.mark.parametrize("given", [{"verify": "a\0b"}, {"cert": "a\0b"}, {"cert": ("cert", "a\0b")}], ids=str)
def test_a_path_that_is_none(given: dict[str, Any], files: dict[str, str]) -> None:
    if isinstance(given.get("cert"), tuple):
        given = {"cert": (files["cert"], given["cert"][1])}
    for make in MAKERS:
        with pytest.raises(ValueError, match=r"(verify|cert)='a\\x00b': embedded null byte; expected "):
            make(**given)


def test_what_may_not_be_read(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads everything, so that the system's answer is given here."""

    def refuse(path: object, *_: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("httpx_agent._network.certificates.open", refuse, raising=False)
    with pytest.raises(PermissionError) as caught:
        Agent(verify=files["ca"])
    assert str(caught.value) == f"[Errno 13] verify={files['ca']!r}: Permission denied; {VERIFY}"


def test_a_certificate_that_openssl_finds_too_weak(files: dict[str, str]) -> None:
    """In its own words."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weak")])
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, datetime(2020, 1, 1), datetime(2099, 1, 1))
    pem = certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    Path(files["missing"]).write_bytes(pem + key.private_bytes(*pkcs8))
    with pytest.raises(ssl.SSLError) as caught:
        Agent(cert=files["missing"])
    assert str(caught.value).startswith(f"cert={files['missing']!r}: OpenSSL rejected it: [SSL: EE_KEY_TOO_SMALL] ")
    assert str(caught.value).endswith(f"; {CERT}")


def test_what_the_function_for_the_password_raises_comes_out(files: dict[str, str]) -> None:
    def forgotten() -> str:
        raise LookupError("forgotten")

    with pytest.raises(LookupError, match="forgotten"):
        Agent(cert=(files["cert"], files["locked"], forgotten))


@pytest.mark.parametrize(
    "given",
    [
        lambda f: {"verify": f["ca"]},
        lambda f: {"verify": f["hashed"]},
        lambda f: {"cert": f["both"]},
        lambda f: {"cert": Path(f["both"])},
        lambda f: {"cert": [f["both"], None]},
        lambda f: {"cert": (f["both"], None, "not needed")},
        lambda f: {"cert": (f["cert"], f["key"])},
        lambda f: {"cert": (f["cert"], f["locked"], "secret")},
        lambda f: {"cert": (f["cert"], f["locked"], bytearray(b"secret"))},
        lambda f: {"cert": (f["cert"], f["locked"], lambda: "secret")},
        lambda f: {"cert": (f["cert"], f["key"]), "verify": False},
    ],
)
def test_what_is_right(files: dict[str, str], given: Given) -> None:
    options = given(files)
    for make in MAKERS:
        make(**options)


@pytest.mark.in_loops
async def test_what_is_right_in_an_event_loop(world: World, files: dict[str, str]) -> None:
    for make in MAKERS:
        make(verify=files["ca"])
        make(verify=files["ca"], cert=files["both"])


def test_files_as_httpx_takes_them(files: dict[str, str]) -> None:
    """With httpx's own warnings."""
    with pytest.warns(DeprecationWarning, match="`verify=<str>` is deprecated"):
        assert Agent(verify=files["ca"]).verify == files["ca"]
    with pytest.warns(DeprecationWarning, match="`cert=...` is deprecated"):
        assert Agent(cert=(files["cert"], files["key"])).cert == (files["cert"], files["key"])


@pytest.mark.both_engines
async def test_a_certificate_counts_beside_authorities_from_a_file(
    world: World, files: dict[str, str], certificates: Certificates
) -> None:
    """In httpx it is left out without a word, and httpx2 refuses the two together."""
    with Server(tls=certificates.server(client_certificate=True)) as server:
        transport = AgentTransport(verify=files["ca"], cert=(files["cert"], files["key"]))
        async with world.client(transport=transport) as client:
            assert (await client.get(server.url)).status_code == 200
        assert server.peers[0].client_certificate is not None


# The environment ------------------------------------------------------------------------------------------------------


def test_the_environment_does_not_count_where_something_was_given(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", files["missing"])
    for make in MAKERS:
        make(trust_env=False, cert=files["both"])
        make(verify=False, cert=files["both"])
        make(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        make(verify=files["ca"])


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("SSL_CERT_FILE", "missing", f"[Errno 2] SSL_CERT_FILE={{0!r}}: {NOT_THERE}; {FILE}"),
        ("SSL_CERT_FILE", "folder", f"[Errno 21] SSL_CERT_FILE={{0!r}}: Is a directory; {FILE}"),
        ("SSL_CERT_FILE", "junk", f"SSL_CERT_FILE={{0!r}}: it contains no certificate; {FILE}"),
        ("SSL_CERT_DIR", "missing", f"[Errno 2] SSL_CERT_DIR={{0!r}}: {NOT_THERE}; {FOLDER}"),
        ("SSL_CERT_DIR", "ca", f"SSL_CERT_DIR={{0!r}}: {NOT_HASHED}; {FOLDER}"),
        ("SSL_CERT_DIR", "folder", f"SSL_CERT_DIR={{0!r}}: {NOT_HASHED}; {FOLDER}"),
    ],
)
async def test_what_is_wrong_in_the_environment(
    world: World, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, file: str, message: str
) -> None:
    """With the first request that needs it: one without TLS works."""
    monkeypatch.setenv(name, files[file])
    with Server() as server:
        async with world.client(transport=AgentTransport()) as client:
            assert (await client.get(server.url)).status_code == 200
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(server.url.replace("http:", "https:"))
    assert message.format(files[file]) in str(caught.value)


def test_a_folder_of_several_is_enough(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (files["hashed"], os.pathsep.join([files["missing"], files["folder"], files["hashed"]])):
        monkeypatch.setenv("SSL_CERT_DIR", value)
        assert Agent(cert=files["both"]).cert == files["both"]  # which makes the context at once


def test_a_folder_that_cannot_be_listed_may_be_searched(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.listdir", refuse)
    assert Agent(verify=files["folder"]).verify == files["folder"]


def test_a_log_of_keys_that_cannot_be_written(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", f"{files['missing']}/log")
    with pytest.raises(FileNotFoundError) as caught:
        Agent(verify=files["ca"])
    assert str(caught.value) == (
        f"[Errno 2] SSLKEYLOGFILE='{files['missing']}/log': {NOT_THERE}; expected a writable file; "
        "or unset the variable"
    )


def test_default_certificates_that_are_missing(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Certifi's in httpx, the system's in httpx2."""
    errors: list[OSError] = [FileNotFoundError(errno.ENOENT, NOT_THERE), ssl.SSLError(1, "nothing")]

    def find_nothing(*_: object, **__: object) -> None:
        raise errors[0]

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", find_nothing)
    for text in (
        f"[Errno 2] verify=True: cannot load the default certificates: {NOT_THERE}",
        "verify=True: cannot load the default certificates: n",
    ):
        with pytest.raises(type(errors[0])) as caught:
            Agent(cert=files["both"])
        assert str(caught.value).startswith(text)
        del errors[0]
