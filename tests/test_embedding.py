"""What the maps start from and how they are drawn: neighbours, contours, thumbnails."""

import numpy as np
import pytest

from aras.feature_maps import neighbors
from aras.feature_maps.embedding import tsne_map
from aras.feature_maps.neighbors import nearest_neighbors
from aras.feature_maps.scatter import CELLS, THUMBNAIL_CELLS, Map, central_points, density_of, level_of_share
from aras.training import share_cores

share_cores()


def found_of(features, count):
    import torch

    return nearest_neighbors(features, count, torch.device("cpu"))


@pytest.mark.parametrize("block", [7, 512])
def test_neighbours_are_exact(block, monkeypatch):
    from sklearn.neighbors import NearestNeighbors

    monkeypatch.setitem(neighbors.BLOCK, "cpu", block)
    features = np.random.default_rng(0).standard_normal((60, 16), np.float32)
    indices, distances = found_of(features, 9)
    wanted, which = NearestNeighbors(n_neighbors=10).fit(features).kneighbors(features)
    assert np.array_equal(indices, which)
    assert np.abs(distances - wanted).max() < 1e-3


def test_each_vector_is_its_own_first_neighbour_also_beside_its_double():
    features = np.repeat(np.random.default_rng(0).standard_normal((8, 5), np.float32), 3, axis=0)
    indices, distances = found_of(features, 4)
    assert np.array_equal(indices[:, 0], np.arange(24))
    assert np.array_equal(np.sort(indices[:, :3] // 3), np.repeat(np.arange(24) // 3, 3).reshape(24, 3))
    assert distances[:, :3].max() < 1e-2 < distances[:, 3].min()


def test_groups_that_are_apart_are_apart_on_the_map():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((90, 20), np.float32) + np.repeat(np.eye(3, 20, dtype=np.float32) * 30, 30, axis=0)
    points, divergence = tsne_map(features, *found_of(features, 24), perplexity=8, seed=0)
    groups = points.reshape(3, 30, 2)
    within = np.linalg.norm(groups - groups.mean(axis=1, keepdims=True), axis=2).max()
    between = np.linalg.norm(groups.mean(axis=1) - np.roll(groups.mean(axis=1), 1, axis=0), axis=1).min()
    assert between > 2 * within
    assert 0 < divergence < 1


def test_a_contour_holds_its_share_of_the_points():
    points = np.random.default_rng(0).normal(0, 2, (20_000, 2))
    frame = Map(points, ["a"], [len(points)]).frame
    density, _ = density_of(points, frame)
    assert density.sum() == pytest.approx(1)
    cells = np.floor((points - frame[:, 0]) / (frame[:, 1] - frame[:, 0]) * CELLS).astype(int)
    for share in (0.5, 0.9):
        inside = density[cells[:, 0], cells[:, 1]] >= level_of_share(density, share)
        assert inside.mean() == pytest.approx(share, abs=0.02)


def test_thumbnails_are_the_points_nearest_to_the_centres_of_the_squares():
    points = np.random.default_rng(1).uniform(0, 10, (400, 2))
    found = Map(points, ["a", "b"], [150, 250])
    chosen = central_points(found)
    centres = np.array(list(chosen.values()))
    assert len(np.unique(centres, axis=0)) == len(chosen) <= THUMBNAIL_CELLS**2
    off = np.abs(points[:, None] - centres)  # (N, squares, 2)
    side = np.ptp(found.frame[0]) / THUMBNAIL_CELLS
    distances = np.where(off.max(axis=2) <= side / 2, np.linalg.norm(off, axis=2), np.inf)
    nearest = distances.argmin(axis=0)
    assert nearest.tolist() == list(chosen)
