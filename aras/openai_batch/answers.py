"""What comes back: the captions in a batch's output file, and the reasons in its error file.

Nothing is taken for granted: lines may be cut, doubled, missing, or answer what was never asked.
Format: https://platform.openai.com/docs/api-reference/batch/request-output
"""

import json
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aras.captions.table import is_caption, one_line

CANCELLED = "batch_cancelled"
PASSING = {408, 409, 429}  # beside those from 500 on: statuses that may be another next time


class Failure(NamedTuple):
    """Why a request has no caption, and whether asking again in this run is worth it."""

    reason: str
    final: bool


@dataclass
class Answers:
    """All that a batch brought.

    Attributes:
        captions: by name, each on one line.
        failures: by name, of those without a caption.
        cancelled: names that were never run because the batch was cancelled.
        run: how many requests were answered, well or not.
        tokens_in, tokens_out: what was paid for, summed over the answers.
        malformed, doubled, strange: lines that are no answer; that answer again; that answer what was not asked.
    """

    captions: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    run: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    malformed: int = 0
    doubled: int = 0
    strange: int = 0

    @property
    def oddities(self) -> str:
        """The lines that were left out, in words; empty when there was none."""
        told = {"malformed": self.malformed, "answered twice": self.doubled, "never asked for": self.strange}
        return ", ".join(f"{count} {what}" for what, count in told.items() if count)

    def read(self, content: bytes, asked: Container[str]) -> None:
        """Add the lines of an output or error file that answer what was `asked`."""
        for line in content.splitlines():
            if not line.strip():
                continue
            try:
                answer = json.loads(line)
                name = answer["custom_id"]
                self.add_usage(answer)
                if name not in asked:
                    self.strange += 1
                elif name in self.captions or name in self.failures or name in self.cancelled:
                    self.doubled += 1
                else:
                    self.add(name, answer)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                self.malformed += 1

    def add(self, name: str, answer: dict[str, Any]) -> None:
        """Add the `answer` to the request `name`."""
        found = caption_or_failure(answer)
        self.run += (answer.get("response") or {}).get("status_code") == 200
        if isinstance(found, str):
            self.captions[name] = found
        elif found.reason == CANCELLED:
            self.cancelled.add(name)
        else:
            self.failures[name] = found

    def add_usage(self, answer: dict[str, Any]) -> None:
        """Count the tokens that `answer` was billed for."""
        usage = ((answer.get("response") or {}).get("body") or {}).get("usage") or {}
        self.tokens_in += usage.get("prompt_tokens") or 0
        self.tokens_out += usage.get("completion_tokens") or 0


def caption_or_failure(answer: dict[str, Any]) -> str | Failure:
    """Return the caption in one line of an output or error file, or why it has none."""
    response: dict[str, Any] = answer.get("response") or {}
    error = answer.get("error")
    if error and not response:
        code = error.get("code") or ""
        return Failure(CANCELLED if code == CANCELLED else f"{code}: {error.get('message') or ''}".strip(": "), False)
    status, body = response["status_code"], response["body"]
    if status != 200:
        told = (body or {}).get("error") or {}
        return Failure(f"{status} {told.get('message') or ''}".strip(), not (status >= 500 or status in PASSING))
    choice = body["choices"][0]
    text = one_line(choice["message"].get("content") or "")
    if choice.get("finish_reason") == "content_filter":
        return Failure("stopped by the server's content filter", True)
    if not is_caption(text):
        refusal = choice["message"].get("refusal")
        why = f"refused: {refusal}" if refusal else f"no caption but {text!r} (finish {choice.get('finish_reason')})"
        return Failure(why, True)
    return text
