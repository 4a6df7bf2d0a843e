"""Distances between two sets of feature vectors: what every fidelity metric comes down to, whatever made the features.

Sums and matrices are float64. Nothing here knows of images, networks or files.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
NEIGHBOR = 3  # of precision and recall
ROWS_AT_ONCE = 4096
"""How many feature vectors are compared with as many others at a time."""


class FeatureSums:
    """The mean and covariance of feature vectors that arrive in batches, in memory that does not grow with them."""

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.total = torch.zeros(width, dtype=torch.float64, device=device)  # (D,)
        self.products = torch.zeros(width, width, dtype=torch.float64, device=device)  # (D, D)

    def add(self, features: Tensor) -> None:
        """Take in `features` (N, D)."""
        wide = features.to(self.total.device, torch.float64)
        self.count += len(wide)
        self.total += wide.sum(dim=0)
        self.products.addmm_(wide.T, wide)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Return the mean (D,) and the unbiased covariance (D, D), float64 on the CPU.

        Raises:
            ValueError: fewer than two vectors, or one that is not finite.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 feature vectors, not {self.count}")
        mean = self.total.cpu() / self.count
        covariance = (self.products.cpu() - self.count * torch.outer(mean, mean)) / (self.count - 1)
        if not bool(torch.isfinite(covariance).all()):
            raise ValueError("features are not finite")
        return mean, covariance


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Return |m_a - m_b|^2 + tr(A + B - 2 (AB)^1/2), the squared Fréchet distance of two Gaussians.

    From factors A = F F^T and B = G G^T the trace of the root is the sum of the singular values of F^T G. This is exact
    for singular covariances too, as fewer images than features give (Dowson and Landau 1982, eq. 16; of the features of
    images, Heusel et al. 2017, arXiv 1706.08500, eq. 6).
    """
    factor_a, factor_b = factor(covariance_a), factor(covariance_b)
    trace_of_root = torch.linalg.svdvals(factor_a.T @ factor_b).sum()
    traces = factor_a.square().sum() + factor_b.square().sum()
    return max(float((mean_a - mean_b).square().sum() + traces - 2 * trace_of_root), 0.0)


def factor(covariance: Tensor) -> Tensor:
    """Return F (D, r) of full rank with F F^T = `covariance` (D, D), up to rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()


def draws(count: int, size: int, subsets: int, seed: int) -> Tensor:
    """Return `subsets` draws of `size` out of `count` without replacement, (subsets, size) int64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(count, generator=generator)[:size] for _ in range(subsets)])


def kernel_distance(fakes: Iterator[Tensor], reals: Iterator[Tensor]) -> float:
    """Return the kernel inception distance: the mean squared MMD over pairs of subsets, each (m, D), unbiased.

    The kernel is (x.y / D + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401, eq. 4 and section 3.1).
    """
    distances = [squared_mmd(fake, real) for fake, real in zip(fakes, reals, strict=True)]
    return sum(distances) / len(distances)


def squared_mmd(a: Tensor, b: Tensor) -> float:
    """Return the unbiased squared MMD of `a` and `b`, (m, D) each, under the cubic kernel."""
    m, width = a.shape
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / width + 1) ** 3

    within = sum(k.sum() - k.diagonal().sum() for k in (kernel(a, a), kernel(b, b)))
    return float(within / (m * (m - 1)) - 2 * kernel(a, b).mean())


def precision_and_recall(reals: Tensor, fakes: Tensor, neighbor: int = NEIGHBOR) -> tuple[float, float]:
    """Return the share of `fakes` within the manifold of `reals`, and that of `reals` within the manifold of `fakes`.

    The manifold of a set (N, D) is the union of balls about its vectors, each as large as the distance to its
    `neighbor`-th neighbour (Kynkäänniemi et al. 2019, arXiv 1904.06991, eqs. 1-2). Both are centred first, which moves
    no distance and keeps float32 exact where it counts.

    Raises:
        ValueError: a set has no more than `neighbor` vectors.
    """
    if min(len(reals), len(fakes)) <= neighbor:
        raise ValueError(f"precision and recall need more than {neighbor} images of each kind")
    center = reals.mean(dim=0)
    reals, fakes = reals - center, fakes - center
    return share_within(fakes, reals, neighbor), share_within(reals, fakes, neighbor)


def share_within(probes: Tensor, manifold: Tensor, neighbor: int) -> float:
    """Return the share of `probes` that lie in a ball of `manifold`."""
    radii = torch.cat([kth_smallest(rows, manifold, neighbor + 1) for rows in manifold.split(ROWS_AT_ONCE)])
    inside = 0
    for rows in probes.split(ROWS_AT_ONCE):
        found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for centers, reach in zip(manifold.split(ROWS_AT_ONCE), radii.split(ROWS_AT_ONCE), strict=True):
            found |= (squared_distances(rows, centers) <= reach).any(dim=1)
        inside += int(found.sum())
    return inside / len(probes)


def kth_smallest(rows: Tensor, others: Tensor, k: int) -> Tensor:
    """Return the `k`-th smallest squared distance from each of `rows` to `others`; its own, 0, counts as the first."""
    best = torch.full((len(rows), k), torch.inf, device=rows.device, dtype=rows.dtype)
    for chunk in others.split(ROWS_AT_ONCE):
        found = torch.cat([best, squared_distances(rows, chunk)], dim=1)
        best = found.topk(k, dim=1, largest=False).values
    return best.amax(dim=1)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distances (N, M) between `a` (N, D) and `b` (M, D)."""
    squares = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1)
    return squares.addmm_(a, b.T, alpha=-2).clamp_min_(0)


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """Return mean and standard deviation over `splits` of exp(E[KL(p(y|x) || p(y))]), of `probabilities` (N, classes).

    Salimans et al. 2016, arXiv 1606.03498, section 4.

    Raises:
        ValueError: fewer vectors than splits.
    """
    if len(probabilities) < splits:
        raise ValueError(f"the inception score needs at least {splits} images")
    scores = []
    for part in probabilities.double().tensor_split(splits):
        marginal = part.mean(dim=0, keepdim=True)
        divergence = torch.special.xlogy(part, part / marginal).nan_to_num_(0).sum(dim=1)
        scores.append(divergence.mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std(correction=0))


def trimmed_mean(values: Tensor, tail: float = 0.01) -> float:
    """Return the mean of `values` (N,) between their quantiles `tail` and 1 - `tail`, both included."""
    low = torch.quantile(values, tail, interpolation="lower")
    high = torch.quantile(values, 1 - tail, interpolation="higher")
    return float(values[(values >= low) & (values <= high)].mean())
