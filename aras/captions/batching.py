"""Items in batches: made ready ahead by threads, those of like length together, fewer at a time when memory runs out.

A window of items at a time is sorted, the longest prompts first, so a batch has little padding, and what does not fit
into memory shows at once. Memory depends on the window, not on the set.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from aras.captions.loop import Answers, CaptionError
from aras.captions.prompts import Prompt, Prompts
from aras.captions.work import Item
from aras.errors import UserError
from aras.pairs import read_image

WINDOW = 256
"""Items in a window: of 256 x 256 pixels, 50 MB; there are two at a time."""

READERS = 4
"""Threads that decode images and masks; the decoders let go of the interpreter."""

_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """An item made ready: its name, its prompt, and its image (H, W, 3) uint8 if it is looked at."""

    name: str
    prompt: Prompt
    image: np.ndarray | None = None


class OutOfMemory(Exception):
    """A batch was too large for the device."""


@dataclass
class BatchSize:
    """How many items go through the model at once.

    Attributes:
        size: at the moment.
        most: up to which it doubles while there is room; `size` itself when it was chosen by hand.
    """

    size: int
    most: int

    def halve(self) -> None:
        """Take half as many from now on."""
        self.size = self.most = max(self.size // 2, 1)

    def double(self) -> None:
        """Take twice as many from now on, up to `most`."""
        self.size = min(2 * self.size, self.most)


def make_ready(item: Item, prompts: Prompts, with_image: bool) -> "Asked | CaptionError":
    """Return `item` with its prompt and image, or why they cannot be had."""
    try:
        image = read_image(item.image) if with_image and item.image else None
        return Asked(item.name, prompts.of(item), image)
    except UserError as error:
        return CaptionError(str(error))


def windows(items: Iterable[Item], prompts: Prompts, with_image: bool) -> Iterator[dict[str, "Asked | CaptionError"]]:
    """Yield windows of items made ready, by name; the next one is made ready while one is in use."""
    left = iter(items)
    with ThreadPoolExecutor(READERS) as pool:

        def begin() -> list[tuple[str, "Future[Asked | CaptionError]"]]:
            return [(item.name, pool.submit(make_ready, item, prompts, with_image)) for item in islice(left, WINDOW)]

        coming = begin()
        while coming:
            current, coming = coming, begin()
            yield {name: future.result() for name, future in current}


def answers_in_batches(
    items: Iterable[Item],
    prompts: Prompts,
    with_image: bool,
    answer: Callable[[list[Asked]], list[str]],
    batch: BatchSize,
    tell: Callable[[str], None],
) -> Iterator[Answers]:
    """Yield the answers of `items`, batch by batch.

    Args:
        items: what to caption.
        prompts: what is asked.
        with_image: whether images are read.
        answer: the model: raises `OutOfMemory` when it was given too many.
        batch: how many at once; changed when memory runs out.
        tell: takes one line for the user.

    Raises:
        UserError: memory does not suffice for a single item.
    """
    for window in windows(items, prompts, with_image):
        failed: Answers = {name: found for name, found in window.items() if isinstance(found, CaptionError)}
        if failed:
            yield failed
        left = [found for found in window.values() if isinstance(found, Asked)]
        left.sort(key=lambda asked: (-len(asked.prompt.user), asked.name))
        while left:
            try:
                texts = answer(left[: batch.size])
            except OutOfMemory as error:
                if batch.size == 1:
                    raise UserError(
                        f"the GPU's memory is too small for one item ({error}); take a smaller --model"
                    ) from None
                batch.halve()
                tell(f"out of GPU memory: goes on with --batch-size {batch.size}")
                continue
            yield {asked.name: cleaned(text) for asked, text in zip(left, texts, strict=False)}
            left = left[len(texts) :]
            batch.double()


def cleaned(text: str) -> "str | CaptionError":
    """Return the caption in a model's answer `text`: what it thought before it answered is taken off."""
    caption = _THOUGHT.sub("", text).strip()
    if caption.startswith("<think>"):
        return CaptionError(
            "it was still thinking at --max-new-tokens; raise that, or take a model that does not think"
        )
    return caption
