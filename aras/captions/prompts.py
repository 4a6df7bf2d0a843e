"""What the models are asked: system and user text for each captioner, from class percentages and layout facts.

In a prompt `{percentages}` stands for the classes with their shares, largest first and zeros left out, and `{layout}`
for facts computed from the mask. The wording is our own; what goes in (percentages with two decimals, integers for
the Batch API) is the paper's (arXiv 2603.09625, captions).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aras.captions.layout import Layout, layout_facts
from aras.captions.work import Item
from aras.errors import UserError
from aras.legend import CLASS_NAMES, read_mask

PERCENTAGES = "{percentages}"
LAYOUT = "{layout}"

SYSTEM = "You describe the land cover in satellite images. Answer with the description alone, in plain English."
VISION = (
    "Write one or two sentences that describe the land cover in this satellite image: which kinds there are, how much"
    " of each, and where."
)
VISION_LANGUAGE = (
    "This satellite image has the following land cover: {percentages}. Write one or two sentences that describe the"
    " image in accordance with it: what covers most of it, what else there is, and where."
)
TEXT = (
    "Write one or two sentences that describe a satellite image with this land cover: {percentages}. Name no other land"
    " cover."
)
WITH_LAYOUT = " These facts about the layout are certain: {layout}"
WITHOUT_NUMBERS = " Write no digits and no percentages; say how much in words such as mostly, some or a little."
STERNLY_WITHOUT_NUMBERS = (
    " IMPORTANT: a caption that has any digit, the sign % or the word percent is thrown away. Write words alone."
)

PROMPTS = {"vision_language": VISION_LANGUAGE, "vision": VISION, "text": TEXT, "gpt": TEXT}
"""Default prompts by the kind of caption."""

_NUMBERS = re.compile(r"\d|%|per\s?cent", re.IGNORECASE)


@dataclass(frozen=True)
class Prompt:
    """What one item is asked for."""

    system: str
    user: str


@dataclass(frozen=True)
class Prompts:
    """How items become prompts.

    Attributes:
        user: the user's text; `{percentages}` and `{layout}` are filled in.
        system: the system's text; may be empty.
        decimals: of the percentages.
        layout: whether layout facts are told; they are computed from the item's mask.
        numbers: whether the caption may have percentages and other digits.
        stern: whether a caption without numbers is demanded for the second time.
    """

    user: str
    system: str = SYSTEM
    decimals: int = 2
    layout: bool = False
    numbers: bool = True
    stern: bool = False

    def of(self, item: Item) -> Prompt:
        """Return the prompt of `item`.

        Raises:
            UserError: its mask is wanted and cannot be read.
        """
        user = self.text
        if PERCENTAGES in user and item.percentages is not None:
            user = user.replace(PERCENTAGES, told_percentages(item.percentages, self.decimals))
        if LAYOUT in user and item.mask is not None:
            user = user.replace(LAYOUT, " ".join(layout_facts(Layout(read_mask(item.mask)), self.numbers)))
        return Prompt(self.system, user)

    @property
    def text(self) -> str:
        """The user's text with everything that is asked for, before it is filled in."""
        text = self.user
        if self.layout and LAYOUT not in text:
            text += WITH_LAYOUT
        if not self.numbers:
            text += WITHOUT_NUMBERS
        return text + STERNLY_WITHOUT_NUMBERS if self.stern else text

    def sterner(self) -> "Prompts":
        """Return prompts that demand a caption without numbers for the second time."""
        return replace(self, stern=True)


def check_prompt(prompts: Prompts, percentages: bool, only_percentages: bool) -> None:
    """Raise `UserError` when a prompt asks for what its captioner does not have, or leaves out all that it has.

    Args:
        prompts: what is asked.
        percentages: whether the captioner has percentages.
        only_percentages: whether it has nothing else.
    """
    if PERCENTAGES in prompts.user and not percentages:
        raise UserError("--prompt has {percentages}, which this captioner does not have; leave it out")
    if LAYOUT in prompts.user and not prompts.layout:
        raise UserError("--prompt has {layout}; add --layout to have it filled in")
    if only_percentages and PERCENTAGES not in prompts.user:
        raise UserError("--prompt has no {percentages}, so every image would be asked the same; put it in")


def told_percentages(percentages: Sequence[float], decimals: int = 2) -> str:
    """Return the class `percentages` (7,) in words, largest first, such as `Grass: 61.50%, Tree: 38.50%`.

    What rounds to zero is left out; equal shares keep the legend's order.
    """
    shares = [(round(float(share), decimals), name) for share, name in zip(percentages, CLASS_NAMES, strict=True)]
    ordered = sorted((pair for pair in shares if pair[0] > 0), key=lambda pair: -pair[0])
    return ", ".join(f"{name}: {share:.{decimals}f}%" for share, name in ordered)


def has_numbers(caption: str) -> bool:
    """Return whether `caption` has a digit, the sign % or the word percent."""
    return bool(_NUMBERS.search(caption))
