"""Which classes the sets are of, and why patches were dropped."""

from collections import Counter

import numpy as np

from aras.legend import CLASS_NAMES, NUM_CLASSES
from aras.pairs import GENERATED
from aras.report.colors import CLASS_COLORS, LEFT_OUT, SET_COLORS
from aras.report.page import Bars, Cards, Part
from aras.report.places import Places
from aras.report.reading import Reader, plain_text
from aras.report.sampling import SetTally
from aras.splits import SPLITS

REASONS = {
    "nodata": "a pixel without a label",
    "no_map": "no map",
    "black": "a black image",
    "water": "too much water",
    "buffer": "too near a held-out block",
}
"""What skipped.csv says, in words."""

MOST_REASONS = 8


def balance_parts(places: Places, tallies: dict[str, SetTally], cards: Cards, reader: Reader) -> list[Part]:
    """Return the class balance of each set, and what became of the patch positions."""
    parts: list[Part] = []
    if tallies:
        parts += balance(tallies, cards)
    parts += drops(places, tallies, reader)
    return parts


def balance(tallies: dict[str, SetTally], cards: Cards) -> list[Part]:
    """Return the class balance as bars."""
    shares, counted = {}, []
    for name, tally in tallies.items():
        found = tally.shares
        if found is None:
            seen = [card.shares for card in cards.cards if card.split == name and card.shares]
            found = mean_shares(seen)
            if seen and len(seen) < tally.count:
                counted.append(f"{name}: from the masks of {len(seen):,} of {tally.count:,} images.")
            elif name == GENERATED and seen:
                counted.append(f"{name}: the classes of the masks that its images were drawn from.")
        if found is not None:
            shares[name] = found
    if not shares:
        return []
    totals = [f"{tallies[name].count:,} images" for name in shares]
    values = [[round(float(share), 6) for share in found] for found in shares.values()]
    return [
        Bars(
            "Share of each class in the pixels of a set",
            list(shares),
            totals,
            list(CLASS_NAMES),
            CLASS_COLORS,
            values,
            " ".join(counted),
        ),
    ]


def mean_shares(seen: list[dict[str, float]]) -> np.ndarray | None:
    """Return the mean (7,) of shares by class name, None when there are none."""
    if not seen:
        return None
    sums = np.zeros(NUM_CLASSES)
    for shares in seen:
        for name, share in shares.items():
            sums[CLASS_NAMES.index(name)] += share
    return sums / max(sums.sum(), 1e-9)


def drops(places: Places, tallies: dict[str, SetTally], reader: Reader) -> list[Part]:
    """Return what became of the patch positions: how many went to each split, and why the others were dropped."""
    path = places.data / "skipped.csv"
    reasons: Counter[str] = Counter()
    for (reason,) in reader.rows(path, ("reason",)):
        reasons[reason if reason in reasons or len(reasons) < MOST_REASONS else "another reason"] += 1
    if not path.is_file():
        return []
    counts = {split: tallies[split].count for split in SPLITS if split in tallies}
    dropped = {REASONS.get(reason, plain_text(reason, 60)): count for reason, count in reasons.most_common()}
    total = sum(counts.values()) + sum(dropped.values())
    if not total:
        return []
    colors = [SET_COLORS[split] for split in counts] + [LEFT_OUT[rank % len(LEFT_OUT)] for rank in range(len(dropped))]
    everything = counts | dropped
    share = sum(dropped.values()) / total
    bars = Bars(
        "What became of every patch position",
        ["positions"],
        [f"{total:,} positions"],
        list(everything),
        colors,
        [[round(count / total, 6) for count in everything.values()]],
        f"{sum(dropped.values()):,} of {total:,} were dropped, {100 * share:.1f} %.",
        list(everything.values()),
    )
    return [bars]
