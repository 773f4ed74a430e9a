"""An endpoint on a real socket that answers from a list, and what asks it."""

import asyncio
import http.server
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from ochatctl.chat.conversation import Conversation, Message


class Closable(Protocol):
    async def close(self) -> None: ...


Client = TypeVar("Client", bound=Closable)


def chat(*contents: str, **fields: str) -> Conversation:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[index % 2], content=content) for index, content in enumerate(contents))
    return Conversation(messages=messages, **fields)


def run(client: Client, work: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
    """Do the work, and close the client whatever comes of it."""

    async def inner() -> Any:
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(inner())


Answers = list[tuple[int, dict[str, str], bytes]]


@contextmanager
def stub(answers: Answers) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Answer requests in order from a list, its last one again and again (a status of -1 hangs, and a told
    `content-length` is believed); give the address and what was asked."""
    asked: list[dict[str, Any]] = []
    released = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append({"path": self.path, "key": self.headers["authorization"], "body": body})
            status, headers, content = answers[min(len(asked), len(answers)) - 1]
            if status < 0:  # hang
                released.wait(60)
                return
            self.answer(status, headers, content)

        def do_GET(self) -> None:
            self.answer(200, {}, json.dumps({"data": [{"id": "a"}, {"id": "b"}]}).encode())

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in ({"content-length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None: ...

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None: ...  # whoever asked has given up

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()
