"""A segmenter's training as its files tell it: on what, with what, tested on what, and how the paper's differs.

All is read from run.json and test_metrics.json; a folder's name says nothing.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aras.confusion import SCORES
from aras.legend import CLASS_NAMES
from aras.pairs import GENERATED
from aras.results.published import published

RECIPE = (
    *("encoder", "encoder_weights", "init_weights", "epochs", "batch_size", "lr", "loss", "patience", "sampling"),
    *("mix", "min_confidence", "ema", "tta", "limit"),
)
"""Options that can move a score by more than rounding, but for the model, the seed and what is trained on."""

OFF = (None, False, 0, 0.0, "")

COLUMNS = {
    ("train",): "real",
    ("synth",): "synth",
    (GENERATED,): "conditional",
    ("train", "synth"): "real_synth",
    ("train", GENERATED): "real_conditional",
    ("train", "synth", GENERATED): "real_both",
}
"""What stands for each combination of sets."""

SUBSET = "synth_100k"
ORDER = ("real", SUBSET, *(name for name in COLUMNS.values() if name != "real"))
WORDS = {"train": "real", "synth": "synthetic", GENERATED: "conditional"}


@dataclass(frozen=True)
class Setting:
    """In what trainings differ from the published ones, but for what they are trained on; alike ones are compared.

    Attributes:
        differences: in words; empty for the paper's own setting, so far as the files tell.
        support: pixels of each class of the test split, which tell it from another of the same size.
    """

    differences: tuple[str, ...]
    support: tuple[int, ...]


@dataclass(frozen=True)
class Training:
    """One finished training and its test.

    Attributes:
        folder: where it lies.
        arch: the model.
        sets: what it was trained on, in a fixed order.
        lists: the file of each set of which only the named images were taken, by set.
        digest: what tells the content of these files.
        images: how many images of each set; empty where the files do not tell.
        unusual: whether these are other numbers than those of most trainings on the same sets.
        seed: of all that is random.
        setting: the rest that matters.
        scores: fractions: F1, IoU, precision, recall, and each class's F1 (None where the test split has none of it).
        started: when, ISO.
    """

    folder: Path
    arch: str
    sets: tuple[str, ...]
    lists: Mapping[str, Path]
    digest: str | None
    images: Mapping[str, int]
    seed: int
    setting: Setting
    scores: Mapping[str, float | None] = field(hash=False)
    started: str
    unusual: bool = False

    @property
    def column(self) -> str:
        """What stands for its training data: one of `ORDER`, or a text of its own for other parts of sets."""
        base = COLUMNS.get(self.sets, "+".join(self.sets))
        subset = published()["segmentation"]["subset"]["synth"]
        if self.lists:
            base = SUBSET if base == "synth" and self.images.get("synth") == subset else f"{base}, {self.digest}"
        return f"{base}, {self.numbers}" if self.unusual else base

    @property
    def numbers(self) -> str:
        """How many images of each set it has, in words."""
        told = [f"{WORDS[name]} {count:,}" for name, count in self.images.items()]
        return ", ".join(told) or "unknown numbers of images"

    @property
    def heading(self) -> str:
        """Its training data in words."""
        words = " + ".join(WORDS[name] for name in self.sets)
        words = words[0].upper() + words[1:]
        parts = [
            f"{path.stem}" + (f", {self.images[name]:,}" if name in self.images else "")
            for name, path in self.lists.items()
        ]
        parts += [self.numbers] if self.unusual else []
        return f"{words} ({'; '.join(parts)})" if parts else words

    @property
    def unlike(self) -> str:
        """How its training images differ in number from the published ones; empty if they do not, or are not told."""
        paper = published()["segmentation"]
        expected = paper["subset"] if self.column == SUBSET else paper["images"]
        other = [f"{WORDS[name]} {count:,}" for name, count in self.images.items() if count != expected[name]]
        return ", ".join(other)


def told_apart(trainings: Iterable[Training]) -> list[Training]:
    """Return `trainings`, those `unusual` whose sets are as others' but for the numbers of images.

    Usual are the published numbers, else those of most.
    """
    kinds: dict[tuple[Setting, str], list[Training]] = defaultdict(list)
    for one in trainings:
        kinds[one.setting, one.column].append(one)
    found = []
    for alike in kinds.values():
        counts = Counter(one.numbers for one in alike)
        published_numbers = {one.numbers for one in alike if not one.unlike}
        usual = max(counts, key=lambda numbers: (numbers in published_numbers, counts[numbers], numbers))
        found += [replace(one, unusual=one.numbers != usual) for one in alike]
    return found


def training_of(folder: Path, run: Any, tested: Any) -> Training:
    """Return the training in `folder` from what its run.json and test_metrics.json hold.

    Raises:
        ValueError: they are not those of a segmenter's training; the message says what is wrong.
    """
    options = run.get("options") if isinstance(run, dict) else None
    if not isinstance(options, dict) or not is_training(options):
        raise ValueError("its run.json is not of segmentation_train.py")
    if not isinstance(tested, dict):
        raise ValueError("its test_metrics.json is not of segmentation_train.py")
    sets = tuple(name for name in WORDS if name in options["train"])
    if len(sets) != len(options["train"]):
        raise ValueError(f"its run.json names sets that are not known: {options['train']}")
    try:
        lists = dict(text.split("=", 1) for text in options.get("only") or ())
        classes = tested["classes"]
        scores: dict[str, float | None] = {name: number(tested[name], name) for name in SCORES}
        scores |= {name: optional(classes[name]["f1"], name) for name in CLASS_NAMES}
        support = tuple(int(classes[name]["support"]) for name in CLASS_NAMES)
        trained = {name: int(tested["trained_on"][name]) for name in sets} if "trained_on" in tested else {}
        differences = (*recipe_differences(options, int(tested["epochs"])), *test_differences(options, tested))
        seed = int(options["seed"])
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"its files lack what a finished training tells ({error})") from None
    return Training(
        folder,
        str(options["arch"]),
        sets,
        {name: Path(path) for name, path in lists.items()},
        options.get("only_sha256"),
        trained,
        seed,
        Setting(differences, support),
        scores,
        str(run.get("started")),
    )


def is_training(options: Mapping[str, Any]) -> bool:
    """Return whether `options`, from a run.json, are those of segmentation_train.py."""
    return {"arch", "encoder", "train", "loss", "seed"} <= options.keys() and isinstance(options["train"], list)


def number(value: Any, name: str) -> float:
    """Return the score `value`; raise `ValueError` if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"its {name} is {value!r}, which is no score")
    return float(value)


def optional(value: Any, name: str) -> float | None:
    """Return the score `value`, None for one that there is none of."""
    return None if value is None else number(value, name)


def recipe_differences(options: Mapping[str, Any], epochs: int) -> tuple[str, ...]:
    """Return in what `options` differ from the published ones; `epochs` were trained, perhaps more than at first."""
    setting = published()["segmentation"]["setting"]
    found = []
    for name in RECIPE:
        ours, paper = options.get(name), setting.get(name)
        if name == "epochs":
            ours = max(ours or 0, epochs)
        if ours == paper or (ours in OFF and paper in OFF):
            continue
        word = name.replace("_", " ")
        if name in ("encoder_weights", "init_weights") and ours:
            ours = Path(ours).name
        found.append(word if ours is True else f"{word} {ours}")
    return tuple(found)


def test_differences(options: Mapping[str, Any], tested: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in what the test split differs from the published one."""
    paper = published()["segmentation"]["test"]
    found = []
    if (tested["images"], tested["pixels"]) != (paper["images"], paper["pixels"]):
        found.append(f"{tested['images']:,} test images of {tested['pixels'] // tested['images']:,} pixels")
    if (Path(options["data"]) / "run.json").exists():  # which the published dataset does not have
        found.append("splits of dataset_creator.py")
    return tuple(found)
