"""The first step: the same client, with another transport."""

import httpx

from httpx_agent import AgentTransport
from server import serve

with serve() as url:
    # --8<-- [start:before]
    with httpx.Client() as client:
        print(client.get(url).text, end="")
    # --8<-- [end:before]

    # --8<-- [start:after]
    with httpx.Client(transport=AgentTransport()) as client:
        print(client.get(url).text, end="")
    # --8<-- [end:after]
