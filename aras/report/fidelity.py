"""How near generated images are to real ones: the tables and figures of synthetic_metrics.py, with words on each."""

import re
from typing import Any

from aras.report.page import Part, Table
from aras.report.pictures import Store
from aras.report.places import Places
from aras.report.reading import Reader, dig, mapped, number_of, plain_text, told_number
from aras.report.training import figure_of

FIGURES = {
    "measures.png": ("Measures of each set beside the floor", "Each measure of each set, with its interval."),
    "neighbours.png": ("Nearest training images", "Images of each set and the training images nearest to them."),
    "spectra.png": ("Radial power spectra", "How much detail of each size the images of a set have."),
}
IN_WORDS = {
    "frechet": "How far apart the features of two sets lie, by their means and covariances; 0 is the same.",
    "kernel": "The same, not assuming that features are normally distributed; unbiased, so it can be negative.",
    "precision": "Share of its images that lie among real ones: is what it draws real?",
    "recall": "Share of real images that lie among its own: does it draw all there is?",
    "density": "Precision that outliers cannot raise: how often its images lie near a real one. It can exceed 1.",
    "coverage": "Recall that outliers cannot raise: share of real images with one of its images near.",
    "memorised": "Share of its images nearer to a training image than 95 % of real held-out images are."
    " About the share of these is to be expected; many more tell of copies.",
    "conditional_frechet": "The Fréchet distance of images with the same dominant class, over the classes with enough.",
    "agreement_miou": "Does a segmenter read in its images what their masks say? Mean over classes.",
    "agreement_accuracy": "Likewise, the share of pixels.",
    "spectrum": "How much more or less detail of each size its images have: too blurred, too grainy.",
    "histogram": "How far its colours must be moved to be those of real images.",
    "adjacency": "Do the same classes lie side by side as in real masks? 0 is the same, 1 nothing in common.",
    "borders": "Likewise, of neighbours of different classes alone.",
}
"""What each measure tells, by its name without the space of features."""

Sets = dict[str, dict[str, Any]]


def fidelity_parts(places: Places, store: Store, reader: Reader) -> list[Part]:
    """Return the measures of all sets beside the floor, a table for each space, what they tell, and the figures."""
    path = places.fidelity / "fidelity.json"
    found = reader.json(path)
    parts: list[Part] = [*fidelity_tables(found)]
    if found and not parts:
        reader.note(f"{path} has no measures; run synthetic_metrics.py again")
    for name, (title, caption) in FIGURES.items():
        parts += figure_of(places.fidelity / name, title, store, reader, caption, lossless=name != "neighbours.png")
    return parts


def fidelity_tables(found: dict[str, Any]) -> list[Table]:
    """Return the tables of a fidelity.json: one for each space of features, one for all else, and one of words."""
    about = mapped(found.get("measures"))
    spaces = list(dict.fromkeys(name.partition(".")[2] for name in about))
    tables = [table for space in sorted(spaces, key=lambda space: not space) if (table := table_of(space, found))]
    if not tables:
        return []
    tables[0].notes[:0] = general_notes(found)
    return [*tables, words_on(about)]


def table_of(space: str, found: dict[str, Any]) -> Table | None:
    """Return the measures in the `space` of features ("": those of pixels and masks), a row each, a column a set.

    Real images come first; of generated sets the best is marked, and noise never is.
    """
    about = {name: told for name, told in mapped(found.get("measures")).items() if name.partition(".")[2] == space}
    sets = {label: mapped(one) for label, one in mapped(found.get("sets")).items()}
    real = real_sets(found, about)
    rows, marks = [], []
    for name in about:
        cells = [with_limits(dig(one, "measures", name)) for one in [*real.values(), *sets.values()]]
        if not any(cells):
            continue
        expected = next((v for one in sets.values() if (v := number_of(dig(one, "measures", name, "expected")))), None)
        if real and expected is not None:
            cells[len(real) - 1] = f"{told_number(expected)} (expected)"
        best = best_of(name, about, sets) if expected is None else None
        of_sets = zip(sets, cells[len(real) :], strict=True)
        rows.append([heading_of(name, about, found), *cells])
        told = ["best" if label == best else "" if cell else "missing" for label, cell in of_sets]
        marks.append(["", *["floor"] * len(real), *told])
    columns = ["measure", *real, *(plain_text(label, 60) for label in sets)]
    title = f"Features: {space_in_words(space, found)}" if space else "Pixels and masks"
    return Table(title, columns, rows, marks, left_out_notes(sets, about, found)) if rows else None


def real_sets(found: dict[str, Any], about: dict[str, Any]) -> Sets:
    """Return the sets of real images that have any of the measures `about`, the floor last, by what a table says."""
    real = {}
    for kind in ("reference", "floor"):
        one = mapped(found.get(kind))
        if any(name in mapped(one.get("measures")) for name in about):
            real[f"{kind}: {plain_text(one.get('name') or kind, 60)}"] = one
    return real


def space_in_words(space: str, found: dict[str, Any]) -> str:
    """Return what a space is called: what synthetic_metrics.py says of its distance in brackets."""
    told = re.search(r"\((.+)\)", plain_text(dig(found, "spaces", space, "distance"), 120))
    return told[1] if told else plain_text(space, 60)


def heading_of(name: str, about: dict[str, Any], found: dict[str, Any]) -> str:
    """Return what a measure is called without its space, its unit, and which values are better."""
    better = {"lower": "\N{NO-BREAK SPACE}↓", "higher": "\N{NO-BREAK SPACE}↑"}.get(
        plain_text(dig(about, name, "better")), ""
    )
    unit = plain_text(dig(about, name, "unit"), 20)
    heading = plain_text(dig(about, name, "heading") or name, 80)
    space = name.partition(".")[2]
    for told in (space, space_in_words(space, found)):
        heading = heading.replace(f" ({told})", "")
    return heading + (f", {unit}" if unit else "") + better


def best_of(name: str, about: dict[str, Any], sets: Sets) -> str | None:
    """Return which of two or more generated sets is best by the measure `name`; None of equals."""
    values = {
        label: number_of(dig(one, "measures", name, "value")) for label, one in sets.items() if not one.get("noise")
    }
    known = {label: value for label, value in values.items() if value is not None}
    better = dig(about, name, "better")
    if better not in ("lower", "higher"):
        return None
    ranked = sorted(known, key=lambda label: known[label], reverse=better == "higher")
    return ranked[0] if len(ranked) > 1 and known[ranked[0]] != known[ranked[1]] else None


def with_limits(cell: Any) -> str:
    """Return the value of a measure with its interval, or nothing."""
    value, low, high = (number_of(dig(cell, key)) for key in ("value", "low", "high"))
    if value is None:
        return ""
    return told_number(value) + (
        f" [{told_number(low)}, {told_number(high)}]" if low is not None and high is not None else ""
    )


def general_notes(found: dict[str, Any]) -> list[str]:
    """Return what must be known to read any of the tables."""
    name, count = plain_text(dig(found, "reference", "name"), 60), number_of(found.get("equal_n"))
    notes = []
    if count is not None:
        notes.append(f"{count:,.0f} images of each set, against {name}. Numbers of another count do not compare.")
    notes.append(
        "↓ lower is better, ↑ higher. In brackets 95 % intervals from resampling. The floor is other real images"
        " against the same reference: what a perfect set would have, so nearer to it is better than beyond it."
    )
    if any(dig(one, "noise") for one in mapped(found.get("sets")).values()):
        notes.append("noise is random pixels: a measure that prefers them tells nothing here.")
    return notes


def left_out_notes(sets: Sets, about: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return which of the measures `about` each set lacks, a line for each reason."""
    notes = []
    for label, one in sets.items():
        reasons: dict[str, list[str]] = {}
        for key, reason in mapped(one.get("left_out")).items():
            if key in about:
                heading = heading_of(key, about, found).rstrip("\N{NO-BREAK SPACE}↓↑")
                reasons.setdefault(plain_text(reason, 300), []).append(heading)
        notes += [f"– {plain_text(label, 60)}: {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return notes


def words_on(about: dict[str, Any]) -> Table:
    """Return what each of the measures `about` tells, and whose it is."""
    rows: dict[str, list[str]] = {}
    for name in about:
        base = name.partition(".")[0]
        heading = re.sub(r" \(.+?\)", "", plain_text(dig(about, name, "heading") or name, 80))
        rows.setdefault(base, [heading, IN_WORDS.get(base, ""), plain_text(dig(about, name, "source"), 120)])
    marks = [["", "", ""] for _ in rows]
    return Table("What these measures tell", ["measure", "in words", "after"], list(rows.values()), marks, folded=True)
