"""The folder of a segmenter's training: what lies where, what of it is missing, and how it is mended."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.checkpoints import keep_also_as, save_tensors
from aras.errors import UserError
from aras.files import read_json, whole_file
from aras.patches import png_of_mask
from aras.runs import check_same_options
from aras.segmenter import published_name

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RunFolder:
    """The folder `path` of a training of the architecture `arch` on `encoder`."""

    path: Path
    arch: str
    encoder: str

    @property
    def kind(self) -> dict[str, str]:
        """What is trained, as last.pt has it."""
        return {"arch": self.arch, "encoder": self.encoder}

    @property
    def told_kind(self) -> str:
        """What is trained, in words."""
        return f"{self.arch} with {self.encoder}"

    @property
    def record(self) -> Path:
        """run.json."""
        return self.path / "run.json"

    @property
    def last(self) -> Path:
        """All that the training goes on from."""
        return self.path / "last.pt"

    @property
    def metrics(self) -> Path:
        """A line for each epoch."""
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.path / "best.pt"

    @property
    def published(self) -> Path:
        """The same under the name that the published scripts give them."""
        return self.path / f"best_{published_name(self.arch, self.encoder)}.pth"

    @property
    def predictions(self) -> Path:
        """The zip of the test split's predictions."""
        return self.path / f"{published_name(self.arch, self.encoder)}.zip"

    @property
    def tested(self) -> Path:
        """The scores on the test split."""
        return self.path / "test_metrics.json"

    @property
    def curves(self) -> Path:
        """The figure of the epochs' losses and scores."""
        return self.path / "curves.png"

    @property
    def confusion(self) -> Path:
        """The figure of the test split's confusion matrix."""
        return self.path / "confusion_matrix.png"

    def is_finished(self, options: dict[str, Any], free: frozenset[str], epochs: int) -> bool:
        """Return whether the folder has all results of a training with `options` that would not go on.

        Raises:
            UserError: the folder is of a run with other options (but for the `free` ones), does not say of which, or
                lacks what cannot be made again.
        """
        if self.record.exists():
            check_same_options(self.record, options, free)
        elif self.last.exists():
            raise UserError(
                f"{self.last} lacks the run.json that tells of what run it is; delete it, or name another --outdir"
            )
        if not self.tested.exists():
            return False
        found = read_json(self.tested)
        if not isinstance(found, dict) or not {"stopped_early", "epochs"} <= found.keys():
            raise UserError(f"{self.tested} does not tell of a test; delete it and run the same command again")
        results = (self.best, self.published, self.predictions, self.curves, self.confusion)
        missing = [path for path in results if not path.exists()]
        over = found["stopped_early"] or found["epochs"] >= epochs
        if over and missing and not self.last.exists():
            raise UserError(
                f"{missing[0]} is missing, and without {self.last.name} it cannot be made again; delete {self.path} to"
                " train again"
            )
        return over and not missing

    def save_best(self, weights: dict[str, "Tensor"]) -> None:
        """Write `weights` as best.pt, which is the file of the published name too."""
        # In PyTorch's default layout: safetensors takes no other.
        save_tensors(self.best, {name: tensor.contiguous() for name, tensor in weights.items()})
        keep_also_as(self.best, self.published)

    def mend_best(self, last_epoch: int, best_epoch: int, weights: dict[str, "Tensor"] | None) -> None:
        """Have the best epoch's weights be there under both names, after a kill or a deletion.

        Args:
            last_epoch: the last one finished.
            best_epoch: the best one.
            weights: those of `last_epoch`, if last.pt has them still.

        Raises:
            UserError: they are gone, and last.pt does not have them.
        """
        if weights and best_epoch == last_epoch:
            self.save_best(weights)  # a kill may have come between last.pt and best.pt
        elif self.best.exists():
            keep_also_as(self.best, self.published)
        elif self.published.exists():
            keep_also_as(self.published, self.best)
        else:
            held = f"of epoch {last_epoch}" if weights else f"from within epoch {last_epoch + 1}"
            raise UserError(
                f"{self.best} is missing, and last.pt has the weights {held}, not of the best,"
                f" {best_epoch}; put it back, or delete {self.path} to train again"
            )

    @contextmanager
    def prediction_writer(self, names: np.ndarray) -> Iterator[Callable[[np.ndarray], None]]:
        """Yield a function that takes predictions (B, H, W) uint8 in the order of `names` and zips them.

        What comes after the last name is left out.
        """
        left = iter(names)
        with whole_file(self.predictions) as part, zipfile.ZipFile(part, "w") as archive:

            def take(predictions: np.ndarray) -> None:
                for labels, name in zip(predictions, left, strict=False):
                    # A fixed date, so that the same predictions are the same bytes.
                    entry = zipfile.ZipInfo(f"pred_{name}.png", date_time=(1980, 1, 1, 0, 0, 0))
                    entry.external_attr = 0o644 << 16
                    archive.writestr(entry, png_of_mask(labels))

            yield take
