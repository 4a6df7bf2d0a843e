"""A server on this machine that speaks Ollama's protocol and fails when told to."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from loopback import Loopback, Request

CAN = {"moondream:latest": ["completion", "vision"], "gemma3:4b-it-qat": ["completion", "vision"]}
"""What models can do; others complete text."""


class OllamaServer(Loopback):
    """Knows `models` by their digests and what they can; captions are told by what is asked.

    Attributes:
        models: digest by name.
        pulled: names that `/api/pull` adds, with their digests.
        chats: the chat requests.
        most: how many chats there were at a time.
        delay: seconds that a chat takes.
        instead: returns (status, answer) to give instead of a caption, or None; it is given the request and its place.
    """

    def __init__(self, port: int = 0, **models: str) -> None:
        super().__init__(port)
        self.models = models or {"moondream:latest": "a" * 64, "gemma3:4b-it-qat": "b" * 64}
        self.pulled: dict[str, str] = {}
        self.chats: list[dict[str, Any]] = []
        self.at_a_time = self.most = 0
        self.delay = 0.0
        self.instead: Callable[[dict[str, Any], int], tuple[int, Any] | None] = lambda chat, place: None
        self.lock = threading.Lock()
        self.answers = {"/api/tags": self.tags, "/api/show": self.show, "/api/chat": self.chat}
        steps = [{"status": "pulling", "digest": "sha256:1", "total": 9, "completed": n} for n in (0, 4, 9)]
        self.files["/api/pull"] = "".join(json.dumps(step) + "\n" for step in [*steps, {"status": "success"}]).encode()

    def tags(self, request: Request) -> tuple[int, Any]:
        there = self.models | (self.pulled if "/api/pull" in self.asked("POST") else {})
        return 200, {"models": [{"name": name, "model": name, "digest": digest} for name, digest in there.items()]}

    def show(self, request: Request) -> tuple[int, Any]:
        name = json.loads(request.body)["model"]
        name = name if ":" in name else f"{name}:latest"
        return 200, {"details": {"format": "gguf"}, "model_info": {}, "capabilities": CAN.get(name, ["completion"])}

    def chat(self, request: Request) -> tuple[int, Any]:
        asked = json.loads(request.body)
        with self.lock:
            self.chats.append(asked)
            place = len(self.chats) - 1
            self.at_a_time += 1
            self.most = max(self.most, self.at_a_time)
        time.sleep(self.delay)
        with self.lock:
            self.at_a_time -= 1
        other = self.instead(asked, place)
        return other or (200, answer(caption_of(asked)))


def answer(caption: str) -> dict[str, Any]:
    """Return Ollama's answer to a chat."""
    message = {"role": "assistant", "content": caption}
    return {"model": "m", "message": message, "done": True, "done_reason": "stop"}


def caption_of(asked: dict[str, Any]) -> str:
    """Return a caption that tells what was `asked`: the text, the options and the image."""
    image = b"".join(base64.b64decode(text) for text in asked["messages"][-1].get("images", []))
    told = json.dumps([asked["model"], asked["messages"][-1]["content"], asked["options"]], sort_keys=True)
    return f"Land {hashlib.md5(told.encode() + image, usedforsecurity=False).hexdigest()}, seen from above"
