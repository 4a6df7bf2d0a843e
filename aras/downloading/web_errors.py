"""What can go wrong between us and a web server, each told in one line that names the host and what to do."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aras.downloading.addresses import printable, shown, whole_number
from aras.errors import UserError

if TYPE_CHECKING:
    from requests import RequestException, Response
    from urllib3.exceptions import HTTPError

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes that another try may mend."""
SURVEY_TRIES = 6  # for what is asked first, while somebody waits for the answer; half a minute
GONE = frozenset({404, 410})
PROXY_LOGIN = 407
PROXY_REFUSES = (
    "the proxy wants a login (HTTP 407); put it into HTTPS_PROXY and HTTP_PROXY: http://user:password@host:port"
)


class FetchError(UserError):
    """One address could not be had; the text is the reason. Others may fare better."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class Missing(FetchError):
    """The server says that there is no such file."""


class Transient(FetchError):
    """Another try may succeed, `after` so many seconds if the server named a time."""

    def __init__(self, message: str, status: int | None = None, after: float | None = None):
        super().__init__(message, status)
        self.after = after


class Unreachable(Transient):
    """No connection to the host at all: trying its other files is of no use, those of other hosts may fare better."""


class Stopped(UserError):
    """The run is ending; this is not the file's fault."""


class LoginRefused(UserError):
    """The account or its token is not accepted: trying on would only lock the account."""


def check_status(response: Response) -> None:
    """Raise the `FetchError` that the status of `response` calls for; none for 200 to 299.

    Raises:
        UserError: a proxy on the way wants a login; asking again could lock the account there.
    """
    status = response.status_code
    if 200 <= status < 300:
        return
    if status == PROXY_LOGIN:
        raise UserError(PROXY_REFUSES)
    host = urlsplit(response.url).hostname
    message = f"HTTP {status} from {host}: {explanation(response)}"
    if status in GONE and "NoSuchBucket" not in message:  # else the address is wrong, and says nothing of the file
        raise Missing(message, status)
    if status in PASSING:
        raise Transient(message, status, retry_after(response))
    raise FetchError(message, status)


def explanation(response: Response) -> str:
    """Return what the server says of an error: S3's XML code, OAuth's and the like's JSON, or the plain reason."""
    body = next(response.iter_content(2000), b"").decode("utf-8", "replace")
    found = re.search(r"<Code>([^<]+)</Code>", body) or re.search(
        r'"(?:error_)?(?:description|message)"\s*:\s*"([^"]+)', body
    )
    return printable(found[1][:200] if found else response.reason or "") or "no reason given"


def retry_after(response: Response) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, given as seconds or as a date; None without one."""
    told = response.headers.get("Retry-After", "").strip()
    if (seconds := whole_number(told)) is not None:
        return float(seconds)
    try:
        moment = parsedate_to_datetime(told)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def error_of_request(error: RequestException, url: str) -> UserError:
    """Return the error of ours that tells of an `error` of the connection to `url`."""
    import requests
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    host = urlsplit(url).hostname
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(error, requests.exceptions.ProxyError):
        if f" {PROXY_LOGIN} " in str(error):
            return UserError(PROXY_REFUSES)
        return Unreachable(f"the proxy to {host} does not answer; check HTTPS_PROXY and HTTP_PROXY")
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE" in str(error).upper():
        return UserError(
            f"the certificate of {host} is not trusted; REQUESTS_CA_BUNDLE names your network's own, if any"
        )
    if isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError | ConnectTimeoutError):
        return Unreachable(f"cannot reach {host}; check the network, or name a mirror")
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return FetchError(f"{shown(url)} does not answer with JSON; is it the right address?")
    if isinstance(error, requests.Timeout):
        return Transient(f"{host} is silent")
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return Transient(f"the connection to {host} was cut")
    return FetchError(f"{shown(url)}: {type(error).__name__}")


def error_of_body(error: HTTPError, url: str) -> FetchError:
    """Return the error of ours that tells of an `error` while the body of `url` was read."""
    from urllib3.exceptions import DecodeError, TimeoutError

    host = urlsplit(url).hostname
    if isinstance(error, DecodeError):
        return FetchError(f"{shown(url)} is compressed in a way that cannot be undone")
    return Transient(f"{host} fell silent" if isinstance(error, TimeoutError) else f"the connection to {host} was cut")
