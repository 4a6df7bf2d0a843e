"""Label a folder of images: masks, class percentages, and how sure the model was.

Batches are cut from the sorted names alone and dealt to the processes of the job, so the labels depend neither on what
an earlier run had done nor on how many processes there are.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from aras.errors import UserError
from aras.files import write_bytes
from aras.inference import check_takes, labels_and_confidence, sums_of_classes
from aras.labelling.outputs import FAILURE_COLUMNS, Outputs
from aras.legend import class_percentages
from aras.loading import cuts, image_loader
from aras.pairs import SUFFIX
from aras.patches import png_of_mask
from aras.ranks import Rank
from aras.rows import row_text

if TYPE_CHECKING:
    import torch

WRITERS = 8  # threads; compression lets go of the interpreter
CONFIDENCE_SCALE = 255
"""The value of a confidence map where the probability is 1."""


@dataclass(frozen=True)
class Labeller:
    """How images are labelled: the mean probability of `models` over as many `symmetries`."""

    models: "list[torch.nn.Module]"
    device: "torch.device"
    symmetries: int
    maps: bool  # whether confidence maps are written

    def check_takes(self, size: tuple[int, ...]) -> None:
        """Raise `UserError` when a model cannot take images of (height, width) `size`."""
        for model in self.models:
            check_takes(model, size, self.device)


@dataclass(frozen=True)
class Share:
    """What one process labels: batches of the images `names` of `folder`, leaving out what is `done`."""

    folder: Path
    names: np.ndarray  # (N,) str stems, sorted
    stamps: dict[str, str]  # rows of labelled.csv, by file name
    done: set[str]
    batch_size: int
    workers: int
    rank: Rank

    def batches(self) -> list[list[int]]:
        """Return the batches of this process as places in `names`, cut alike whatever is done and by whom."""
        batches = cuts(len(self.names), self.batch_size)
        return [batch for batch in batches if not self.done.issuperset(self.names[batch].tolist())][
            self.rank.number :: self.rank.count
        ]


def label_share(share: Share, labeller: Labeller, outputs: Outputs) -> None:
    """Label what is not done of `share`, under a progress bar in the first process; reasons go to its failures."""
    import torch
    from tqdm import tqdm

    check = cache(labeller.check_takes)
    paths = [outputs.own(table, share.rank) for table in (*outputs.tables, outputs.failures)]
    with ThreadPoolExecutor(WRITERS) as pool, ExitStack() as stack, torch.inference_mode():
        *tables, failed = (stack.enter_context(new_table(path)) for path in paths)
        for table, columns in zip((*tables, failed), (*outputs.tables.values(), FAILURE_COLUMNS), strict=True):
            table.write(row_text(columns))
        batches = share.batches()
        loader = image_loader(share.folder, share.names, batches, share.batch_size, share.workers, labeller.device)
        for groups, failures in tqdm(loader, desc="label", disable=None if share.rank.leads else True, unit="batch"):
            for group, images in groups:
                new = {name: place for place, name in enumerate(group) if name not in share.done}
                try:
                    check(tuple(images.shape[1:3]))
                except UserError as error:
                    failures |= dict.fromkeys(new, str(error))
                    continue
                rows = label_group(new, images, labeller, outputs, pool) if new else []
                for name, (percentages, confidence) in zip(new, rows, strict=True):
                    for table, row in zip(tables, (percentages, confidence, share.stamps[name + SUFFIX]), strict=True):
                        table.write(row)
            failed.writelines(row_text((name + SUFFIX, reason)) for name, reason in failures.items())
            for table in (*tables, failed):
                table.flush()


def new_table(path: Path) -> Any:
    """Return the table at `path`, open to be written from its beginning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8")


def label_group(
    new: dict[str, int], images: "torch.Tensor", labeller: Labeller, outputs: Outputs, pool: ThreadPoolExecutor
) -> list[tuple[str, str]]:
    """Write the masks of `new`, names and their places in `images`; return each one's percentages and confidence."""
    found, confidence = labels_and_confidence(labeller.models, images, labeller.device, labeller.symmetries)
    pixels, sums = sums_of_classes(found, confidence)
    labels = found.cpu().numpy()
    if labeller.maps:
        sure = bytes_of_confidence(confidence).cpu().numpy()
        list(pool.map(lambda name: write_map(outputs.maps, name, sure[new[name]]), new))
    list(pool.map(lambda name: write_mask(outputs.masks, name, labels[new[name]]), new))
    return [
        (
            row_text([name + SUFFIX, *class_percentages(pixels[place])]),
            confidence_row(name + SUFFIX, pixels[place], sums[place]),
        )
        for name, place in new.items()
    ]


def confidence_row(name: str, pixels: np.ndarray, sums: np.ndarray) -> str:
    """Return an image's line of confidence.csv from `pixels` (7,) and `sums` (7,); a class without pixels is empty."""
    of_class = [f"{total / count:.4f}" if count else "" for total, count in zip(sums, pixels, strict=True)]
    return row_text([name, f"{sums.sum() / pixels.sum():.4f}", *of_class])


def bytes_of_confidence(confidence: "torch.Tensor") -> "torch.Tensor":
    """Return probabilities (...) float32 as (...) uint8, rounded, where 255 is 1."""
    import torch

    return (confidence * CONFIDENCE_SCALE).round().to(torch.uint8)


def write_mask(folder: Path, name: str, labels: np.ndarray) -> None:
    """Write `labels` (H, W) uint8 as a mask file."""
    write_bytes(folder / f"{name}{SUFFIX}", png_of_mask(labels), durable=False)


def write_map(folder: Path, name: str, confidence: np.ndarray) -> None:
    """Write `confidence` (H, W) uint8 as a grey PNG."""
    write_bytes(folder / f"{name}{SUFFIX}", png_of_grey(confidence), durable=False)


def png_of_grey(values: np.ndarray) -> bytes:
    """Return the grey PNG of `values` (H, W) uint8, coded by Huffman alone as the images are."""
    buffer = io.BytesIO()
    huffman_only = 2
    Image.fromarray(values).save(buffer, "PNG", compress_type=huffman_only)
    return buffer.getvalue()
