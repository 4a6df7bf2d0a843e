"""HTTP for long jobs: bounded retries, redirects that keep the login on its own host, failures told in one line.

Redirects are followed by hand, because the `Authorization` header must not travel to another host, and netrc files are
never consulted: a login comes from the caller or not at all. Proxies and certificates follow the environment, as
`requests` has it. `requests` is imported late so that `--help` stays quick.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from aras.downloading.addresses import joined, origin, shown
from aras.downloading.login import Bearer, Login
from aras.downloading.web_errors import (
    FetchError,
    Stopped,
    Transient,
    check_status,
    error_of_body,
    error_of_request,
)

if TYPE_CHECKING:
    from requests import Response, Session

T = TypeVar("T")
REDIRECTS = frozenset({301, 302, 303, 307, 308})
RANGE_NOT_SATISFIABLE = 416
CHUNK = 1 << 18  # bytes
MOST_REDIRECTS = 10
CONNECT_SECONDS = 15.0
LONGEST_WAIT = 300.0  # s; a server that asks for more is left for the next run
LONGEST_BACKOFF = 60.0  # s


class Patience:
    """Bounded tries with exponential back-off and jitter, or with the wait that the server asks for."""

    def __init__(self, tries: int, first_wait: float, stop: threading.Event):
        self.tries, self.first_wait, self.stop, self.failed = tries, first_wait, stop, 0

    def reset(self) -> None:
        """Start counting anew: there was progress."""
        self.failed = 0

    def wait(self, error: Transient) -> None:
        """Wait before the next try, or raise `error` when there is to be none."""
        self.failed += 1
        if self.failed >= self.tries or (error.after or 0) > LONGEST_WAIT:
            raise error
        delay = min(LONGEST_BACKOFF, self.first_wait * 2 ** (self.failed - 1)) * random.uniform(0.75, 1.25)
        if error.after is not None:  # the jitter keeps all threads from coming back in the same instant
            delay = error.after + random.uniform(0, self.first_wait)
        if self.stop.wait(delay):
            raise Stopped("stopped")


class Client:
    """Sends requests from any number of threads; see the module's docstring for its manners."""

    def __init__(self, tries: int = 14, first_wait: float = 1.0, silence: float = 60.0) -> None:
        """Make a client without a login.

        Args:
            tries: how often one request is made before it has failed.
            first_wait: seconds before the second try; each further wait is twice as long.
            silence: seconds without a byte after which a connection counts as cut.
        """
        self.tries, self.first_wait, self.silence = tries, first_wait, silence
        self.login: Login | None = None
        self.stop = threading.Event()
        self._own = threading.local()  # a requests session is not safe to share

    def with_login(self, login: Login) -> Client:
        """Return a client like this one, stopping with it, that shows tokens of `login` to the hosts it serves."""
        client = Client(self.tries, self.first_wait, self.silence)
        client.login, client.stop = login, self.stop
        return client

    def patience(self, tries: int | None = None) -> Patience:
        """Return a fresh count of tries, by default and at most as many as the client was made with."""
        return Patience(min(tries or self.tries, self.tries), self.first_wait, self.stop)

    @contextmanager
    def open(
        self, method: str, url: str, redirects: bool = True, anonymous: bool = False, **request: Any
    ) -> Iterator[Response]:
        """Yield the answer to one request, its body unread; a 416 is an answer too.

        Args:
            method: GET, HEAD or POST.
            url: the address.
            redirects: whether to follow them.
            anonymous: whether to leave out the login.
            request: `headers`, `json`, `data` as `requests` has them.

        Raises:
            FetchError: no good answer, or the connection broke while the body was read.
            LoginRefused: the token endpoint does not accept the account.
        """
        from requests import RequestException
        from urllib3.exceptions import HTTPError

        try:
            with closing(self._answer(method, url, redirects, anonymous, request)) as response:
                if response.status_code != RANGE_NOT_SATISFIABLE:
                    check_status(response)
                yield response
        except RequestException as error:
            raise error_of_request(error, url) from None
        except HTTPError as error:  # from reading `response.raw`
            raise error_of_body(error, url) from None

    def chunks(self, response: Response) -> Iterator[bytes]:
        """Yield the body of `response` as it arrives, so that nothing received is lost when the connection breaks."""
        while chunk := response.raw.read1(CHUNK, decode_content=True):
            if self.stop.is_set():
                raise Stopped("stopped")
            yield chunk

    def persistently(self, attempt: Callable[[], T], tries: int | None = None) -> T:
        """Return what `attempt` returns, calling it again for as long as it is `Transient` and patience lasts."""
        patience = self.patience(tries)
        while True:
            try:
                return attempt()
            except Transient as error:
                patience.wait(error)

    def json(self, method: str, url: str, tries: int | None = None, **request: Any) -> Any:
        """Return the JSON value that `url` answers with; `request` is as in `open`, `tries` as in `patience`.

        Raises:
            FetchError: there is none.
        """

        def attempt() -> Any:
            with self.open(method, url, **request) as response:
                return response.json()

        return self.persistently(attempt, tries)

    def _answer(self, method: str, url: str, redirects: bool, anonymous: bool, request: dict[str, Any]) -> Response:
        """Return the answer, with the token renewed once if it is refused."""
        if self.login is None or anonymous or not self.login.serve(url):
            return self._follow(method, url, None, redirects, request)
        token = self.login.current()
        response = self._follow(method, url, token, redirects, request)
        if not token_was_refused(response):
            return response
        response.close()
        response = self._follow(method, url, self.login.renewed(token), redirects, request)
        if token_was_refused(response):
            response.close()
            raise FetchError(f"{shown(url)} refuses the account's fresh token (HTTP 401); may it download there?", 401)
        return response

    def _follow(self, method: str, url: str, token: str | None, redirects: bool, request: dict[str, Any]) -> Response:
        """Return the answer at the end of the redirects, or the redirect itself without `redirects`."""
        request = {**request, "headers": {"Accept-Encoding": "identity", **request.get("headers", {})}}
        timeout = (min(CONNECT_SECONDS, self.silence), self.silence)
        for _ in range(MOST_REDIRECTS):
            response = self._session().request(
                method, url, auth=Bearer(token), stream=True, allow_redirects=False, timeout=timeout, **request
            )
            if not redirects or response.status_code not in REDIRECTS or "Location" not in response.headers:
                return response
            response.close()
            target = joined(url, response.headers["Location"])
            if not target:
                raise FetchError(f"{shown(url)} redirects to what is no web address")
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                raise FetchError(f"{shown(url)} redirects to the unencrypted {shown(target)}")
            if origin(target) != origin(url):
                token = None  # and it stays off, even if that host redirects back
            if method == "POST" and response.status_code not in (307, 308):
                method, request = "GET", {"headers": request["headers"]}
            url = target
        raise FetchError(f"{shown(url)} redirects without end")

    def _session(self) -> Session:
        """Return this thread's session."""
        if not hasattr(self._own, "session"):
            self._own.session = session_without_redirects()
        return self._own.session


def session_without_redirects() -> Session:
    """Return a session that leaves redirects alone; `requests` prepares for the next one even when told not to go."""
    from requests import Session

    class Plain(Session):
        def get_redirect_target(self, resp: Response) -> str | None:
            return None

    return Plain()


def token_was_refused(response: Response) -> bool:
    """Return whether this is a 401 to a request that carried the token, and not one after a redirect elsewhere."""
    return response.status_code == 401 and "Authorization" in response.request.headers
