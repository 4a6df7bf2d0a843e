"""A caption as a row of marks: the phrases of the lexicon, percentages, punctuation and the words between them."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from aras.captions.layout import REGIONS
from aras.legend import CLASS_NAMES

LEXICON = Path(__file__).with_name("lexicon.toml")
POSITIONS = tuple(REGIONS)
NUMBER = r"\d+(?:\.\d+)?"
PERCENT = r"\s*(?:%|percent\b|per\s+cent\b)"
TOKEN = re.compile(
    rf"(?P<low>{NUMBER})(?:(?:(?:{PERCENT})?\s*(?:[-–]|to)|\s*and)\s*(?P<high>{NUMBER}))?{PERCENT}"
    rf"|(?P<word>[a-z]+(?:'[a-z]+)?|{NUMBER})|(?P<point>[.;:!?,()])"
)
BETWEEN = re.compile(rf"(\bbetween\s+{NUMBER}){PERCENT}(?=\s+and\s+{NUMBER}{PERCENT})")  # one range, not two numbers
DASHES = re.compile(r"(?<![\d%])\s[-–—]+\s|\s[-–—]+\s(?!\d)|—")  # between words; they part clauses
OWNER = re.compile(r"(?<=[a-z])'s\b")
HYPHENS = re.compile(r"(?<=[a-z])[-‐‑–_/](?=[a-z])")  # within a word
STOPS = frozenset(".;!?")
COMMA = (",",)
LONGEST = 6  # words of a phrase
WORDS_KEPT = 1 << 16  # what is kept of words seen is bounded


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of a caption.

    Attributes:
        words: its words in the singular; for punctuation, the sign.
        kinds: what the lexicon has it for, such as `class` or `deny_before`; empty for an ordinary word.
        value: the class (0..6), the place in `POSITIONS`, or the percentage that it names.
    """

    words: tuple[str, ...]
    kinds: frozenset[str] = frozenset()
    value: Any = None

    def among(self, words: frozenset[str]) -> bool:
        """Return whether it is nothing but `words`."""
        return all(word in words for word in self.words)


Phrase = tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """The phrases of lexicon.toml.

    Attributes:
        marks: by first word, the marks of the phrases that begin with it, longest first.
        sets: the lists of single words, by section and name, such as `negation.through`.
    """

    marks: dict[str, list[Mark]]
    sets: dict[str, frozenset[str]]


KIND_OF_LIST = {
    ("negation", "before"): "deny_before",
    ("negation", "after"): "deny_after",
    ("dominance", "before"): "most_before",
    ("dominance", "after"): "most_after",
    ("dominance", "either"): "most_either",
    ("traps", "phrases"): "trap",
    ("clauses", "breaks"): "break",
}


@cache
def lexicon() -> Lexicon:
    """Return the lexicon, read once."""
    sections = tomllib.loads(LEXICON.read_text(encoding="utf-8"))
    kinds: dict[Phrase, set[str]] = {}
    values: dict[Phrase, Any] = {}
    sets: dict[str, frozenset[str]] = {}
    for section, lists in sections.items():
        for name, phrases in lists.items():
            normal = [tuple(map(singular, phrase.split())) for phrase in phrases]
            value: int | None = None
            if section in ("classes", "treeless"):
                kind, value = {"classes": "class"}.get(section, section), CLASS_NAMES.index(name)
            elif section == "positions":
                kind, value = "position", POSITIONS.index(name) if name in POSITIONS else None
            elif (section, name) in KIND_OF_LIST:
                kind = KIND_OF_LIST[section, name]
            else:
                sets[f"{section}.{name}"] = frozenset(word for phrase in normal for word in phrase)
                continue
            for phrase in normal:
                kinds.setdefault(phrase, set()).add(kind)
                values.setdefault(phrase, value)
    marks: dict[str, list[Mark]] = {}
    for phrase in sorted(kinds, key=len, reverse=True):
        marks.setdefault(phrase[0], []).append(Mark(phrase, frozenset(kinds[phrase]), values[phrase]))
    return Lexicon(marks, sets)


@lru_cache(WORDS_KEPT)
def singular(word: str) -> str:
    """Return `word` without a plural's or a verb's s: bodies -> body, marshes -> marsh, covers -> cover."""
    if len(word) <= 3 or not word.endswith("s") or word.endswith("ss"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    return word[:-1]


@lru_cache(WORDS_KEPT)
def ordinary(word: str) -> Mark:
    """Return the mark of a word or a sign that the lexicon does not have."""
    return Mark((word,), frozenset({"stop"}) if word in STOPS else frozenset())


def marks_of(caption: str) -> list[Mark]:
    """Return what `caption` is made of, in order."""
    text = caption.lower().replace("’", "'").replace("can't", "cannot").replace("n't", " not")
    text = BETWEEN.sub(r"\1", HYPHENS.sub(" ", DASHES.sub(" ; ", OWNER.sub("", text))))
    tokens: list[str | float] = []
    spelt = []
    for found in TOKEN.finditer(text):
        spelt.append(found[0])
        if found["low"]:
            low = float(found["low"])
            tokens.append((low + float(found["high"])) / 2 if found["high"] else low)
        else:
            tokens.append(singular(found["word"]) if found["word"] else found["point"])
    known, marks, place = lexicon().marks, [], 0
    while place < len(tokens):
        token = tokens[place]
        if isinstance(token, float):
            marks.append(Mark(("%",), frozenset({"percentage"}), token))
            place += 1
            continue
        mark = ordinary(token)
        if token in known:
            here = tuple(tokens[place : place + LONGEST])
            there = (m for m in known[token] if here[: len(m.words)] == m.words)
            mark = next((m for m in there if not is_statement(m, spelt[place : place + len(m.words)])), mark)
        marks.append(mark)
        place += len(mark.words)
    return marks


def is_statement(mark: Mark, spelt: list[str]) -> bool:
    """Return whether what reads as a name of land cover is a noun and its verb: "trees cover", not "tree cover"."""
    return mark.words[1:] == ("cover",) and (spelt[0] != mark.words[0] or spelt[1] != "cover")


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


def nearest_class(marks: list[Mark], places: Iterable[int], until: frozenset[str]) -> int | None:
    """Return the first of `places` that is a class, None when a mark of one of the kinds `until` comes before it."""
    for place in places:
        if "class" in marks[place].kinds:
            return place
        if marks[place].kinds & until:
            return None
    return None
