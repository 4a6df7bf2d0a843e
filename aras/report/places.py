"""Where the report looks for what each stage left."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aras.pairs import GENERATED
from aras.splits import SPLITS

SETS = (*SPLITS, "synth", GENERATED)
"""Sets of images that a dataset folder can hold, in the order in which they are shown."""

DEEPEST = 3
"""How many folders below a named one training runs are looked for."""

NO_RUNS = {"images", "masks", "samples", "features", "confidence", GENERATED, *SPLITS, "synth", "wandb"}
"""Folders without runs, some of them of millions of files."""

MARKS_OF_RUN = ("run.json", "training_options.json", "metrics.jsonl", "stats.jsonl", "test_metrics.json")


@dataclass(frozen=True)
class Places:
    """The folders of the stages' outputs; each may be missing.

    Attributes:
        root: the folder with all of them, unless they are named one by one.
        data: the dataset.
        runs: folders with training runs, in themselves or below.
        predictions: a segmenter's masks of images of the dataset.
        captions: CSVs of captions, and metrics/.
        feature_maps: of segformer_vis.py.
        fidelity: of synthetic_metrics.py.
        selection: of synthetic_select.py.
        results: of results_table.py.
    """

    root: Path
    data: Path
    runs: tuple[Path, ...]
    predictions: Path
    captions: Path
    feature_maps: Path
    fidelity: Path
    selection: Path
    results: Path

    def shown(self, path: Path) -> str:
        """Return `path` as the page shows it: without the root, if it is below it."""
        try:
            return path.absolute().relative_to(self.root.absolute()).as_posix()
        except ValueError:
            return str(path)

    def without_machine(self, text: str) -> str:
        """Return `text` in which paths below the root begin with its name, not with where it lies on this machine."""
        for root in (self.root.absolute(), self.root.resolve()):
            if root.name:
                text = text.replace(f"{root}/", f"{root.name}/")
        return text

    def images(self, name: str) -> Path:
        """Return the folder of the images of a set."""
        return self.data / "train" / GENERATED if name == GENERATED else self.data / name / "images"

    def masks(self, name: str) -> Path:
        """Return the folder of the masks of a set."""
        return self.data / ("train" if name == GENERATED else name) / "masks"

    def percentages(self, name: str) -> Path:
        """Return the table of class percentages of a set; conditional images have that of the masks they are of."""
        return self.data / "class_percentages" / f"{'train' if name == GENERATED else name}.csv"

    def run_folders(self) -> list[Path]:
        """Return the folders of training runs, in the order of `runs` and of their names."""
        found: dict[Path, None] = {}
        for folder in self.runs:
            found |= dict.fromkeys(runs_below(folder, DEEPEST))
        return list(found)


def runs_below(folder: Path, depth: int) -> Iterator[Path]:
    """Yield `folder` and those below it, at most `depth` deep, that are of a run."""
    if not folder.is_dir():
        return
    if any((folder / name).is_file() for name in MARKS_OF_RUN):
        yield folder
    if depth:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        for name in names:
            if name not in NO_RUNS and not name.startswith("."):
                yield from runs_below(folder / name, depth - 1)
