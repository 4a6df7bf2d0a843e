"""The measures in words: what each is, and a table of all sets for the console."""

from typing import Any

from aras.feature_spaces import FeatureSpace
from aras.fidelity.measuring import OF_SPACE

COLUMNS = {
    "frechet": ("Fréchet", "lower", "", "Heusel et al. 2017, arXiv 1706.08500"),
    "kernel": ("kernel", "lower", "", "Binkowski et al. 2018, arXiv 1801.01401"),
    "precision": ("precision", "higher", "", "Kynkaanniemi et al. 2019, arXiv 1904.06991"),
    "recall": ("recall", "higher", "", "Kynkaanniemi et al. 2019, arXiv 1904.06991"),
    "density": ("density", "higher", "", "Naeem et al. 2020, arXiv 2002.09797"),
    "coverage": ("coverage", "higher", "", "Naeem et al. 2020, arXiv 2002.09797"),
    "memorised": ("memorised, of usual", "lower", "", "Meehan et al. 2020, arXiv 2004.05675"),
    "conditional_frechet": ("by class", "lower", "", "Fréchet distance by dominant class"),
    "agreement_miou": ("mask mIoU", "higher", "", "a segmenter's labels against the masks"),
    "agreement_accuracy": ("mask accuracy", "higher", "", "a segmenter's labels against the masks"),
    "spectrum": ("spectrum", "lower", "dB", "Durall et al. 2020, arXiv 2003.01826"),
    "histogram": ("histogram", "lower", "grey levels", "Wasserstein-1, mean of red, green and blue"),
    "adjacency": ("adjacency", "lower", "", "Jensen-Shannon distance of neighbouring classes"),
    "borders": ("borders", "lower", "", "Jensen-Shannon distance of neighbouring different classes"),
}
"""Of each measure: its column's heading, which values are better, its unit and its source."""

GROUPS = (
    ("frechet", "kernel", "conditional_frechet", "memorised"),
    ("precision", "recall", "density", "coverage"),
    ("spectrum", "histogram", "adjacency", "borders"),
    ("agreement_miou", "agreement_accuracy"),
)
"""Which measures stand in one table."""


def told_measures(spaces: list[FeatureSpace]) -> dict[str, dict[str, str]]:
    """Return by the name of each measure its heading in full, which values are better, its unit and its source."""
    full = {
        "frechet": "{distance}",
        "kernel": "Kernel distance ({space})",
        "conditional_frechet": "{distance}, by dominant class",
        "memorised": "Closer to training images than usual ({space})",
        "precision": "Precision ({space})",
        "recall": "Recall ({space})",
        "density": "Density ({space})",
        "coverage": "Coverage ({space})",
        "agreement_miou": "Agreement with masks, mean IoU",
        "agreement_accuracy": "Agreement with masks, accuracy",
        "spectrum": "Power spectrum distance",
        "histogram": "Colour histogram distance",
        "adjacency": "Land-cover adjacency distance",
        "borders": "Land-cover border distance",
    }
    found = {}
    for name, (_, better, unit, source) in COLUMNS.items():
        for space in spaces if name in OF_SPACE else [None]:
            key = f"{name}.{space.name}" if space else name
            values = {"distance": space.distance, "space": space.name} if space else {}
            heading = "KID" if space and name == "kernel" and space.distance == "FID" else full[name].format(**values)
            found[key] = {"heading": heading, "better": better, "unit": unit, "source": source}
    return found


def number(value: float) -> str:
    """Return `value` with the digits that people read: three that count, and no more than four after the point."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def cell(measure: dict[str, Any] | None, is_best: bool) -> str:
    """Return a measure with its interval, a star if it `is_best`, a dash if there is none."""
    if measure is None:
        return "-"
    told = number(measure["value"])
    if measure["low"] is not None:
        told += f" [{number(measure['low'])}, {number(measure['high'])}]"
    if "expected" in measure:
        told += f" of {number(measure['expected'])}"
    return told + (" *" if is_best else "")


def best_sets(results: dict[str, Any]) -> dict[str, set[str]]:
    """Return by the name of each measure the sets that are best at it; none if fewer than two sets have it.

    Noise is none of them, and of memorisation none is best: what is not above the usual share is as it should be.
    """
    found: dict[str, set[str]] = {}
    sets = {name: told["measures"] for name, told in results["sets"].items() if not told["noise"]}
    for name, about in results["measures"].items():
        values = {each: measures[name]["value"] for each, measures in sets.items() if name in measures}
        if name.startswith("memorised"):
            continue
        if len(values) > 1:
            best = (min if about["better"] == "lower" else max)(values.values())
            found[name] = {each for each, value in values.items() if value == best}
    return found


def table(results: dict[str, Any]) -> str:
    """Return what fidelity.json has as tables: a row for each set, the floor of real images first.

    Args:
        results: as fidelity.json has them.
    """
    floor, best = results["floor"], best_sets(results)
    rows = {f"{floor['name']} (floor)": floor["measures"]} if floor else {}
    if results["reference"]["measures"]:
        rows = {f"{results['reference']['name']} (reference)": results["reference"]["measures"]} | rows
    rows |= {name: told["measures"] for name, told in results["sets"].items()}
    blocks = []
    for group in GROUPS:
        for space in [*results["spaces"]] if group[0] in OF_SPACE else [None]:
            keys = [f"{name}.{space}" if space else name for name in group]
            keys = [key for key in keys if any(key in measures for measures in rows.values())]
            if keys:
                blocks.append(one_table(keys, rows, best, results["spaces"][space]["distance"] if space else None))
    return "\n\n".join([*blocks, meaning(results)])


def one_table(keys: list[str], rows: dict[str, dict[str, Any]], best: dict[str, set[str]], distance: str | None) -> str:
    """Return the measures `keys` of all `rows` that have any of them; `distance` is what the Fréchet distance is."""
    lines = [["", *(heading_of(key) for key in keys)]]
    for row, measures in rows.items():
        if any(key in measures for key in keys):
            lines.append([row, *(cell(measures.get(key), row in best.get(key, ())) for key in keys)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*([distance] if distance and "frechet" in keys[0] else []), *told])


def heading_of(key: str) -> str:
    """Return the heading of the column of the measure `key`, with its unit and its space."""
    name, _, space = key.partition(".")
    heading, better, unit, _ = COLUMNS[name]
    arrow = "↓" if better == "lower" else "↑"
    return f"{heading}{f', {unit}' if unit else ''} {arrow}" + (f" ({space})" if space else "")


def meaning(results: dict[str, Any]) -> str:
    """Return in a few words what the numbers mean."""
    floor, n = results["floor"], results["equal_n"]
    told = f"{n:,} images of each set against {n:,} of {results['reference']['name']}; [95 % interval]; * the best set."
    if floor:
        told += (
            f" What {floor['name']}, real images too, have is as good as images can be at this number;"
            " a set whose interval reaches it cannot be told from real ones by that measure."
        )
    return told
