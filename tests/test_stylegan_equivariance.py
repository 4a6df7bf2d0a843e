"""Ideal motions of images, held against waves that are known at every point."""

import math

import pytest
import torch

import stylegan_equivariance as equivariance

SIDE = 48


def waves(transform=None, highest=0.3):
    """Return an image (1, 1, SIDE, SIDE) of waves of up to `highest` cycles per pixel, at points transformed first."""
    generator = torch.Generator().manual_seed(0)
    freqs = torch.randn(40, 2, generator=generator)
    freqs *= highest * torch.rand(40, 1, generator=generator) / freqs.norm(dim=1, keepdim=True)
    phases = torch.rand(40, generator=generator)
    place = torch.arange(SIDE) - (SIDE - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1)
    if transform is not None:
        points = points @ transform.T
    return torch.sin(2 * math.pi * (points[..., :2] @ freqs.T + phases)).mean(-1)[None, None]


def test_whole_pixels_move_exactly():
    images = torch.randn(2, 3, 8, 8)
    moved, known = equivariance.translate_integer(images, 2, -3)
    assert torch.equal(moved[:, :, :5, 2:], images[:, :, 3:, :6])
    assert torch.equal(known, torch.nn.functional.pad(torch.ones(5, 6), (2, 0, 0, 3)))
    fractional, inside = equivariance.translate_fractional(images, 2, -3)
    torch.testing.assert_close(fractional * inside, moved * inside)
    assert equivariance.translate_integer(images, 0, 0)[1].all()


def test_parts_of_pixels_move_as_waves_do():
    moved, known = equivariance.translate_fractional(waves(), 3.3, -2.7)
    assert known.mean() > 0.6
    wanted = waves(equivariance.input_transform(3.3, -2.7))
    assert equivariance.decibels(*equivariance.compare(moved, wanted, known)) > 55
    still = equivariance.decibels(*equivariance.compare(waves(), wanted, known))
    assert still < 40


@pytest.mark.parametrize("angle", [0.3, -1.0, 2.5])
def test_images_turn_as_waves_do(angle):
    turned, known = equivariance.rotate(waves(), angle)
    wanted, limited = equivariance.rotation_limited(waves(equivariance.input_transform(angle=angle)), angle)
    assert known.mean() > 0.4
    assert equivariance.decibels(*equivariance.compare(turned, wanted, known, limited)) > 70
    other_way = waves(equivariance.input_transform(angle=-angle))
    assert equivariance.decibels(*equivariance.compare(turned, other_way, known)) < 40


def test_a_quarter_turn_is_counter_clockwise_as_seen():
    image = waves(highest=0.1)
    turned, known = equivariance.rotate(image, math.pi / 2)
    assert equivariance.decibels(*equivariance.compare(turned, image.rot90(1, (2, 3)), known)) > 70


def test_only_what_a_turned_grid_can_hold_is_left():
    place = torch.arange(SIDE)
    corner = (
        torch.sin(2.8 * place) * torch.sin(2.8 * place)[:, None]
    )  # beyond either axis' limit once turned by 45 degrees
    limited, known = equivariance.rotation_limited(corner[None, None], math.pi / 4)
    assert (limited[0, 0] * known).abs().max() < 0.1
    low, known = equivariance.rotation_limited(waves(highest=0.1), math.pi / 4)
    assert equivariance.decibels(*equivariance.compare(low, waves(highest=0.1), known)) > 50


def test_decibels_are_of_the_range_of_images():
    ones, zeros, known = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), torch.eye(4)
    squares, count = equivariance.compare(ones, zeros, known)
    assert (squares, count) == (4, 4)
    assert equivariance.decibels(squares, count) == pytest.approx(10 * math.log10(4))
    assert equivariance.decibels(0, count) == math.inf
