"""Training data against training data: the same models and seeds, pair by pair."""

from aras.results.published import published
from aras.results.scores import Group
from aras.results.statistics import LEVEL, PairedTest, holm, paired_test
from aras.results.table import DONE, NOT_COMPARABLE, NOT_RUN, Cell, Row, Table
from aras.results.trainings import ORDER

BASE = "real"
FURTHER = (("synth_100k", "synth"), ("real_synth", "real_both"), ("real_synth", "real_conditional"))
"""Comparisons beside those of everything with `BASE`: more of the same, more kinds, kind against kind."""


def comparisons(group: Group) -> list[tuple[str, str]]:
    """Return the pairs of training data that are compared, the second with the first, all fixed beforehand.

    Each with `BASE`, `FURTHER`, and a part of real + synthetic images with the whole.
    """
    found = [(BASE, column) for column in group.columns if column != BASE and BASE in group.columns]
    found += [pair for pair in FURTHER if set(pair) <= group.columns.keys()]
    parts = [column for column in group.columns if column not in ORDER and column.startswith("real_synth,")]
    return found + [("real_synth", part) for part in parts if "real_synth" in group.columns]


def comparison_table(group: Group) -> Table | None:
    """Return the differences of macro F1 between training data with two tests; None where there is one kind alone."""
    pairs = comparisons(group)
    if not pairs:
        return None
    found = [pairs_of(group, *pair) for pair in pairs]
    tests = [paired_test([pair for one in kept.values() for pair in one]) if kept else None for kept in found]
    t = holm([test.t if test else None for test in tests])
    rank = holm([test.wilcoxon if test else None for test in tests])
    rows = []
    for (first, second), kept, test, *p in zip(pairs, found, tests, t, rank, strict=True):
        label = f"{group.columns[second]} – {group.columns[first]}"
        whole = group.compares(first) and group.compares(second) and kept.keys() >= set(group.averaged)
        rows.append(Row(label, cells_of(kept, test, (p[0], p[1]), published_difference(first, second), whole)))
    tested = sum(test is not None and test.wilcoxon is not None for test in tests)
    said = [
        "Differences of macro F1 in points, over pairs of the same model and seed; ± is the"
        f" {100 * LEVEL:.0f} % interval of their mean (Student's t). The paper's are those of its six-model means.",
        "p, two-sided: Student's paired t test and Wilcoxon's signed-rank test, each corrected by Holm for the"
        f" {tested} comparisons that could be tested. Of n pairs Wilcoxon's p is 2 / 2^n at least, before correction.",
        "The pairs share one test split and one set of synthetic images, and those of one seed or model are no"
        " independent draws: the tests are about trainings like these, not about other regions or generators.",
    ]
    if not group.is_papers:
        said.append(f"Not comparable with the paper: {'; '.join(group.setting.differences)}.")
    columns = ["difference", "pairs", "models better", "p, t", "p, Wilcoxon"]
    title = f"Training data against training data, macro F1{group.told_suffix}"
    return Table(f"comparisons{group.suffix}", title, "", columns, rows, said)


def published_difference(first: str, second: str) -> str:
    """Return how much the paper's mean of six models is higher on `second`; empty where it has none."""
    paper = published()["segmentation"]["f1"]["mean"]
    return f"{paper[second] - paper[first]:+.2f}" if {first, second} <= paper.keys() else ""


def cells_of(
    kept: dict[str, list[tuple[float, float]]],
    test: PairedTest | None,
    corrected: tuple[float | None, float | None],
    paper: str,
    comparable: bool,
) -> list[Cell]:
    """Return the cells of one comparison, of the pairs `kept` of each model."""
    if test is None:
        return [Cell("", paper, NOT_RUN), *(Cell() for _ in range(4))]
    better = sum(sum(b - a for a, b in pairs) > 0 for pairs in kept.values())
    count = test.difference.count
    ps = ["one pair: no test" if count < 2 else told_p(p) for p in corrected]
    sign = "+" if test.difference.mean >= 0 else ""
    return [
        Cell(sign + test.difference.told(), paper, DONE if comparable else NOT_COMPARABLE),
        *(Cell(text, "", DONE) for text in (str(count), f"{better} of {len(kept)}", *ps)),
    ]


def told_p(p: float | None) -> str:
    """Return a p value in words."""
    if p is None:
        return "all differ alike"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def pairs_of(group: Group, first: str, second: str) -> dict[str, list[tuple[float, float]]]:
    """Return the F1 of each seed that has both, by model."""
    found = {}
    for arch in group.models.values():
        one, other = (group.values(column, arch, "f1") for column in (first, second))
        found[arch] = [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())]
    return {arch: pairs for arch, pairs in found.items() if pairs}
