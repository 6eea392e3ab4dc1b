"""An SDK that is built on httpx takes the transport of that family."""

# --8<-- [start:program]
from ollama import Client

from httpx_agent import AgentTransport
from llm_server import serve

with serve() as server:
    transport = AgentTransport(max_sockets=2)
    with Client(host=server.url, transport=transport) as client:
        for part in client.chat(
            model="any",
            messages=[{"role": "user", "content": "word by word"}],
            stream=True,
        ):
            print(repr(part.message.content))
        print(transport.agent.status().free_sockets[server.url], "free socket")
# --8<-- [end:program]
