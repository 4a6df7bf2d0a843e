"""What a caption claims about its image: classes, the dominant one, percentages and positions.

A caption is read by a lexicon (lexicon.toml) and a few rules about what stands beside what, so every result can be
traced to words. tests/labelled_sentences.csv measures it against sentences labelled by hand.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from aras.caption_metrics.positions import position_claims
from aras.caption_metrics.reading import COMMA, Mark, clause, lexicon, marks_of, nearest_class

AND, OR = frozenset({"and"}), frozenset({"or", "nor"})
NO_FURTHER = frozenset({"stop", "percentage"})  # a percentage is about a class of its sentence, with no other between


@dataclass(frozen=True, slots=True)
class Claims:
    """What a caption says; classes are 0..6, positions are places in `reading.POSITIONS`.

    Attributes:
        asserted: classes said to be there, also by a guess ("possibly a lake").
        denied: classes said not to be there.
        dominant: the class said to be the largest.
        percentages: classes and the percentages stated of them.
        positions: classes and where they are said to be.
    """

    asserted: frozenset[int]
    denied: frozenset[int]
    dominant: int | None
    percentages: tuple[tuple[int, float], ...]
    positions: tuple[tuple[int, int], ...]


def claims_of(caption: str) -> Claims:
    """Return what `caption` claims."""
    marks = marks_of(caption)
    denied_at = denied_places(marks)
    percentages = percentage_claims(marks)
    zero = {place for place, _, value in percentages if value == 0}
    mentions = {place: mark.value for place, mark in enumerate(marks) if "class" in mark.kinds}
    asserted = frozenset(value for place, value in mentions.items() if place not in denied_at | zero)
    denied = {mentions[place] for place in denied_at | zero} | {m.value for m in marks if "treeless" in m.kinds}
    return Claims(
        asserted,
        frozenset(denied) - asserted,
        dominant_claim(marks, denied_at),
        tuple(dict.fromkeys((mentions[place], value) for place, _, value in percentages)),
        tuple(dict.fromkeys(position_claims(marks, denied_at | zero))),
    )


# Denials


def denied_places(marks: list[Mark]) -> set[int]:
    """Return the places of the classes that `marks` deny."""
    through, to_after = lexicon().sets["negation.through"], lexicon().sets["negation.to_after"]
    found: set[int] = set()
    for place, mark in enumerate(marks):
        if "deny_before" in mark.kinds:
            found.update(listed(marks, range(place + 1, len(marks)), through))
        if "deny_after" in mark.kinds:
            found.update(listed(marks, range(place - 1, -1, -1), to_after))
    return found


def listed(marks: list[Mark], places: Iterable[int], through: frozenset[str]) -> list[int]:
    """Return the places of the classes that make one list ("water, trees or roads") from the first of `places` on.

    The list ends at a word that is not of `through`. A comma goes on with it only when an "or" follows, or an "and"
    in a list of three or more: in "no water, and crops in rows" the crops are another matter. So they are after an "or"
    ("no roads or water, and crops") and where a verb follows ("with no water, crops and houses fill the plain").
    """
    items: list[tuple[int, bool, str]] = []  # place, after a comma, after which conjunction
    comma, conjunction, has_verb = False, "", False
    verbs = lexicon().sets["negation.verbs"]
    for place in places:
        mark = marks[place]
        if "class" in mark.kinds:
            items.append((place, comma, conjunction))
            comma, conjunction = False, ""
        elif mark.words == COMMA and items:
            comma = True
        elif mark.among(AND) or mark.among(OR):
            conjunction = mark.words[0]
        elif not mark.among(through):
            has_verb = "most_after" in mark.kinds or mark.among(verbs)
            break
    first_comma = next((n for n, (_, after, _) in enumerate(items) if after), len(items))
    last_or = max((n + 1 for n, item in enumerate(items) if item[2] in OR), default=0)
    is_long_list = len(items) > 2 and any(item[2] for item in items) and not (last_or or has_verb)
    count = len(items) if is_long_list else max(first_comma, last_or)
    return [place for place, _, _ in items[:count]]


# The dominant class


def dominant_claim(marks: list[Mark], denied_at: set[int]) -> int | None:
    """Return the first class that `marks` call dominant, other than within a part of the image ("in the north")."""
    for place, mark in enumerate(marks):
        if mark.kinds & {"most_before", "most_after", "most_either"}:
            negated = place and "deny_before" in marks[place - 1].kinds
            here = clause(marks, place)
            if negated or any("position" in marks[i].kinds for i in here):
                continue
            found = class_called_dominant(marks, place)
            if found is not None and found not in denied_at:
                return int(marks[found].value)
    return None


def class_called_dominant(marks: list[Mark], place: int) -> int | None:
    """Return the place of the class that the words of dominance at `place` are about."""
    through, kinds = lexicon().sets["dominance.through"], marks[place].kinds
    found = None
    if kinds & {"most_after", "most_either"}:
        found = reached(marks, range(place - 1, -1, -1), through)
        if found is not None and joined_with(marks, found, -1) not in (None, marks[found].value):
            return None  # two classes dominate
    if found is None and kinds & {"most_before", "most_either"}:
        found = reached(marks, range(place + 1, len(marks)), through)
    return found


def joined_with(marks: list[Mark], place: int, step: int) -> int | None:
    """Return the class that an "and" joins with the one at `place`, after it for a `step` of 1, before it for -1."""
    conjunction, other = place + step, place + 2 * step
    if 0 <= other < len(marks) and marks[conjunction].among(AND) and "class" in marks[other].kinds:
        return int(marks[other].value)
    return None


def reached(marks: list[Mark], places: Iterable[int], through: frozenset[str]) -> int | None:
    """Return the first class at `places` with nothing but words of `through` and bracketed percentages before it."""
    for place in places:
        mark = marks[place]
        if "class" in mark.kinds:
            return place
        if not (mark.among(through) or mark.kinds & {"percentage", "treeless"} or mark.words[0] in "()"):
            return None
    return None


# Percentages


def percentage_claims(marks: list[Mark]) -> list[tuple[int, int, float]]:
    """Return (place of the class, place of the number, percentage) of each percentage that is about one class."""
    found = []
    for place, mark in enumerate(marks):
        if "percentage" in mark.kinds:
            about = class_of_percentage(marks, place)
            if about is not None:
                found.append((about, place, mark.value))
    return found


def class_of_percentage(marks: list[Mark], place: int) -> int | None:
    """Return the place of the class that the number at `place` is about; None when it is about several, or none.

    "45 % of the area is grass" looks ahead; "grass covers 45 %", "grass (45 %)" and "grass: 45 %" look back.
    """
    light, shared = lexicon().sets["light.words"], lexicon().sets["light.shared"]
    before = nearest_class(marks, range(place - 1, -1, -1), NO_FURTHER)
    gap = marks[before + 1 : place] if before is not None else []
    is_beside = before is not None and all(mark.words in ((":",), ("(",)) for mark in gap)
    if not is_beside and not any(mark.words == ("(",) for mark in marks[max(place - 3, 0) : place]):
        for after in range(place + 1, len(marks)):
            if "class" in marks[after].kinds:
                return None if is_shared_ahead(marks, after) else after
            if not marks[after].among(light):
                break
    if before is None:
        following = nearest_class(marks, range(place + 1, len(marks)), NO_FURTHER)
        return None if following is None or is_shared_ahead(marks, following) else following
    has_own = before > 2 and "percentage" in marks[before - 3].kinds  # "62 % crops and grass covers 30 %"
    joined = joined_with(marks, before, -1) is not None and not has_own
    return None if joined and any(word in shared for mark in gap for word in mark.words) else before


def is_shared_ahead(marks: list[Mark], place: int) -> bool:
    """Return whether a number before the class at `place` is also about the next: "60 % is trees and shrubs"."""
    if joined_with(marks, place, 1) is None:
        return False
    later = marks[place + 3 :]
    end = next((n for n, mark in enumerate(later) if mark.words == COMMA or mark.kinds & {"stop", "class"}), len(later))
    return not any("percentage" in mark.kinds for mark in later[:end])  # else that one is the next class's
