"""The measures of caption streams as a table, beside the paper's figures."""

from collections.abc import Callable
from typing import Any

from aras.results.published import paper_stream

Summary = dict[str, Any]


def table(streams: dict[str, Summary], present: float) -> str:
    """Return the measures of `streams` as lines of text, one column a stream."""
    width = max(16, *(len(name) + 2 for name in streams))
    label_width = 38
    lines = [" " * label_width + "".join(f"{name:>{width}}" for name in streams)]
    for label, cell_of in rows(present):
        cells = [cell_of(name, summary) for name, summary in streams.items()]
        if any(cells):
            lines.append(f"{label:{label_width}}" + "".join(f"{cell or '-':>{width}}" for cell in cells))
    return "\n".join(lines)


def rows(present: float) -> list[tuple[str, Callable[[str, Summary], str]]]:
    """Return the rows of the table: what stands before it, and its cell for a stream."""

    def text(key: str, form: str) -> Callable[[str, Summary], str]:
        return lambda _, summary: told(summary["texts"][key], form)

    def truth(key: str, form: str = "percent") -> Callable[[str, Summary], str]:
        return lambda _, summary: with_margin(summary["grounding"][key], form)

    def leak(key: str, form: str) -> Callable[[str, Summary], str]:
        return lambda _, summary: told((summary["leakage"] or {}).get(key), form)

    def paper(measure: str) -> Callable[[str, Summary], str]:
        return lambda name, _: told((paper_stream(name) or {}).get(measure), ".2f")

    return [
        ("captions", text("captions", ",")),
        ("words, mean", lambda _, summary: told(summary["texts"]["words"]["mean"], ".1f")),
        ("exact redundancy %", text("redundancy", "percent")),
        ("  the paper's", paper("redundancy")),
        ("redundancy but for numbers %", text("redundancy_without_numbers", "percent")),
        ("redundancy, near-duplicates %", text("redundancy_near", "percent")),
        ("vocabulary", text("vocabulary", ",")),
        ("distinct-1", text("distinct_1", ".4f")),
        ("distinct-2", text("distinct_2", ".4f")),
        ("distinct-2 of equally many captions", lambda _, summary: told(summary["sample"]["distinct_2"], ".4f")),
        (f"classes of {present:g} % or more, precision %", truth("precision")),
        ("  recall %", truth("recall")),
        ("  F1 %", truth("f1")),
        ("  F1, mean of classes %", truth("f1_macro")),
        ("mentions of a class not there %", truth("hallucination")),
        ("captions with such a mention %", truth("captions_hallucinating")),
        ("denials of a class that is there %", truth("false_denial")),
        ("captions that name a dominant class %", truth("dominant_claimed")),
        ("  rightly %", truth("dominant_accuracy")),
        ("captions that state percentages %", truth("percentages_stated")),
        ("  error in points", truth("percentage_error", ".2f")),
        ("  within one point %", truth("percentages_close")),
        ("stated positions right %", truth("position_accuracy")),
        ("  by chance %", truth("position_chance")),
        ("composition from words, R2", leak("r2", ".3f")),
        ("  error in points", leak("error", ".2f")),
        ("  and from stated percentages, R2", leak("r2_with_numbers", ".3f")),
        ("  error in points", leak("error_with_numbers", ".2f")),
        ("  error of guessing the mean", leak("error_of_mean", ".2f")),
        ("CLIPScore", lambda _, summary: with_margin(summary["clip"] or {"value": None}, ".2f")),
        ("  the paper's", paper("clip")),
    ]


def told(value: float | None, form: str) -> str:
    """Return `value` in a Python format, or as a percentage; nothing for None."""
    if value is None:
        return ""
    return f"{100 * value:.2f}" if form == "percent" else f"{value:{form}}"


def with_margin(score: dict[str, Any], form: str) -> str:
    """Return a score and half the width of its interval."""
    if score["value"] is None:
        return ""
    interval = score.get("interval")
    margin = (interval[1] - interval[0]) / 2 if interval else None
    return told(score["value"], form) + (f" ±{told(margin, form)}" if margin is not None else "")
