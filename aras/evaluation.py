"""A split's scores: its confusion matrices by block, its loss, and its predictions as they come."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aras.confusion import confusion_matrices
from aras.inference import mean_logits
from aras.legend import NUM_CLASSES

if TYPE_CHECKING:
    import torch

    from aras.loading import Batch

Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]  # logits (B, 7, H, W), labels (B, H, W) -> ()


@dataclass(frozen=True)
class Evaluation:
    """What a pass over a split found.

    Attributes:
        loss: mean over images.
        matrices: pixels of each true class (row) by predicted class (column) of each block, (G, 7, 7) int64.
    """

    loss: float
    matrices: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """The confusion matrix (7, 7) of the split."""
        return self.matrices.sum(axis=0)


def evaluate(
    model: "torch.nn.Module",
    batches: "Iterable[Batch]",
    device: "torch.device",
    loss_of: Loss,
    blocks: np.ndarray | None = None,
    take: Callable[[np.ndarray], None] | None = None,
    symmetries: int = 1,
) -> Evaluation:
    """Return the loss and the confusion matrices of a split; `take` gets each batch's predictions.

    What is kept is a matrix for each block, however many images there are.

    Args:
        model: the segmenter, on `device`.
        batches: images and labels, in the order of names.
        device: where to compute.
        loss_of: the loss.
        blocks: (N,) which of G blocks each image is in, 0..G-1; without it, all are in one.
        take: called with predictions (B, H, W) uint8, in the order of names.
        symmetries: 8 for test-time augmentation.
    """
    import torch

    model.eval()
    total, seen = torch.zeros((), device=device), 0
    count = int(blocks.max()) + 1 if blocks is not None else 1
    matrices = torch.zeros((count, NUM_CLASSES, NUM_CLASSES), dtype=torch.int64, device=device)
    with torch.inference_mode():
        for images, labels in batches:
            truth = labels.to(device, non_blocking=True)
            logits = mean_logits([model], images, device, symmetries=symmetries)
            prediction = logits.argmax(dim=1).to(torch.uint8)  # (B, H, W)
            which = np.zeros(len(images), int) if blocks is None else blocks[seen : seen + len(images)]
            matrices.index_add_(0, torch.from_numpy(which).to(device), confusion_matrices(truth, prediction))
            total += loss_of(logits, truth) * len(images)
            seen += len(images)
            if take:
                take(prediction.cpu().numpy())
    return Evaluation(float(total) / seen, matrices.cpu().numpy())
