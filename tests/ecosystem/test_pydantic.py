"""Pydantic, and so FastAPI's endpoints, can handle the values that an agent returns."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from httpx_agent import AgentTransport, request_info
from tests.support.servers import Server

pytest.importorskip("pydantic", reason="needs the extra integrations")

from pydantic import TypeAdapter


def test_what_it_tells_goes_out_and_comes_back(server: Server) -> None:
    transport = AgentTransport()
    with httpx.Client(transport=transport) as client:
        response = client.get(f"{server.url}/bytes/3")
        told: list[Any] = [transport.agent.status(), *transport.agent.sockets(), request_info(response)]
    assert len(told) == 3
    for value in told:
        adapter = TypeAdapter(type(value))
        assert adapter.validate_python(adapter.dump_python(value)) == value
        assert json.loads(adapter.dump_json(value)) == value.as_dict()
        assert adapter.validate_json(json.dumps(value.as_dict())) == value
