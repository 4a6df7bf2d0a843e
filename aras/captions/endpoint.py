"""Language models by a server that speaks OpenAI's chat protocol: vLLM, SGLang, llama.cpp, TGI and others.

Many requests are under way at once; the answers are handed on as they come. A request is repeated a bounded number of
times, after growing pauses or those that the server asks for. A key is taken from OPENAI_API_KEY if it is set; it is
not sent on to another host.
"""

import base64
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any
from urllib.parse import urlsplit

from aras.captions.batching import cleaned
from aras.captions.loop import Answers, CaptionError, Generate
from aras.captions.models import Decoding
from aras.captions.prompts import Prompts
from aras.captions.sampling import seed_of
from aras.captions.sources import in_short
from aras.captions.work import Item
from aras.errors import UserError
from aras.pairs import read_image

RETRIES = 6
"""Of one request, after pauses of 0.5, 1, 2, 4, 8 and 8 seconds; up to 2 minutes when the server asks for it."""

BEGUN = 3
"""Items begun for each request that may be under way: while answers are saved, the others go on."""


@dataclass(frozen=True)
class Endpoint:
    """A server.

    Attributes:
        url: its base, with `/v1` where the server has it there.
        model: the name by which it knows the model.
        eyes: whether images are sent.
        decoding: how it is to choose tokens.
        concurrency: requests under way at once.
        timeout: seconds for one request.
    """

    url: str
    model: str
    eyes: bool
    decoding: Decoding
    concurrency: int
    timeout: float

    def client(self) -> Any:
        """Return a client of the server.

        Raises:
            UserError: the URL is none.
        """
        import openai

        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--endpoint {self.url} is no URL such as http://localhost:8000/v1")
        return openai.OpenAI(
            base_url=self.url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=self.timeout,
            max_retries=RETRIES,
        )


def check_endpoint(endpoint: Endpoint) -> None:
    """Raise `UserError` when the server does not answer, refuses the key, or lists other models than the one wanted."""
    import openai

    client = endpoint.client().with_options(max_retries=1, timeout=min(endpoint.timeout, 30))
    try:
        listed = [model.id for model in client.models.list().data]
    except openai.APIConnectionError as error:
        raise UserError(unreachable(endpoint, error)) from None
    except openai.APIStatusError as error:
        if error.status_code in (401, 403):
            raise UserError(refused(endpoint, error)) from None
        return  # a server that does not list its models
    except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--endpoint {endpoint.url} is no OpenAI-compatible server ({in_short(error)})") from None
    if listed and endpoint.model not in listed:
        raise UserError(
            f"--endpoint {endpoint.url} has no model {endpoint.model}; it has {', '.join(listed[:5])}: use --model"
        )


def unreachable(endpoint: Endpoint, error: Exception) -> str:
    """Return one line for a server that does not answer."""
    told = in_short(error.__cause__ or error)
    return f"--endpoint {endpoint.url} does not answer ({told}); start the server, then run the same command again"


def refused(endpoint: Endpoint, error: Any) -> str:
    """Return one line for a server that refuses every request."""
    hint = "set OPENAI_API_KEY" if error.status_code in (401, 403) else "check --endpoint and --model"
    return f"--endpoint {endpoint.url} refuses with HTTP {error.status_code} ({told_status(error)}); {hint}"


def told_status(error: Any) -> str:
    """Return what the server said with an HTTP status."""
    return in_short(error).removeprefix(f"Error code: {error.status_code} - ")


def load_endpoint(endpoint: Endpoint) -> Generate:
    """Return a captioner that asks the server."""
    client = endpoint.client()

    def generate(items: Iterable[Item], prompts: Prompts) -> Iterator[Answers]:
        return answers_as_they_come(items, prompts, endpoint, client)

    return generate


def answers_as_they_come(items: Iterable[Item], prompts: Prompts, endpoint: Endpoint, client: Any) -> Iterator[Answers]:
    """Yield answers as they come, so that none waits in memory for a slower one before it.

    Each request has a thread, a daemon: an interrupted run ends at once and not when the last one has been answered.

    Raises:
        UserError: the server is gone, or refuses whatever it is asked; what else was answered is yielded before.
    """
    items = iter(items)
    answered: SimpleQueue[tuple[str, str | Exception]] = SimpleQueue()
    turns = Semaphore(endpoint.concurrency)
    begun = 0

    def work(item: Item) -> None:
        with turns:
            try:
                outcome: str | Exception = ask(item, prompts, endpoint, client)
            except Exception as error:  # noqa: BLE001 - raised again where the answers are taken
                outcome = error
        answered.put((item.name, outcome))

    while True:
        for item in islice(items, BEGUN * endpoint.concurrency - begun):
            Thread(target=work, args=(item,), daemon=True).start()
            begun += 1
        if not begun:
            return
        outcomes = dict([answered.get()])
        while not answered.empty():
            outcomes |= [answered.get()]
        begun -= len(outcomes)
        yield {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, str | CaptionError)}
        for outcome in outcomes.values():
            if not isinstance(outcome, str | CaptionError):
                raise outcome


def ask(item: Item, prompts: Prompts, endpoint: Endpoint, client: Any) -> str | CaptionError:
    """Return the server's caption of `item`, or why there is none.

    Raises:
        UserError: no item would fare better.
    """
    import openai

    try:
        body = body_of(item, prompts, endpoint)
        # The client's own method makes typed objects of the answer, which takes longer than all the rest.
        answer = client.post("/chat/completions", body=body, cast_to=object)
        return cleaned(answer["choices"][0]["message"]["content"] or "")
    except (UserError, OSError) as error:  # of the item's files
        return CaptionError(str(error))
    except openai.APITimeoutError:
        return CaptionError(f"no answer within {endpoint.timeout:g} s, {RETRIES + 1} times")
    except openai.APIConnectionError as error:
        check_endpoint(endpoint)  # which raises when the server is gone and did not only stumble over this item
        return CaptionError(f"the connection was cut ({in_short(error.__cause__ or error)}), {RETRIES + 1} times")
    except openai.APIStatusError as error:
        if error.status_code in (401, 403, 404):
            raise UserError(refused(endpoint, error)) from None
        return CaptionError(f"HTTP {error.status_code}: {told_status(error)}")
    except (openai.OpenAIError, ValueError, TypeError, LookupError, AttributeError) as error:
        return CaptionError(f"the answer is not as the protocol has it ({in_short(error)})")


def body_of(item: Item, prompts: Prompts, endpoint: Endpoint) -> dict[str, Any]:
    """Return the request for one caption.

    Raises:
        UserError: the image or the mask cannot be read.
    """
    prompt = prompts.of(item)
    content: Any = prompt.user
    if endpoint.eyes and item.image:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(item.image)}},
            {"type": "text", "text": prompt.user},
        ]
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    decoding = endpoint.decoding
    return {
        "model": endpoint.model,
        "messages": [*messages, {"role": "user", "content": content}],
        "max_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "seed": seed_of(decoding.seed, item.name) % (1 << 31),
    }


def data_url(path: Path) -> str:
    """Return the image file `path` as a data URL, once it is known to be an image."""
    read_image(path)
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
