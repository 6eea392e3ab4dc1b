"""Fixtures for the tests in this directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.servers import Certificates


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module")
def certificate(certificates: Certificates, folder: Path) -> dict[str, str]:
    """The paths of a certificate for `localhost` and of its key."""
    issued = certificates.authority.issue_cert("localhost")
    paths = {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}
    issued.cert_chain_pems[0].write_to_path(paths["certificate"])
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8  # the only one that granian reads
    Path(paths["key"]).write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return paths
