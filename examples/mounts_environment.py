"""Proxies from the environment."""

import os

import httpx

from httpx_agent import AgentTransport

os.environ.update(
    HTTP_PROXY="http://proxy.test:3128",
    HTTPS_PROXY="http://proxy.test:3128",
    NO_PROXY="localhost,.internal.test",
)

# --8<-- [start:client]
client = httpx.Client(
    transport=AgentTransport(),
    mounts=AgentTransport.mounts_from_env(max_total_sockets=10),
)
# --8<-- [end:client]
client.close()
for pattern, transport in AgentTransport.mounts_from_env().items():
    print(pattern, transport and transport.agent.options.proxy.url)
