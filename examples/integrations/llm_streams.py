"""Streamed answers of language models, over the sockets of one agent."""

# --8<-- [start:program]
from anthropic import Anthropic
from anthropic import DefaultHttpxClient as ClientForAnthropic
from openai import DefaultHttpxClient as ClientForOpenAI
from openai import OpenAI

from httpx_agent.httpx2 import Agent, AgentTransport
from llm_server import serve

with serve() as server, Agent(max_total_sockets=20) as agent:
    openai = OpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        http_client=ClientForOpenAI(transport=AgentTransport(agent=agent)),
    )
    anthropic = Anthropic(
        base_url=server.url,
        api_key="none",
        http_client=ClientForAnthropic(transport=AgentTransport(agent=agent)),
    )
    with openai, anthropic:
        chunks = openai.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": "word by word"}],
            stream=True,
        )
        print([chunk.choices[0].delta.content for chunk in chunks])

        with anthropic.messages.stream(
            model="any",
            max_tokens=100,
            messages=[{"role": "user", "content": "and so on"}],
        ) as stream:
            print(list(stream.text_stream))
            print(stream.get_final_message().stop_reason)

    print(agent.status().create_socket_count, "socket for both")
# --8<-- [end:program]
