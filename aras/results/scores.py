"""The tables of segmentation: models by training data, and what the scores are made of."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from aras.legend import CLASS_NAMES
from aras.results.published import published
from aras.results.statistics import Estimate, estimate
from aras.results.table import Cell, Row, Table, cell_of
from aras.results.trainings import ORDER, Setting, Training

HEADINGS = {"f1": "F1", "iou": "IoU"}
DETAILS = ("precision", "recall", *CLASS_NAMES)
COMPARABLE = Setting((), ())
ABSENT = "–"


@dataclass(frozen=True)
class Group:
    """The trainings of one setting.

    Attributes:
        setting: theirs.
        trainings: one of each model, training data and seed.
        suffix: what the names of its tables end in.
    """

    setting: Setting
    trainings: list[Training]
    suffix: str = ""

    @property
    def is_papers(self) -> bool:
        """Whether the setting is the paper's."""
        return not self.setting.differences

    @property
    def told_suffix(self) -> str:
        """What the titles of its tables end in."""
        return f" (other setting{self.suffix.replace('_', ' ')})" if self.suffix else ""

    @cached_property
    def columns(self) -> dict[str, str]:
        """The heading of each kind of training data: the paper's in its setting, and all that were found."""
        paper = published()["segmentation"]["columns"] if self.is_papers else {}
        found = {one.column: one.heading for one in self.trainings}
        known = [name for name in ORDER if name in paper or name in found]
        headings = {name: paper.get(name) or found[name] for name in [*known, *sorted(found.keys() - set(known))]}
        twice = {text for text in headings.values() if list(headings.values()).count(text) > 1}
        return {name: f"{text} {name[-6:]}" if text in twice else text for name, text in headings.items()}

    @cached_property
    def models(self) -> dict[str, str]:
        """Ours by the name that the table has: the paper's in its setting, and all that were found."""
        paper = {ours: name for name, ours in published()["segmentation"]["models"].items()}
        found = {one.arch for one in self.trainings}
        first = {name: ours for ours, name in paper.items() if self.is_papers or ours in found}
        return first | {name: name for name in sorted(found - paper.keys())}

    @property
    def averaged(self) -> list[str]:
        """The models that a mean is taken over: the paper's in its setting, else all."""
        return list(published()["segmentation"]["models"].values() if self.is_papers else self.models.values())

    def values(self, column: str, arch: str, score: str) -> dict[int, float]:
        """Return the `score` in percent of each seed's training of `arch` on `column`."""
        found = [one for one in self.trainings if (one.column, one.arch) == (column, arch)]
        return {one.seed: 100 * value for one in found if (value := one.scores[score]) is not None}

    def mean(self, column: str, archs: Iterable[str], score: str) -> Estimate | None:
        """Return the mean over `archs`, taken for each seed that all have; None when one of them was not run."""
        runs = [self.values(column, arch, score) for arch in archs]
        if not runs or not all(runs):
            return None
        seeds = set.intersection(*(set(run) for run in runs))
        if not seeds:
            each = [estimate(run.values()).mean for run in runs]
            return Estimate(sum(each) / len(each), None, 1)
        return estimate(sum(run[seed] for run in runs) / len(runs) for seed in sorted(seeds))

    def compares(self, column: str) -> bool:
        """Return whether the trainings on `column` stand beside the paper's."""
        return self.is_papers and not any(one.unlike for one in self.trainings if one.column == column)


def groups_of(trainings: Iterable[Training]) -> list[Group]:
    """Return the trainings by setting, the paper's first, which is there even when it is empty."""
    by_setting: dict[Setting, list[Training]] = {}
    for training in trainings:
        by_setting.setdefault(training.setting, []).append(training)
    ordered = sorted(by_setting.items(), key=lambda item: (bool(item[0].differences), -len(item[1]), str(item[0])))
    if not ordered or ordered[0][0].differences:
        ordered.insert(0, (COMPARABLE, []))
    groups = []
    for n, (setting, kept) in enumerate(ordered):
        # The paper's number of test images, but not those that most trainings have: the files do not tell which it had.
        other = setting if setting.differences or not n else Setting(("another test split",), setting.support)
        groups.append(Group(other, kept, f"_{n}" if n else ""))
    return groups


def score_tables(group: Group) -> list[Table]:
    """Return the tables of F1 and of IoU: models by training data."""
    return [score_table(group, score) for score in HEADINGS]


def score_table(group: Group, score: str) -> Table:
    """Return the table of `score`."""
    paper = published()["segmentation"][score]

    def cell(model: str, column: str, found: Estimate | None) -> Cell:
        return cell_of(found.told() if found else None, paper.get(model, {}).get(column), group.compares(column))

    rows = []
    for name, arch in group.models.items():
        runs = {column: group.values(column, arch, score) for column in group.columns}
        each = {column: estimate(run.values()) if run else None for column, run in runs.items()}
        rows.append(Row(name, [cell(name, column, found) for column, found in each.items()]))
    if len(group.averaged) > 1:
        means = {column: group.mean(column, group.averaged, score) for column in group.columns}
        rows.append(Row("mean", [cell("mean", column, found) for column, found in means.items()]))
    title = f"Segmentation, macro {HEADINGS[score]} in percent{group.told_suffix}"
    columns = list(group.columns.values())
    return Table(f"segmentation_{score}{group.suffix}", title, "model", columns, rows, notes(group))


def details_table(group: Group) -> Table:
    """Return precision, recall and F1 of the classes by training data: means over the models run on all whole sets."""
    paper = published()["segmentation"]["details"]
    run = {column: {one.arch for one in group.trainings if one.column == column} for column in group.columns}
    whole_sets = [archs for column, archs in run.items() if archs and column in ORDER]  # parts were run on fewer models
    common = set.intersection(*(whole_sets or [set()]))
    models = [arch for arch in group.models.values() if arch in common]
    rows = []
    for detail in DETAILS:
        cells = []
        for column in group.columns:
            found = group.mean(column, models, detail) if run[column] else None
            whole = group.compares(column) and set(models) >= set(group.averaged)
            value = paper.get(detail, {}).get(column)
            absent = not found and bool(models) and run[column] >= set(models)
            cells.append(Cell(ABSENT, "" if value is None else f"{value:.2f}") if absent else told(found, value, whole))
        rows.append(Row(detail if detail in CLASS_NAMES else f"macro {detail}", cells))
    said = [f"Ours are means over {', '.join(models)}."] if models else ["No model was run on all of these."]
    said.append("The published classes are not said to be of one model; its precision and recall are means of six.")
    if any(cell.ours == ABSENT for row in rows for cell in row.cells):
        said.append(f"{ABSENT}: the test split has no such pixels.")
    title = f"Segmentation, F1 of the classes, precision and recall in percent{group.told_suffix}"
    columns = list(group.columns.values())
    return Table(f"segmentation_classes{group.suffix}", title, "", columns, rows, said + notes(group))


def told(found: Estimate | None, paper: float | None, comparable: bool) -> Cell:
    """Return the cell of `found` beside the paper's figure."""
    return cell_of(found.told() if found else None, paper, comparable)


def notes(group: Group) -> list[str]:
    """Return what is to be said of the numbers of `group`."""
    counts = seeds_of(group)
    said = [] if group.is_papers else [f"Not comparable with the paper: {'; '.join(group.setting.differences)}."]
    if counts:
        told_counts = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        said.append(f"Seeds of each number: {told_counts}; the paper's are one run each.")
    if counts and counts[-1] > 1:
        said.append(
            "± is the 95 % interval of the mean over seeds (Student's t): of training again on the same data. How sure"
            " a score is for want of test images is in each test_metrics.json."
        )
    if "DeepLab" in group.models:
        said.append(f"DeepLab is {group.models['DeepLab']}; the paper does not say which it took.")
    for column, heading in group.columns.items():
        unlike = {one.unlike for one in group.trainings if one.column == column and one.unlike}
        if unlike and group.is_papers:
            said.append(f"{heading}: not comparable with the paper, trained on other numbers of images: {min(unlike)}.")
    return said


def seeds_of(group: Group) -> list[int]:
    """Return how many seeds the models have on their training data, each number once, in order."""
    return sorted(set(Counter((one.column, one.arch) for one in group.trainings).values()))
