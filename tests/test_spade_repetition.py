"""Repeated texture in flat areas is found, and other texture is not taken for it."""

import numpy as np
import pytest

from aras.spade.repetition import WINDOW, flat_windows, repetition

SIZE = (64, 64)


def grey(values):
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def noise(rng, size=SIZE):
    return rng.normal(128, 20, size)


def test_windows_of_one_class_only():
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 60] = 3
    assert flat_windows(labels) == [(row, column) for row in (0, 16, 32) for column in (0, 16)]
    assert flat_windows(labels[: WINDOW - 1]) == []


@pytest.mark.parametrize("tile", [5, 8, 13])
def test_a_tile_that_is_stamped_again_and_again_correlates_wholly(tile):
    rng = np.random.default_rng(tile)
    stamped = np.tile(noise(rng, (tile, tile)), (64 // tile + 1,) * 2)[:64, :64]
    # The box mean at the edge of the image sees less of the tile.
    assert min(repetition(grey(stamped), np.zeros(SIZE, np.uint8))) > 0.9


def test_noise_does_not_and_half_of_each_is_between():
    rng = np.random.default_rng(0)
    flat = np.zeros(SIZE, np.uint8)
    of_noise = repetition(grey(noise(rng)), flat)
    assert max(of_noise) < 0.25
    stamped = np.tile(noise(rng, (8, 8)), (8, 8))
    half = repetition(grey((stamped + noise(rng)) / 2), flat)
    assert max(of_noise) < min(half) < 0.75


def test_slow_changes_of_brightness_are_not_repetition():
    rows, columns = np.mgrid[:64, :64]
    ramp = 60 + rows + columns
    assert max(repetition(grey(ramp + np.random.default_rng(0).normal(0, 8, SIZE)), np.zeros(SIZE, np.uint8))) < 0.3


def test_a_window_without_texture_has_none():
    assert repetition(grey(np.full(SIZE, 90)), np.zeros(SIZE, np.uint8)) == [0.0] * 9
