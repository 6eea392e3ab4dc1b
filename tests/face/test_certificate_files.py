"""Files of certificates that are not there, or are something else: the error names option and path."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Certificates, Server

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")


@pytest.fixture
def garbage(tmp_path: Path) -> str:
    path = tmp_path / "garbage.pem"
    path.write_text("no certificate")
    return str(path)


@pytest.fixture
def good(tmp_path: Path, certificates: Certificates) -> str:
    path = tmp_path / "good.pem"
    certificates.authority.cert_pem.write_to_path(path)
    return str(path)


def refused(**options: Any) -> str:
    """What an agent and a transport say at once; both the same."""
    told = []
    for kind in (Agent, AgentTransport):
        with pytest.raises((OSError, ValueError)) as caught:
            kind(**options)
        told.append((type(caught.value), str(caught.value)))
    assert told[0] == told[1]
    return f"{told[0][0].__name__}: {told[0][1]}"


ACCEPTED = "accepted is the path of a file or a folder of CA certificates, an ssl.SSLContext, True or False"
ACCEPTED_CERT = "accepted is the path of a file with certificate and key, or a tuple of certificate, key, and the key's"


def test_a_path_that_is_not_there(good: str) -> None:
    assert refused(verify="/nope") == f"FileNotFoundError: [Errno 2] verify='/nope': no such file; {ACCEPTED}"
    for cert in ("/nope", ("/nope", "/nope2"), (good, "/nope")):
        assert refused(cert=cert).startswith(
            f"FileNotFoundError: [Errno 2] cert='/nope': no such file; {ACCEPTED_CERT}"
        )


def test_a_file_that_holds_no_certificate(garbage: str, good: str) -> None:
    """The class is that of the client library's own error."""
    assert refused(verify=garbage).startswith("SSLError: ")
    assert f"verify={garbage!r}: " in refused(verify=garbage)
    assert ACCEPTED in refused(verify=garbage)
    assert f"cert={garbage!r}: " in refused(cert=garbage)
    assert f"cert={garbage!r}: " in refused(cert=garbage, verify=good)
    assert f"verify={garbage!r}: " in refused(cert=garbage, verify=garbage)


def test_a_key_without_its_password(tmp_path: Path, good: str) -> None:
    """OpenSSL would ask for it at the terminal, and wait."""
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    assert refused(cert=(good, str(key))).startswith(
        f"ValueError: cert: the key in {str(key)!r} is encrypted; accepted is"
    )
    assert "secret" not in refused(cert=(good, str(key), "secret"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_variable_that_names_nothing(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first request for https; plain ones need no certificates."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv(variable, "/nope")
    with httpx.Client(transport=AgentTransport()) as client, pytest.raises(httpx.ConnectError) as caught:
        client.get("https://127.0.0.1:1/")
    assert f"{variable}='/nope': no such file; accepted is the path of a" in str(caught.value)
    assert "trust_env=False ignores the variable" in str(caught.value)
    with httpx.Client(transport=AgentTransport(trust_env=False)) as client, pytest.raises(httpx.ConnectError) as caught:
        client.get("https://127.0.0.1:1/")
    assert variable not in str(caught.value)


def test_a_variable_that_names_something_else(garbage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", garbage)
    with httpx.Client(transport=AgentTransport()) as client, pytest.raises(httpx.ConnectError) as caught:
        client.get("https://127.0.0.1:1/")
    assert f"SSL_CERT_FILE={garbage!r}: " in str(caught.value)


def test_a_context_and_a_certificate_that_is_none(garbage: str) -> None:
    assert f"cert={garbage!r}: " in refused(verify=ssl.create_default_context(), cert=garbage)
    assert f"cert={garbage!r}: " in refused(verify=False, cert=Path(garbage))


def test_a_client_certificate_beside_a_path(tmp_path: Path, certificates: Certificates, good: str) -> None:
    """Httpx 0.28.1 sends none then, and says nothing."""
    path = tmp_path / "client.pem"
    certificates.authority.issue_cert("client@example").private_key_and_cert_chain_pem.write_to_path(path)
    with Server(tls=certificates.server(client_certificate=True)) as server:
        with httpx.Client(transport=AgentTransport(verify=good, cert=str(path))) as client:
            assert client.get(f"{server.url}/echo").status_code == 200
        assert server.peers[0].client_certificate is not None


def test_a_context_that_cannot_be_made_for_another_reason(garbage: str) -> None:
    """A folder as a certificate, which exists and holds none."""
    folder = str(Path(garbage).parent)
    assert "IsADirectoryError" in refused(cert=folder)


def test_nothing_is_looked_for_where_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)
    with (
        httpx.Client(transport=AgentTransport()) as client,
        pytest.raises(httpx.ConnectError, match="Connection refused"),
    ):
        client.get("https://127.0.0.1:1/")
