"""How good a generator is: the metrics of train.py and calc_metrics.py, under the names of the reference.

| name | what |
|--|--|
| fid50k_full, fid50k | Fréchet inception distance (Heusel et al. 2017, arXiv 1706.08500) |
| kid50k_full, kid50k | kernel inception distance (Binkowski et al. 2018, arXiv 1801.01401) |
| pr50k3_full, pr50k3 | precision and recall, third neighbour in VGG16 (Kynkäänniemi et al. 2019, arXiv 1904.06991) |
| is50k | inception score (Salimans et al. 2016, arXiv 1606.03498) |
| ppl2_wend | perceptual path length at path ends in W (Karras et al. 2020, arXiv 1912.04958) |
| eqt50k_int, eqt50k_frac, eqr50k | equivariance of StyleGAN3, dB (Karras et al. 2021, arXiv 2106.12423, appendix E) |
| fd_encoder | Fréchet distance in the features of the project's own segmenter |

All take 50,000 generated images; fd_encoder takes 4 for each real one, at most as many, and tells the number. `_full`
compares with all real images as they are, the others with at most 50,000, mirrored if those of the training were. A
result is named after what was computed: with another number of images that number stands in the name, and with other
weights than those of the definition it is not called FID or KID.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

import stylegan_distances as distances
import stylegan_equivariance as equivariance
from stylegan_dataset import ImageDataset
from stylegan_distributed import add_up
from stylegan_errors import StyleganError
from stylegan_features import MetricUnavailable, perceptual_distance
from stylegan_generate import exact_float32
from stylegan_measuring import SEED, Job, agreed, by_first, coloured, seeded

SAMPLES = 50_000
PER_REAL = 4
BATCH_ON_GPU, BATCH_ON_CPU = 64, 8
PATH_STEP = 1e-4
PATH_SIDE = 256  # px, to which larger images are averaged before they are compared
MOTION_BATCH = 4  # images that share one motion
MOST_MOVED = 1 / 8  # of the image's side


def frechet(job: Job, detector_name: str = "inception") -> dict[str, float]:
    """Return the Fréchet distance between generated and real images."""
    detector = job.detector(detector_name)
    reals, fakes = job.real_sums(detector), job.sums(detector, job.fakes())
    distance = by_first(lambda: distances.frechet_distance(*reals.mean_and_covariance(), *fakes.mean_and_covariance()))
    return {"": distance}


def kernel(job: Job) -> dict[str, float]:
    """Return the kernel inception distance; of the real images only those that are drawn get features."""
    detector, indices = job.detector("inception"), job.real_indices()
    size = min(len(indices), job.samples, distances.KID_SUBSET_SIZE)
    if size < 2:
        raise ValueError("the kernel distance needs at least 2 images of each kind")
    drawn_reals, drawn_fakes = (
        distances.draws(count, size, distances.KID_SUBSETS, SEED + kind)
        for kind, count in enumerate((len(indices), job.samples))
    )
    needed, places = drawn_reals.unique(return_inverse=True)
    reals = job.real_features(detector, indices[needed.numpy()])
    fakes = job.features(detector, job.fakes(), job.samples)
    of_fakes, of_reals = (fakes[draw] for draw in drawn_fakes), (reals[draw] for draw in places)
    return {"": by_first(lambda: distances.kernel_distance(of_fakes, of_reals))}


def precision_recall(job: Job) -> dict[str, float]:
    """Return precision and recall in the features of VGG16."""
    detector = job.detector("vgg")
    reals = job.real_features(detector, job.real_indices())
    fakes = job.features(detector, job.fakes(), job.samples)
    precision, recall = by_first(lambda: distances.precision_and_recall(reals.to(job.device), fakes.to(job.device)))
    return {"_precision": precision, "_recall": recall}


def score(job: Job) -> dict[str, float]:
    """Return the inception score, mean and standard deviation over ten parts."""
    detector = job.detector("inception")
    if detector.probabilities is None:
        raise MetricUnavailable("is50k needs Inception weights with the classifier, which these are without")
    features = job.features(detector, job.fakes(), job.samples)
    classes = detector.probabilities
    chances = torch.cat([classes(rows.to(job.device)).cpu() for rows in features.split(distances.ROWS_AT_ONCE)])
    mean, deviation = by_first(lambda: distances.inception_score(chances))
    return {"_mean": mean, "_std": deviation}


def path_length(job: Job) -> dict[str, float]:
    """Return the mean perceptual distance between images a small step apart in W, over the squared step."""
    distance = agreed(lambda: perceptual_distance(job.weights.get("vgg"), job.device))

    def lengths() -> Iterator[tuple[slice, Tensor]]:
        for start in job.starts(job.samples, job.batch, "generated"):
            count = min(job.batch, job.samples - start)
            with seeded(start, job.device):
                z, c = torch.randn(2 * count, job.G.z_dim).to(job.device), job.labels(count)
            ws, others = job.G.mapping(z, None if c is None else c.repeat(2, 1)).chunk(2)
            noise = list(range(start, start + count)) * 2  # both ends of a step have the same
            ends = torch.cat([ws, ws.lerp(others, PATH_STEP)])
            images = job.G.synthesis(ends, noise_mode="random", noise_seeds=noise, force_fp32=True)
            if images.shape[2] > PATH_SIDE:
                images = avg_pool2d(images, images.shape[2] // PATH_SIDE)
            pair = coloured((images + 1) * 127.5).chunk(2)
            yield slice(start, start + count), distance(*pair)[:, None] / PATH_STEP**2

    found = job.rows(1, job.samples, lengths())
    return {"": by_first(lambda: distances.trimmed_mean(found[:, 0].double()))}


def equivariance_of(job: Job, move: Callable[[Any, Tensor, int], tuple[float, float]]) -> dict[str, float]:
    """Return by how many dB images follow the motions that `move` draws."""
    if not hasattr(job.G.synthesis, "input"):
        raise MetricUnavailable("equivariance is measured on StyleGAN3, whose input can be moved; this is StyleGAN2")
    transform = job.G.synthesis.input.transform
    before, sums = transform.clone(), torch.zeros(2, dtype=torch.float64)
    try:
        for start in job.starts(job.samples, MOTION_BATCH, "generated"):
            count = min(MOTION_BATCH, job.samples - start)
            with seeded(start, job.device):
                z, c = torch.randn(count, job.G.z_dim).to(job.device), job.labels(count)
                ws = job.G.mapping(z, c)
                sums += torch.tensor(move(job.G, ws, job.G.resolution), dtype=torch.float64)
            transform.copy_(before)
    finally:
        transform.copy_(before)
    add_up(sums)
    return {"": equivariance.decibels(float(sums[0]), float(sums[1]))}


def still_and_moved(G: Any, ws: Tensor, right: float = 0, down: float = 0, angle: float = 0) -> tuple[Tensor, Tensor]:
    """Return the images of `ws`, and those with the input moved and turned."""
    transform = G.synthesis.input.transform
    transform.copy_(torch.eye(3))
    still = G.synthesis(ws)
    transform.copy_(equivariance.input_transform(right, down, angle))
    return still, G.synthesis(ws)


def whole_pixels(G: Any, ws: Tensor, side: int) -> tuple[float, float]:
    """Return squared differences and their number for a translation by whole pixels."""
    right, down = (round(float(share) * MOST_MOVED * side) for share in torch.rand(2) * 2 - 1)
    still, moved = still_and_moved(G, ws, right / side, down / side)
    ideal, known = equivariance.translate_integer(still, right, down)
    return equivariance.compare(moved, ideal, known)


def parts_of_pixels(G: Any, ws: Tensor, side: int) -> tuple[float, float]:
    """Return squared differences and their number for any translation."""
    right, down = (float(share) * MOST_MOVED for share in torch.rand(2) * 2 - 1)
    still, moved = still_and_moved(G, ws, right, down)
    ideal, known = equivariance.translate_fractional(still, right * side, down * side)
    return equivariance.compare(moved, ideal, known)


def turns(G: Any, ws: Tensor, _side: int) -> tuple[float, float]:
    """Return squared differences and their number for any rotation."""
    angle = float(torch.rand(()) * 2 - 1) * math.pi
    still, moved = still_and_moved(G, ws, angle=angle)
    ideal, known = equivariance.rotate(still, angle)
    limited, also_known = equivariance.rotation_limited(moved, angle)
    return equivariance.compare(limited, ideal, known, also_known)


@dataclass(frozen=True)
class Metric:
    """How a metric is computed.

    Attributes:
        compute: a job -> results, by the ending of their names.
        prefix: of the results' names, before the number of images.
        suffix: after it.
        most_real: how many real images are used at most; None for all of them, 0 for none.
        full: whether the dataset's symmetries are left out.
    """

    compute: Callable[[Job], dict[str, float]]
    prefix: str
    suffix: str = ""
    most_real: int | None = 0
    full: bool = True

    def named(self, samples: int, canonical: bool) -> str:
        """Return what results are called that were computed with so many images, and with the usual weights or not."""
        prefix = self.prefix if canonical else {"fid": "fd_inception", "kid": "kd_inception"}[self.prefix]
        count = f"{samples // 1000}k" if samples % 1000 == 0 else str(samples)
        if self.prefix == "ppl2_wend":  # which is published without the number
            return prefix if samples == SAMPLES else f"{prefix}_{count}"
        parted = "_" if self.suffix[:1].isdigit() and count[-1].isdigit() else ""
        return f"{prefix}{count}{parted}{self.suffix}"


TABLE = {
    "fid50k_full": Metric(frechet, "fid", "_full", None),
    "kid50k_full": Metric(kernel, "kid", "_full", None),
    "pr50k3_full": Metric(precision_recall, "pr", "3_full", 200_000),
    "ppl2_wend": Metric(path_length, "ppl2_wend"),
    "eqt50k_int": Metric(lambda job: equivariance_of(job, whole_pixels), "eqt", "_int"),
    "eqt50k_frac": Metric(lambda job: equivariance_of(job, parts_of_pixels), "eqt", "_frac"),
    "eqr50k": Metric(lambda job: equivariance_of(job, turns), "eqr"),
    "fid50k": Metric(frechet, "fid", "", SAMPLES, full=False),
    "kid50k": Metric(kernel, "kid", "", SAMPLES, full=False),
    "pr50k3": Metric(precision_recall, "pr", "3", SAMPLES, full=False),
    "is50k": Metric(score, "is"),
    "fd_encoder": Metric(lambda job: frechet(job, "encoder"), "fd_encoder", "", None),
}
METRICS = tuple(TABLE)
"""What `--metrics` takes."""


def check_metric_names(names: list[str]) -> list[str]:
    """Return `names`.

    Raises:
        StyleganError: one is not in `METRICS`.
    """
    if unknown := [name for name in names if name not in METRICS]:
        allowed = "\n".join(["--metrics can only contain the following values:", *METRICS])
        raise StyleganError(f"{allowed}\nnot {', '.join(unknown)}")
    return names


def dataset_for(metric: Metric, options: dict[str, Any]) -> ImageDataset:
    """Return the real images, without symmetries if the metric is a full one; no pixels are kept in memory."""
    taken: dict[str, Any] = {name: options[name] for name in ("path", "cond", "max_size", "seed") if name in options}
    if not metric.full:
        taken |= {name: bool(options.get(name)) for name in ("mirror", "dihedral")}
    return ImageDataset(**taken, cache_bytes=0)


@torch.no_grad()
def compute_metric(
    name: str,
    G_ema: torch.nn.Module,
    dataset_options: dict[str, Any],
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    *,
    batch: int | None = None,
    samples: int | None = None,
    cache_dir: Path | None = None,
    fd_encoder: Path | None = None,
    inception: Path | None = None,
    vgg: Path | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """Return the results of the metric `name` by what they are called, the same in every process.

    Args:
        name: one of `METRICS`.
        G_ema: the generator, on `device`.
        dataset_options: of the real images, as snapshots tell: path, cond, mirror, dihedral; others are ignored.
        device: where to compute.
        rank: which of the processes that share the work this is.
        world_size: how many there are.
        batch: images at a time.
        samples: generated images, instead of the usual number.
        cache_dir: where features of the real images are kept for the next time.
        fd_encoder: best.pt of segmentation_train.py, for fd_encoder.
        inception: weights of the Inception-v3 of 2015, instead of those in PyTorch's folder of checkpoints.
        vgg: weights of VGG16, likewise.
        progress: whether a bar is shown.

    Raises:
        MetricUnavailable: weights or a library are missing, the metric is not defined for this network or so few
            images, or memory does not suffice.
        StyleganError: the real images cannot be read.
    """
    G: Any = G_ema
    metric = TABLE[name]
    dataset = dataset_for(metric, dataset_options) if metric.most_real != 0 or G.c_dim else None
    if samples is None:
        samples = min(SAMPLES, PER_REAL * len(dataset)) if name == "fd_encoder" and dataset else SAMPLES
    batch = batch or (BATCH_ON_CPU if device.type == "cpu" else BATCH_ON_GPU)
    weights = {"encoder": fd_encoder, "inception": inception, "vgg": vgg}
    shares = (samples, device, rank, world_size, batch)
    job = Job(G, dataset, metric.most_real, *shares, cache_dir, weights, progress)
    try:
        with exact_float32():
            found = metric.compute(job)
    except ValueError as error:
        raise MetricUnavailable(str(error)) from None
    except torch.OutOfMemoryError:
        if world_size > 1:
            raise
        raise MetricUnavailable(f"the GPU's memory does not suffice for {batch} images at a time") from None
    if name == "fd_encoder":
        return {name: found[""], f"{name}_samples": float(samples)}
    return {f"{metric.named(samples, job.canonical)}{ending}": value for ending, value in found.items()}
