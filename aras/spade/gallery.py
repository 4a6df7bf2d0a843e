"""A folder of drawn images: what it was drawn by, what may therefore be added to it, and what could not be drawn."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aras.distributed import from_first, is_first, merged
from aras.errors import UserError
from aras.files import remove_parts, sole_writer, write_text
from aras.pairs import SUFFIX, stems
from aras.rows import row_text
from aras.runs import FREE, begin_run, check_same_options
from aras.segmenter import check_same_weights, digests_of
from aras.spade.drawing import Drawing, draw_images
from aras.spade.run_folder import kind_of_generator, load_generator
from aras.training import memory_told, told_device, workers_told

if TYPE_CHECKING:
    import torch

FREE_OPTIONS = FREE | {"limit", "batch_size", "weights"}
"""The content of the weights counts, not their name. With another --batch-size sums of floats may differ in their last
digits, which can move a pixel by one grey level."""

PACKAGES = ("torch", "numpy", "opencv-python-headless", "pillow")
FAILURE_COLUMNS = ("filename", "reason")


@dataclass(frozen=True)
class Gallery:
    """What is drawn, by which weights, and where to; the options of --sample-only by name."""

    weights: Path
    recipe: str | None
    width: int | None
    masks: Path
    output: Path
    samples_per_mask: int
    seed: int
    truncation: float
    batch_size: int
    workers: int
    limit: int | None

    @property
    def record(self) -> Path:
        """run.json."""
        return self.output / "run.json"

    @property
    def failures(self) -> Path:
        """Which masks could not be drawn from, and why; absent when there are none."""
        return self.output / "failures.csv"

    @property
    def remedy(self) -> str:
        """What to do about a folder that is another's."""
        return f"delete {self.output}, or name another --output (a training that is to draw nothing takes --no-draw)"

    def check_not_foreign(self) -> None:
        """Raise `UserError` when there are images that this script did not draw, or a file where the folder goes."""
        if self.output.exists() and not self.output.is_dir():
            raise UserError(f"{self.output} is a file; name a folder by --output")
        image = next(self.output.glob("*" + SUFFIX), None)
        if image and not self.record.exists():
            raise UserError(f"{image} was not drawn by this script: there is no {self.record}; {self.remedy}")

    def check_unbegun(self) -> None:
        """Raise `UserError` when there are images, which the weights of a training that is not over did not draw."""
        self.check_not_foreign()
        if self.record.exists():
            raise UserError(f"{self.output} was drawn by the weights of an earlier training; {self.remedy}")


def draw_gallery(gallery: Gallery, device: "torch.device", tell: Callable[[str], None]) -> None:
    """Draw what is left of `gallery`, together with the other processes of a training.

    Raises:
        UserError: the folder was drawn with other options or weights, or some masks could not be drawn from.
    """
    with sole_writer(gallery.output) if is_first() and not gallery.output.is_file() else nullcontext():
        names = from_first(lambda: begin_gallery(gallery, device))
        drawing = Drawing(
            *(gallery.masks, gallery.output, np.array(names), gallery.samples_per_mask),
            *(gallery.seed, gallery.truncation, gallery.batch_size, gallery.workers),
        )
        tell(f"Reads {gallery.masks}: {len(names):,} masks, {len(drawing.undone):,} images to draw")
        tell(f"Writes {gallery.output}")
        failures = {}
        if drawing.undone:
            generator = load_generator(gallery.weights, gallery.recipe, gallery.width)
            with memory_told("lower --batch-size"), workers_told():
                failures = draw_images(drawing, placed(generator, device), device)
        failures = merged(failures)
        if failures and is_first():
            rows = [FAILURE_COLUMNS, *sorted(failures.items())]
            write_text(gallery.failures, "".join(map(row_text, rows)))
        if failures:
            raise UserError(
                f"{len(failures)} masks gave no image, see {gallery.failures}; mend them and run this again"
            )


def begin_gallery(gallery: Gallery, device: "torch.device") -> list[str]:
    """Have the folder fit `gallery` and hold nothing that a killed run left half; return the stems of the masks.

    Raises:
        UserError: it was drawn with other options or weights, or there are no masks.
    """
    gallery.check_not_foreign()
    names = sorted(stems(gallery.masks))[: gallery.limit]
    recipe, width = kind_of_generator(gallery.weights, gallery.recipe, gallery.width)
    options = asdict(gallery) | {"recipe": recipe, "width": width}
    digest = digests_of([gallery.weights])
    if gallery.record.exists():
        check_same_options(gallery.record, options | {"weights_sha256": digest}, FREE_OPTIONS | {"weights_sha256"})
        check_same_weights(gallery.record, [gallery.weights], digest, gallery.output, gallery.remedy)
    begin_run(gallery.record, options | {"weights_sha256": digest}, PACKAGES, told_device(device), FREE_OPTIONS)
    remove_parts(gallery.output)
    gallery.failures.unlink(missing_ok=True)
    return names


def placed(generator: "torch.nn.Module", device: "torch.device") -> "torch.nn.Module":
    """Return `generator` on `device`, in the layout in which its convolutions are quickest."""
    import torch

    return generator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
