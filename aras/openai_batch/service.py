"""The calls of OpenAI's files and batches API that captions need, with their failures told apart.

A call that changes nothing is tried again by the client itself. Creating a batch costs money, so it is tried once; when
nobody can say whether it reached the server, `Uncertain` is raised and the batch is looked for by its metadata.
API: https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aras.errors import UserError

if TYPE_CHECKING:
    from openai import APIStatusError
    from openai.types import Batch

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
WINDOW: Literal["24h"] = "24h"
KEY = "OPENAI_API_KEY"
BASE_URL = "OPENAI_BASE_URL"
NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
QUEUE_FULL = "token_limit_exceeded"
UNSURE_STATUSES = {408, 409}  # beside those from 500 on
PAGE = 100  # batches


class Uncertain(Exception):
    """A batch may have been created or not: the answer was lost."""


class Busy(Exception):
    """The server takes no batch now, and created none; `seconds` is its Retry-After, `queue_full` its reason."""

    def __init__(self, message: str, seconds: float = 0.0, queue_full: bool = False) -> None:
        super().__init__(message)
        self.seconds, self.queue_full = seconds, queue_full


class Refused(UserError):
    """The server will not create this batch; none was created."""


def check_key() -> None:
    """Raise `UserError` when the environment has no key, or one that cannot be sent; it is not told."""
    key = os.environ.get(KEY)
    if not key:
        raise UserError(f"{KEY} is not set; put the key of your account into the environment")
    if not all("!" <= sign <= "~" for sign in key):
        raise UserError(f"{KEY} has line ends, spaces or letters that no key has; set it to the key alone")


class BatchService:
    """A server with files and batches, at `OPENAI_BASE_URL` or OpenAI's own, entered with `OPENAI_API_KEY`."""

    def __init__(self, tries: int, timeout: float = 600.0) -> None:
        """Tell how often a call that costs nothing is tried, and after how many silent seconds it counts as lost."""
        import openai

        # A redirect is refused rather than followed: the key and the requests go to the named server only.
        http = openai.DefaultHttpxClient(follow_redirects=False)
        self.client = openai.OpenAI(max_retries=tries - 1, timeout=timeout, http_client=http)
        self.url = str(self.client.base_url).rstrip("/")

    def upload(self, path: Path) -> str:
        """Return the id of the request file `path` on the server."""
        with self.told(f"upload of {path}"), path.open("rb") as file:
            uploaded = self.client.files.create(file=(path.name, file), purpose="batch")
            return self.id_of(uploaded, "uploaded file")

    def create(self, file: str, metadata: dict[str, str]) -> str:
        """Return the id of a new batch over the uploaded `file`; asked for once only.

        Raises:
            Uncertain: there may be such a batch now.
            Busy: there is none, and one can be asked for later.
            Refused: there is none.
        """
        import openai

        client = self.client.with_options(max_retries=0)
        try:
            batch = client.batches.create(
                input_file_id=file, endpoint=ENDPOINT, completion_window=WINDOW, metadata=metadata
            )
        except openai.APIStatusError as error:
            if error.status_code >= 500 or error.status_code in UNSURE_STATUSES:
                raise Uncertain(message_of(error)) from None
            if error.code in NO_MONEY or (error.status_code != 429 and error.code != QUEUE_FULL):
                raise Refused(f"no batch was created: {self.refusal(error)}") from None
            raise Busy(message_of(error), retry_after(error), is_queue_full(error.code, message_of(error))) from None
        except (openai.APIError, ValueError) as error:  # no connection, or an answer that is not the API's
            raise Uncertain(str(error)) from None
        if not isinstance(getattr(batch, "id", None), str):
            raise Uncertain("the answer is not a batch")
        return batch.id

    def find(self, file: str | None, metadata: dict[str, str]) -> list[Batch]:
        """Return the batches on the server that carry `metadata` or are over the uploaded `file`, the oldest first."""
        with self.told("list of batches"):
            seen, found = set(), []
            for batch in self.client.batches.list(limit=PAGE):
                if batch.id in seen:  # a server that does not turn its pages
                    break
                seen.add(batch.id)
                ours = batch.metadata and metadata.items() <= batch.metadata.items()
                if ours or (file and batch.input_file_id == file):  # some servers keep no metadata
                    found.append(batch)
        return sorted(found, key=lambda batch: (batch.created_at or 0, batch.id))

    def retrieve(self, batch: str) -> Batch:
        """Return how `batch` stands."""
        with self.told(f"look at batch {batch}"):
            found = self.client.batches.retrieve(batch)
            self.id_of(found, f"batch {batch}")
            return found

    def cancel(self, batch: str) -> None:
        """Ask for `batch` to be cancelled, unless it has ended by itself meanwhile."""
        import openai

        with self.told(f"cancelling batch {batch}"):
            try:
                self.client.batches.cancel(batch)
            except (openai.BadRequestError, openai.ConflictError):
                if self.client.batches.retrieve(batch).status in ("validating", "in_progress"):
                    raise

    def content(self, file: str) -> bytes:
        """Return the content of `file`, which is at most 50,000 short answers."""
        with self.told(f"download of {file}"):
            content: bytes = self.client.files.content(file).content
            return content

    def id_of(self, answer: Any, what: str) -> str:
        """Return the id in `answer`; raise `UserError` if the server's answer has none."""
        found = getattr(answer, "id", None)
        if not isinstance(found, str):
            raise UserError(f"{self.url} does not answer as OpenAI's API does ({what} without an id); check {BASE_URL}")
        return found

    def refusal(self, error: APIStatusError) -> str:
        """Return the server's refusal in one line, with the remedy; the key is never part of it."""
        status = error.status_code
        if status == 401:
            return f"{self.url} does not accept the key in {KEY} (401); set the right one"
        if 300 <= status < 400:
            where = error.response.headers.get("location", "elsewhere")
            return f"{self.url} redirects to {where} ({status}); if you trust that, set {BASE_URL} to it"
        remedy = {
            403: f"; check what the key in {KEY} may do",
            404: f"; check {BASE_URL}, and that {KEY} is of the project that sent the batch; if the server has deleted"
            " it, as OpenAI does after 30 days, move the .batches.json away, and what it tells of is paid for again",
            429: "; wait, or see to your account's limits and credit",
        }.get(status, "; run the same command again" if status >= 500 else "")
        return f"{self.url} answers {status}: {message_of(error)}{remedy}"

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Turn the client's errors in the body into one line that says `what` failed."""
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            raise UserError(f"{what} failed: {self.refusal(error)}") from None
        except openai.APIConnectionError as error:
            why = error.__cause__ or error
            raise UserError(
                f"{what} failed: no answer from {self.url} ({why}); check the network and {BASE_URL}, then run the"
                " same command again"
            ) from None
        except (openai.APIError, ValueError) as error:
            raise UserError(f"{what} failed: {self.url} does not answer as OpenAI's API does ({error})") from None


def message_of(error: APIStatusError) -> str:
    """Return the server's own message, on one line and not too long."""
    body = error.body if isinstance(error.body, dict) else {}
    return " ".join(str(body.get("message") or error.message).split())[:300]


def retry_after(error: APIStatusError) -> float:
    """Return the seconds that the server asks to wait; 0 when it does not say."""
    try:
        return max(0.0, float(error.response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def is_queue_full(code: str | None, message: str) -> bool:
    """Return whether an error says that too many tokens wait in the organisation's batches."""
    return code == QUEUE_FULL or "enqueued token" in message.lower()
