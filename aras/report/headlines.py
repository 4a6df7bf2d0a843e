"""What the report says first: what the data are, and the numbers that one looks for."""

from aras.legend import NUM_CLASSES
from aras.pairs import GENERATED
from aras.report.page import Fact
from aras.report.places import Places
from aras.report.reading import Reader, dig, listed, mapped, number_of, plain_text, told_number
from aras.report.sampling import SetTally
from aras.report.training import Run
from aras.splits import SPLITS

MOST_SETS = 4  # whose distance and silhouette are told
REAL, DRAWN = ("train", "real"), ("synth", "synthetic", GENERATED)
"""What sets of real and of drawn images are called."""


def subtitle(tallies: dict[str, SetTally]) -> str:
    """Return what the data are, in a line."""
    real = sum(tallies[name].count for name in SPLITS if name in tallies)
    drawn = sum(tally.count for name, tally in tallies.items() if name not in SPLITS)
    return f"{real:,} real and {drawn:,} generated images, {NUM_CLASSES} land-cover classes"


def region_notes(places: Places, reader: Reader) -> list[str]:
    """Return what a region.json tells of the map and of whom the data are owed to; nothing without one."""
    region = reader.json(places.root / "region.json")
    return [told for told in (plain_text(region.get(key), 400) for key in ("map", "attribution")) if told]


def headlines(places: Places, tallies: dict[str, SetTally], runs: list[Run], reader: Reader) -> list[Fact]:
    """Return the headline numbers that are known."""
    return [
        *(Fact(f"{name} images", f"{tally.count:,}") for name, tally in tallies.items()),
        *best_score(runs, reader),
        *distances(places, reader),
        *silhouettes(places, reader),
        *captions(places, reader),
    ]


def best_score(runs: list[Run], reader: Reader) -> list[Fact]:
    """Return the best macro F1 of all segmenters on the test split."""
    told = [reader.json(run.folder / "test_metrics.json") for run in runs if run.kind == "Segmenter"]
    scores = [score for score in (number_of(one.get("f1")) for one in told) if score is not None]
    note = f"best of {len(scores):,} runs" if len(scores) > 1 else ""
    return [Fact("macro F1 on the test split", f"{100 * max(scores):.2f} %", note)] if scores else []


def distances(places: Places, reader: Reader) -> list[Fact]:
    """Return the Fréchet distance of each set, beside its floor, as first in fidelity.json; none of noise."""
    found = reader.json(places.fidelity / "fidelity.json")
    name = next((key for key in mapped(found.get("measures")) if key.startswith("frechet.")), "")
    heading = plain_text(dig(found, "measures", name, "heading") or name, 80)
    floor = number_of(dig(found, "floor", "measures", name, "value"))
    note = "" if floor is None else f"real images: {told_number(floor)}"
    facts = []
    for label, one in mapped(found.get("sets")).items():
        value = number_of(dig(one, "measures", name, "value"))
        if value is not None and not dig(one, "noise"):
            facts.append(Fact(f"{heading}, {plain_text(label, 40)}", told_number(value), note))
    return facts[:MOST_SETS]


def silhouettes(places: Places, reader: Reader) -> list[Fact]:
    """Return the silhouette of the real set with each drawn one."""
    facts = []
    for pair in listed(reader.json(places.feature_maps / "silhouette.json").get("pairs")):
        names, value = listed(dig(pair, "sets")), number_of(dig(pair, "silhouette"))
        if value is not None and len(names) == 2 and names[0] in REAL and names[1] in DRAWN:
            facts.append(Fact(f"silhouette of {names[0]} and {names[1]}", f"{value:.3f}", "0 is mixed, 1 apart"))
    return facts[:MOST_SETS]


def captions(places: Places, reader: Reader) -> list[Fact]:
    """Return how many captions were measured."""
    streams = mapped(reader.json(places.captions / "metrics" / "caption_metrics.json").get("streams"))
    total = sum(number_of(dig(one, "texts", "captions")) or 0 for one in streams.values())
    return [Fact("captions measured", f"{total:,.0f}", f"{len(streams)} streams")] if total else []
