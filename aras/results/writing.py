"""Tables as Markdown, as LaTeX (booktabs) and as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from aras.results.table import DONE, NOT_COMPARABLE, NOT_RUN, Cell, Table

LEGEND = "Ours, the paper's figure in brackets. † not comparable with the paper."
LATEX = {
    **{"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$^\dagger$", "–": "--"},
    **{"↓": r"$\downarrow$", "↑": r"$\uparrow$", "<": r"\textless{}", ">": r"\textgreater{}", "²": r"$^2$"},
}
TURNED = 5
"""Columns from which on a LaTeX table is set small enough for a page's width."""


def text_of(cell: Cell) -> str:
    """Return a cell as text: ours, and the paper's in brackets."""
    paper = f" ({cell.paper})" if cell.paper else ""
    if cell.state == NOT_RUN:
        return f"not run{paper}"
    if cell.state == NOT_COMPARABLE:
        return f"{cell.ours} †{paper}"
    return f"{cell.ours}{paper}" if cell.state == DONE else f"{cell.ours}{paper}".strip()


def markdown(tables: Iterable[Table], source: str) -> str:
    """Return `tables` as Markdown; `source` is where the published figures are from."""
    parts = [f"# Results beside the paper's ({source})", LEGEND]
    for table in tables:
        lines = [f"## {table.title}", "", markdown_row([table.corner, *table.columns])]
        lines.append("|" + "---|" * (1 + len(table.columns)))
        lines += [markdown_row([row.label, *map(text_of, row.cells)]) for row in table.rows]
        lines += ["", *(f"- {note}" for note in table.notes)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def markdown_row(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def latex(tables: Iterable[Table], source: str) -> str:
    """Return `tables` as LaTeX, to be read into a document with the packages booktabs and graphicx."""
    parts = [f"% {LEGEND.replace('†', 'dagger:')} The paper: {source}. Needs \\usepackage{{booktabs,graphicx}}."]
    for table in tables:
        grid = latex_grid(table)
        if len(table.columns) >= TURNED:
            grid = f"\\resizebox{{\\textwidth}}{{!}}{{%\n{grid}}}"
        caption = ". ".join([table.title, LEGEND.rstrip("."), *(note.rstrip(".") for note in table.notes)]) + "."
        parts.append(
            "\\begin{table}[htbp]\n\\centering\n"
            f"\\caption{{{escaped(caption)}}}\n\\label{{tab:{table.name.replace('_', '-')}}}\n{grid}\n\\end{{table}}"
        )
    return "\n\n".join(parts) + "\n"


def latex_grid(table: Table) -> str:
    """Return the tabular of a table."""
    lines = [f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}", "\\toprule"]
    lines += [latex_row([table.corner, *table.columns]), "\\midrule"]
    lines += [latex_row([row.label, *map(text_of, row.cells)]) for row in table.rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def latex_row(cells: Sequence[str]) -> str:
    """Return a line of a tabular."""
    return " & ".join(map(escaped, cells)) + " \\\\"


def escaped(text: str) -> str:
    """Return `text` as LaTeX sets it."""
    return "".join(LATEX.get(letter, letter) for letter in text.replace("\n", " "))


def as_json(tables: Iterable[Table], source: str, unused: dict[str, list[str]]) -> dict[str, Any]:
    """Return what results.json holds: `tables` by their fields, and what could not be used."""
    return {"source": source, "legend": LEGEND, "tables": [asdict(table) for table in tables], **unused}
