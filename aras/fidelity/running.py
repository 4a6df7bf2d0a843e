"""From sets of images to all their measures: what is computed of each image, once, and then what follows from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.engines import Engine
from aras.errors import UserError
from aras.feature_spaces import FeatureSpace
from aras.fidelity import image_statistics
from aras.fidelity.alignment import AGREEMENTS, agreement, reason_against
from aras.fidelity.caching import Cache
from aras.fidelity.extracting import extract_agreement, extract_features
from aras.fidelity.image_statistics import measure_images, statistics_of
from aras.fidelity.measuring import Comparison, Found, Rows, counts_of_classes, measured
from aras.fidelity.noise import NOISE
from aras.fidelity.sets import Folder, ImageSet, Size, labelled_by
from aras.fidelity.table import told_measures
from aras.files import write_text
from aras.pairs import SUFFIX
from aras.rows import row_text
from aras.spade.judge import TrainedOn

if TYPE_CHECKING:
    import torch

TRAINING = "training_images"
"""The name by which the training images go beside the sets'."""

NO_JUDGE = "there is no trained segmenter to read them (--weights)"


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        reference: the name of the real images that all others are compared with.
        floor: that of other real images, None if there are none.
        sets: by name the reference, the floor and the sets, in this order, of equal number.
        whole: the same sets and the training images, with folders that have these too.
        size: (height, width) of every image.
        outdir: the folder for all that is written.
    """

    reference: str
    floor: str | None
    sets: dict[str, ImageSet]
    whole: dict[str, ImageSet]
    size: Size
    outdir: Path

    @property
    def number(self) -> int:
        """How many images of every set are compared."""
        return len(self.sets[self.reference])

    @property
    def generated(self) -> list[str]:
        """The names of the sets."""
        return [name for name in self.sets if name not in (self.reference, self.floor)]

    @property
    def features(self) -> Path:
        """Where what was computed of images is kept."""
        return self.outdir / "features"

    def features_of(self, folder: Folder, space: FeatureSpace, symmetries: int) -> Cache:
        """Return the cache of the features of `folder`'s images."""
        images, key = folder.images, f"{space.name} {space.digest} {symmetries}"
        return Cache(self.features / f"{images.name}.{space.name}.npz", "features", key, images.names, folder.stamps)

    def statistics_of(self, folder: Folder) -> Cache:
        """Return the cache of the statistics of `folder`'s images and masks."""
        return self._of_pairs(folder, "statistics", f"{image_statistics.VERSION} {folder.masks is not None}")

    def confusions_of(self, folder: Folder, digest: str) -> Cache:
        """Return the cache of what the segmenter of `digest` reads in `folder`'s images, beside their masks."""
        return self._of_pairs(folder, "confusions", digest)

    def _of_pairs(self, folder: Folder, kind: str, key: str) -> Cache:
        """Return a cache of rows that depend on images and masks."""
        stamps = [folder.stamps] + ([] if folder.mask_stamps is None else [folder.mask_stamps])
        path = self.features / f"{folder.images.name}.{kind}.npz"
        return Cache(path, kind, key, folder.images.names, np.concatenate(stamps, axis=1))


@dataclass(frozen=True)
class Judge:
    """The trained segmenter that reads images, or none.

    Attributes:
        model: on the device; None if there is none.
        digest: the SHA-256 of its weights.
        trained: what it was trained on.
    """

    model: "torch.nn.Module | None"
    digest: str
    trained: TrainedOn

    def against(self, plan: Plan, name: str) -> str | None:
        """Return why its word on the set `name` does not count; None if it does."""
        if self.model is None:
            return NO_JUDGE
        reason = reason_against(plan.sets[name], self.digest, self.trained)
        masks = plan.sets[name].folder.masks
        if reason and name == plan.reference and masks and self.digest not in (labelled_by(masks) or ()):
            return None  # of which a warning tells
        return reason


def folders_of(sets: dict[str, ImageSet]) -> list[Folder]:
    """Return the folders of `sets`, each once."""
    return list({id(each.folder): each.folder for each in sets.values()}.values())


def compute(
    plan: Plan,
    spaces: list[FeatureSpace],
    judge: Judge,
    symmetries: int,
    batch_size: int,
    workers: int,
    engine: Engine,
    device: "torch.device",
) -> list[tuple[str, str, str]]:
    """Compute what is not kept yet of each image; return (set, file name, reason) of the images that cannot be used.

    Args:
        plan: what is compared.
        spaces: of features.
        judge: reads masks.
        symmetries: 8 for features that are means over the turns and mirror images.
        batch_size: images at once.
        workers: processes.
        engine: where images without networks are measured.
        device: where networks compute.
    """
    failed: dict[tuple[str, str], str] = {}

    def note(folder: Folder, failures: dict[str, str]) -> None:
        failed.update({(folder.images.name, name): reason for name, reason in failures.items()})

    for folder in folders_of(plan.whole):
        for space in spaces:
            rows = plan.features_of(folder, space, symmetries)
            if not rows.is_whole():
                note(folder, extract_features(rows, folder, space, symmetries, plan.size, batch_size, workers))
    for folder in folders_of(plan.sets):
        rows = plan.statistics_of(folder)
        if not rows.is_whole():
            note(folder, measure_images(rows, folder, plan.size, engine, workers))
        judged = any(each.folder is folder and not judge.against(plan, name) for name, each in plan.sets.items())
        rows = plan.confusions_of(folder, judge.digest)
        if judged and judge.model is not None and not rows.is_whole():
            note(folder, extract_agreement(rows, folder, judge.model, plan.size, batch_size, workers, device))
    return [(name, stem + SUFFIX, reason) for (name, stem), reason in sorted(failed.items())]


def rows_of(plan: Plan, name: str, spaces: list[FeatureSpace], symmetries: int, judge: Judge) -> Rows:
    """Return what was computed of the set `name`, or of the training images, of which there are features alone."""
    whole, own = plan.whole[name], plan.sets.get(name)
    features = {space.name: plan.features_of(whole.folder, space, symmetries).rows(whole.places) for space in spaces}
    if own is None:
        return Rows(whole.names, np.empty(0), features, np.empty((0, 0)), statistics_of(plan.size, False))
    statistics, layout = plan.statistics_of(own.folder), statistics_of(plan.size, own.folder.masks is not None)
    confusions = None
    if not judge.against(plan, name):
        confusions = plan.confusions_of(own.folder, judge.digest).rows(own.places)
    return Rows(own.names, own.blocks, features, statistics.rows(own.places), layout, confusions)


def measure_all(
    plan: Plan, spaces: list[FeatureSpace], judge: Judge, symmetries: int, seed: int, device: "torch.device"
) -> Iterator[tuple[str, Found]]:
    """Yield each set's name, the floor's first, and its measures, kept from an earlier run if all is as it was."""
    reference = rows_of(plan, plan.reference, spaces, symmetries, judge)
    train = rows_of(plan, TRAINING, spaces, symmetries, judge) if TRAINING in plan.whole else None
    classes = {name: classes_of(plan, each) for name, each in plan.sets.items()}
    counts = counts_of_classes([found for found in classes.values() if found is not None])
    comparison = Comparison(reference, train, counts, seed, device)
    made_by = [[space.name, space.digest] for space in spaces], symmetries, judge.digest, seed, device.type
    stamps = [plan.sets[plan.reference].stamp, plan.whole[TRAINING].stamp if train else None, counts.tolist()]
    for name in (name for name in plan.sets if name != plan.reference):
        apart = reasons_apart(plan, name, judge)
        key = [*made_by, *stamps, plan.sets[name].stamp, apart, reference.blocks.tolist()]
        own = plan.sets[name]
        path = plan.outdir / "features" / f"{name}.measures.json"

        def make(name: str = name, apart: dict[str, str] = apart) -> Found:
            return comparison.measure(rows_of(plan, name, spaces, symmetries, judge), apart)

        yield name, measured(path, [*key, own.blocks.tolist()], make)


def classes_of(plan: Plan, images: ImageSet) -> np.ndarray | None:
    """Return the class that most of each mask of a set is of, (N,) uint8; None without masks."""
    if images.folder.masks is None:
        return None
    rows = plan.statistics_of(images.folder).rows(images.places)
    return statistics_of(plan.size, True).classes(rows)


def reasons_apart(plan: Plan, name: str, judge: Judge) -> dict[str, str]:
    """Return by measure why it says nothing about the set `name`."""
    found, against = {}, judge.against(plan, name)
    if against:
        found["agreement"] = against
    train = plan.whole.get(TRAINING)
    if train is not None and train.images.resolve() == plan.sets[name].images.resolve():
        found["memorised"] = "these are training images themselves"
    return found


def results_of(
    plan: Plan, spaces: list[FeatureSpace], judge: Judge, symmetries: int, found: dict[str, Found], seed: int
) -> dict[str, Any]:
    """Return what fidelity.json has: every measure of every set, and what it is of."""
    reference = rows_of(plan, plan.reference, [], symmetries, judge)
    of_reference = {} if reference.confusions is None else agreement(reference.confusions, reference.blocks, seed)
    against = judge.against(plan, plan.reference)
    training = plan.whole.get(TRAINING)

    def told(name: str) -> dict[str, Any]:
        each, of = (
            plan.sets[name],
            found.get(name, Found(of_reference, dict.fromkeys(AGREEMENTS, against) if against else {})),
        )
        by = labelled_by(each.folder.masks) if each.folder.masks else None
        about = {"name": name, "folder": str(each.images), "images": len(each), "masks": each.folder.masks is not None}
        about |= {"labelled_by": None if by is None else "judge" if judge.digest in by else " ".join(by)}
        about["noise"] = (plan.outdir / NOISE).resolve() in each.images.resolve().parents
        return about | {"measures": of.measures, "left_out": of.left_out, "closest": of.closest}

    return {
        "reference": told(plan.reference),
        "floor": told(plan.floor) if plan.floor else None,
        "equal_n": plan.number,
        "training_images": {"folder": str(training.images), "images": len(training)} if training else None,
        "spaces": {
            space.name: {
                "distance": space.distance,
                "width": space.width,
                "digest": space.digest,
                "symmetries": symmetries,
            }
            for space in spaces
        },
        "judge": judge.digest or None,
        "sets": {name: told(name) for name in plan.generated},
        "measures": told_measures(spaces),
    }


def check_failures(path: Path, failed: list[tuple[str, str, str]]) -> None:
    """Raise `UserError` when images `failed`, which then stand in the table at `path`; delete it if none did."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    write_text(path, "".join(map(row_text, [("set", "filename", "reason"), *failed])))
    raise UserError(f"{len(failed)} images could not be used, see {path}; mend them and run this again")
