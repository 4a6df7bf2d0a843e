"""A split's scores: its confusion matrices by block, its loss, and its predictions as they come."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.confusion import confusion_matrices
from aras.distributed import add_up, gathered
from aras.inference import mean_logits
from aras.legend import NUM_CLASSES
from aras.loading import batches_of

if TYPE_CHECKING:
    import torch

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
    loader: Any,
    what: str,
    device: "torch.device",
    loss_of: Loss,
    precision: "torch.dtype | None" = None,
    blocks: np.ndarray | None = None,
    take: Callable[[np.ndarray], None] | None = None,
    symmetries: int = 1,
) -> Evaluation:
    """Return the loss and the confusion matrices of a split, the same to every process that has a part in it.

    What is kept is a matrix for each block, however many images there are.

    Args:
        model: the segmenter, on `device`.
        loader: this rank's batches of the split, by `EvalBatches`.
        what: the name of the progress bar.
        device: where to compute.
        loss_of: the loss of a batch, which is one rank's alone.
        precision: in which to compute.
        blocks: (N,) which of G blocks each image is in, 0..G-1; without it, all are in one.
        take: called in the first process with predictions (B, H, W) uint8, in the order of names; what comes after the
            last image is filling.
        symmetries: 8 for test-time augmentation.
    """
    import torch

    model.eval()
    batches = loader.batch_sampler
    blocks = np.zeros(batches.count, int) if blocks is None else blocks
    total = torch.zeros((), dtype=torch.float64, device=device)
    matrices = torch.zeros((int(blocks.max()) + 1, NUM_CLASSES, NUM_CLASSES), dtype=torch.int64, device=device)
    with torch.inference_mode():
        for batch, (images, labels) in enumerate(batches_of(loader, what)):
            truth = labels.to(device, non_blocking=True)
            logits = mean_logits([model], images, device, precision, symmetries)
            prediction = logits.argmax(dim=1).to(torch.uint8)  # (B, H, W)
            first = batches.first(batch)
            which = torch.from_numpy(blocks[first : first + len(images)])
            matrices.index_add_(0, which.to(device, non_blocking=True), confusion_matrices(truth, prediction))
            total += loss_of(logits, truth) * len(images)
            if take:
                hand_over(prediction.cpu().numpy(), batches.batch_size, take)
        if take and len(batches) < batches.rounds:
            hand_over(np.zeros((0, *loader.dataset.size), np.uint8), batches.batch_size, take)
        add_up(total, matrices)
    return Evaluation(float(total) / batches.count, matrices.cpu().numpy())


def hand_over(prediction: np.ndarray, rows: int, take: Callable[[np.ndarray], None]) -> None:
    """Have `take` get each rank's `prediction` (B, H, W) of a round, in the order of ranks, each filled up to `rows`.

    Only the last batch of a split is shorter, so what is filled up comes after all that is not.
    """
    filled = np.zeros((rows, *prediction.shape[1:]), np.uint8)
    filled[: len(prediction)] = prediction
    for predictions in gathered(filled):
        take(predictions)
