"""An OpenAI-compatible endpoint on a real socket: its answers depend on the question alone, its faults are scripted."""

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from waiting_for_tests import wait_until

MODEL = "stub-model"


@dataclass(kw_only=True)
class Stub:
    """What the endpoint does, and what it was asked.

    `faults` are what the first requests of a question meet, one each: a status, `garbage`, `shape`, `hang`, or
    `say:TEXT`, an answer that was not expected. `refuses` are parameters that are a 400. The first requests wait for
    each other until `together` of them are here. After `most_answers` all others hang, so that whoever asks is in the
    middle of it for as long as a test likes.
    """

    base_url: str = ""
    says: Callable[[str], str] = field(default_factory=lambda: answer_to)
    refuses: frozenset[str] = frozenset()
    logprobs: dict[str, float] | None = None
    calls_itself: str = ""
    delay_seconds: float = 0.0
    together: int = 1
    most_answers: int | None = None
    faults: dict[str, list[int | str]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    num_asked: Counter[str] = field(default_factory=Counter)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    num_running: int = 0
    most_at_once: int = 0
    num_answered: int = 0
    num_held: int = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        with self.lock:
            self.num_running += 1
            self.most_at_once = max(self.most_at_once, self.num_running)
        try:
            yield
        finally:
            with self.lock:
                self.num_running -= 1

    def is_spent(self) -> bool:
        """Tell whether this request is one too many, and count it."""
        with self.lock:
            is_spent = self.most_answers is not None and self.num_answered >= self.most_answers
            self.num_held += is_spent
            self.num_answered += not is_spent
            return is_spent

    def fault(self, question: str) -> int | str | None:
        with self.lock:
            self.num_asked[question] += 1
            script = next((faults for key, faults in self.faults.items() if key in question), [])
            return script.pop(0) if script else None


def answer_to(question: str) -> str:
    """Give a letter, now and then a sentence that no rule reads, by the question alone."""
    byte = hashlib.sha256(question.encode()).digest()[0]
    if byte % 5 == 0:
        return f"I could not say, but {byte} comes to mind"
    return f"The answer is ({'ABC'[byte % 3]})."


@contextlib.contextmanager
def chat_stub(**settings: Any) -> Iterator[Stub]:
    """Serve until the block ends."""
    stub = Stub(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with stub.lock:
                stub.requests.append(body)
                stub.headers.append({key.lower(): value for key, value in self.headers.items()})
            question = body["messages"][-1]["content"]
            fault = stub.fault(question)
            if refused := stub.refuses & set(body):
                name = sorted(refused)[0]
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                self._send(400, {"error": {"message": message, "param": name, "code": "unsupported_parameter"}})
            elif isinstance(fault, int):
                self._send(fault, {"error": {"message": f"scripted {fault}"}}, {"retry-after": "0"})
            elif fault == "garbage":
                self._send(200, b"<html>not JSON</html>")
            elif fault == "shape":
                self._send(200, {"choices": []})
            elif fault == "hang" or stub.is_spent():
                stub.released.wait(60)
            else:
                with stub.counted():
                    wait_until(lambda: stub.most_at_once >= stub.together)
                    time.sleep(stub.delay_seconds)
                text = fault.removeprefix("say:") if fault is not None else stub.says(question)
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                if stub.logprobs is not None and body.get("top_logprobs"):
                    rows = [{"token": token, "logprob": value} for token, value in stub.logprobs.items()]
                    choice["logprobs"] = {"content": [{"token": text, "logprob": 0.0, "top_logprobs": rows}]}
                usage = {"prompt_tokens": len(question), "completion_tokens": 5}
                name = {"model": stub.calls_itself} if stub.calls_itself else {}
                self._send(200, {"object": "chat.completion", "choices": [choice], "usage": usage, **name})

        def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            # The client may have been killed.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                for key, value in ({"content-length": str(len(data))} | (headers or {})).items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *args: Any) -> None:
            pass  # a killed client

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield stub
    finally:
        stub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
