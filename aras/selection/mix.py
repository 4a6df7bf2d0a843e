"""A given number of images whose classes come as near as they can to a given mix."""

from functools import partial

import numpy as np

from aras.legend import CLASS_NAMES, NUM_CLASSES

WEIGHT_OF_DRAW = 1e-3
"""Against the distance to the target: far below 1, so that the mix comes first. The weight of the mix itself is 1, as
HiGHS' interior point method takes programmes with large costs, of targets that cannot be met, for infeasible."""


def target_of(text: str, real: np.ndarray) -> np.ndarray:
    """Return the shares (7,) that `--target-mix` `text` asks for: `real`, `uniform` or such as Tree=0.2,Water=0.8.

    `real` (7,) is the mix of the real training images, and `uniform` an equal share of each class that they have.

    Raises:
        ValueError: it is none of these; the message is for a usage error.
    """
    if text == "real":
        return real
    if text == "uniform":
        return (real > 0) / (real > 0).sum()
    target = np.zeros(NUM_CLASSES)
    for word in text.split(","):
        name, _, number = word.strip().partition("=")
        if name not in CLASS_NAMES:
            raise ValueError(f"{word.strip()} is not CLASS=SHARE with one of {', '.join(CLASS_NAMES)}")
        try:
            share = float(number)
        except ValueError:
            raise ValueError(f"{word.strip()} has no share, such as {name}=0.2") from None
        if not 0 <= share <= 1 or target[CLASS_NAMES.index(name)]:
            raise ValueError(f"{word.strip()} is no share from 0 to 1, or the class comes twice")
        target[CLASS_NAMES.index(name)] = share
    if abs(target.sum() - 1) > 1e-3:
        raise ValueError(f"the shares of {text} add up to {target.sum():g}, not to 1; a class left out has none")
    return target / target.sum()


def distance_of_mixes(one: np.ndarray, other: np.ndarray) -> float:
    """Return the total variation distance of two mixes (7,), 0..1: the share of pixels that would have to change."""
    return float(np.abs(one - other).sum() / 2)


def chosen_for_mix(shares: np.ndarray, target: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """Return which `budget` of N images to take, (N,) bool, for a mean of `shares` (N, 7) nearest to `target` (7,).

    A linear programme: each image has a draw u from `seed`, and of the subsets whose mix is nearest to the target (in
    total variation) the one with the largest sum of u is taken. Where the target can be met this is a random sample,
    calibrated: an image is in it if u + l . share is above a threshold, with l the multipliers of the classes, so
    images are drawn by chance and those of wanted classes with a greater one (Deville and Särndal 1992, JASA 87, 376:
    calibration with the linear distance, truncated to 0..1). Nothing else about an image counts. The optimum has at
    most 8 images in part, which are rounded. Deterministic.

    It is solved by HiGHS' interior point method (Huangfu and Hall 2018, Mathematical Programming Computation 10, 119):
    300,000 images take about fifteen seconds and 0.8 GB. Should it not come to an end, the simplex method does.
    """
    count = len(shares)
    if budget >= count:
        return np.ones(count, bool)
    from scipy.optimize import linprog

    draws = np.random.default_rng(seed).random(count)
    slack = np.eye(NUM_CLASSES)
    # Columns: each image's part, then by how much each class's sum of shares is above and below the target's.
    mix = np.hstack([shares.T, -slack, slack])
    total = np.concatenate([np.ones(count), np.zeros(2 * NUM_CLASSES)])
    solve = partial(
        linprog,
        np.concatenate([-WEIGHT_OF_DRAW * draws, np.ones(2 * NUM_CLASSES)]),
        A_eq=np.vstack([mix, total]),
        b_eq=np.concatenate([budget * target, [budget]]),
        bounds=np.vstack([np.tile([0, 1], (count, 1)), np.tile([0, np.inf], (2 * NUM_CLASSES, 1))]),
    )
    found = solve(method="highs-ipm")
    if found.status != 0:
        found = solve(method="highs-ds")
    assert found.status == 0, found.message  # there is always an optimum: what is above and below has no bound
    parts = found.x[:count].round(6)
    chosen = np.zeros(count, bool)
    chosen[np.lexsort((-draws, -parts))[:budget]] = True
    return chosen
