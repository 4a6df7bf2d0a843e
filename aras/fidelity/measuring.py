"""All measures of one set of images against the reference, each with its interval, or why it does not apply."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.errors import UserError
from aras.fidelity.adjacency import adjacency_distance, border_distance
from aras.fidelity.alignment import AGREEMENTS, agreement
from aras.fidelity.colours import histogram_distance
from aras.fidelity.conditional import class_conditional_frechet, common_counts
from aras.fidelity.frechet import frechet_estimate
from aras.fidelity.image_statistics import Statistics
from aras.fidelity.kernels import kernel_distance
from aras.fidelity.manifolds import manifold_scores
from aras.fidelity.memorisation import memorised
from aras.fidelity.resampling import Estimate, of_means
from aras.fidelity.spectra import spectrum_distance
from aras.files import write_json
from aras.legend import NUM_CLASSES

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Of how sets are measured: another has what was measured before measured again."""

CLOSEST = 8
"""Images of each set that are shown beside their nearest training image."""

MANIFOLD = ("precision", "recall", "density", "coverage")
OF_SPACE = ("frechet", "kernel", *MANIFOLD, "memorised", "conditional_frechet")
"""The measures that are taken in each space."""

OF_MASKS = ("adjacency", "borders")
NO_MASKS = "it has no masks, or the reference has none"


@dataclass(frozen=True)
class Rows:
    """What was computed of the images of one set, a row for each.

    Attributes:
        names: their stems, (N,) str.
        blocks: which block of neighbouring patches each is in, (N,) str.
        features: by the name of the space, (N, D) float32.
        statistics: (N, width) float32, empty for training images, of which none are needed.
        layout: which columns of these are what.
        confusions: (N, 49) float32 pixels of each class of the mask by the class that the judge reads; None if its word
            does not count.
    """

    names: np.ndarray
    blocks: np.ndarray
    features: dict[str, np.ndarray]
    statistics: np.ndarray
    layout: Statistics
    confusions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def classes(self) -> np.ndarray | None:
        """The class that most of each mask is of, (N,) uint8; None without masks."""
        return self.layout.classes(self.statistics) if self.layout.masks else None


@dataclass
class Found:
    """What was measured of one set, ready for JSON.

    Attributes:
        measures: by name, value, interval and number of images.
        left_out: by name, why a measure was not taken.
        closest: by space, the images nearest to a training image for what is usual, each with that image's name.
    """

    measures: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    closest: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def take(self, names: list[str], make: Callable[[], dict[str, dict[str, Any]]]) -> None:
        """Add the measures `names` that `make` returns, or why it could not."""
        try:
            self.measures |= make()
        except UserError as error:
            self.left_out |= dict.fromkeys(names, str(error))


@dataclass(frozen=True)
class Comparison:
    """What every set is measured against.

    Attributes:
        reference: the real images that no generator was trained on.
        train: the features of all training images, None if memorisation is not measured.
        counts: (7,) images of each class of which class-conditional distances are, equal for all sets.
        seed: of the draws of intervals.
        device: where to compute.
    """

    reference: Rows
    train: Rows | None
    counts: np.ndarray
    seed: int
    device: "torch.device"

    def measure(self, images: Rows, apart: dict[str, str]) -> Found:
        """Return every measure of `images` that applies.

        Args:
            images: of a set, as many as of the reference.
            apart: by the name of a measure without its space, why it is left out.
        """
        found = Found()
        for space in images.features:
            self._measure_in(space, images, apart, found)
        if images.confusions is not None:
            found.take([*AGREEMENTS], lambda: agreement(images.confusions, images.blocks, self.seed))  # type: ignore[arg-type]
        else:
            found.left_out |= {name: apart.get("agreement", NO_MASKS) for name in AGREEMENTS}
        self._measure_statistics(images, found)
        return found

    def _measure_in(self, space: str, images: Rows, apart: dict[str, str], found: Found) -> None:
        """Add the measures in `space` to `found`."""
        real, fake = self.reference.features[space], images.features[space]
        blocks, seed, device, n = (self.reference.blocks, images.blocks), self.seed, self.device, len(images)

        def scores() -> dict[str, dict[str, Any]]:
            scored = manifold_scores(real, fake, real_blocks=blocks[0], fake_blocks=blocks[1], seed=seed, device=device)
            return {f"{name}.{space}": told(getattr(scored, name), n) for name in MANIFOLD}

        names = [f"frechet.{space}"]
        found.take(names, lambda: {names[0]: told(frechet_estimate(fake, real, *blocks[::-1], seed), n)})
        name = f"kernel.{space}"
        found.take([name], lambda: {name: told(kernel_distance(fake, real, *blocks[::-1], seed, device), n)})
        found.take([f"{name}.{space}" for name in MANIFOLD], scores)
        reason = apart.get("memorised") or (None if self.train else "there are no training images to compare with")
        if reason:
            found.left_out[f"memorised.{space}"] = reason
        else:
            found.take([f"memorised.{space}"], lambda: self._memorised(space, images, found))
        found.take([f"conditional_frechet.{space}"], lambda: self._by_class(space, images))

    def _memorised(self, space: str, images: Rows, found: Found) -> dict[str, dict[str, Any]]:
        """Return how many images are closer to training images than usual; tell the closest ones."""
        train = self.train
        assert train is not None
        of = memorised(
            images.features[space],
            train.features[space],
            self.reference.features[space],
            images.blocks,
            self.reference.blocks,
            seed=self.seed,
            device=self.device,
        )
        found.closest[space] = [
            {"image": str(images.names[i]), "nearest": str(train.names[of.nearest[i]]), "ratio": float(of.ratios[i])}
            for i in np.argsort(of.distances, kind="stable")[:CLOSEST]
        ]
        more = {"expected": of.expected, "threshold": of.threshold, "median_ratio": asdict(of.median_ratio)}
        return {f"memorised.{space}": told(of.share_closer, len(images)) | more | {"train_images": len(train)}}

    def _by_class(self, space: str, images: Rows) -> dict[str, dict[str, Any]]:
        """Return the Fréchet distance by dominant class."""
        real, fake = self.reference.classes, images.classes
        if real is None or fake is None:
            raise UserError(NO_MASKS)
        of = class_conditional_frechet(
            self.reference.features[space],
            images.features[space],
            real,
            fake,
            self.counts,
            real_blocks=self.reference.blocks,
            fake_blocks=images.blocks,
            seed=self.seed,
        )
        classes = {name: told(estimate, of.images[name]) for name, estimate in of.classes.items()}
        more = {"classes": classes, "classes_left_out": of.left_out}
        return {f"conditional_frechet.{space}": told(of.mean, sum(of.images.values())) | more}

    def _measure_statistics(self, images: Rows, found: Found) -> None:
        """Add the distances of mean spectra, histograms and neighbours of classes to `found`."""
        kinds = {
            "spectrum": (Statistics.spectra, spectrum_distance),
            "histogram": (Statistics.colours, histogram_distance),
        }
        masked = {
            "adjacency": (Statistics.borders, adjacency_distance),
            "borders": (Statistics.borders, border_distance),
        }
        if images.layout.masks and self.reference.layout.masks:
            kinds |= masked
        else:
            found.left_out |= dict.fromkeys(OF_MASKS, NO_MASKS)
        for name, (part, distance) in kinds.items():
            sides = [part(rows.layout, rows.statistics) for rows in (images, self.reference)]
            blocks = images.blocks, self.reference.blocks
            make = self._of_means(name, sides, distance, blocks)
            found.take([name], make)

    def _of_means(
        self,
        name: str,
        sides: list[np.ndarray],
        distance: Callable[[np.ndarray, np.ndarray], float],
        blocks: tuple[np.ndarray, np.ndarray],
    ) -> Callable[[], dict[str, dict[str, Any]]]:
        """Return what makes the measure `name`, the `distance` of the mean rows of two `sides`."""
        return lambda: {name: told(of_means(sides[0], sides[1], distance, *blocks, self.seed), len(sides[0]))}


def told(estimate: Estimate, images: int) -> dict[str, Any]:
    """Return `estimate` of so many images of each set, ready for JSON."""
    return asdict(estimate) | {"n": images}


def counts_of_classes(classes: list[np.ndarray]) -> np.ndarray:
    """Return how many images of each class every set has that has masks, (7,) int64, given their `classes` (N,)."""
    return common_counts(*classes) if classes else np.zeros(NUM_CLASSES, np.int64)


def measured(path: Path, told_key: list[Any], make: Callable[[], Found]) -> Found:
    """Return what the JSON file at `path` has if it was made from `told_key`; else what `make` returns, kept there."""
    key = hashlib.sha256(json.dumps([VERSION, *told_key]).encode()).hexdigest()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return Found(kept["measures"], kept["left_out"], kept["closest"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        kept = None  # not measured yet, or not ours
    found = make()
    write_json(path, {"key": key, **asdict(found)})
    return found
