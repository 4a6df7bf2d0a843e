"""A loopback server of OpenAI's chat protocol, with faults to choose, that notes what it was asked."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "tiny"


@dataclass
class Chat:
    """What the server does and what it has seen.

    Attributes:
        answer: the text for a request's body.
        seconds: that a request takes.
        faults: given a body and how often it came before: (status, headers, body) to send in place of an answer, or
            `cut` to end the connection.
        models: what `/v1/models` lists; None for HTTP 500.
        bodies: of the requests, in the order in which they came.
        keys: of the Authorization headers.
        most: requests that were under way at once.
        gone: whether it ends every connection.
    """

    answer: Callable[[dict[str, Any]], str] = lambda body: "A lake in a forest."
    seconds: float = 0.0
    faults: Callable[[dict[str, Any], int], Any] = lambda body, times: None
    models: list[str] | None = field(default_factory=lambda: [MODEL])
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0
    port: int = 0
    gone: bool = False
    under_way: int = 0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def text_of(body: dict[str, Any]) -> str:
    """Return the user's text in a request."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def handler_of(chat: Chat) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            """Say nothing."""

        def send(self, status, value, headers=None):
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in ({"Content-Type": "application/json"} | (headers or {})).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            chat.keys.append(self.headers["Authorization"])
            if chat.gone:
                self.close_connection = True
            elif chat.models is None:
                self.send(500, {"error": {"message": "no list"}})
            else:
                self.send(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in chat.models]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with chat.lock:
                times = sum(seen == body for seen in chat.bodies) if chat.seconds == 0 else 0
                chat.bodies.append(body)
                chat.keys.append(self.headers["Authorization"])
                chat.under_way += 1
                chat.most = max(chat.most, chat.under_way)
            time.sleep(chat.seconds)
            with chat.lock:
                chat.under_way -= 1
            fault = chat.faults(body, times)
            if fault == "cut" or chat.gone:
                self.close_connection = True
                return
            if fault:
                status, headers, content = fault
                self.send(status, content, headers)
                return
            message = {"role": "assistant", "content": chat.answer(body)}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            self.send(200, {"id": "c", "object": "chat.completion", "created": 0, "model": MODEL, "choices": choices})

    return Handler


@contextmanager
def serving(chat: Chat) -> Iterator[Chat]:
    """Serve `chat` on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(chat))
    server.daemon_threads = True
    chat.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
