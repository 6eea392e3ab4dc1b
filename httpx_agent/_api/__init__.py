"""The classes that users work with: `Agent` and `AgentTransport`.

Begin with `agent.py`: options as attributes, `status()`, `sockets()`, `close()`. `transport.py` turns a transport's
arguments into an agent and its pool. `httpx.py` binds both to httpx; `httpx_agent.httpx2` does the same for httpx2.
`pickling.py` sends them to other processes, `attributes.py` rejects attributes that would have no effect.

May import every package below; none of them may import this one.
"""
