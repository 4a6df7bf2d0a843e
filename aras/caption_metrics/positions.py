"""Which classes a caption places where: "water in the north-east", "the southern half is forest"."""

from collections.abc import Iterable, Iterator

from aras.caption_metrics.reading import COMMA, Mark, clause, lexicon, nearest_class

COURSE = 8
"""Marks within which the other end of a course stands."""


def position_claims(marks: list[Mark], without: set[int]) -> Iterator[tuple[int, int]]:
    """Yield (class, position) for each class that `marks` place somewhere; those at the places `without` are none."""
    links = lexicon().sets["places.parts"] | lexicon().sets["places.links"]
    placed: list[int] = []
    waiting: list[int] = []  # positions that share the classes of the next: "the north and west are forest"
    previous = -1
    for place, mark in enumerate(marks):
        if "position" not in mark.kinds or mark.value is None:
            continue
        if is_course(marks, place) or is_relative(marks, place):
            continue
        is_linked = previous >= 0 and all(m.among(links) for m in marks[previous + 1 : place])  # "north and south"
        if not (is_linked and placed):
            placed = [i for i in classes_placed(marks, place) if i not in without]
        waiting = [*(waiting if is_linked else []), int(mark.value)]
        previous = place
        for i in placed:
            yield from ((int(marks[i].value), position) for position in waiting)
        if placed:
            waiting = []


def is_course(marks: list[Mark], place: int) -> bool:
    """Return whether the position at `place` is an end of a course, as in "from the north to the southern edge"."""
    parts = lexicon().sets["places.parts"]
    after = [mark for mark in marks[place + 1 : place + COURSE] if not mark.among(parts)]
    before = [mark for mark in reversed(marks[max(place - COURSE + 1, 0) : place]) if not mark.among(parts)]
    return any(len(near) > 1 and near[0].words == ("to",) and "position" in near[1].kinds for near in (after, before))


def is_relative(marks: list[Mark], place: int) -> bool:
    """Return whether the position at `place` is one beside or within a thing: "north of the lake", "its eastern shore".

    The scene, or a landscape of some class, is the image itself.
    """
    parts, articles = lexicon().sets["places.parts"], frozenset({"the", "a", "an", "this", "that"})
    after = marks[place + 1 : place + 6]
    if after and after[0].among(parts) and not after[0].among(frozenset({"of", "the", "and"})):
        after = after[1:]  # "the eastern edge of the town"
    if not after or after[0].words != ("of",):
        return False
    after = [mark for mark in after[1:] if not mark.among(articles)]
    if after and after[0].words == ("it",):
        return True
    if not after or "class" not in after[0].kinds:
        return False
    return len(after) < 2 or not after[1].among(lexicon().sets["places.whole"])


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
    before = nearest_class(marks, range(here.start - 1, -1, -1), frozenset({"stop"}))
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
