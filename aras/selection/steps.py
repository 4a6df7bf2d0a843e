"""The steps of a selection, one after the other: each says which of the images that are left go, and why.

What is unusual is told by real images that nothing was trained on: each test drops a stated share, its tail, of those.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from aras.errors import UserError
from aras.fidelity.nearest import nearest
from aras.selection.measuring import Rows
from aras.selection.mix import chosen_for_mix
from aras.selection.neighbours import repeats

if TYPE_CHECKING:
    import torch

REASONS = ("unreadable", "unsure", "train duplicate", "out of distribution", "duplicate", "budget")
"""Why an image is left out, in the order of the steps."""

UNREADABLE, UNSURE, TRAIN_DUPLICATE, OUT_OF_DISTRIBUTION, DUPLICATE, BUDGET = range(1, 1 + len(REASONS))


@dataclass(frozen=True)
class Threshold:
    """A limit, and where it comes from."""

    value: float
    source: str


@dataclass
class Selection:
    """What became of each of N images.

    Attributes:
        names: (N,) str.
        reason: (N,) uint8, 0 for an image that is selected, else 1 + its place in `REASONS`.
        value: (N,) float64, the score or distance for which it went; nan where there is none.
        other: (N,) str, the image that it is near to; of an unreadable one, why.
        thresholds: by what each step went.
    """

    names: np.ndarray
    reason: np.ndarray = field(init=False)
    value: np.ndarray = field(init=False)
    other: np.ndarray = field(init=False)
    thresholds: dict[str, Threshold] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reason = np.zeros(len(self.names), np.uint8)
        self.value = np.full(len(self.names), np.nan)
        self.other = np.full(len(self.names), "", dtype=object)

    @property
    def left(self) -> np.ndarray:
        """Places of the images that are left, (M,)."""
        return np.flatnonzero(self.reason == 0)

    @property
    def counts(self) -> dict[str, int]:
        """How many went, by reason."""
        found = np.bincount(self.reason, minlength=1 + len(REASONS))
        return {reason: int(found[1 + place]) for place, reason in enumerate(REASONS)}

    def drop(
        self,
        places: np.ndarray,
        reason: int,
        value: np.ndarray | float = np.nan,
        other: np.ndarray | str = "",
    ) -> None:
        """Leave out the images at `places` (M,) for `reason`."""
        self.reason[places] = reason
        self.value[places] = value
        self.other[places] = other


@dataclass(frozen=True)
class Limits:
    """What is given of the limits; None is taken from the held-out images.

    Attributes:
        score: the least confidence or agreement.
        near: the least distance of two images that are not near-duplicates.
        far: the largest distance to the k-th nearest training image.
        tail: the share of held-out images that are less sure than `score`, and the share that are beyond `far`.
        near_tail: the share of held-out images that are nearer than `near` to a training image.
        neighbours: k.
    """

    score: float | None
    near: float | None
    far: float | None
    tail: float
    near_tail: float
    neighbours: int


def drop_unreadable(selection: Selection, failures: dict[str, str]) -> None:
    """Drop the images that are in `failures`, with the reason there."""
    lost = np.flatnonzero(np.isin(selection.names, list(failures)))
    selection.drop(lost, UNREADABLE, other=np.array([failures[name] for name in selection.names[lost]], dtype=object))


def drop_unsure(selection: Selection, scores: np.ndarray, held_out: np.ndarray, limits: Limits, told: str) -> None:
    """Drop what has a score (N,) under that of the tail of the `held_out` (H,) images; `told` is what it is called."""
    least = _threshold(limits.score, held_out, limits.tail, "--min-confidence")
    selection.thresholds[told] = least
    left = selection.left
    low = left[scores[left] < least.value]
    selection.drop(low, UNSURE, scores[low])


def drop_near_and_far(
    selection: Selection,
    candidates: Rows,
    train: Rows,
    train_names: np.ndarray,
    held_out: Rows,
    limits: Limits,
    device: "torch.device",
) -> None:
    """Drop near-duplicates of training images, and what is far from all of them.

    Far by the distance to the k-th nearest (Sun et al. 2022, arXiv 2204.06507, who accept 95 % of real images too).

    Raises:
        UserError: there are fewer than k training images.
    """
    count = limits.neighbours
    if len(train) < count:
        raise UserError(f"--neighbors {count} is more than the {len(train)} training images; lower it")
    real = train.features_of()
    normal, _ = nearest(held_out.features_of(), real, count, device=device, told="neighbours of held-out images")
    near = _threshold(limits.near, normal[:, 0], limits.near_tail, "--min-distance")
    far = _threshold(limits.far, normal[:, -1], 1 - limits.tail, "--max-distance")
    selection.thresholds |= {"distance to the nearest": near, f"distance to neighbour {count}": far}
    left = selection.left
    distances, places = nearest(candidates.features_of(left), real, count, device=device)
    closest = train_names[places[:, 0]].astype(object)
    is_near, is_far = distances[:, 0] < near.value, distances[:, -1] > far.value
    selection.drop(left[is_far], OUT_OF_DISTRIBUTION, distances[is_far, -1], closest[is_far])
    selection.drop(left[is_near], TRAIN_DUPLICATE, distances[is_near, 0], closest[is_near])


def drop_repeats(selection: Selection, candidates: Rows, scores: np.ndarray, device: "torch.device") -> None:
    """Drop near-duplicates of each other; the one with the highest score (N,) stays, of equal ones the first by name.

    Only images that are left count, so none goes for one that another step drops.
    """
    left = selection.left
    order = left[np.lexsort((left, -scores[left]))]
    least = selection.thresholds["distance to the nearest"].value
    distances, twins = repeats(candidates.features_of(order), least, device)
    gone = twins >= 0
    selection.drop(order[gone], DUPLICATE, distances[gone], selection.names[order[twins[gone]]].astype(object))


def keep_budget(selection: Selection, shares: np.ndarray, target: np.ndarray, budget: int | None, seed: int) -> None:
    """Drop what is beyond the `budget`, so that the classes' `shares` (N, 7) come to be as `target` (7,) has them."""
    left = selection.left
    if budget is not None and budget < len(left):
        chosen = chosen_for_mix(shares[left], target, budget, seed)
        selection.drop(left[~chosen], BUDGET)


def _threshold(given: float | None, normal: np.ndarray, share: float, option: str) -> Threshold:
    """Return the limit that was `given` by `option`, or the quantile `share` of what is `normal` (H,)."""
    if given is not None:
        return Threshold(given, f"given by {option}")
    return Threshold(float(np.quantile(normal, share)), f"{share:.4g} quantile of {len(normal):,} held-out real images")
