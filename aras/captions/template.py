"""Captions that need no model: plain sentences from class percentages and, if wanted, from the layout of the mask.

They are correct by construction and varied by the image's name, always in the same way. That makes them the baseline
that a language model has to beat.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aras.captions.layout import Layout, in_region
from aras.captions.loop import Answers, CaptionError
from aras.captions.prompts import Prompts
from aras.captions.work import Item
from aras.errors import UserError
from aras.legend import CLASS_NAMES, WATER, read_mask

TEMPLATE = "template"
"""What stands for the model's name."""

NOUNS = {
    "Tree": ("trees", "woodland", "forest"),
    "Shrub": ("shrubs", "shrubland"),
    "Grass": ("grass", "grassland"),
    "Crop": ("crops", "cropland", "farmland"),
    "Built-up": ("buildings", "built-up land"),
    "Barren": ("bare ground", "barren land"),
    "Water": ("water",),
}
PLURAL = {"trees", "shrubs", "crops", "buildings"}

AMOUNTS = (
    (85.0, "nearly all"),
    (65.0, "most"),
    (55.0, "more than half"),
    (45.0, "about half"),
    (20.0, "a good part"),
    (0.0, "a small part"),
)
"""From this percentage on: how one says that a class covers that much of an image."""

OPENINGS = (
    "{Noun} {covers} {amount} of the image{number}.",
    "Seen from above, {noun} {covers} {amount} of the ground{number}.",
    "{Amount} of the area is {noun}{number}.",
    "The image shows {noun} over {amount} of the ground{number}.",
)
MIDDLES = (
    "The image also has {rest}.",
    "Other areas are {rest}.",
    "One also sees {rest}.",
    "Then there are areas of {rest}.",
)
TRACES = ("Traces of {few} occur.", "A little of it is {few}.", "There are small spots of {few}.")
TRACE = 5.0
"""Below this percentage a class is mentioned in passing."""


@dataclass
class Choice:
    """Choices that follow from an image's name alone."""

    name: str
    made: int = 0

    def of(self, options: Sequence[str]) -> str:
        """Return one of `options`."""
        self.made += 1
        digest = hashlib.sha256(f"{self.name} {self.made}".encode()).digest()
        return options[int.from_bytes(digest[:8], "big") % len(options)]


def generate(items: Iterable[Item], prompts: Prompts) -> Iterator[Answers]:
    """Yield captions by the thousand; `prompts` tells whether they have numbers and layout."""
    answers: Answers = {}
    for item in items:
        try:
            answers[item.name] = template_caption(item, prompts.layout, prompts.numbers, prompts.decimals)
        except UserError as error:
            answers[item.name] = CaptionError(str(error))
        if len(answers) == 1000:
            yield answers
            answers = {}
    if answers:
        yield answers


def template_caption(item: Item, layout: bool = False, numbers: bool = True, decimals: int = 2) -> str:
    """Return the caption of `item` from its percentages and, with `layout`, from its mask.

    Raises:
        UserError: the mask cannot be read.
    """
    choose = Choice(item.name)
    shares = np.array(item.percentages)
    order = [int(label) for label in np.argsort(-shares, kind="stable") if round(shares[label], decimals) > 0]
    nouns = {label: choose.of(NOUNS[CLASS_NAMES[label]]) for label in order}
    sentences = [opening(choose, nouns[order[0]], shares[order[0]], numbers, decimals)]
    rest = [label for label in order[1:] if shares[label] >= TRACE]
    few = [label for label in order[1:] if shares[label] < TRACE]
    for labels, sentence in ((rest, MIDDLES), (few, TRACES)):
        if labels:
            told = listed([nouns[label] + number(shares[label], numbers, decimals) for label in labels])
            sentences.append(choose.of(sentence).replace("{rest}", told).replace("{few}", told))
    if layout and item.mask:
        sentences += layout_sentences(choose, Layout(read_mask(item.mask)), nouns)
    return " ".join(sentences)


def opening(choose: Choice, noun: str, share: float, numbers: bool, decimals: int) -> str:
    """Return the sentence on the class that covers most."""
    whole = round(share, decimals) >= 100
    amount = "all" if whole else next(amount for least, amount in AMOUNTS if share >= least)
    parts = {"noun": noun, "amount": amount, "Noun": noun.capitalize(), "Amount": amount.capitalize()}
    parts |= {"covers": "cover" if noun in PLURAL else "covers", "number": number(share, numbers, decimals)}
    return choose.of(OPENINGS).format_map(parts)


def number(share: float, numbers: bool, decimals: int) -> str:
    """Return the percentage in brackets, or nothing without `numbers`."""
    return f" ({share:.{decimals}f}%)" if numbers else ""


def listed(parts: Sequence[str]) -> str:
    """Return `parts` as a list in a sentence: `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def layout_sentences(choose: Choice, layout: Layout, nouns: dict[int, str]) -> list[str]:
    """Return what the mask tells of the classes in `nouns`: one position, the largest area or a border, a river."""
    told = [label for label in layout.told if label in nouns]
    found = []
    placed = [label for label in told if layout.told[label]]
    if placed:
        verb = "lie" if nouns[placed[0]] in PLURAL else "lies"
        found.append(f"{nouns[placed[0]].capitalize()} {verb} mostly {in_region(layout.told[placed[0]])}.")
    others = []
    largest = layout.largest
    if largest.position and largest.label in nouns and largest.label not in placed[:1]:
        others.append(f"The largest unbroken area is {nouns[largest.label]}, {in_region(largest.position)}.")
    for label in told[1:2]:
        neighbour = layout.neighbour(label)
        if neighbour in nouns:
            verb = "border" if nouns[label] in PLURAL else "borders"
            others.append(f"{nouns[label].capitalize()} {verb} mostly on {nouns[neighbour]}.")
    if others:
        found.append(choose.of(others))
    return found + [f"A narrow strip of water runs {river.direction}." for river in layout.rivers[:1] if WATER in nouns]
