"""What a caption claims about its image: classes, the dominant one, percentages and positions.

A caption is read by a lexicon (lexicon.toml) and a few rules about what stands beside what, so every result can be
traced to words. tests/labelled_sentences.csv measures it against sentences labelled by hand.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aras.caption_metrics.reading import Mark, lexicon, marks_of

AND, OR = frozenset({"and"}), frozenset({"or", "nor"})
COMMA = (",",)


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
    in a list of three or more: in "no water, and crops in rows" the crops are another matter.
    """
    items: list[tuple[int, bool, str]] = []  # place, after a comma, after which conjunction
    comma, conjunction = False, ""
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
            break
    first_comma = next((n for n, (_, after, _) in enumerate(items) if after), len(items))
    last_or = max((n + 1 for n, item in enumerate(items) if item[2] in OR), default=0)
    is_long_list = len(items) > 2 and any(item[2] for item in items)
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
        if found is not None and found > 1 and marks[found - 1].among(AND) and "class" in marks[found - 2].kinds:
            return None  # two classes dominate
    if found is None and kinds & {"most_before", "most_either"}:
        found = reached(marks, range(place + 1, len(marks)), through)
    return found


def reached(marks: list[Mark], places: Iterable[int], through: frozenset[str]) -> int | None:
    """Return the first class at `places` with nothing but words of `through` and bracketed percentages before it."""
    for place in places:
        mark = marks[place]
        if "class" in mark.kinds:
            return place
        if not (mark.among(through) or mark.kinds & {"percentage", "treeless"} or mark.words[0] in "()"):
            return None
    return None


def clause(marks: list[Mark], place: int) -> range:
    """Return the places of the clause around `place`: up to the punctuation and the words that part clauses."""
    start, end = place, place
    while start > 0 and not parts_clauses(marks[start - 1]):
        start -= 1
    while end < len(marks) and not parts_clauses(marks[end]):
        end += 1
    return range(start, end)


def parts_clauses(mark: Mark) -> bool:
    """Return whether a clause ends at `mark`."""
    return mark.words == COMMA or bool(mark.kinds & {"stop", "break"})


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
    before = class_before(marks, place)
    gap = marks[before + 1 : place] if before is not None else []
    is_beside = before is not None and all(mark.words in ((":",), ("(",)) for mark in gap)
    if not is_beside and not any(mark.words == ("(",) for mark in marks[max(place - 3, 0) : place]):
        for after in range(place + 1, len(marks)):
            if "class" in marks[after].kinds:
                return after
            if not marks[after].among(light):
                break
    if before is None:
        return class_after(marks, place)
    joined = before > 1 and marks[before - 1].among(AND) and "class" in marks[before - 2].kinds
    return None if joined and any(word in shared for mark in gap for word in mark.words) else before


def class_before(marks: list[Mark], place: int) -> int | None:
    """Return the nearest class before `place` in its sentence, with no other percentage between."""
    for before in range(place - 1, -1, -1):
        if "class" in marks[before].kinds:
            return before
        if marks[before].kinds & {"stop", "percentage"}:
            return None
    return None


def class_after(marks: list[Mark], place: int) -> int | None:
    """Return the nearest class after `place` in its sentence, with no other percentage between."""
    for after in range(place + 1, len(marks)):
        if "class" in marks[after].kinds:
            return after
        if marks[after].kinds & {"stop", "percentage"}:
            return None
    return None


# Positions


def position_claims(marks: list[Mark], without: set[int]) -> Iterator[tuple[int, int]]:
    """Yield (class, position) for each class that `marks` place somewhere; those at the places `without` are none."""
    links = lexicon().sets["places.parts"] | lexicon().sets["places.links"]
    placed: list[int] = []
    previous = -1
    for place, mark in enumerate(marks):
        if "position" not in mark.kinds or mark.value is None or is_course(marks, place):
            continue
        between = marks[previous + 1 : place]
        if not (previous >= 0 and placed and all(m.among(links) for m in between)):  # "north and south"
            placed = [i for i in classes_placed(marks, place) if i not in without]
        previous = place
        for i in placed:
            yield int(marks[i].value), int(mark.value)


def is_course(marks: list[Mark], place: int) -> bool:
    """Return whether the position at `place` is an end of a course, as in "runs from the north to the south"."""
    after = [mark for mark in marks[place + 1 : place + 4] if mark.words != ("the",)]
    before = [mark for mark in reversed(marks[max(place - 3, 0) : place]) if mark.words != ("the",)]
    return any(len(near) > 1 and near[0].words == ("to",) and "position" in near[1].kinds for near in (after, before))


def classes_placed(marks: list[Mark], place: int) -> list[int]:
    """Return the places of the classes that the position at `place` is about.

    They are those after it when it begins what is said ("the northern half is forest", "northern forest"), else those
    before it in its clause; when the clause has none, those of the next clause if the sentence begins with this one
    ("in the north, forest"), else the last before it ("forest, mainly in the north").
    """
    here = clause(marks, place)
    earlier = classes_until_position(marks, range(place - 1, here.start - 1, -1))
    later = classes_until_position(marks, range(place + 1, here.stop))
    if later and (not earlier or (is_subject(marks, place) and not is_beside(marks, earlier[0], place))):
        return later
    if earlier:
        return earlier
    begins = here.start == 0 or "stop" in marks[here.start - 1].kinds or "break" in marks[here.start - 1].kinds
    if begins and here.stop < len(marks) and marks[here.stop].words == COMMA:
        following = clause(marks, here.stop + 1) if here.stop + 1 < len(marks) else range(0)
        return classes_until_position(marks, following)
    before = class_in_sentence_before(marks, here.start)
    return [] if before is None else [before]


def classes_until_position(marks: list[Mark], places: Iterable[int]) -> list[int]:
    """Return those of `places` that are classes, up to the first position."""
    found = []
    for place in places:
        if "position" in marks[place].kinds:
            break
        if "class" in marks[place].kinds:
            found.append(place)
    return found


def is_subject(marks: list[Mark], place: int) -> bool:
    """Return whether the position at `place` begins a statement: a verb or a class follows its "half" or "corner"."""
    parts, verbs = lexicon().sets["places.parts"], lexicon().sets["places.verbs"]
    for mark in marks[place + 1 :]:
        if "class" in mark.kinds or mark.among(verbs) or mark.kinds & {"most_before"}:
            return True
        if not mark.among(parts):
            return False
    return False


def is_beside(marks: list[Mark], before: int, place: int) -> bool:
    """Return whether the position at `place` belongs to the class at `before`, as in "the lake in the north"."""
    words = lexicon().sets["places.beside"]
    return all(mark.among(words) for mark in marks[before + 1 : place])


def class_in_sentence_before(marks: list[Mark], place: int) -> int | None:
    """Return the nearest class before `place` in its sentence."""
    for before in range(place - 1, -1, -1):
        if "class" in marks[before].kinds:
            return before
        if "stop" in marks[before].kinds:
            return None
    return None
