"""A server on loopback that imitates the servers of language models.

It answers chat requests in the protocols of OpenAI (`/v1/chat/completions`), Anthropic
(`/v1/messages`) and Ollama (`/api/chat`), whole or streamed, by repeating the last
message word by word. `with serve() as server:` runs it at `server.url`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

Message = dict[str, Any]


class LLMServer:
    """A server that counts the sockets it accepts; each answer takes 5 ms."""

    def __init__(self) -> None:
        self.accepted = 0
        self.url = ""
        self.paths: list[str] = []

    async def talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer the requests on one socket, until the client closes it."""
        self.accepted += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path, length = read_head(head)
                asked = json.loads(await reader.readexactly(length))
                self.paths.append(path)
                await asyncio.sleep(0.005)
                if asked.get("stream"):
                    await stream(writer, path, asked)
                else:
                    answer(writer, path, asked)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run(self, ready: Event) -> None:
        """Serve until stopped."""
        server = await asyncio.start_server(self.talk, "127.0.0.1", 0, backlog=1024)
        port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.loop = asyncio.get_running_loop()
        self.stopped = asyncio.Event()
        ready.set()
        await self.stopped.wait()
        server.close()


def read_head(head: bytes) -> tuple[str, int]:
    """Return the path of a request and the length of its body."""
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    return first.split(" ")[1], int(headers.get("content-length", 0))


def answer(writer: asyncio.StreamWriter, path: str, asked: Message) -> None:
    """Send the whole answer as JSON."""
    body = json.dumps(whole(path, asked["model"], said(asked))).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)


async def stream(writer: asyncio.StreamWriter, path: str, asked: Message) -> None:
    """Send the answer word by word, as server-sent events or as JSON lines (Ollama)."""
    of_ollama = path == "/api/chat"
    kind = "application/x-ndjson" if of_ollama else "text/event-stream"
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunks = [head.encode()]
    for name, event in events(path, asked["model"], said(asked).split()):
        data = event if isinstance(event, str) else json.dumps(event)
        if of_ollama:
            text = f"{data}\n"
        else:
            text = (f"event: {name}\n" if name else "") + f"data: {data}\n\n"
        chunks.append(f"{len(text):x}\r\n{text}\r\n".encode())
    # A client that closes the response after the last event can reuse the socket only
    # if the end of the body has arrived, so send both together.
    chunks[-1] += b"0\r\n\r\n"
    for chunk in chunks:
        writer.write(chunk)
        await writer.drain()


def said(asked: Message) -> str:
    """Return what the user said last."""
    text: str = asked["messages"][-1]["content"]
    return text


def whole(path: str, model: str, text: str) -> Message:
    """Return the answer in the protocol of a path."""
    message: Message = {"role": "assistant", "content": text}
    if path == "/api/chat":
        return {"model": model, "message": message, "done": True}
    if path == "/v1/messages":
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": len(text.split())},
        }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }


def events(
    path: str, model: str, words: list[str]
) -> Iterator[tuple[str | None, Message | str]]:
    """Yield the names and contents of the events of a streamed answer."""
    parts = [word if i == 0 else f" {word}" for i, word in enumerate(words)]
    if path == "/api/chat":
        for part in parts:
            yield None, {**whole(path, model, part), "done": False}
        yield None, whole(path, model, "")
    elif path == "/v1/messages":
        started = {**whole(path, model, ""), "content": [], "stop_reason": None}
        yield "message_start", {"type": "message_start", "message": started}
        block = {"type": "text", "text": ""}
        yield "content_block_start", event("content_block_start", content_block=block)
        for part in parts:
            delta = {"type": "text_delta", "text": part}
            yield "content_block_delta", event("content_block_delta", delta=delta)
        yield "content_block_stop", event("content_block_stop")
        ended = {"stop_reason": "end_turn", "stop_sequence": None}
        usage = {"output_tokens": len(words)}
        yield "message_delta", {"type": "message_delta", "delta": ended, "usage": usage}
        yield "message_stop", {"type": "message_stop"}
    else:
        for delta, reason in [
            *(({"content": part}, None) for part in parts),
            ({}, "stop"),
        ]:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            chunk = {**whole(path, model, ""), "object": "chat.completion.chunk"}
            yield None, {**chunk, "choices": [choice]}
        yield None, "[DONE]"


def event(kind: str, **fields: Message) -> Message:
    """Return an Anthropic event about the first content block."""
    return {"type": kind, "index": 0, **fields}


@contextmanager
def serve() -> Iterator[LLMServer]:
    """Run a server in a thread."""
    server, ready = LLMServer(), Event()
    thread = Thread(target=lambda: asyncio.run(server.run(ready)))
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(server.stopped.set)
        thread.join()
