"""The judge of generated images: a segmenter that reads them, and what it must not have seen.

How well its labels of generated images agree with the masks that they were drawn from says how well a generator keeps
to its masks, if the judge knows real images and none of those whose masks are judged.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aras.confusion import confusion_matrices
from aras.errors import UserError
from aras.feature_spaces import digest_of
from aras.files import read_json
from aras.inference import mean_logits
from aras.pairs import GENERATED, SUFFIX, Pairs, stems
from aras.segmenter import load_segmenter

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Judge:
    """A trained segmenter.

    Attributes:
        model: on `device`, in evaluation mode.
        digest: the SHA-256 of its file.
        device: where it computes.
    """

    model: "torch.nn.Module"
    digest: str
    device: "torch.device"

    def confusion(self, images: "torch.Tensor", labels: "torch.Tensor") -> np.ndarray:
        """Return the pixels (7, 7) int64 of each class of `labels` (row) by the class read in the images (column).

        Args:
            images: (B, H, W, 3) uint8, sides multiples of 32.
            labels: (B, H, W) uint8, what the images were drawn from or belong to.
        """
        import torch

        with torch.inference_mode():
            logits = mean_logits([self.model], images, self.device, torch.float32)
            found = confusion_matrices(labels.to(self.device), logits.argmax(dim=1).to(torch.uint8))
        return found.sum(dim=0).cpu().numpy()


def load_judge(weights: Path, device: "torch.device") -> Judge:
    """Return the judge in `weights`, a segmenter's best.pt with its run.json beside it.

    Raises:
        UserError: it cannot be read, or nothing tells what it is.
    """
    return Judge(load_segmenter(weights, None, None).to(device), digest_of(weights), device)


@dataclass(frozen=True)
class TrainedOn:
    """What a segmenter was trained on: the dataset folder `data` and `folders` of images, none if nothing tells."""

    data: Path
    folders: tuple[Path, ...]

    def seen(self, images: Path, names: np.ndarray) -> Iterator[tuple[Path, set[str]]]:
        """Yield each folder that has some of the images `names` (N,) of the folder `images`, and which of them.

        Within one dataset the folders tell images apart. In another dataset a patch of the same name is the same place.
        """
        same_dataset = images.parent.parent.resolve() == self.data.resolve()
        for folder in self.folders:
            if same_dataset and folder.resolve() != images.resolve():
                continue
            seen = stems(folder).intersection(names.tolist())
            if seen:
                yield folder, seen


def trained_on(weights: Path) -> TrainedOn:
    """Return what the segmenter in `weights` was trained on, by the run.json beside it, if all of that is there."""
    run = weights.with_name("run.json")
    told = read_json(run).get("options", {}) if run.is_file() else {}
    data = Path(told.get("data", ""))
    places = {"train": "train/images", "synth": "synth/images", GENERATED: f"train/{GENERATED}"}
    folders = tuple(data / places[name] for name in told.get("train", []) if name in places)
    return TrainedOn(data, folders if all(folder.is_dir() for folder in folders) else ())


def judges_apart(weights: Path, judged: Pairs) -> str | None:
    """Return what is to be said about the judge in `weights` and the `judged` pairs; None if nothing is.

    Raises:
        UserError: it was trained on images of `judged`, so its agreement with their masks would say nothing.
    """
    split, trained = judged.images.parent.name, trained_on(weights)
    if not trained.folders:
        return (
            f"nothing tells which images {weights} was trained on, so its agreement with the masks of {split} counts"
            " only if none of them was among those"
        )
    same_dataset = judged.images.parent.parent.resolve() == trained.data.resolve()
    for folder, seen in trained.seen(judged.images, judged.names):
        raise UserError(
            f"{weights} was trained on {folder}, which has {len(seen)} of the {len(judged)} images of"
            f" {judged.images} (such as {min(seen)}{SUFFIX}); judge other masks (--quality-split) or by another"
            " --judge"
        )
    if split == "val" and same_dataset:
        return f"{weights} was not trained on val, but its best epoch was chosen by it; --quality-split test is unseen"
    return None
