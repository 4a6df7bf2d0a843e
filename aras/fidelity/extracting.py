"""What networks make of the images: their features in a space, and how a segmenter's labels agree with their masks."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aras.confusion import confusion_matrices
from aras.errors import UserError
from aras.feature_maps.row_files import Describe, fill_rows, lacking_rows
from aras.feature_spaces import FeatureSpace
from aras.fidelity.caching import Cache
from aras.fidelity.sets import Folder, Size, mask_of_size
from aras.inference import check_takes, labels_and_confidence
from aras.legend import NUM_CLASSES
from aras.pairs import told_size
from aras.segmenter import in_short

if TYPE_CHECKING:
    import torch

CELLS = NUM_CLASSES**2


def extract_features(
    rows: Cache, folder: Folder, space: FeatureSpace, symmetries: int, size: Size, batch_size: int, workers: int
) -> dict[str, str]:
    """Have `rows` hold the features of `folder`'s images in `space`; return why each failed, by name.

    Those that a killed run wrote are not computed again. Memory does not grow with the number of images.

    Args:
        rows: the cache.
        folder: of images.
        space: of which features.
        symmetries: 8 for their mean over the turns and mirror images of each.
        size: (height, width) that every image must have.
        batch_size: images at once.
        workers: processes that read images.

    Raises:
        UserError: `space` does not take images of `size`, the features are not finite, or the GPU is too small.
    """

    def describe(names: list[str], pixels: "torch.Tensor") -> np.ndarray:
        return space.features(pixels, symmetries)[: len(names)].cpu().numpy()

    check_space_takes(space, size)
    return _extract(rows, folder, space.name, describe, space.width, size, batch_size, workers, space.device)


def _extract(
    rows: Cache,
    folder: Folder,
    what: str,
    describe: Describe,
    width: int,
    size: Size,
    batch_size: int,
    workers: int,
    device: "torch.device",
) -> dict[str, str]:
    """Fill `rows` of `width` with what `describe` makes of the images; return why each failed, by name."""

    def refused(found: Size) -> str | None:
        told = f"it is {told_size(found)} pixels where the others are {told_size(size)}; make it again"
        return None if found == size else told

    images, array = replace(folder.images, name=f"{folder.images.name} ({what})"), rows.begin(width)
    failures = fill_rows(array, images, describe, refused, batch_size, workers, device)
    if not failures and not lacking_rows(array).any():
        rows.end(array)
    return failures


def check_space_takes(space: FeatureSpace, size: Size) -> None:
    """Raise `UserError` when `space` does not take images of (height, width) `size`."""
    import torch

    try:
        space.features(torch.zeros((1, *size, 3), dtype=torch.uint8))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"--features {space.name} does not take images of {told_size(size)} pixels ({in_short(error)})"
        ) from None


def extract_agreement(
    rows: Cache,
    folder: Folder,
    segmenter: "torch.nn.Module",
    size: Size,
    batch_size: int,
    workers: int,
    device: "torch.device",
) -> dict[str, str]:
    """Have `rows` hold the pixels of each class of the mask by the class that `segmenter` reads in the image.

    A row is a confusion matrix (7, 7), its rows one after the other. Arguments and the rest as `extract_features`.
    """
    assert folder.masks is not None
    masks, unreadable = folder.masks, dict[str, str]()

    def describe(names: list[str], pixels: "torch.Tensor") -> np.ndarray:
        import torch

        truth = np.zeros((len(names), *size), np.uint8)
        for index, name in enumerate(names):
            try:
                truth[index] = mask_of_size(masks, name, size)
            except UserError as error:
                unreadable[name] = str(error)
        read, _ = labels_and_confidence([segmenter], pixels, device)
        counts = confusion_matrices(torch.from_numpy(truth).to(device), read[: len(names)])
        found = counts.reshape(len(names), CELLS).cpu().numpy().astype(np.float32)
        found[[name in unreadable for name in names]] = np.nan
        return found

    check_takes(segmenter, size, device)
    return _extract(rows, folder, "judge", describe, CELLS, size, batch_size, workers, device) | unreadable
