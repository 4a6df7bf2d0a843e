"""The report as one HTML file: its markup, style and scripts, and the policy that lets it load nothing else.

Everything a run wrote is untrusted text: Jinja2 escapes what goes into the markup, data for the scripts goes in as JSON
that cannot end its element, and the page's Content-Security-Policy runs only the two scripts whose hashes it names.
"""

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from aras.report.page import Curve, Figure, Page, Part, Scatter, Series, Table, as_json

WEB = Path(__file__).parent / "web"
SCRIPTS = ("start.js", "sprites.js", "curves.js", "plane.js", "maps.js", "dialogs.js", "cards.js", "run.js")
"""Put together in this order, each may use what the ones before it define."""

MARK_MEANINGS = {
    "best": "the best of those compared",
    "missing": "not there yet",
    "paper": "as published",
    "floor": "real images against real images",
}
NUMBER = re.compile(r"[−+\-<>≈~]?\s*[\d.,]+(\s*%|e[+-]?\d+)?\s*($|[±×(\[/–†‡*])")
NARROW_BAR = 350  # pixels, on a telephone; what a part of a bar says must fit there
NUMBER_WIDTH, CHARACTER_WIDTH = 16, 8  # pixels, at most
WIDE = 1.45  # width over height, above which a figure takes the page's width
HALF_PAGE, COLUMN_GAP = 600, 22  # pixels
DARK, LIGHT = "#000000", "#ffffff"


def render(page: Page) -> str:
    """Return the whole HTML of `page`: no file beside it is needed but the pictures it names, and no network."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(WEB),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters |= {"date": told_date, "percent": told_percent}
    environment.globals |= {
        "as_json": as_json,
        "bar_label": bar_label,
        "counted": counted,
        "curve_rows": curve_rows,
        "ink_on": ink_on,
        "is_half": is_half,
        "mark_meanings": mark_meanings,
        "numeric_columns": numeric_columns,
        "offsets": offsets,
    }
    style, theme, script = style_text(), (WEB / "theme.js").read_text(encoding="utf-8"), script_text()
    return environment.get_template("page.html.j2").render(
        page=page,
        policy=policy(page.is_embedded, style, (theme, script)),
        style=Markup(style),
        theme=Markup(theme),
        script=Markup(script),
    )


def style_text() -> str:
    """Return the page's style sheet."""
    return (WEB / "page.css").read_text(encoding="utf-8")


def script_text() -> str:
    """Return the page's script: its files, one after another, in one strict scope."""
    parts = [f"// {name}\n{(WEB / name).read_text(encoding='utf-8')}" for name in SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def policy(is_embedded: bool, style: str, scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy: this style and these scripts, pictures, and nothing from anywhere else."""
    allowed = " ".join(digest(script) for script in scripts)
    pictures = "data:" if is_embedded else "data: 'self'"
    return (
        f"default-src 'none'; img-src {pictures}; style-src {digest(style)}; script-src {allowed};"
        " base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """Return the source expression by which a policy names an inline script or style."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def told_date(moment: str) -> str:
    """Return the ISO 8601 `moment` as people write it, or as it is if it is none."""
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    zone = found.strftime(" %Z") if found.tzinfo else ""
    return f"{found.day} {found:%B %Y, %H:%M}{zone}"


def told_percent(share: float) -> str:
    """Return `share` 0..1 in percent: with a digit after the point below ten, with none where it is 0."""
    percent = 100 * share
    if percent == 0:
        return "0 %"
    if percent < 0.05:
        return "< 0.1 %"
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def numeric_columns(table: Table) -> list[bool]:
    """Return of each column whether its cells are numbers, which stand right-aligned.

    Dashes, gaps and what is not run yet say nothing against it; a column of these alone waits for numbers.
    """
    found = []
    for column in range(len(table.columns)):
        cells = [
            row[column]
            for row, marks in zip(table.rows, table.marks, strict=True)
            if marks[column] != "missing" and re.search(r"\w", row[column])
        ]
        waits = any(marks[column] == "missing" for marks in table.marks)
        found.append((bool(cells) or waits) and all(NUMBER.match(cell) for cell in cells))
    return found


def mark_meanings(table: Table) -> dict[str, str]:
    """Return the marks that cells of `table` with something in them have, and what each means."""
    pairs = zip(table.rows, table.marks, strict=True)
    used = {mark for cells, marks in pairs for cell, mark in zip(cells, marks, strict=True) if cell}
    return {mark: meaning for mark, meaning in MARK_MEANINGS.items() if mark in used}


def is_half(part: Part) -> bool:
    """Return whether `part` leaves room for another beside it, where the page is wide."""
    if isinstance(part, Figure):
        return part.picture.width <= WIDE * part.picture.height
    if isinstance(part, Table):
        cells = zip(part.columns, *part.rows, strict=True)
        width = sum(max(len(cell) for cell in column) * CHARACTER_WIDTH + COLUMN_GAP for column in cells)
        return not part.folded and width <= HALF_PAGE
    return isinstance(part, Curve | Scatter)


def counted(values: Iterable[Any], wanted: Iterable[Any]) -> list[int]:
    """Return how many of `values` each of the `wanted` ones is."""
    counts = Counter(values)
    return [counts[value] for value in wanted]


def offsets(values: Sequence[float]) -> list[float]:
    """Return where each of the stacked `values` begins."""
    return [sum(values[:index]) for index in range(len(values))]


def bar_label(name: str, share: float) -> str:
    """Return what a part of a bar says of itself: its name and percent, its percent, or nothing, as there is room."""
    room, number = share * NARROW_BAR, f"{100 * share:.0f}"
    if room >= (len(name) + 1) * CHARACTER_WIDTH + NUMBER_WIDTH:
        return f"{name} {number}"
    return number if room >= NUMBER_WIDTH else ""


def ink_on(color: str) -> str:
    """Return black or white, whichever has the higher contrast on `color` (#rrggbb); at least 4.5 on any (WCAG 2)."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return DARK if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else LIGHT


def curve_rows(curve: Curve) -> list[list[str]]:
    """Return what a reader without the picture needs of each line: name, first, last, lowest, highest and where."""

    def told(value: float) -> str:
        return f"{value:.4g}"

    def row(series: Series) -> list[Any]:
        low, high = min(series.y), max(series.y)
        ends = [told(series.y[0]), told(series.y[-1])]
        extremes = [f"{told(value)} at {told(series.x[series.y.index(value)])}" for value in (low, high)]
        return [series.name, *ends, *extremes]

    return [row(series) for series in curve.series if series.y]
