"""The Fréchet distance between two sets of features, from moments that add up batch by batch and rank by rank.

Whatever the features are, the distance is that between the two normal distributions with the sets' means and
covariances. What it may be called depends on the features (aras/feature_spaces.py).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from aras.distributed import add_up, world_size


@dataclass
class Moments:
    """Count, mean and scatter of features seen so far, in float64: D x D numbers however many there were.

    Attributes:
        count: how many features.
        mean: (D,) float64.
        scatter: (D, D) float64, the sum of the products of deviations from the mean.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, width: int) -> Self:
        """Return the moments of no features of `width` D."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, features: np.ndarray) -> Self:
        """Return the moments of `features` (N, D).

        Raises:
            ValueError: a feature is not a finite number.
        """
        if not np.isfinite(features).all():
            raise ValueError("features that are not finite numbers have no moments")
        rows = features.astype(np.float64)
        mean = rows.mean(axis=0) if len(rows) else np.zeros(features.shape[1])
        rows -= mean
        return cls(len(rows), mean, rows.T @ rows)

    def merge(self, other: "Moments") -> None:
        """Make these the moments of both sets (Chan, Golub and LeVeque 1979, eq. 2.1)."""
        total = self.count + other.count
        if not other.count:
            return
        step = other.mean - self.mean
        self.scatter += other.scatter + np.outer(step, step) * (self.count * other.count / total)
        self.mean += step * (other.count / total)
        self.count = total

    def add(self, features: np.ndarray) -> None:
        """Take `features` (B, D) in.

        Raises:
            ValueError: a feature is not a finite number.
        """
        self.merge(Moments.of(features))

    def over_ranks(self) -> "Moments":
        """Return the moments of all ranks' features, the same to every rank; these of a process that is alone."""
        if world_size() == 1:
            return self
        import torch

        first = torch.from_numpy(np.concatenate([[self.count], self.count * self.mean]))
        add_up(first)
        count, mean = int(first[0]), first[1:].numpy() / max(float(first[0]), 1)
        step = self.mean - mean
        scatter = torch.from_numpy(self.scatter + self.count * np.outer(step, step))
        add_up(scatter)
        return Moments(count, mean, scatter.numpy())

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance (D, D)."""
        return self.scatter / max(self.count - 1, 1)


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) of means m and covariances S, in squared units of the features.

    The last trace is the sum of the singular values of S1^1/2 S2^1/2. From factors S = F F^T of full rank, which leave
    out directions without spread, those are the singular values of F1^T F2: small matrices where there are fewer
    features than dimensions, and exact where a square root of S1 S2 is ill-conditioned.

    Estimated from N features it is too large, the more so the fewer they are for their dimensions: two halves of one
    set are not at 0. So compare distances of equal N only, each beside that of real images to other real images.

    Raises:
        ValueError: a set has fewer than two features, or the sets are of different width.

    Source:
        Dowson and Landau 1982, eq. 16 (the distance); Heusel et al. 2017, arXiv 1706.08500 (of images' features).
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"features of {len(one.mean)} and of {len(other.mean)} dimensions cannot be compared")
    if min(one.count, other.count) < 2:
        raise ValueError("a set of fewer than two features has no covariance")
    (first, first_trace), (second, second_trace) = (_factor(found.covariance) for found in (one, other))
    shared = np.linalg.svd(first.T @ second, compute_uv=False).sum() if first.size and second.size else 0.0
    apart = np.square(one.mean - other.mean).sum()
    return float(max(apart + first_trace + second_trace - 2 * shared, 0.0))


def _factor(covariance: np.ndarray) -> tuple[np.ndarray, float]:
    """Return F (D, r) of full rank with F F^T = `covariance`, and the trace of F F^T."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept]), float(values[kept].sum())
