"""Statistics of pixels and masks against known answers, and whether intervals hold what they promise."""

import numpy as np
import pytest

from aras.errors import UserError
from aras.fidelity.adjacency import adjacency, adjacency_distance, border_distance
from aras.fidelity.colours import colour_histograms, histogram_distance
from aras.fidelity.frechet import frechet_estimate
from aras.fidelity.kernels import kernel_distance
from aras.fidelity.manifolds import manifold_scores
from aras.fidelity.resampling import draws, estimate, groups_of, of_means
from aras.fidelity.spectra import ROUNDING_POWER, radial_power, spectrum_distance
from aras.legend import NO_DATA
from aras.training import share_cores

share_cores()


# Spectra


def as_images(grey):
    """Return three equal channels of `grey` (B, H, W), rounded."""
    return np.repeat(np.rint(grey).clip(0, 255).astype(np.uint8)[..., None], 3, axis=3)


def fractal(count, size, exponent, seed=0):
    """Return images whose amplitude falls with frequency by `exponent`, (B, H, W)."""
    noise = np.random.default_rng(seed).normal(size=(count, size, size))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    frequency[0, 0] = np.inf
    found = np.fft.ifft2(np.fft.fft2(noise) * frequency**-exponent).real
    return 128 + 30 * found / found.std(axis=(1, 2), keepdims=True)


def test_white_noise_has_its_variance_at_every_frequency():
    """But at the slowest, which the mean takes with it; and the mean of decibels of few waves is a little lower."""
    images = as_images(np.random.default_rng(0).normal(128, 20, (150, 64, 64)))
    found = radial_power(images).mean(axis=0)
    assert found.shape == (32,)
    assert found[1:] == pytest.approx(10 * np.log10(400), abs=0.6)
    assert found[9:] == pytest.approx(10 * np.log10(400), abs=0.2)


def test_detail_that_halves_with_frequency_falls_by_six_decibels_an_octave():
    found = radial_power(as_images(fractal(100, 128, 1))).mean(axis=0)
    for low in (8, 16, 32):
        assert found[low - 1] - found[2 * low - 1] == pytest.approx(20 * np.log10(2), abs=0.3)
    assert spectrum_distance(found, radial_power(as_images(fractal(20, 128, 1, 1))).mean(axis=0)) < 0.5
    assert spectrum_distance(found, radial_power(as_images(fractal(20, 128, 0))).mean(axis=0)) > 5


def test_a_wave_has_its_power_at_its_frequency_however_it_runs():
    column = 128 + 50 * np.sin(2 * np.pi * 12 * np.arange(64) / 64)
    wave = as_images(np.broadcast_to(column, (1, 64, 64)))
    across, down = radial_power(wave)[0], radial_power(wave.swapaxes(1, 2))[0]
    assert across.argmax() == 12 - 1
    assert across == pytest.approx(down, abs=1e-9)


def test_images_that_are_not_square_have_frequencies_of_their_shorter_side():
    row = 128 + 50 * np.sin(2 * np.pi * np.arange(96) / 8)  # 1/8 of a pixel: 6 cycles over 48
    assert radial_power(as_images(np.broadcast_to(row, (1, 48, 96))))[0].argmax() == 6 - 1
    assert radial_power(as_images(np.broadcast_to(row[:, None], (1, 96, 48)))).shape == (1, 24)


def test_twice_the_contrast_is_six_decibels_off_and_brightness_is_none():
    grey = fractal(10, 64, 0.5) - 128
    one, louder, brighter = (
        radial_power(as_images(each)).mean(axis=0) for each in (grey / 2 + 120, grey + 120, grey / 2 + 140)
    )
    assert spectrum_distance(one, louder) == pytest.approx(20 * np.log10(2), abs=0.15)
    assert spectrum_distance(one, brighter) < 0.05


def test_an_image_without_detail_has_the_power_of_rounding():
    assert radial_power(np.full((1, 16, 16, 3), 7, np.uint8)) == pytest.approx(10 * np.log10(ROUNDING_POWER))


def test_spectra_of_other_sizes_are_told():
    with pytest.raises(UserError, match="64 and of 32 pixels"):
        spectrum_distance(np.zeros(32), np.zeros(16))
    with pytest.raises(UserError, match="4 pixels or more"):
        radial_power(np.zeros((1, 3, 9, 3), np.uint8))


# Histograms


def test_ten_levels_brighter_is_a_distance_of_ten():
    images = np.random.default_rng(0).integers(0, 240, (5, 16, 16, 3), dtype=np.uint8)
    one, brighter = colour_histograms(images).sum(axis=0), colour_histograms(images + 10).sum(axis=0)
    assert one.sum() == images.size
    assert histogram_distance(one, brighter) == pytest.approx(10)
    assert histogram_distance(one, 3 * one) == pytest.approx(0, abs=1e-9)


def test_one_channel_of_three_counts_a_third():
    images = np.full((1, 8, 8, 3), 100, np.uint8)
    redder = images.copy()
    redder[..., 0] = 130
    found = [colour_histograms(each)[0] for each in (images, redder)]
    assert histogram_distance(*found) == pytest.approx(10)


# Adjacency


def test_a_checkerboard_has_borders_only():
    board = (np.indices((6, 8)).sum(axis=0) % 2).astype(np.uint8) * 3
    found = adjacency(board[None])[0]
    assert (found[0, 3], found[3, 0], found.sum()) == (6 * 7 + 5 * 8,) * 2 + (2 * (6 * 7 + 5 * 8),)


def test_pairs_are_counted_alike_in_every_direction_and_without_no_data():
    labels = np.random.default_rng(0).integers(0, 7, (4, 9, 7), dtype=np.uint8)
    labels[:, 4:, 2:4] = NO_DATA
    found = adjacency(labels)
    assert np.array_equal(found, found.swapaxes(1, 2))
    assert np.array_equal(found, adjacency(np.rot90(labels, 1, (1, 2))))
    one = labels[0]
    pairs = [(one[r, c], one[r, c + 1]) for r in range(9) for c in range(6)]
    pairs += [(one[r, c], one[r + 1, c]) for r in range(8) for c in range(7)]
    assert found[0, 2, 2] == 2 * pairs.count((2, 2))
    assert found[0, 1, 5] == pairs.count((1, 5)) + pairs.count((5, 1))


def test_distances_of_adjacency_go_from_none_to_one():
    halves = np.repeat([[0, 2]], 4, axis=0).repeat(2, axis=1).astype(np.uint8)
    others = halves + 1
    one, same, other = (adjacency(each[None])[0] for each in (halves, halves.T, others))
    assert adjacency_distance(one, 5 * same) == border_distance(one, same) == 0
    assert adjacency_distance(one, other) == border_distance(one, other) == pytest.approx(1)


def test_borders_are_told_apart_where_the_class_mix_is_the_same():
    stripes = np.repeat([0, 1, 2], 8)[None].repeat(24, axis=0).astype(np.uint8)
    swapped = np.repeat([1, 0, 2], 8)[None].repeat(24, axis=0).astype(np.uint8)
    one, other = adjacency(stripes[None])[0], adjacency(swapped[None])[0]
    assert border_distance(one, other) > 0.6 > 0.3 > adjacency_distance(one, other) > 0


def test_masks_without_borders_or_pairs_are_told():
    flat, empty = adjacency(np.zeros((1, 4, 4), np.uint8))[0], adjacency(np.full((1, 4, 4), NO_DATA, np.uint8))[0]
    with pytest.raises(UserError, match="one class only"):
        border_distance(flat, flat)
    with pytest.raises(UserError, match="beside each other"):
        adjacency_distance(flat, empty)


# Intervals


def test_groups_keep_blocks_whole_and_are_alike_in_size():
    sizes = np.random.default_rng(0).integers(1, 20, 300)
    blocks = np.repeat([f"block {i}" for i in range(300)], sizes)
    groups = groups_of(blocks, len(blocks), 0, 10)
    assert all(len(set(groups[blocks == name])) == 1 for name in set(blocks))
    counts = np.bincount(groups)
    assert len(counts) == 10 and counts.max() < 1.3 * counts.min()
    assert groups_of(blocks[::-1], len(blocks), 0, 10).tolist() == groups[::-1].tolist()
    assert 190 <= len(np.bincount(groups_of(blocks, len(blocks), 0))) <= 200
    assert groups_of(None, 5, 0).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("groups, kept", [(2, {1}), (7, {3, 4}), (100, {50})])
def test_draws_keep_half_and_each_group_as_often(groups, kept):
    found = draws(groups, 2000, np.random.default_rng(0))
    assert set(found.sum(axis=1).tolist()) == kept
    assert found.mean(axis=0) == pytest.approx(0.5, abs=0.06)


def test_the_error_of_a_difference_of_means_is_that_of_the_textbook():
    generator = np.random.default_rng(0)
    one, other = generator.normal(0, 1, (300, 1)), generator.normal(5, 2, (200, 1))
    found = of_means(one, other, lambda a, b: float(b[0] - a[0]))
    assert found.value == pytest.approx(float(other.mean() - one.mean()))
    assert found.standard_error == pytest.approx(np.sqrt(one.var() / 300 + other.var() / 200), rel=0.25)
    assert found == of_means(one, other, lambda a, b: float(b[0] - a[0]))


def test_one_block_and_draws_without_a_value_leave_no_interval():
    rows = np.arange(10.0)[:, None]
    alone = of_means(rows, rows + 1, lambda a, b: float(b[0] - a[0]), np.zeros(10), None)
    assert (alone.value, alone.low, alone.high, alone.standard_error) == (1, None, None, None)
    keep = (np.eye(4, dtype=bool), np.eye(4, dtype=bool))
    assert estimate(1.0, np.array([np.nan, np.nan, np.nan, 2]), keep).low is None
    assert estimate(1.0, np.array([1, np.nan, 3, 2]), keep).low is not None
    assert (estimate(0.5, np.array([0.0, 9, 0, 9]), keep, 0, 1).low, alone.low) == (0, None)


def covers(found, target):
    return np.mean([each.low <= target <= each.high for each in found])


def test_an_interval_over_blocks_covers_where_one_over_images_does_not():
    """Images of a block have a part in common: 20 blocks of 8."""
    whole, blind, blocks = [], [], np.repeat(np.arange(20), 8)
    for seed in range(80):
        generator = np.random.default_rng(seed)
        one, other = (
            np.repeat(generator.normal(size=20), 8)[:, None] + generator.normal(0, 0.5, (160, 1)) for _ in range(2)
        )
        difference = one, other + 3, lambda a, b: float(b[0] - a[0])
        whole.append(of_means(*difference, blocks, blocks, seed))
        blind.append(of_means(*difference, seed=seed))
    assert covers(whole, 3) >= 0.88
    assert covers(blind, 3) < 0.75


@pytest.mark.slow
def test_intervals_of_every_measure_cover_its_expected_value():
    """Of 120 pairs of sets: 95 % of intervals should, and no fewer than 88 % do."""
    found = {}
    for seed in range(120):
        generator = np.random.default_rng(seed)
        one = generator.normal(size=(64, 8)).astype(np.float32)
        other = generator.normal(0.5, 0.8, (64, 8)).astype(np.float32)
        measured = {"frechet": frechet_estimate(one, other), "kernel": kernel_distance(one, other)}
        for name, each in (measured | vars(manifold_scores(one, other))).items():
            found.setdefault(name, []).append(each)
    for name, each in found.items():
        assert covers(each, np.mean([one.value for one in each])) >= 0.88, name
