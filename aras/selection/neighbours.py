"""Nearest neighbours between sets whose features lie on disk: exact, and in memory that does not grow with the sets."""

from typing import TYPE_CHECKING

import numpy as np

from aras.selection.measuring import Rows

if TYPE_CHECKING:
    import torch

QUERIES, BASE = 2048, 8192
"""Images of which the distances are held at a time, 64 MiB."""


def nearest(
    queries: Rows, which: np.ndarray, base: Rows, count: int, device: "torch.device"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Euclidean distances (Q, count) float32 to the nearest of `base`, nearest first, and which those are.

    The search is by |a|^2 + |b|^2 - 2 ab of centred features; the distances that it finds are then computed from the
    differences, so that a copy is at 0.

    Args:
        queries: the set to find neighbours of.
        which: (Q,) places in it.
        base: the set to find them in; an image that is in both is its own neighbour.
        count: how many, at most the size of `base`.
        device: where to compute.

    Returns:
        (Q, count) float32 distances and (Q, count) int64 places in `base`.
    """
    import torch
    from tqdm import tqdm

    centre = torch.from_numpy(mean_of(base, np.arange(len(base)))).to(device)
    distances = np.empty((len(which), count), np.float32)
    found = np.empty((len(which), count), np.int64)
    with torch.inference_mode():
        for start in tqdm(range(0, len(which), QUERIES), desc="neighbours", disable=None, unit="block"):
            vectors = torch.from_numpy(queries.features(which[start : start + QUERIES])).to(device)
            places = _search(vectors - centre, base, centre, count)
            them = torch.from_numpy(base.features(places.cpu().numpy().ravel())).to(device)
            exact = (vectors[:, None] - them.view(*places.shape, -1)).square().sum(dim=2).sqrt()
            order = exact.argsort(dim=1, stable=True)
            rows = slice(start, start + len(vectors))
            distances[rows] = exact.gather(1, order).cpu()
            found[rows] = places.gather(1, order).cpu()
    return distances, found


def _search(vectors: "torch.Tensor", base: Rows, centre: "torch.Tensor", count: int) -> "torch.Tensor":
    """Return the places (B, count) in `base` of the nearest of `vectors` (B, D), less `centre` (D,) as they are."""
    import torch

    best = torch.full((len(vectors), 0), torch.inf, device=vectors.device)
    places = torch.zeros((len(vectors), 0), dtype=torch.int64, device=vectors.device)
    for start in range(0, len(base), BASE):
        them = torch.from_numpy(base.features(slice(start, start + BASE))).to(vectors.device) - centre
        part = them.square().sum(dim=1).expand(len(vectors), -1).addmm(vectors, them.T, alpha=-2)
        part, place = part.topk(min(count, len(them)), largest=False)
        best, order = torch.cat([best, part], dim=1).sort(dim=1, stable=True)
        places = torch.cat([places, place + start], dim=1).gather(1, order)[:, :count]
        best = best[:, :count]
    return places


def mean_of(rows: Rows, places: np.ndarray) -> np.ndarray:
    """Return the mean (D,) float32 of the features at `places` (N,), summed in float64."""
    starts = range(0, len(places), BASE)
    sums = [rows.features(places[start : start + BASE]).sum(axis=0, dtype=np.float64) for start in starts]
    return (np.sum(sums, axis=0) / len(places)).astype(np.float32)


def repeats(rows: Rows, order: np.ndarray, least: float, device: "torch.device") -> dict[int, tuple[int, float]]:
    """Return which images are nearer than `least` to one that is kept: by place, that one's place and the distance.

    Images come in `order` (N,), places in `rows`; each is kept unless one kept before is nearer than `least`. So of a
    group of near-duplicates the first stays, and no chain of small steps takes a whole region with it. Time grows with
    N times the number that is kept.
    """
    import torch
    from tqdm import tqdm

    found: dict[int, tuple[int, float]] = {}
    if not len(order):
        return found
    kept = np.empty(0, np.int64)
    centre = torch.from_numpy(mean_of(rows, order)).to(device)
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), QUERIES), desc="near-duplicates", disable=None, unit="block"):
            block = order[start : start + QUERIES]
            vectors = torch.from_numpy(rows.features(block)).to(device) - centre
            distance, twin = _nearest_kept(vectors, rows, kept, centre)
            among = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").cpu().numpy()
            stays = np.zeros(len(block), bool)
            for place in range(len(block)):
                near = np.where(stays[:place], among[place, :place], np.inf)
                closest = int(near.argmin()) if place else 0
                if place and near[closest] < min(distance[place], least):
                    found[int(block[place])] = (int(block[closest]), float(near[closest]))
                elif distance[place] < least:
                    found[int(block[place])] = (int(twin[place]), float(distance[place]))
                else:
                    stays[place] = True
            kept = np.concatenate([kept, block[stays]])
    return found


def _nearest_kept(
    vectors: "torch.Tensor", rows: Rows, kept: np.ndarray, centre: "torch.Tensor"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance (B,) of each of `vectors` (B, D) to the nearest of the `kept` places, and that place (B,)."""
    import torch

    best = torch.full((len(vectors),), torch.inf, device=vectors.device)
    twin = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    for start in range(0, len(kept), BASE):
        them = torch.from_numpy(rows.features(kept[start : start + BASE])).to(vectors.device) - centre
        part = them.square().sum(dim=1).expand(len(vectors), -1).addmm(vectors, them.T, alpha=-2)
        place = part.argmin(dim=1)
        exact = (vectors - them[place]).square().sum(dim=1).sqrt()
        nearer = exact < best
        best, twin = torch.where(nearer, exact, best), torch.where(nearer, place + start, twin)
    there = twin.cpu().numpy()
    return best.cpu().numpy(), kept[there] if len(kept) else there
