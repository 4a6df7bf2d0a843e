"""Servers on this machine that speak the real protocols, and break them when told to.

One `Loopback` plays an open bucket (Range, If-Range, ETag, S3's XML for what is missing), a Zenodo, a STAC API or a
Keycloak; which of them it is depends on what is put into it. Faults are given per path and used up one by one.
"""

import hashlib
import json
import socket
import struct
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

NOT_FOUND = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.'
    b"</Message><Key>%s</Key></Error>"
)


@dataclass
class Fault:
    """What is done to one request instead of, or while, answering it well."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None  # bytes of the body after which the connection is reset
    claim: int = 0  # added to the true Content-Length
    stall: float = 0.0  # seconds of silence after `cut` bytes, instead of a reset
    replace: bytes | None = None  # sent in place of the file
    unplug: bool = False  # the whole server goes away
    orderly: bool = False  # the connection ends after `cut` bytes as if all were sent
    flip: int | None = None  # a byte that is changed on the way
    method: str = "GET"  # or "any"


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class QuietServer(ThreadingHTTPServer):
    """A server that does not mind clients that hang up."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Loopback:
    """A server on a free port; use it in a `with`."""

    def __init__(self, port: int = 0, **files: bytes):
        self.files: dict[str, bytes] = {f"/{name}": content for name, content in files.items()}
        self.answers: dict[str, Callable[[Request], tuple[int, Any]]] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.requests: list[Request] = []
        self.statuses: list[int] = []
        self.ranges = self.etags = self.lengths = True
        self.chunk, self.pause = 1 << 16, 0.0  # bytes, seconds between chunks
        self.token_server: Keycloak | None = None  # whose tokens the files need
        self.server = QuietServer(("127.0.0.1", port), Handler)
        self.server.site = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Loopback":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def asked(self, method: str = "GET") -> list[str]:
        """Return the paths that were asked for by `method`."""
        return [request.path for request in self.requests if request.method == method]

    def fault_of(self, method: str, path: str) -> Fault:
        """Return the next fault of this request, or one that does nothing."""
        queue = self.faults[path]
        return queue.popleft() if queue and queue[0].method in (method, "any") else Fault()


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


class Handler(BaseHTTPRequestHandler):
    """Answers for the `site` of its server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for the client's delayed acknowledgement

    @property
    def site(self) -> Loopback:
        return self.server.site

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def version_string(self) -> str:
        return "AmazonS3"

    def send_response(self, code: int, message: str | None = None) -> None:
        self.site.statuses.append(code)
        super().send_response(code, message)

    def do_GET(self) -> None:
        site, body = self.site, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, dict(self.headers), body)
        site.requests.append(request)
        path = urlsplit(self.path).path
        fault = site.fault_of(self.command, path)
        if fault.unplug:
            self.server.socket.close()
            self.close_connection = True
        elif fault.status:
            self.reply(fault.status, fault.headers, fault.body)
        elif path in site.answers:
            status, value = site.answers[path](request)
            self.reply(status, {"Content-Type": "application/json"}, json.dumps(value).encode())
        elif site.token_server and not site.token_server.accepts(self.headers.get("Authorization")):
            self.reply(401, {"WWW-Authenticate": "Bearer"}, b'{"message": "token refused"}')
        elif path not in site.files:
            self.reply(404, {"Content-Type": "application/xml"}, NOT_FOUND % path.encode())
        else:
            self.send_file(site.files[path] if fault.replace is None else fault.replace, fault)

    do_HEAD = do_POST = do_GET

    def do_CONNECT(self) -> None:
        """Be a proxy that wants a login."""
        self.site.requests.append(Request(self.command, self.path, dict(self.headers), b""))
        self.reply(407, {"Proxy-Authenticate": "Basic"}, b"")

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, content: bytes, fault: Fault) -> None:
        """Send `content`, or the range of it that is asked for, as S3 does."""
        (start, end), length = self.asked_range(content), len(content)
        if start is not None and start >= length:
            self.reply(416, {"Content-Range": f"bytes */{length}"}, b"")
            return
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{length}")
        if self.site.etags:
            self.send_header("ETag", etag_of(content))
            self.send_header("Last-Modified", formatdate(1_600_000_000, usegmt=True))
        body = bytearray(content[start or 0 : end])
        if fault.flip is not None:
            body[fault.flip] ^= 1
        if self.site.lengths:
            self.send_header("Content-Length", str(len(body) + fault.claim))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(body, fault)

    def send_body(self, body: bytes, fault: Fault) -> None:
        """Send `body` piece by piece, as far as the `fault` lets it."""
        body = body[: fault.cut]
        for at in range(0, len(body), self.site.chunk):
            self.wfile.write(body[at : at + self.site.chunk])
            time.sleep(self.site.pause)
        if fault.stall:
            time.sleep(fault.stall)
        elif fault.cut is not None and not fault.orderly:  # a reset rather than an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault.cut is not None or fault.claim:
            self.close_connection = True

    def asked_range(self, content: bytes) -> tuple[int | None, int]:
        """Return the first byte that is asked for, None for the whole file, and the byte after the last."""
        asked = self.headers.get("Range", "")
        if not self.site.ranges or not asked.startswith("bytes="):
            return None, len(content)
        condition = self.headers.get("If-Range")
        if condition and condition not in (etag_of(content), formatdate(1_600_000_000, usegmt=True)):
            return None, len(content)
        first, last = asked.removeprefix("bytes=").split("-")
        return int(first), min(len(content), int(last or len(content)) + 1)


class Keycloak:
    """A token endpoint with the password and refresh grants; put its `answer` into a Loopback's answers."""

    def __init__(self, life: float = 300, refresh_life: float = 1800):
        self.life, self.refresh_life = life, refresh_life
        self.tokens: dict[str, float] = {}  # access token: when it lapses
        self.refreshes: dict[str, float] = {}
        self.grants: list[str] = []
        self.lock = threading.Lock()

    def answer(self, request: Request) -> tuple[int, Any]:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if form.get("client_id") != "terracatalogueclient":
            return 401, {"error": "invalid_client", "error_description": "Invalid client credentials"}
        with self.lock:
            self.grants.append(form["grant_type"])
            if form["grant_type"] == "password" and (form["username"], form["password"]) != ("ada", "s3cret&+%"):
                return 401, {"error": "invalid_grant", "error_description": "Invalid user credentials"}
            if (
                form["grant_type"] == "refresh_token"
                and self.refreshes.get(form["refresh_token"], 0) < time.monotonic()
            ):
                return 400, {"error": "invalid_grant", "error_description": "Token is not active"}
            token, refresh = f"access-{len(self.grants)}", f"refresh-{len(self.grants)}"
            self.tokens[token] = time.monotonic() + self.life
            self.refreshes[refresh] = time.monotonic() + self.refresh_life
        return 200, {
            "access_token": token,
            "expires_in": self.life,
            "refresh_token": refresh,
            "refresh_expires_in": self.refresh_life,
            "token_type": "Bearer",
        }

    def accepts(self, header: str | None) -> bool:
        return self.tokens.get((header or "").removeprefix("Bearer "), 0) > time.monotonic()


class Catalogue:
    """The items of a STAC API, searched by collection and box, some to a page."""

    def __init__(self, site: Loopback, page: int = 2, posts: bool = True):
        self.site, self.page, self.posts = site, page, posts
        self.items: list[dict[str, Any]] = []

    def add(self, collection: str, name: str, bbox: list[float], hrefs: dict[str, str], **properties: Any) -> None:
        """Add an item whose data asset, quality layer and preview are at `hrefs`."""
        assets = {
            key: {"href": href, "type": "image/tiff; application=geotiff", "roles": ["data"], "auth:refs": ["oidc"]}
            for key, href in hrefs.items()
        }
        assets["thumbnail"] = {"href": self.site.url + "/preview.png", "type": "image/png", "roles": ["thumbnail"]}
        self.items.append(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": name,
                "collection": collection,
                "bbox": bbox,
                "properties": {"datetime": "2021-01-01T00:00:00Z", **properties},
                "assets": assets,
                "links": [],
            }
        )

    def answer(self, request: Request) -> tuple[int, Any]:
        if request.method == "POST" and not self.posts:
            return 405, {"description": "method not allowed"}
        query = json.loads(request.body) if request.body else self.query_of(request.path)
        west, south, east, north = query["bbox"]
        found = [
            item
            for item in self.items
            if item["collection"] in query["collections"]
            and item["bbox"][0] <= east
            and west <= item["bbox"][2]
            and item["bbox"][1] <= north
            and south <= item["bbox"][3]
        ]
        start = int(query.get("token", 0))
        links: list[dict[str, Any]] = [{"rel": "self", "href": self.site.url + "/search"}]
        if start + self.page < len(found):
            links.append(self.next_link(query, start + self.page))
        return 200, {"type": "FeatureCollection", "features": found[start : start + self.page], "links": links}

    def next_link(self, query: dict[str, Any], start: int) -> dict[str, Any]:
        if self.posts:
            body = {"token": str(start)}
            return {"rel": "next", "href": self.site.url + "/search", "method": "POST", "body": body, "merge": True}
        values = f"collections={query['collections'][0]}&bbox={','.join(map(str, query['bbox']))}&token={start}"
        return {"rel": "next", "href": f"{self.site.url}/search?{values}"}

    @staticmethod
    def query_of(path: str) -> dict[str, Any]:
        values = {name: given[0] for name, given in parse_qs(urlsplit(path).query).items()}
        return {
            **values,
            "collections": values["collections"].split(","),
            "bbox": [float(v) for v in values["bbox"].split(",")],
        }
