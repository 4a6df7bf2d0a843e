"""Tables as plain values: our numbers, the published ones beside them, and whether the two compare."""

from dataclasses import dataclass, field

DONE, NOT_RUN, NOT_COMPARABLE, NOTHING = "done", "not run", "not comparable", "nothing"
"""The states of a cell: ours is there; it is not; it is, of another setting than the paper's; nothing belongs there."""


@dataclass(frozen=True)
class Cell:
    """Our number and the paper's, as text; empty where there is none."""

    ours: str = ""
    paper: str = ""
    state: str = NOTHING


@dataclass(frozen=True)
class Row:
    """What a row is of, and its cells."""

    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table; each row has a cell for each of `columns`, and `corner` stands above the rows' labels."""

    name: str
    title: str
    corner: str
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def cell_of(ours: str | None, paper: float | str | None = None, comparable: bool = True) -> Cell:
    """Return the cell of our number, None for what was not run, beside the paper's."""
    told = "" if paper is None else paper if isinstance(paper, str) else f"{paper:.2f}"
    if ours is None:
        return Cell("", told, NOT_RUN)
    return Cell(ours, told, DONE if comparable or not told else NOT_COMPARABLE)
