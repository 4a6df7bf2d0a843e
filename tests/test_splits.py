import numpy as np
import pytest

from aras.splits import OUTCOMES, SPLITS, SplitPlan, dealt_grid, smallest_gap, split_grid
from aras.tiles import tile_name

REAL = SplitPlan(12000, 256, (0.8, 0.1, 0.1), seed=0, block_size=8, buffer=1)


def global_corners(plan, tile_lat, tile_lon):
    """North-west corners in pixels of each split's patches of one tile."""
    grid = split_grid(plan, tile_name(tile_lat, tile_lon))
    top, left = (90 - tile_lat - 1) * plan.tile_pixels, (tile_lon + 180) * plan.tile_pixels
    return {
        name: np.argwhere(grid == i) * plan.patch_size + (top, left) for i, name in enumerate(OUTCOMES)
    }  # fmt: skip


def test_each_tile_has_the_wanted_shares():
    shares = [np.bincount(dealt_grid(REAL, tile_name(lat, 30)).ravel(), minlength=3) / 46**2 for lat in range(40)]
    assert np.abs(np.array(shares).mean(axis=0) - (0.8, 0.1, 0.1)).max() < 0.01
    assert np.array(shares)[:, 1:].max() < 0.2


def test_a_block_stays_together():
    grid = dealt_grid(REAL, "N41E031")
    for row in range(0, 46, 8):
        for col in range(0, 46, 8):
            assert len(np.unique(grid[row : row + 8, col : col + 8])) == 1


@pytest.mark.parametrize("buffer", [0, 1, 3])
def test_held_out_patches_keep_their_distance_also_across_tiles(buffer):
    plan = SplitPlan(12000, 256, (0.8, 0.1, 0.1), seed=3, block_size=8, buffer=buffer)
    parts = [global_corners(plan, lat, lon) for lat in (40, 41, 42) for lon in (30, 31, 32)]
    corners = {name: np.concatenate([part[name] for part in parts]) for name in OUTCOMES}
    gaps = smallest_gap(corners, 256)
    assert min(gaps["train-val"], gaps["train-test"]) >= buffer * 256
    if buffer:  # and no more is left out than needed
        held_out = {"train": np.concatenate([corners["val"], corners["test"]]), "val": corners["buffer"]}
        assert smallest_gap(held_out, 256)["train-val"] < buffer * 256


def test_another_seed_deals_anew_and_the_same_seed_the_same():
    again = SplitPlan(12000, 256, (0.8, 0.1, 0.1), seed=0, block_size=8, buffer=1)
    other = SplitPlan(12000, 256, (0.8, 0.1, 0.1), seed=1, block_size=8, buffer=1)
    dealt_grid.cache_clear()
    assert (dealt_grid(REAL, "N41E031") == dealt_grid(again, "N41E031")).all()
    assert (dealt_grid(REAL, "N41E031") != dealt_grid(other, "N41E031")).any()


def test_golden_deal_does_not_change_between_versions():
    grid = dealt_grid(SplitPlan(1024, 256, (0.5, 0.25, 0.25), seed=7, block_size=1, buffer=0), "S01W001")
    assert grid.tolist() == GOLDEN


def test_random_split_keeps_every_patch():
    plan = SplitPlan(12000, 256, (0.8, 0.1, 0.1), seed=0, block_size=1, buffer=0)
    counts = np.bincount(split_grid(plan, "N41E031").ravel(), minlength=4)
    assert counts[len(SPLITS)] == 0
    assert np.abs(counts[:3] - np.array([0.8, 0.1, 0.1]) * 2116).max() <= 1


def test_the_buffer_reaches_over_the_180th_meridian():
    plan = SplitPlan(1024, 256, (0.5, 0.5, 0.0), seed=0, block_size=1, buffer=1)
    east, west = split_grid(plan, "N00E179"), split_grid(plan, "N00W180")
    touching = [(r, s) for r in range(4) for s in range(4) if abs(r - s) <= 1]
    assert not any(east[r, 3] == 0 and west[s, 0] == 1 for r, s in touching)
    assert not any(east[r, 3] == 1 and west[s, 0] == 0 for r, s in touching)


GOLDEN = [[0, 2, 2, 0], [0, 1, 0, 2], [0, 0, 0, 2], [0, 1, 1, 1]]
