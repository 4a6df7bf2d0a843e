"""How good a conditional GAN's images of held-out masks are: their Fréchet distance, their layout, their diversity.

Everything is a sum over masks, so memory grows neither with them nor with the images drawn, and processes share them
out. What does not change while a generator is trained (the moments of the real images, and the two marks that its
numbers lie between) is computed once and kept in the run folder.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.confusion import scores
from aras.distributed import add_up, from_first, is_first, rank, world_size
from aras.errors import UserError
from aras.feature_spaces import FeatureSpace
from aras.files import whole_file, write_json
from aras.frechet import Moments, frechet_distance
from aras.legend import NUM_CLASSES
from aras.loading import cuts
from aras.pairs import Pairs, image_size, read_pair
from aras.spade.judge import Judge

if TYPE_CHECKING:
    import torch

Draw = Callable[["torch.Tensor", list[tuple[str, int]]], "torch.Tensor"]
"""Labels (B, H, W) uint8, and (name of the mask, number of the sample) of each -> images (B, 3, H, W) uint8."""

TORN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


@dataclass(frozen=True)
class Reference:
    """What generated images are measured against.

    Attributes:
        real: the moments of the held-out images.
        marks: by name, what a generator cannot be expected to better: `frechet_floor` between real images and real ones
            (`floor_images` of the training set), and with a judge `ceiling_miou` and `ceiling_accuracy` on real images.
    """

    real: Moments
    marks: dict[str, Any]


class Quality:
    """Measures images of held-out masks; every process of a job takes part in every call.

    Attributes:
        held_out: the pairs whose masks are drawn from, all or as many as were drawn.
        space: where the Fréchet distance is taken.
        samples: images drawn of each mask.
    """

    def __init__(
        self,
        held_out: Pairs,
        train: Pairs,
        space: FeatureSpace,
        judge: Judge | None,
        folder: Path,
        samples: int = 4,
        most: int = 1000,
        seed: int = 0,
        batch_size: int = 16,
    ):
        """Prepare to measure.

        Args:
            held_out: pairs that the generator does not train on.
            train: the pairs that it trains on.
            space: of which features.
            judge: reads the layout; None for no agreement.
            folder: where quality.json and what else is computed once are kept.
            samples: images of each mask, at least 2 for there to be a diversity.
            most: masks at most; of more, this many are drawn.
            seed: what those draws follow from.
            batch_size: images at once.

        Raises:
            UserError: there are fewer than two pairs of either kind.
        """
        for pairs in (held_out, train):
            if len(pairs) < 2:
                raise UserError(f"{pairs.images} has one image, and a distance between sets needs two; add some")
        self.space, self.judge, self.samples, self.batch_size = space, judge, samples, batch_size
        self.folder, self.size = folder, image_size(held_out.image(0))
        self.held_out, self._held_out_stamp = drawn_pairs(held_out, most, seed)
        self._train, self._train_stamp = drawn_pairs(train, len(self.held_out) * samples, seed)

    @property
    def split(self) -> str:
        """The name of the held-out split."""
        return self.held_out.images.parent.name

    @cached_property
    def reference(self) -> Reference:
        """What is computed once, from the run folder if it is there; quality.json tells people of it."""
        path, key = self.folder / "quality.npz", self._key()
        kept = from_first(lambda: read_reference(path, key))
        if kept:
            return kept
        found = self._measured_reference()
        if is_first():
            write_reference(path, key, found)
            write_json(self.folder / "quality.json", found.marks)
        return found

    def told(self) -> str:
        """Return in a line what is measured and between which marks."""
        marks = self.reference.marks
        line = (
            f"Quality: {self.samples} images for each of {len(self.held_out):,} masks of {self.split},"
            f" {self.space.distance}; {marks['floor_images']:,} real training images are at"
            f" {marks['frechet_floor']:.4g} from the {len(self.held_out):,} real ones"
        )
        if self.judge is None:
            return line + "; no judge, so no agreement with the masks"
        return line + f"; the judge's IoU on the real ones is {marks['ceiling_miou']:.3f}"

    def measure(self, draw: Draw) -> dict[str, Any]:
        """Return the quality of what `draw` draws, ready for JSON; no random generator of PyTorch is moved on.

        `frechet` is the distance of all samples to the real held-out images and `frechet_one_each` that of the first
        of each mask; `agreement_miou` (mean over the classes present in the masks) and `agreement_accuracy` are the
        judge's; `diversity_levels` is the mean difference of two samples of one mask in grey levels 0..255, and
        `diversity_features` their mean Euclidean distance in the space.

        Raises:
            UserError: a mask cannot be read, or features are not finite.
        """
        import torch

        reference = self.reference
        everything, one_each = Moments.empty(self.space.width), Moments.empty(self.space.width)
        matrix, apart = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64), np.zeros(2)
        devices = [self.space.device] if self.space.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            for places in self._shares(len(self.held_out), max(self.batch_size // self.samples, 1)):
                masks = as_tensor(tuple(labels for _, labels in self._pairs(self.held_out, places)))
                labels = masks.repeat_interleave(self.samples, dim=0)
                items = [(str(self.held_out.names[place]), k) for place in places for k in range(self.samples)]
                images = draw(labels, items).permute(0, 2, 3, 1)
                features = self.space.features(images)
                everything.add(features.cpu().numpy())
                one_each.add(features[:: self.samples].cpu().numpy())
                matrix += self.judge.confusion(images, labels) if self.judge else 0
                apart += differences(images, features, self.samples)
        pairs = len(self.held_out) * len(list(combinations(range(self.samples), 2)))
        levels, distance = (float(total / pairs) if pairs else None for total in summed(apart))
        return {
            "frechet": frechet_distance(everything.over_ranks(), reference.real),
            "frechet_one_each": frechet_distance(one_each.over_ranks(), reference.real),
            "space": self.space.name,
            **(self._agreement("agreement", summed(matrix)) if self.judge else {}),
            "diversity_levels": levels,
            "diversity_features": distance,
            "images": len(self.held_out) * self.samples,
        }

    def _key(self) -> str:
        """Return what tells this reference from those of other images, weights or sizes of sample."""
        parts = [self.space.name, self.space.digest, self.judge.digest if self.judge else None]
        return hashlib.sha256(json.dumps([*parts, self._held_out_stamp, self._train_stamp]).encode()).hexdigest()

    def _measured_reference(self) -> Reference:
        """Return the reference, from the images."""
        matrix = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
        moments = [Moments.empty(self.space.width), Moments.empty(self.space.width)]
        for found, pairs in zip(moments, (self.held_out, self._train), strict=True):
            for places in self._shares(len(pairs), self.batch_size):
                images, labels = map(as_tensor, zip(*self._pairs(pairs, places), strict=True))
                found.add(self.space.features(images).cpu().numpy())
                if self.judge and pairs is self.held_out:
                    matrix += self.judge.confusion(images, labels)
        real, train = (found.over_ranks() for found in moments)
        marks = {
            "split": self.split,
            "masks": len(self.held_out),
            "samples_per_mask": self.samples,
            "space": self.space.name,
            "distance": self.space.distance,
            "frechet_floor": frechet_distance(train, real),
            "floor_images": train.count,
        }
        return Reference(real, marks | (self._agreement("ceiling", summed(matrix)) if self.judge else {}))

    def _shares(self, count: int, batch_size: int) -> Iterator[list[int]]:
        """Yield this process's batches of places 0..`count` - 1, cut alike however many processes there are."""
        yield from cuts(count, batch_size)[rank() :: world_size()]

    def _pairs(self, pairs: Pairs, places: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield image and labels of the `places`."""
        for place in places:
            yield read_pair(pairs.image(place), pairs.mask(place), self.size)

    @staticmethod
    def _agreement(name: str, matrix: np.ndarray) -> dict[str, float]:
        """Return mean IoU and accuracy of a confusion `matrix` under `name`."""
        found = scores(matrix)
        return {f"{name}_miou": found["iou"], f"{name}_accuracy": found["accuracy"]}


def drawn_pairs(pairs: Pairs, most: int, seed: int) -> tuple[Pairs, str]:
    """Return `most` of `pairs`, drawn if there are more, and a hash of their names, sizes and times."""
    names = pairs.names
    if len(names) > most:
        names = names[np.sort(np.random.default_rng(seed).choice(len(names), most, replace=False))]
    found, digest = replace(pairs, names=names), hashlib.sha256()
    for index, name in enumerate(names.tolist()):
        states = [path.stat() for path in (found.image(index), found.mask(index))]
        digest.update(json.dumps([name, *((state.st_size, state.st_mtime_ns) for state in states)]).encode())
    return found, digest.hexdigest()


def as_tensor(arrays: tuple[np.ndarray, ...]) -> "torch.Tensor":
    """Return equal-sized `arrays` as one tensor."""
    import torch

    return torch.from_numpy(np.stack(arrays))


def differences(images: "torch.Tensor", features: "torch.Tensor", samples: int) -> np.ndarray:
    """Return two sums over all pairs of samples of one mask: mean grey levels apart, and distance of features.

    Args:
        images: (M `samples`, H, W, 3) uint8, the samples of a mask one after the other.
        features: theirs, (M `samples`, D).
        samples: of each mask.
    """
    import torch

    found = torch.zeros(2, dtype=torch.float64, device=features.device)
    for i, j in combinations(range(samples), 2):
        one, other = images[i::samples].float(), images[j::samples].float()
        found[0] += (one - other).abs().mean(dim=(1, 2, 3)).double().sum()
        found[1] += (features[i::samples] - features[j::samples]).norm(dim=1).double().sum()
    return found.cpu().numpy()


def summed(array: np.ndarray) -> np.ndarray:
    """Return the sum of all processes' `array`."""
    import torch

    tensor = torch.from_numpy(array.copy())
    add_up(tensor)
    return tensor.numpy()


def write_reference(path: Path, key: str, reference: Reference) -> None:
    """Write `reference` to the .npz `path` with the `key` that it stands for."""
    real = reference.real
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(
            file, count=real.count, mean=real.mean, scatter=real.scatter, marks=json.dumps(reference.marks), key=key
        )


def read_reference(path: Path, key: str) -> Reference | None:
    """Return the reference in `path` that `key` stands for; None if it is not there, another's or torn."""
    try:
        with np.load(path) as file:
            if str(file["key"]) != key:
                return None
            real = Moments(int(file["count"]), file["mean"], file["scatter"])
            return Reference(real, json.loads(str(file["marks"])))
    except TORN:
        return None
