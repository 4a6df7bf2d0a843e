"""Windows on a side, and the weights with which they are blended."""

import numpy as np
import pytest

from aras.labelling.windows import RollingBlend, blend_weights, window_starts
from aras.training import share_cores

share_cores()
SIDES = [(1, 32, 8), (31, 32, 0), (32, 32, 16), (33, 32, 8), (100, 32, 0), (100, 32, 1), (100, 32, 31), (1000, 96, 24)]


@pytest.mark.parametrize("length, window, overlap", SIDES)
def test_windows_cover_the_side_and_share_at_least_the_overlap(length, window, overlap):
    starts = window_starts(length, window, overlap)
    ends = [start + min(window, length) for start in starts]
    assert starts[0] == 0
    assert ends[-1] == length
    assert starts == sorted(set(starts))
    assert all(end - start >= overlap for end, start in zip(ends, starts[1:], strict=False))


@pytest.mark.parametrize("length, window, overlap", SIDES)
def test_weights_sum_to_one_everywhere(length, window, overlap):
    total = np.zeros(length)
    for start, weights in zip(
        window_starts(length, window, overlap), blend_weights(length, window, overlap), strict=True
    ):
        assert (weights >= 0).all()
        total[start : start + len(weights)] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_the_edge_of_a_window_counts_for_nothing_and_that_of_the_raster_in_full():
    weights = blend_weights(192, 64, 32)
    assert (weights[0, :32] == 1).all()
    assert (weights[0, -8:] == 0).all()
    assert (weights[1, :8] == 0).all()
    assert (weights[-1, -32:] == 1).all()
    assert np.abs(np.diff(weights)).max() < 0.12  # no jump anywhere


def test_rolling_rows_give_what_the_whole_would():
    import torch

    torch.manual_seed(0)
    whole = torch.zeros((7, 50, 40))
    down, across = (torch.from_numpy(blend_weights(length, 16, 6)) for length in (50, 40))
    tops, lefts = window_starts(50, 16, 6), window_starts(40, 16, 6)
    blend, found = RollingBlend(16, 40, torch.device("cpu")), []
    for top, end, weights in zip(tops, [*tops[1:], 50], down, strict=True):
        for left, sideways in zip(lefts, across, strict=True):
            probabilities = torch.rand((7, 16, 16)).softmax(0)
            weighted = weights[:, None] * sideways
            whole[:, top : top + 16, left : left + 16] += probabilities * weighted
            blend.add(left, probabilities, weighted)
        found.append(blend.take(end - top))
    confidence, labels = whole.max(dim=0)
    assert torch.equal(torch.cat([rows for rows, _ in found]), labels.to(torch.uint8))
    torch.testing.assert_close(torch.cat([rows for _, rows in found]), confidence)
    torch.testing.assert_close(whole.sum(0), torch.ones((50, 40)))
