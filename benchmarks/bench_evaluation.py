"""Scoring a split: ours against the published way in the same run, and its memory at 1,000 and 100,000 images.

Published: one image at a time, masks read by seven comparisons of colours, every pixel of truth and prediction kept,
then six passes of scikit-learn over all of them. Ours: batches, and a 7 x 7 matrix for each block. Both read the same
PNG files and run the same model in float32 on the CPU. Floor: the model alone on images that are in memory.

    python benchmarks/bench_evaluation.py [--images N]

Claims: scores equal to those of scikit-learn; counting at least 20x as fast as the published scoring; the peak memory
at 100,000 images within 5 % of that at 1,000.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from aras.training import share_cores

share_cores()

import click
import numpy as np
import torch
from PIL import Image

from aras.legend import COLORS, mask_image
from aras.pairs import find_pairs
from aras.segmentation.evaluation import evaluate
from aras.segmentation.losses import loss_named

PATCH = 256
ENCODER = "tu-tf_efficientnet_lite0"

MEMORY = """
import sys
sys.path.insert(0, {root!r})
import numpy as np, torch
from aras.segmentation.batches import EvalBatches
from aras.segmentation.evaluation import evaluate
from aras.segmentation.losses import loss_named
count, size, batch = int(sys.argv[1]), 64, 50
model = torch.nn.Conv2d(3, 7, 1)
class Loader:
    batch_sampler = EvalBatches(count, batch)
    def __len__(self):
        return len(self.batch_sampler)
    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for _ in self.batch_sampler:
            images = torch.randint(0, 256, (batch, size, size, 3), generator=generator, dtype=torch.uint8)
            yield images, torch.randint(0, 7, (batch, size, size), generator=generator, dtype=torch.uint8)
blocks = np.arange(count) // 64
found = evaluate(model, Loader(), "", torch.device("cpu"), loss_named("dice"), blocks=blocks)
assert found.matrix.sum() == count * size * size
print(next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) / 1024)
"""


def make_split(folder: Path, count: int) -> None:
    """Write `count` pairs of real pixels and blocky RGB masks as the split `test` of the dataset `folder`."""
    from benchmarks.bench_loader import real_patches

    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / "test" / kind).mkdir(parents=True)
    for i, pixels in enumerate(real_patches(count, PATCH)):
        labels = np.kron(rng.integers(0, 7, (16, 16)), np.ones((PATCH // 16,) * 2, int)).astype(np.uint8)
        name = f"N41E031_{i // 47:03d}_{i % 47:03d}.png"
        Image.fromarray(pixels).save(folder / "test" / "images" / name)
        mask_image(labels).convert("RGB").save(folder / "test" / "masks" / name)


def published(model: torch.nn.Module, data: Path) -> tuple[dict[str, float], float]:
    """Return the scores as the published script finds them, and the seconds of the scoring alone."""
    from sklearn import metrics

    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    truths, predictions = [], []
    pairs = find_pairs(data, "test")
    with torch.no_grad():
        for index in range(len(pairs)):
            image = np.array(Image.open(pairs.image(index)).convert("RGB"))
            colors = np.array(Image.open(pairs.mask(index)).convert("RGB"))
            labels = np.zeros(colors.shape[:2], dtype=np.int64)
            for c, color in enumerate(COLORS):
                labels[(colors == color).all(axis=-1)] = c
            batch = ((torch.from_numpy(image).permute(2, 0, 1).float() / 255 - mean) / std)[None].contiguous()
            predictions.append(model(batch).argmax(dim=1).numpy().flatten())
            truths.append(labels.flatten())
    start = time.perf_counter()
    y_true, y_pred = np.concatenate(truths), np.concatenate(predictions)
    macro: dict[str, Any] = {"average": "macro", "zero_division": 0}
    found = {
        "f1": metrics.f1_score(y_true, y_pred, **macro),
        "iou": metrics.jaccard_score(y_true, y_pred, **macro),
        "precision": metrics.precision_score(y_true, y_pred, **macro),
        "recall": metrics.recall_score(y_true, y_pred, **macro),
        "accuracy": metrics.accuracy_score(y_true, y_pred),
    }
    metrics.f1_score(y_true, y_pred, average=None, zero_division=0)
    return found, time.perf_counter() - start


def ours(model: torch.nn.Module, data: Path, workers: int) -> dict[str, float]:
    """Return the scores as segmentation_train.py finds them."""
    from aras.confusion import scores
    from aras.loading import PairSet, loader_of
    from aras.segmentation.batches import EvalBatches

    device = torch.device("cpu")
    pairs = find_pairs(data, "test")
    loader = loader_of(PairSet([pairs], (PATCH, PATCH)), EvalBatches(len(pairs), 24), workers, device)
    found = scores(evaluate(model, loader, "ours", device, loss_named("dice")).matrix)
    return {name: found[name] for name in ("f1", "iou", "precision", "recall", "accuracy")}


def counting(data: Path) -> float:
    """Return the seconds in which our scoring counts the split's pixels and makes the scores, nothing else."""
    from aras.confusion import confusion_matrices, scores

    labels = torch.randint(0, 7, (len(find_pairs(data, "test")), PATCH, PATCH), dtype=torch.uint8)
    start = time.perf_counter()
    matrix = sum(confusion_matrices(batch, batch.flip(0)).sum(dim=0) for batch in labels.split(24))
    scores(matrix.numpy())  # type: ignore[union-attr]
    return time.perf_counter() - start


def timed(work: Any, *arguments: Any) -> tuple[Any, float]:
    """Return what `work` returns, and its seconds."""
    start = time.perf_counter()
    found = work(*arguments)
    return found, time.perf_counter() - start


def floor(model: torch.nn.Module, count: int) -> None:
    """Run the model on as many images as there are, in batches, and do nothing else."""
    batch = torch.randn(24, 3, PATCH, PATCH).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        for start in range(0, count, 24):
            model(batch[: count - start])


@click.command()
@click.option("--images", default=120, show_default=True, help="Images of the split.")
def main(images: int) -> None:
    """Print the two ways' scores, seconds and ratios, and the peak memories."""
    from aras.segmenter import build_model

    torch.manual_seed(0)
    plain = build_model("Segformer", ENCODER, "none").eval()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        make_split(data, images)
        (theirs, scoring), plain_seconds = timed(published, plain, data)
        last = plain.to(memory_format=torch.channels_last)
        found, our_seconds = timed(ours, last, data, 0)
        _, floor_seconds = timed(floor, last, images)
        count_seconds = counting(data)
    print(f"{images} images of {PATCH} x {PATCH}, Segformer with {ENCODER}, float32, {torch.get_num_threads()} threads")
    for name in theirs:
        print(f"{name:10} published {theirs[name]:.6f}   ours {found[name]:.6f}")
    worst = max(abs(theirs[name] - found[name]) for name in theirs)
    print(f"largest difference {worst:.1e} (a pixel whose two best classes are equal may go either way)")
    print(
        f"whole evaluation: published {plain_seconds:.1f} s, ours {our_seconds:.1f} s,"
        f" {plain_seconds / our_seconds:.1f}x"
    )
    print(f"the model alone {floor_seconds:.1f} s: ours is {our_seconds / floor_seconds:.2f} times the floor")
    print(f"scoring alone: published {scoring:.2f} s, ours {count_seconds:.3f} s: {scoring / count_seconds:.0f}x")
    code = MEMORY.format(root=str(ROOT))
    few, many = (
        float(subprocess.run([sys.executable, "-c", code, n], capture_output=True, text=True, check=True).stdout)
        for n in ("1000", "100000")
    )
    print(f"peak memory: {few:.0f} MB at 1,000 images, {many:.0f} MB at 100,000: {many / few:.2f}x")


if __name__ == "__main__":
    main()
