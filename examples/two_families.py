"""Objects of one family cannot be used with the other."""

# --8<-- [start:program]
import httpx2

import httpx_agent
import httpx_agent.httpx2

try:
    httpx_agent.httpx2.AgentTransport(agent=httpx_agent.Agent())  # type: ignore
except TypeError as error:
    print(error)

with httpx2.Client(transport=httpx_agent.AgentTransport()) as client:  # type: ignore
    try:
        client.get("http://example.com")
    except TypeError as error:
        print(error)
# --8<-- [end:program]
