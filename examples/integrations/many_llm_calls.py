"""A thousand concurrent calls to a language model, over 50 sockets."""

# --8<-- [start:program]
import asyncio

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from httpx_agent.httpx2 import AgentTransport
from llm_server import serve


async def main(url: str) -> None:
    transport = AgentTransport(max_sockets=50)
    http_client = DefaultAsyncHttpxClient(transport=transport)
    async with AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        http_client=http_client,
        timeout=600,  # seconds for each step, including the wait for a socket
    ) as client:

        async def ask(number: int) -> None:
            completion = await client.chat.completions.create(
                model="any",
                messages=[{"role": "user", "content": f"say {number}"}],
            )
            answers[number] = completion.choices[0].message.content

        answers: dict[int, str | None] = {}
        await asyncio.gather(*(ask(number) for number in range(1000)))
        print(len(answers), "answers, from", repr(answers[0]), "to", repr(answers[999]))

        status = transport.agent.status()
        print(status.create_socket_count, "sockets for", status.request_count, "calls")


with serve() as server:
    asyncio.run(main(server.url))
    print("the server accepted", server.accepted, "sockets")
# --8<-- [end:program]
