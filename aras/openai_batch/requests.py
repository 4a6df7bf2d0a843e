"""What is sent: a JSON line for each caption wanted, cut into files that the Batch API takes; and what it will cost."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aras.errors import UserError
from aras.files import whole_file
from aras.openai_batch.service import ENDPOINT

FILE_REQUESTS = 50_000
FILE_BYTES = 200_000_000
"""Limits of a request file: https://platform.openai.com/docs/api-reference/batch/create"""

CHARACTERS_PER_TOKEN = 3.5  # English prose has 4; figures and names take more tokens, so this errs to the dear side
TOKENS_PER_MESSAGE = 4  # role and delimiters
MILLION = 1_000_000

PRICES_OF = "November 2026"


class Model(NamedTuple):
    """What is known of a model.

    Attributes:
        price_in, price_out: US dollars for a million tokens by the Batch API, half of the usual price.
        effort: the least reasoning effort that it takes; None when it does not reason and takes no such setting.
    """

    price_in: float
    price_out: float
    effort: str | None


MODELS = {
    "gpt-6-luna": Model(0.05, 0.25, "none"),
    "gpt-5.6-luna": Model(0.10, 0.60, "none"),
    "gpt-4.1-mini": Model(0.20, 0.80, None),
    "gpt-4o-mini": Model(0.075, 0.30, None),
}
"""As of `PRICES_OF`, from https://developers.openai.com/api/docs/pricing and the models' pages there."""


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens; None where nobody told."""

    into: float | None
    out: float | None

    @property
    def known(self) -> bool:
        """Whether costs can be told."""
        return self.into is not None and self.out is not None

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Return US dollars for that many tokens; nothing for prices that are not known."""
        return (tokens_in * (self.into or 0) + tokens_out * (self.out or 0)) / MILLION


def prices_of(model: str, price_in: float | None, price_out: float | None) -> Prices:
    """Return the prices of `model` from the table, or those given in their place."""
    known = MODELS.get(model)
    return Prices(
        price_in if price_in is not None else known.price_in if known else None,
        price_out if price_out is not None else known.price_out if known else None,
    )


@dataclass(frozen=True)
class Question:
    """What is asked for one caption."""

    name: str  # of the image file; the request's custom_id
    system: str
    prompt: str

    @property
    def tokens(self) -> int:
        """How many input tokens it has, estimated from its length."""
        messages = [text for text in (self.system, self.prompt) if text]
        return sum(math.ceil(len(text) / CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE for text in messages)


@dataclass(frozen=True)
class Decoding:
    """How the model is to answer."""

    model: str
    max_tokens: int
    effort: str | None = None

    def line(self, question: Question) -> bytes:
        """Return the line of the request file for `question`."""
        messages = [{"role": "system", "content": question.system}] if question.system else []
        messages.append({"role": "user", "content": question.prompt})
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_completion_tokens": self.max_tokens,
        }
        if self.effort:
            body["reasoning_effort"] = self.effort
        request = {"custom_id": question.name, "method": "POST", "url": ENDPOINT, "body": body}
        return json.dumps(request, ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True)
class FileLimits:
    """How large a request file may become."""

    requests: int = FILE_REQUESTS
    size: int = FILE_BYTES


def write_requests(
    path: Path, questions: Iterable[Question], decoding: Decoding, limits: FileLimits, room: float
) -> tuple[int, int]:
    """Write the first of `questions` that fit to `path`; return how many they are and their input tokens.

    Args:
        path: the request file; not written when nothing fits.
        questions: what is to be asked; read no further than fits.
        decoding: how the model is to answer.
        limits: of the file.
        room: input tokens that may still be enqueued.

    Raises:
        UserError: a single request is larger than a file may be.
    """
    count = tokens = size = 0
    with whole_file(path) as part, part.open("wb") as file:
        for question in questions:
            line = decoding.line(question)
            if len(line) > limits.size:
                raise UserError(f"the request for {question.name} has {len(line):,} bytes; shorten --prompt")
            if count == limits.requests or size + len(line) > limits.size or tokens + question.tokens > room:
                break
            file.write(line)
            count, tokens, size = count + 1, tokens + question.tokens, size + len(line)
    if not count:
        path.unlink()
    return count, tokens


def names_in(path: Path) -> Iterator[str]:
    """Yield the custom_id of each line of the request file `path`.

    Raises:
        UserError: it is not a request file.
    """
    with path.open("rb") as file:
        for line in file:
            try:
                yield json.loads(line)["custom_id"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path} is damaged; delete it, and it is fetched back from the server") from None
