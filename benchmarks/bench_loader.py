"""How many training pairs a second the loader gives, with 1..N workers, against the floor of decoding alone.

Floor: the PNG files, already in memory, decoded and nothing else, by as many processes as there are cores. Plain: the
published loader's work on one pair (masks by seven comparisons of colours, normalised to float32 in the worker).

    python benchmarks/bench_loader.py [--images N]

Claims: at least 2x the plain way with the same workers; within 2x of the floor at one worker for each core.
"""

import io
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from aras.training import share_cores

share_cores()

import click
import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image

from aras.command import cores
from aras.legend import COLORS
from aras.loading import PairSet, PaperAugmentation, batches_of, loader_of
from aras.pairs import Pairs, find_pairs
from aras.patches import REFLECTANCE_MAX, linear_table, png_of_image, png_of_mask
from aras.segmentation.batches import TrainBatches
from aras.segmentation.sampling import EpochOrder
from benchmarks.bench_dataset_creator import real_pixels

PATCH = 256
BATCH = 24


def real_patches(count: int, size: int) -> Iterator[np.ndarray]:
    """Yield `count` patches (size, size, 3) uint8 of real pixels, each from another place."""
    pixels, _ = real_pixels()
    grey = linear_table(0, REFLECTANCE_MAX // 2)[pixels[:3]].transpose(1, 2, 0)
    grey = np.tile(grey, (2, 2, 1))
    rng = np.random.default_rng(1)
    for _ in range(count):
        y, x = (int(rng.integers(0, side // 2)) for side in grey.shape[:2])
        yield np.ascontiguousarray(grey[y : y + size, x : x + size])


def make_split(folder: Path, count: int) -> None:
    """Write `count` pairs as dataset_creator.py writes them: real pixels, masks with as many edges."""
    for kind in ("images", "masks"):
        (folder / "train" / kind).mkdir(parents=True)
    for i, pixels in enumerate(real_patches(count, PATCH)):
        labels = (pixels[..., 1] // 32 % 7).astype(np.uint8)
        name = f"N41E031_{i // 47:03d}_{i % 47:03d}.png"
        (folder / "train" / "images" / name).write_bytes(png_of_image(pixels.transpose(2, 0, 1)))
        (folder / "train" / "masks" / name).write_bytes(png_of_mask(labels))


class Plain(torch.utils.data.Dataset):
    """The published dataset's work on a pair: Pillow, seven comparisons, augmentation, float32 tensors."""

    def __init__(self, pairs: Pairs):
        import albumentations as A

        self.pairs = pairs
        self.transform = A.Compose(
            [
                *(A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=0.5)),
                *(A.RandomBrightnessContrast(p=0.3), A.Normalize(), A.ToTensorV2()),
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = np.array(Image.open(self.pairs.image(index)).convert("RGB"))
        colors = np.array(Image.open(self.pairs.mask(index)).convert("RGB"))
        labels = np.zeros(colors.shape[:2], dtype=np.int64)
        for c, color in enumerate(COLORS):
            labels[(colors == color).all(axis=-1)] = c
        result = self.transform(image=image, mask=labels)
        return result["image"], result["mask"]


def rate(batches: Any, count: int) -> float:
    """Return the images a second that `batches`, gone through twice, gives the second time: its workers run by then."""
    for _ in batches:
        pass
    start = time.perf_counter()
    for _ in batches:
        pass
    return count / (time.perf_counter() - start)


class Ours:
    """Our loader as an epoch's batches."""

    def __init__(self, pairs: Pairs, workers: int):
        data = PairSet([pairs], (PATCH, PATCH), 0, PaperAugmentation())
        batches = TrainBatches(EpochOrder([len(pairs)], 0), BATCH)
        batches.epoch = 1
        self.loader = loader_of(data, batches, workers, torch.device("cpu"))

    def __iter__(self) -> Iterator[Any]:
        return batches_of(self.loader, "ours")


def decode(contents: list[tuple[bytes, bytes]]) -> None:
    """Decode images and masks that are in memory."""
    import cv2

    for image, mask in contents:
        cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        np.asarray(Image.open(io.BytesIO(mask)))


def floor(pairs: Pairs, processes: int) -> float:
    """Return how many pairs a second `processes` decode."""
    contents = [(pairs.image(i).read_bytes(), pairs.mask(i).read_bytes()) for i in range(len(pairs))]
    shares = [contents[i::processes] for i in range(processes)]
    with Parallel(n_jobs=processes) as pool:
        pool(delayed(decode)(share[:2]) for share in shares)  # start-up
        start = time.perf_counter()
        pool(delayed(decode)(share) for share in shares)
        return len(contents) / (time.perf_counter() - start)


@click.command()
@click.option("--images", default=1200, show_default=True, help="Pairs of the set.")
def main(images: int) -> None:
    """Print images a second of each way and number of workers."""
    with tempfile.TemporaryDirectory() as folder:
        make_split(Path(folder), images)
        pairs = find_pairs(Path(folder), "train")
        least = floor(pairs, cores())
        print(
            f"{images} pairs of {PATCH} x {PATCH}; floor, {cores()} processes decode and do nothing else: {least:.0f}/s"
        )
        for workers in sorted({0, 1, cores() // 2, cores()}):
            plain = torch.utils.data.DataLoader(
                *(Plain(pairs), BATCH), shuffle=True, num_workers=workers, persistent_workers=workers > 0
            )
            theirs, found = rate(plain, images), rate(Ours(pairs, workers), images)
            print(
                f"{workers:2} workers: plain {theirs:5.0f}/s   ours {found:5.0f}/s, {found / theirs:.1f}x the plain way"
                f" and {least / found:.2f} times the floor"
            )


if __name__ == "__main__":
    main()
