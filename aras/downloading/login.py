"""Terrascope's login (OpenID Connect): tokens that are always good for the next request.

The account comes from the environment, its tokens live in memory, and they are shown only to the platform's own hosts.
Access tokens live about five minutes, so a long run renews them many times: by the refresh grant while that holds, else
by the password grant. https://docs.terrascope.be
"""

from __future__ import annotations

import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aras.downloading.addresses import shown
from aras.downloading.web_errors import FetchError, LoginRefused
from aras.errors import UserError

if TYPE_CHECKING:
    from requests import PreparedRequest

    from aras.downloading.web import Client

CLIENT_ID = "terracatalogueclient"  # the platform's public client: it has no secret
USERNAME, PASSWORD = "TERRASCOPE_USERNAME", "TERRASCOPE_PASSWORD"
EARLY = 30.0  # s before a token lapses at which it is renewed
SHORT_LIFE = 60.0  # s that a token is taken to live when the server does not say
TOKEN = re.compile(r"[\x21-\x7e]+")  # what may stand in a header; anything else would end up in an error message
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Bearer:
    """Sets the Authorization header, or none; being there, it also keeps `requests` from looking into netrc."""

    def __init__(self, token: str | None):
        self.token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Return `request`, signed when there is a token."""
        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def account_from_environment() -> tuple[str, str]:
    """Return the username and password of the environment.

    Raises:
        UserError: one of them is missing; the message names it.
    """
    missing = [name for name in (USERNAME, PASSWORD) if not os.environ.get(name)]
    if missing:
        raise UserError(f"--source terrascope needs {' and '.join(missing)} in the environment")
    return os.environ[USERNAME], os.environ[PASSWORD]


class Login:
    """Access tokens that are good for the next request; safe to share between threads."""

    def __init__(self, client: Client, token_url: str, account: tuple[str, str], client_id: str = CLIENT_ID):
        """Make a login; nothing is asked of the server before the first token is needed.

        Args:
            client: sends the requests; it must not use this login itself.
            token_url: the OpenID Connect token endpoint.
            account: username and password.
            client_id: the OpenID Connect client.

        Raises:
            UserError: the password would travel unencrypted.
        """
        place = urlsplit(token_url)
        if place.scheme != "https" and place.hostname not in LOCAL:
            raise UserError(f"--token-url {shown(token_url)} would carry the password unencrypted; use https")
        self.client, self.token_url, self.account, self.client_id = client, token_url, account, client_id
        self.lock = threading.Lock()
        self.token = self.refresh = ""
        self.refusal: LoginRefused | None = None  # told to every thread, and not asked for again
        self.lapses = self.refresh_lapses = 0.0  # on time.monotonic's clock

    def serve(self, url: str) -> bool:
        """Return whether the token may be shown to the host of `url`: the login's own, or one of the same domain."""
        home, place = urlsplit(self.token_url), urlsplit(url)
        if place.scheme != "https" and place.hostname not in LOCAL:
            return False
        return place.hostname == home.hostname or domain(place.hostname) == domain(home.hostname) != ""

    def current(self) -> str:
        """Return a token that does not lapse within the next seconds."""
        with self.lock:
            if time.monotonic() >= self.lapses:
                self._renew()
            return self.token

    def renewed(self, refused: str) -> str:
        """Return a token other than `refused`, which another thread may have replaced already."""
        with self.lock:
            if self.token == refused:
                self._renew()
            return self.token

    def _renew(self) -> None:
        """Get a new token, by refresh token where there is one that holds."""
        if self.refresh and time.monotonic() < self.refresh_lapses:
            try:
                self._take(self._granted(grant_type="refresh_token", refresh_token=self.refresh))
                return
            except LoginRefused:
                self.refresh = ""  # the session behind it has ended: log in again
        if self.refusal:
            raise self.refusal
        username, password = self.account
        try:
            self._take(self._granted(grant_type="password", username=username, password=password))
        except LoginRefused as error:
            self.refusal = error
            raise

    def _granted(self, **form: str) -> dict[str, Any]:
        """Return the server's answer to the grant in `form`.

        Raises:
            LoginRefused: the server does not accept it.
        """
        form["client_id"] = self.client_id
        try:
            answer = self.client.json("POST", self.token_url, redirects=False, data=form)
        except FetchError as error:
            if error.status in (400, 401, 403):
                raise LoginRefused(f"{USERNAME} or {PASSWORD} is not accepted: {error}") from None
            raise UserError(f"--token-url {shown(self.token_url)}: {error}") from None
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise UserError(f"--token-url {shown(self.token_url)} grants no usable token; is it a token endpoint?")
        return answer

    def _take(self, answer: dict[str, Any]) -> None:
        """Keep the tokens of `answer` and when they lapse."""
        now = time.monotonic()
        self.token = answer["access_token"]
        self.lapses = now + usable_seconds(answer.get("expires_in"))
        self.refresh = answer.get("refresh_token") or ""
        lapse = answer.get("refresh_expires_in")
        # Keycloak says 0 for a refresh token that does not lapse, and others say nothing: trying tells.
        self.refresh_lapses = now + usable_seconds(lapse) if lapse else float("inf")


def usable_seconds(expires_in: Any) -> float:
    """Return how long a token of this life is used: until half a minute before its end, or half of a short life."""
    life = float(expires_in) if isinstance(expires_in, int | float) and expires_in > 0 else SHORT_LIFE
    return max(life / 2, life - EARLY)


def domain(host: str | None) -> str:
    """Return what follows the first label of `host`, such as terrascope.be; empty when that is no domain."""
    parent = (host or "").partition(".")[2]
    return parent if "." in parent and not parent.replace(".", "").isdigit() else ""
