"""What the report shows, as plain values: sections of figures, tables, bars, curves, a map, cards and points.

Gathering fills these, rendering shows them, and neither knows the other. All text is plain (rendering escapes it), all
numbers are finite, and `as_json` gives the whole page as JSON: each part by its fields with its `kind`, and the two
that come by the thousand, `Sprite` and `Footprint`, as arrays.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

MARKS = ("", "best", "missing", "paper", "floor")
"""What a cell of a table can be: as others, best of those it stands with, not run yet, the paper's, of real images."""


class Sprite(NamedTuple):
    """A rectangle of one of the page's sheets, in the sheet's own pixels."""

    sheet: int  # index into Page.sheets
    x: int
    y: int
    width: int
    height: int


class Footprint(NamedTuple):
    """A patch's place on Earth in degrees, or that of a square of neighbours where there are too many patches."""

    name: str
    split: str
    west: float
    south: float
    east: float
    north: float
    card: int | None  # index into the Cards of the page


@dataclass(frozen=True)
class Picture:
    """An image; `src` is a data: URI, or a path relative to the page."""

    src: str
    width: int  # pixels
    height: int
    alt: str


@dataclass(frozen=True)
class Figure:
    """A picture with a caption."""

    title: str
    picture: Picture
    caption: str
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Table:
    """A table: `rows` and `marks` (of `MARKS`) have a cell for each of `columns`; a `folded` one opens on demand."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    marks: list[list[str]]
    notes: list[str] = field(default_factory=list)
    folded: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Bars:
    """Stacked bars, one a group, of shares that add up to at most 1.

    Of a single group the legend tells the `counts` that the shares are of, if there are any, one a part.
    """

    title: str
    groups: list[str]
    totals: list[str]  # one a group: how many there are, in words
    parts: list[str]
    colors: list[str]  # one a part, #rrggbb
    values: list[list[float]]  # 0..1, one list a group, one value a part
    note: str = ""
    counts: list[int] = field(default_factory=list)
    kind: str = field(default="bars", init=False)


@dataclass(frozen=True)
class Series:
    """One line of a curve; points without a value are left out."""

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Curve:
    """Lines over one axis."""

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    note: str = ""
    kind: str = field(default="curve", init=False)


@dataclass(frozen=True)
class Footprints:
    """The map: where patches lie, over a mosaic of them; `bounds` is of both, (west, south, east, north) in degrees."""

    title: str
    patches: list[Footprint]
    splits: list[str]
    colors: list[str]  # one a split
    mosaic: Picture | None
    bounds: tuple[float, float, float, float]
    note: str = ""
    kind: str = field(default="footprints", init=False)


@dataclass(frozen=True)
class Caption:
    """What one stream says of an image."""

    stream: str
    text: str


@dataclass(frozen=True)
class Card:
    """One image and all that is known of it; `split` and `name` together are its own.

    Attributes:
        name: its stem.
        split: train, val, test, synth or generated.
        classes: those that cover enough of it to be seen, the largest first.
        shares: 0..1 of each class that it has, in the legend's order.
        image: itself; None when it could not be read.
        mask: its mask in the legend's colours.
        prediction: a segmenter's mask of it.
        captions: one a stream.
        score: 0..1, the share of pixels at which the prediction is the mask.
        confidence: 0..1, how sure the segmenter was of the mask or of the prediction.
    """

    name: str
    split: str
    classes: list[str]
    shares: dict[str, float]
    image: Sprite | None
    mask: Sprite | None
    prediction: Sprite | None
    captions: list[Caption]
    score: float | None
    confidence: float | None


@dataclass(frozen=True)
class Cards:
    """Images to look through, by the classes and splits they are of; those of which most is known come first."""

    cards: list[Card]
    classes: list[str]
    colors: list[str]  # one a class
    splits: list[str]
    note: str = ""
    kind: str = field(default="cards", init=False)


@dataclass(frozen=True)
class Scatter:
    """Points on a plane, each an image; the five lists of points are as long as one another."""

    title: str
    sets: list[str]
    colors: list[str]  # one a set
    x: list[float]
    y: list[float]
    set_of: list[int]  # index into sets
    names: list[str]
    sprites: list[Sprite | None]
    note: str = ""
    kind: str = field(default="scatter", init=False)


@dataclass(frozen=True)
class Provenance:
    """What made an output."""

    stage: str
    folder: str
    command: str
    commit: str
    started: str
    device: str
    versions: dict[str, str]
    options: dict[str, str]


@dataclass(frozen=True)
class Provenances:
    """What made each output."""

    runs: list[Provenance]
    kind: str = field(default="provenances", init=False)


Part = Figure | Table | Bars | Curve | Footprints | Cards | Scatter | Provenances


@dataclass(frozen=True)
class Section:
    """A section; where there is nothing to show yet, `missing` is the command that makes it."""

    id: str
    title: str
    lead: str
    parts: list[Part]
    missing: str | None = None


@dataclass(frozen=True)
class Fact:
    """A headline number."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """The whole report.

    Attributes:
        title: what it is of.
        subtitle: one line on the data.
        made: when, ISO 8601.
        facts: the headline numbers.
        sections: in the order of the page.
        sheets: pictures that the sprites are parts of.
        notes: what could not be read.
        is_embedded: whether all pictures are data: URIs, and none is a file beside the page.
    """

    title: str
    subtitle: str
    made: str
    facts: list[Fact]
    sections: list[Section]
    sheets: list[Picture]
    notes: list[str]
    is_embedded: bool


def as_json(part: Any) -> Any:
    """Return a page, a part or a list of them as values that `json.dumps` takes."""
    if isinstance(part, list):
        return [as_json(one) for one in part]
    return asdict(part)
