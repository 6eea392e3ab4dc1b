"""A cache around an agent."""

import tempfile
from pathlib import Path

import httpx
from hishel import SqliteStorage
from hishel.httpx import CacheTransport

from httpx_agent import AgentTransport
from server import serve

with tempfile.TemporaryDirectory() as folder:
    inner = AgentTransport()
    storage = SqliteStorage(database_path=Path(folder) / "cache.db")
    transport = CacheTransport(next_transport=inner, storage=storage)
    with serve() as url, httpx.Client(transport=transport) as client:
        for _ in range(3):
            response = client.get(url)
            print(response.text.strip(), response.extensions["caching"]["from_cache"])
        print("requests on sockets:", inner.agent.status().request_count)
