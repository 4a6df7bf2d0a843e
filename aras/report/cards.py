"""The cards: images with their masks, predictions and captions, drawn so that every set and class is seen."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from aras.caption_metrics.streams import FAILURES, Notes, find_sources, row_of, table_rows
from aras.errors import UserError
from aras.legend import CLASS_NAMES, NUM_CLASSES
from aras.pairs import GENERATED, SUFFIX
from aras.report.colors import CLASS_COLORS
from aras.report.page import Caption, Card, Cards
from aras.report.places import SETS, Places
from aras.report.reading import Reader, number_of, plain_text
from aras.report.sampling import Draw, SetTally, dealt_out
from aras.report.thumbnails import (
    Thumbnails,
    image_or_problem,
    in_order,
    mask_or_problem,
    mask_thumbnail,
    shares_of_labels,
    shrunk,
)
from aras.showing import SHOWN_SHARE, choose
from aras.splits import SPLITS

Key = tuple[str, str]  # set, stem


@dataclass(frozen=True)
class Wanted:
    """A card to be made.

    Attributes:
        split: its set.
        name: its stem.
        shares: (7,) of each class; None when no table tells, and its mask is counted.
        image: its file.
        mask: its mask's file; None when its set has no masks.
        prediction: a segmenter's mask; None when there is none.
    """

    split: str
    name: str
    shares: np.ndarray | None
    image: Path
    mask: Path | None
    prediction: Path | None


@dataclass(frozen=True)
class Loaded:
    """What a thread has read of a card: thumbnails (h, w, 3) uint8, numbers, and what went wrong."""

    image: np.ndarray | None
    mask: np.ndarray | None
    prediction: np.ndarray | None
    shares: np.ndarray
    score: float | None
    problems: list[str]


def chosen_cards(places: Places, tallies: dict[str, SetTally], count: int, seed: int) -> list[Wanted]:
    """Return which `count` images have cards: about as many of each set, and in each, classes about equally often."""
    wanted = []
    given = dealt_out({name: len(tally.drawn) for name, tally in tallies.items()}, count)
    for split, most in given.items():
        drawn = tallies[split].drawn
        names = chosen_names(drawn, most, seed)
        has_masks = places.masks(split).is_dir()
        for name in names:
            mask = mask_of(places, split, name) if has_masks else None
            prediction = places.predictions / "masks" / f"{name}{SUFFIX}" if split in SPLITS else None
            wanted.append(
                Wanted(
                    *(split, name, drawn[name], places.images(split) / f"{name}{SUFFIX}"),
                    *(mask, prediction if prediction and prediction.is_file() else None),
                )
            )
    return wanted


def mask_of(places: Places, split: str, name: str) -> Path | None:
    """Return the mask of an image; a conditional one may be one of several of its mask, or of a mask that is gone."""
    path = places.masks(split) / f"{name}{SUFFIX}"
    if split != GENERATED or path.is_file():
        return path
    path = places.masks(split) / f"{name.rpartition('_')[0]}{SUFFIX}"
    return path if path.is_file() else None


def most_told_first(wanted: list[Wanted], captions: Collection[Key]) -> list[Wanted]:
    """Return the cards `wanted` in their order, but those that show most first: masks, predictions, `captions`."""

    def told(one: Wanted) -> int:
        return (one.mask is not None) + (one.prediction is not None) + ((one.split, one.name) in captions)

    return sorted(wanted, key=told, reverse=True)


def chosen_names(drawn: dict[str, np.ndarray | None], count: int, seed: int) -> list[str]:
    """Return `count` of the stems `drawn`, by their classes where these are known."""
    names = list(drawn)
    shares = [share for share in drawn.values() if share is not None]
    if len(names) <= count:
        return names
    if len(shares) == len(names):
        return [names[index] for index in choose(np.array(shares), count)]
    draw: Draw[None] = Draw(count, seed)
    for name in names:
        draw.add(name, None)
    return list(draw.items())


def load_card(wanted: Wanted, most: int) -> Loaded:
    """Return what is read of a card, thumbnails with sides of at most `most`."""
    problems = []
    image, problem = image_or_problem(wanted.image)
    problems.append(problem)
    labels, problem = mask_or_problem(wanted.mask) if wanted.mask else (None, "")
    problems.append(problem)
    predicted, problem = mask_or_problem(wanted.prediction) if wanted.prediction else (None, "")
    problems.append(problem)
    score = None
    if labels is not None and predicted is not None and labels.shape == predicted.shape:
        score = float((labels == predicted).mean())
    shares = wanted.shares
    if shares is None:
        shares = np.zeros(NUM_CLASSES) if labels is None else shares_of_labels(labels)
    return Loaded(
        None if image is None else shrunk(image, most),
        None if labels is None else mask_thumbnail(labels, most),
        None if predicted is None else mask_thumbnail(predicted, most),
        *(shares, score, [problem for problem in problems if problem]),
    )


def make_cards(
    places: Places, tallies: dict[str, SetTally], thumbnails: Thumbnails, count: int, most: int, seed: int
) -> Cards:
    """Return the cards, with thumbnails whose sides have at most `most` pixels."""
    reader = thumbnails.reader
    wanted = chosen_cards(places, tallies, count, seed)
    keys = {(card.split, card.name) for card in wanted}
    captions = captions_of(places, keys, reader)
    wanted = most_told_first(wanted, captions)
    confidences = confidences_of(places, keys, reader)
    cards = []
    loaded = in_order(lambda card: load_card(card, most), wanted, thumbnails.workers)
    for one, found in zip(tqdm(wanted, "cards", disable=None, leave=False), loaded, strict=True):
        for problem in found.problems:
            reader.note(problem)
        key = (one.split, one.name)
        cards.append(card_of(one, found, thumbnails, captions.get(key, {}), confidences.get(key)))
    there = [name for name in SETS if any(card.split == name for card in cards)]
    total = sum(tally.count for tally in tallies.values())
    note = (
        f"{len(cards):,} of {total:,} images, drawn so that every set and class is seen." if len(cards) < total else ""
    )
    return Cards(cards, list(CLASS_NAMES), CLASS_COLORS, there, note)


def card_of(
    wanted: Wanted, found: Loaded, thumbnails: Thumbnails, captions: dict[str, str], confidence: float | None
) -> Card:
    """Return the card of `wanted`, its thumbnails put onto the sheets."""
    order = np.argsort(-found.shares, kind="stable").tolist()
    return Card(
        plain_text(wanted.name),
        wanted.split,
        [CLASS_NAMES[label] for label in order if found.shares[label] >= SHOWN_SHARE],
        {CLASS_NAMES[label]: round(float(share), 4) for label, share in enumerate(found.shares) if share > 0},
        thumbnails.image(wanted.image, found.image),
        thumbnails.mask(found.mask),
        thumbnails.mask(found.prediction),
        [Caption(plain_text(stream), plain_text(text)) for stream, text in captions.items()],
        None if found.score is None else round(found.score, 4),
        confidence,
    )


def confidences_of(places: Places, keys: set[Key], reader: Reader) -> dict[Key, float]:
    """Return how sure the segmenter was of the images `keys`, where a table tells."""
    found: dict[Key, float] = {}
    tables = [((name,), places.data / name / "confidence.csv") for name in SETS if name != GENERATED]
    for splits, path in [(SPLITS, places.predictions / "confidence.csv"), *tables]:
        for filename, mean in reader.rows(path, ("filename", "mean")):
            value = number_of(mean)
            for split in splits:
                key = (split, filename.removesuffix(SUFFIX))
                if value is not None and key in keys:
                    found[key] = value
    return found


def captions_of(places: Places, keys: set[Key], reader: Reader) -> dict[Key, dict[str, str]]:
    """Return the captions of the images `keys`, by stream: of each, the first."""
    found: dict[Key, dict[str, str]] = {}
    paths = [path for path in sorted(places.captions.glob("*.csv")) if not path.name.endswith(FAILURES)]
    for stream, split, name, caption in caption_rows(paths, reader):
        for one in (split,) if split else SPLITS:
            if (one, name) in keys:
                found.setdefault((one, name), {}).setdefault(stream, caption)
    return found


def caption_rows(paths: Iterable[Path], reader: Reader) -> Iterator[tuple[str, str, str, str]]:
    """Yield stream, set or "", stem and caption of each row of the caption tables `paths`."""
    for path in paths:
        notes = Notes()
        try:
            for source in (source for sources in find_sources([path], notes).values() for source in sources):
                rows = table_rows(source.path)
                next(rows, None)
                for number, cells in enumerate(rows, 2):
                    row, problem = row_of(cells, source, number)
                    if row is None:
                        notes.add(path, problem, f"row {number}")
                    else:
                        yield source.stream, row.split, row.name.removesuffix(SUFFIX), row.caption
        except (UserError, OSError) as error:
            reader.note(str(error))
        for line in notes.lines():
            reader.note(line)
