"""Captions by an Ollama server: several requests in flight, repeated when they fail, given up with a reason.

The requests go through the ollama package, which takes the server's address from OLLAMA_HOST.
Protocol: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

import asyncio
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from aras.captions.batching import cleaned
from aras.captions.loop import Answers, CaptionError
from aras.captions.prompts import Prompts
from aras.captions.sampling import seed_of
from aras.captions.sources import in_short
from aras.captions.work import Item
from aras.errors import UserError
from aras.pairs import read_image

if TYPE_CHECKING:
    from ollama import AsyncClient

FIRST_PAUSE = 1.0
"""Seconds before a failed request is repeated; each further pause is twice as long."""

PASSING = {408, 429}
"""Beside those from 500 on, statuses that may be another next time."""

REFUSED = {401, 403, 404}
"""Statuses that every request would get: no access, or no such model."""

STRANGE = (ValueError, TypeError, AttributeError)
"""What the ollama package raises when an answer is not of the protocol: no JSON, no object, a value missing."""

Outcome = str | CaptionError | UserError
"""A caption, why this item has none, or why no item will have one."""


@dataclass(frozen=True)
class Asking:
    """How the server is asked.

    Attributes:
        model: the model's name on the server.
        temperature: of sampling; None leaves it to the model.
        seed: from which each caption's own is drawn.
        max_new_tokens: longest caption.
        keep_alive: how long the model stays loaded after a request: seconds, or text such as 10m.
        concurrency: requests in flight.
        timeout: seconds that a request may take.
        retries: how often a failed request is repeated.
    """

    model: str
    temperature: float | None
    seed: int
    max_new_tokens: int
    keep_alive: float | str
    concurrency: int
    timeout: float
    retries: int

    def options_of(self, name: str) -> dict[str, Any]:
        """Return Ollama's options for the caption of the image `name`."""
        options: dict[str, Any] = {"num_predict": self.max_new_tokens, "seed": seed_of(self.seed, name) % (1 << 31)}
        return options if self.temperature is None else {**options, "temperature": self.temperature}


def address() -> str:
    """Return where the server is, as the ollama package takes it."""
    return os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434"


@contextmanager
def server_told() -> Iterator[None]:
    """Raise `UserError` when the server does not answer in the body, or is no Ollama server."""
    import httpx
    from ollama import ResponseError

    try:
        yield
    except ConnectionError:
        raise UserError(f"no Ollama server at {address()}; start it by `ollama serve`, or set OLLAMA_HOST") from None
    except httpx.HTTPError as error:
        told = f"{type(error).__name__} {error}".strip()
        raise UserError(f"the Ollama server at {address()} does not answer ({told}); restart it") from None
    except (ResponseError, httpx.InvalidURL, *STRANGE) as error:
        told = in_short(error)
        raise UserError(f"what answers at {address()} is no Ollama server ({told}); check OLLAMA_HOST") from None


def captions_of(items: Iterable[Item], prompts: Prompts, asking: Asking) -> Iterator[Answers]:
    """Yield the answers as they come, with as many requests in flight as `asking` says.

    Raises:
        UserError: the server has gone away, or refuses all requests.
    """
    import httpx
    from ollama import AsyncClient

    client = AsyncClient(timeout=asking.timeout, limits=httpx.Limits(max_connections=asking.concurrency))
    items = iter(items)
    waiting: set[asyncio.Task[Outcome]] = set()
    with asyncio.Runner() as runner:  # which cancels what is in flight when the captions are no longer wanted
        begin = runner.get_loop().create_task
        while True:
            for item in islice(items, asking.concurrency - len(waiting)):
                waiting.add(begin(caption_of(item, prompts, asking, client), name=item.name))
            if not waiting:
                return
            done, waiting = runner.run(first_of(waiting))
            outcomes = {task.get_name(): task.result() for task in done}
            yield {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, UserError)}
            for outcome in outcomes.values():
                if isinstance(outcome, UserError):
                    raise outcome


async def first_of(tasks: "set[asyncio.Task[Outcome]]") -> tuple[set[Any], set[Any]]:
    """Return the `tasks` that are done, as soon as one is, and those that are not."""
    return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def caption_of(item: Item, prompts: Prompts, asking: Asking, client: "AsyncClient") -> Outcome:
    """Return the caption of `item`, why it has none, or why no item will have one."""
    try:
        messages = messages_of(item, prompts)
    except UserError as error:
        return CaptionError(str(error))
    for attempt in range(asking.retries + 1):
        if attempt:
            await asyncio.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
        outcome, passing = await asked_once(item.name, messages, asking, client)
        if not passing:
            break
    return outcome


async def asked_once(
    name: str, messages: list[dict[str, Any]], asking: Asking, client: "AsyncClient"
) -> tuple[Outcome, bool]:
    """Return what comes of one request, and whether another may fare better."""
    import httpx
    from ollama import ResponseError

    try:
        # Without think=False, a model that thinks would spend all its tokens on it.
        options, keep_alive = asking.options_of(name), asking.keep_alive
        answer = await client.chat(asking.model, messages, think=False, options=options, keep_alive=keep_alive)
    except ConnectionError:
        told = f"the Ollama server at {address()} has gone away; start it again, then run the same command again"
        return UserError(told), True
    except httpx.TimeoutException:
        return CaptionError(f"no answer within {asking.timeout:g} s"), True
    except httpx.HTTPError as error:
        return CaptionError(f"{type(error).__name__} {error}".strip()), True
    except ResponseError as error:
        if error.status_code in REFUSED:
            return UserError(f"the Ollama server at {address()} refuses --model {asking.model}: {error}"), False
        return CaptionError(f"the server says: {error}"), error.status_code >= 500 or error.status_code in PASSING
    except STRANGE as error:
        return CaptionError(f"the answer is not as the protocol has it ({in_short(error)})"), True
    return cleaned(answer.message.content or ""), False


def messages_of(item: Item, prompts: Prompts) -> list[dict[str, Any]]:
    """Return the chat that asks for the caption of `item`; its image goes as the file is.

    Raises:
        UserError: its image or mask cannot be read.
    """
    prompt = prompts.of(item)
    user: dict[str, Any] = {"role": "user", "content": prompt.user}
    if item.image:
        read_image(item.image)  # else the server would be asked again and again about a file that is broken
        user["images"] = [item.image.read_bytes()]
    return [{"role": "system", "content": prompt.system}, user] if prompt.system else [user]
