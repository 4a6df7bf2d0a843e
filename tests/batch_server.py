"""A server on this machine with OpenAI's files and batches, a ledger of what was run and paid for, and faults.

A batch moves on by one status with every look at it, so tests need no clock. What becomes of a batch is its `Fate`,
what becomes of a request to the server is a `Fault`. Both are given beforehand and used up in order.
"""

import json
import re
import socket
import struct
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback import QuietServer

KEY = "sk-test-7f3a"
STAGES = ("validating", "in_progress", "finalizing")
MAX_REQUESTS = 50_000


@dataclass
class Fate:
    """How a batch ends, and what its answers are like.

    Attributes:
        end: completed, expired, failed (nothing is run) or failed late (some of it was).
        share: part of the requests that is run, the first of them.
        code, message: why it failed.
        output: whether there is an output file at all.
        errors: custom_id: status of requests that are answered with an error.
        empty: custom_ids that are answered, and billed, without a caption.
        malformed, doubled, missing: custom_ids whose line is cut, stands twice or is left out.
        strange: custom_ids never asked for that are answered too.
    """

    end: str = "completed"
    share: float = 1.0
    code: str = "invalid_json_line"
    message: str = "This line is not parseable as valid JSON."
    output: bool = True
    errors: dict[str, int] = field(default_factory=dict)
    empty: frozenset[str] = frozenset()
    malformed: frozenset[str] = frozenset()
    doubled: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    strange: frozenset[str] = frozenset()
    captions: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What is done to one request.

    Attributes:
        status: answer this, and do nothing; 0 does what is asked.
        code, message: of that answer.
        headers: of that answer.
        lose: do what is asked, then cut the connection without an answer.
        cut: send this share of the answer, then cut the connection.
        text: answer this in place of JSON.
    """

    status: int = 0
    code: str = ""
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)
    lose: bool = False
    cut: float | None = None
    text: str | None = None


class BatchServer:
    """The server; use it in a `with`.

    Attributes:
        paid: how often each custom_id was run.
        queue_limit: input tokens that may wait; None for any number.
        lag: how many lists do not show a new batch yet.
        keeps_metadata: whether batches keep what they were given.
        hook: called before and after each request is handled, before it is answered.
    """

    def __init__(self) -> None:
        self.paid: Counter[str] = Counter()
        self.files: dict[str, tuple[str, str, bytes]] = {}  # id: name, purpose, content
        self.batches: dict[str, dict[str, Any]] = {}
        self.requests: dict[str, list[dict[str, Any]]] = {}
        self.fates: deque[Fate] = deque()
        self.fate_of: dict[str, Fate] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)  # by "POST /batches"
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, Authorization
        self.times: list[float] = []  # of those, monotonic
        self.queue_limit: int | None = None
        self.lag = 0
        self.keeps_metadata = True
        self.hook: Callable[[], object] = lambda: None
        self.listed: Counter[str] = Counter()
        self.page = 2
        self.lock = threading.RLock()
        self.server = QuietServer(("127.0.0.1", 0), Handler)
        self.server.site = self
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> "BatchServer":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def calls(self, method: str, path: str) -> int:
        """Return how often `path`, a pattern, was asked for by `method`."""
        return sum(m == method and re.fullmatch(path, p) is not None for m, p, _ in self.asked)

    # what OpenAI's server does

    def store(self, name: str, purpose: str, content: bytes) -> dict[str, Any]:
        """Keep a file, and return what the API says of it."""
        number = f"file-{len(self.files) + 1}"
        self.files[number] = (name, purpose, content)
        return self.file(number)

    def file(self, number: str) -> dict[str, Any]:
        name, purpose, content = self.files[number]
        told = {"id": number, "object": "file", "bytes": len(content), "created_at": 1_700_000_000}
        return {**told, "filename": name, "purpose": purpose, "status": "processed"}

    def create(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Create a batch."""
        if asked["input_file_id"] not in self.files:
            return 400, error("invalid_request_error", f"No such File object: {asked['input_file_id']}")
        if asked["completion_window"] != "24h" or asked["endpoint"] != "/v1/chat/completions":
            return 400, error("invalid_request_error", "unsupported window or endpoint")
        number = f"batch_{len(self.batches) + 1}"
        self.fate_of[number] = self.fates.popleft() if self.fates else Fate()
        self.batches[number] = {
            "id": number,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "status": "validating",
            "created_at": 1_700_000_000 + len(self.batches),
            "metadata": asked.get("metadata") if self.keeps_metadata else None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
        }
        return 200, self.batches[number]

    def look(self, number: str) -> dict[str, Any]:
        """Return the batch, after it has moved on by one status."""
        batch = self.batches[number]
        if batch["status"] == "validating":
            self.validate(batch)
        elif batch["status"] == "in_progress":
            batch["status"] = "finalizing"
        elif batch["status"] == "finalizing":
            self.run(batch, self.fate_of[number].end.removesuffix(" late"))
        elif batch["status"] == "cancelling":
            self.run(batch, "cancelled")
        return batch

    def validate(self, batch: dict[str, Any]) -> None:
        """Check the request file as the real server does, after the batch was created."""
        fate = self.fate_of[batch["id"]]
        lines = self.files[batch["input_file_id"]][2].splitlines()
        try:
            requests = [json.loads(line) for line in lines]
            assert all(r["method"] == "POST" and r["url"] == batch["endpoint"] and r["body"]["model"] for r in requests)
        except (ValueError, KeyError, AssertionError):
            return self.fail(batch, "invalid_json_line", "This line is not parseable as valid JSON.")
        self.requests[batch["id"]] = requests
        if len({request["custom_id"] for request in requests}) < len(requests):
            return self.fail(batch, "duplicate_custom_id", "The custom_id for this request is a duplicate")
        if not 0 < len(requests) <= MAX_REQUESTS:
            return self.fail(batch, "invalid_request_count", "too many requests")
        queue = sum(tokens(r) for b, rs in self.requests.items() if b in self.running() for r in rs)
        if self.queue_limit and queue + sum(map(tokens, requests)) > self.queue_limit:
            limit = f"Limit: {self.queue_limit:,} enqueued tokens"
            told = f"Enqueued token limit reached for m in organization org-1. {limit}. Please try again once some"
            return self.fail(batch, "token_limit_exceeded", told + " in_progress batches have been completed.")
        if fate.end == "failed":
            return self.fail(batch, fate.code, fate.message)
        batch["status"] = "in_progress"
        batch["request_counts"]["total"] = len(requests)
        return None

    def running(self) -> set[str]:
        return {n for n, b in self.batches.items() if b["status"] in ("in_progress", "finalizing", "cancelling")}

    def fail(self, batch: dict[str, Any], code: str, message: str) -> None:
        batch["status"] = "failed"
        data = [{"code": code, "line": 1, "message": message, "param": None}]
        batch["errors"] = {"object": "list", "data": data}

    def run(self, batch: dict[str, Any], end: str) -> None:
        """Run the requests, bill them, and write the output and error files."""
        fate, requests = self.fate_of[batch["id"]], self.requests.get(batch["id"], [])
        count = round(len(requests) * (0.5 if end == "cancelled" else fate.share))
        output: list[str] = []
        errors: list[str] = []
        done = 0
        for place, request in enumerate(requests):
            name = request["custom_id"]
            if place >= count:
                errors.append(line_of(name, None, {"code": f"batch_{end}", "message": "was not executed"}))
            elif name in fate.errors:
                body = {"error": {"message": f"error {fate.errors[name]}"}}
                errors.append(line_of(name, {"status_code": fate.errors[name], "body": body}, None))
            else:
                self.paid[name] += 1
                done += 1
                line = line_of(name, {"status_code": 200, "body": self.completion(request, fate)}, None)
                if name not in fate.missing:
                    output.append(line[: len(line) // 2] if name in fate.malformed else line)
                output.extend([line] if name in fate.doubled else [])
        output += [
            line_of(name, {"status_code": 200, "body": self.completion(requests[0], fate)}, None)
            for name in fate.strange
        ]
        batch["status"] = end
        batch["request_counts"] |= {"completed": done, "failed": len(errors)}
        batch["usage"] = {
            "input_tokens": 100 * done, "output_tokens": 20 * done, "total_tokens": 120 * done,
            "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        for kind, lines in (("output", output), ("error", errors)):
            if lines and (kind == "error" or fate.output):
                content = "".join(line + "\n" for line in lines).encode()
                batch[f"{kind}_file_id"] = self.store(f"{batch['id']}_{kind}.jsonl", "batch_output", content)["id"]

    @staticmethod
    def completion(request: dict[str, Any], fate: Fate) -> dict[str, Any]:
        """Return the chat completion that answers `request`."""
        name = request["custom_id"]
        usual = f'The caption of {name}, with a "quote",\nand.'
        content = "" if name in fate.empty else fate.captions.get(name, usual)
        return {
            "object": "chat.completion",
            "model": request["body"]["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }

    def cancel(self, number: str) -> tuple[int, dict[str, Any]]:
        batch = self.batches[number]
        if batch["status"] not in STAGES:
            return 400, error("invalid_request_error", f"Cannot cancel a batch with status {batch['status']}")
        batch["status"] = "cancelling"
        return 200, batch

    def list_batches(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Return one page of the batches, the newest first."""
        newest = [number for number in reversed(self.batches) if self.listed[number] >= self.lag]
        for number in self.batches:
            self.listed[number] += "after" not in query
        start = newest.index(query["after"][0]) + 1 if "after" in query else 0
        page = newest[start : start + min(self.page, int(query.get("limit", ["20"])[0]))]
        found = [self.batches[number] for number in page]
        ends = {"first_id": page[0] if page else None, "last_id": page[-1] if page else None}
        return {"object": "list", "data": found, "has_more": start + len(page) < len(newest), **ends}


def tokens(request: dict[str, Any]) -> int:
    """Return how many tokens `request` has to this server: one for 4 characters."""
    return sum(len(message["content"]) for message in request["body"]["messages"]) // 4


def line_of(name: str, response: dict[str, Any] | None, failure: dict[str, Any] | None) -> str:
    return json.dumps({"id": f"batch_req_{name}", "custom_id": name, "response": response, "error": failure})


def error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


class Handler(BaseHTTPRequestHandler):
    """Answers for the `site` of its server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        site: BatchServer = self.server.site
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        path = url.path.removeprefix("/v1")
        site.hook()
        with site.lock:
            site.asked.append((self.command, path, self.headers.get("Authorization")))
            site.times.append(time.monotonic())
            kind = re.sub(r"/(file-|batch_)\d+", "/*", path)
            queue = site.faults[f"{self.command} {kind}"]
            fault = queue.popleft() if queue else Fault()
            if fault.status:
                status, answer = fault.status, json.dumps(error(fault.code, fault.message)).encode()
            elif self.headers.get("Authorization") != f"Bearer {KEY}":
                told = error("invalid_api_key", f"Incorrect API key provided: {self.headers.get('Authorization')}.")
                status, answer = 401, json.dumps(told).encode()
            else:
                status, answer = self.answer(site, path, parse_qs(url.query), body)
        site.hook()
        if fault.text is not None:
            answer = fault.text.encode()
        if fault.lose:
            self.reset()
            return
        self.send_response(status)
        told_type = "text/html" if fault.text is not None else "application/json"
        for name, value in {"Content-Type": told_type, **fault.headers, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer if fault.cut is None else answer[: int(len(answer) * fault.cut)])
        if fault.cut is not None:
            self.wfile.flush()
            time.sleep(0.02)
            self.reset()

    do_POST = do_DELETE = do_GET

    def reset(self) -> None:
        """Cut the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def answer(self, site: BatchServer, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer to a request."""
        parts = path.strip("/").split("/")
        known = len(parts) == 1 or parts[1] in (site.files if parts[0] == "files" else site.batches)
        if not known:
            return 404, json.dumps(error("not_found", f"No such object: {path}")).encode()
        if self.command == "GET" and parts[0] == "files" and parts[-1] == "content":
            return 200, site.files[parts[1]][2]
        status, told = 200, None
        match self.command, parts:
            case "POST", ["files"]:
                told = site.store(*self.form(body))
            case "GET", ["files", number]:
                told = site.file(number)
            case "POST", ["batches"]:
                status, told = site.create(json.loads(body))
            case "GET", ["batches"]:
                told = site.list_batches(query)
            case "GET", ["batches", number]:
                told = site.look(number)
            case "POST", ["batches", number, "cancel"]:
                status, told = site.cancel(number)
        if told is None:
            status, told = 404, error("unknown_url", f"Unknown request URL: {self.command} {path}")
        return status, json.dumps(told).encode()

    def form(self, body: bytes) -> tuple[str, str, bytes]:
        """Return the file name, the purpose and the content of an upload (multipart/form-data)."""
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
        name, fields = "", {}
        for part in body.split(b"--" + boundary[1].encode())[1:-1]:
            head, _, content = part.strip(b"\r\n").partition(b"\r\n\r\n")
            field_name = re.search(rb'name="([^"]*)"', head)[1].decode()
            fields[field_name] = content
            if found := re.search(rb'filename="([^"]*)"', head):
                name = found[1].decode()
        return name, fields["purpose"].decode(), fields["file"] + b"\n"
