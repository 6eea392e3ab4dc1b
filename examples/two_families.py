"""What belongs to one library does not go with the other."""

# --8<-- [start:program]
import httpx_agent
import httpx_agent.httpx2

try:
    httpx_agent.httpx2.AgentTransport(agent=httpx_agent.Agent())  # type: ignore
except TypeError as error:
    print(error)
# --8<-- [end:program]
