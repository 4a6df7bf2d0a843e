"""The augmentation pipe against NumPy and SciPy in float64, transformation by transformation."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from stylegan_augment import (
    AugmentPipe,
    color_change,
    draw_color,
    draw_geometry,
    inverse_affine,
    moved,
    recolored,
)
from stylegan_errors import StyleganError
from stylegan_warp import SYM6, Sampling, warped

GEOMETRY = ("mirror", "quarters", "shift_x", "shift_y", "scale", "before", "stretch", "after", "drift_x", "drift_y")
COLOR = ("brightness", "contrast", "flip", "hue", "saturation")


def amounts(names, **values):
    """Return amounts (1, K) float64 that are 0 but for `values`."""
    return torch.tensor([[float(values.get(name, 0)) for name in names]], dtype=torch.float64)


def turn(angle):
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def scale(x, y):
    return np.diag([x, y, 1.0])


def translate(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


# One elementary matrix for each transformation, in the order of algorithm 1.
ELEMENTARY = [
    (("mirror", 1), scale(-1, 1)),
    (("quarters", 3), turn(3 * np.pi / 2)),
    (("shift_x", 3), translate(3, 0)),
    (("shift_y", -2), translate(0, -2)),
    (("scale", 0.3), scale(2**0.3, 2**0.3)),
    (("before", 0.7), turn(0.7)),
    (("stretch", -0.4), scale(2**-0.4, 2**0.4)),
    (("after", -1.9), turn(-1.9)),
    (("drift_x", 1.37), translate(1.37, 0)),
    (("drift_y", 0.21), translate(0, 0.21)),
]


@pytest.mark.parametrize(("value", "matrix"), ELEMENTARY)
def test_each_geometric_transformation_is_its_matrix(value, matrix):
    found = inverse_affine(amounts(GEOMETRY, **dict([value])))[0].numpy()
    assert np.allclose(found, np.linalg.inv(matrix)[:2], atol=1e-12)


def test_all_geometric_transformations_are_composed_in_the_papers_order():
    whole = np.eye(3)
    for _, matrix in ELEMENTARY:
        whole = matrix @ whole
    found = inverse_affine(amounts(GEOMETRY, **dict(value for value, _ in ELEMENTARY)))[0].numpy()
    assert np.allclose(found, np.linalg.inv(whole)[:2], atol=1e-12)


def warped_by_scipy(image, inverse):
    """Return `image` (H, H) float64 filtered up, sampled by SciPy's linear interpolation, and filtered down."""
    size, taps = len(image), np.array(SYM6)

    def up(line):
        extended = np.pad(line, 12, mode="reflect")
        spread = np.zeros(2 * len(extended))
        spread[::2] = extended
        return np.convolve(spread, taps * math.sqrt(2))[24 + 5 :][: 2 * size - 1]

    def down(line):
        return np.convolve(line, taps[::-1] / math.sqrt(2), mode="valid")[::2][:size]

    double = np.apply_along_axis(up, 0, np.apply_along_axis(up, 1, image))
    y, x = np.mgrid[-5 : 2 * size + 5, -5 : 2 * size + 5] / 2 - (size - 1) / 2
    source = inverse @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    places = 2 * (source[::-1] + (size - 1) / 2)
    samples = ndimage.map_coordinates(double, places, order=1, mode="mirror").reshape(x.shape)
    return np.apply_along_axis(down, 0, np.apply_along_axis(down, 1, samples))


@pytest.mark.parametrize("size", [8, 32])
def test_warp_is_filtering_up_sampling_and_filtering_down(size):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 3, size, size))
    inverse = np.stack([np.linalg.inv(turn(0.8) @ scale(1.3, 0.6) @ translate(4, -9))[:2], turn(np.pi / 2)[:2]])
    found = warped(torch.from_numpy(images), torch.from_numpy(inverse)).numpy()
    wanted = [
        [warped_by_scipy(channel, matrix) for channel in image] for image, matrix in zip(images, inverse, strict=True)
    ]
    assert np.abs(found - wanted).max() < 1e-10


def soft_image(size=64):
    """Return a (1, 3, size, size) float64 image of noise without fine detail, as photographs are."""
    noise = np.random.default_rng(1).standard_normal((1, 3, size, size))
    soft = ndimage.gaussian_filter(noise, (0, 0, 2, 2), mode="mirror")
    return soft / np.abs(soft).max()


# x to the right, y down: a shift to the right is a roll to higher columns, a turn takes x to y
WHOLE = [
    ({"mirror": 1}, lambda image: image[..., ::-1]),
    ({"quarters": 1}, lambda image: np.rot90(image, -1, (2, 3))),
    ({"quarters": 2}, lambda image: np.rot90(image, 2, (2, 3))),
    ({"shift_x": 5}, lambda image: np.pad(image, [(0, 0)] * 3 + [(5, 0)], mode="reflect")[..., :-5]),
    ({"shift_y": -3}, lambda image: np.pad(image, [(0, 0)] * 2 + [(0, 3), (0, 0)], mode="reflect")[..., 3:, :]),
]


@pytest.mark.parametrize(("values", "plain"), WHOLE)
def test_blitting_moves_whole_pixels(values, plain):
    image = soft_image()
    found = moved(torch.from_numpy(image), amounts(GEOMETRY, **values)).numpy()
    assert np.abs(found - plain(image)).mean() < 0.01  # sym6 is not quite symmetric; 0.0078 is one grey value
    half = ndimage.shift(image, (0, 0, 0.5, 0.5), mode="mirror")
    assert np.abs(half - image).mean() > 0.04  # half a pixel off would show


def test_identity_reproduces_the_interior_of_noise_and_all_of_it_where_nothing_fires():
    images = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (2, 3, 32, 32)))
    identity = torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3)
    assert (warped(images, identity) - images)[..., 6:-6, 6:-6].abs().max() < 1e-9
    assert torch.equal(moved(images, torch.zeros(2, 10, dtype=torch.float64)), images)
    assert torch.equal(recolored(images, torch.zeros(2, 5, dtype=torch.float64)), images)


def test_images_that_stay_do_not_change_what_becomes_of_the_others():
    images = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (3, 3, 16, 16)))
    turned = amounts(GEOMETRY, before=1, scale=0.1)
    found = moved(images, torch.cat([turned, amounts(GEOMETRY), turned]))
    assert torch.equal(found[1], images[1])
    assert torch.allclose(found[::2], warped(images[::2], inverse_affine(turned).expand(2, 2, 3)), atol=1e-12)


def test_a_turn_there_and_back_is_the_image():
    image = torch.from_numpy(soft_image())
    there = moved(image, amounts(GEOMETRY, before=0.5))
    back = moved(there, amounts(GEOMETRY, before=-0.5))
    assert (back - image)[..., 20:-20, 20:-20].abs().max() < 0.02


AXIS = np.ones(3) / math.sqrt(3)
V = np.outer(AXIS, AXIS)


def hue_by_rodrigues(angle):
    cross = np.cross(AXIS, np.eye(3)).T
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


COLOR_MATRICES = [
    (("brightness", 0.3), lambda x: x + 0.3),
    (("contrast", -0.8), lambda x: x * 2**-0.8),
    (("flip", 1), lambda x: (np.eye(3) - 2 * V) @ x),
    (("hue", 1.1), lambda x: hue_by_rodrigues(1.1) @ x),
    (("saturation", 0.6), lambda x: (V + (np.eye(3) - V) * 2**0.6) @ x),
]


def recolored_by_numpy(image, steps):
    pixels = image.reshape(3, -1)
    for step in steps:
        pixels = step(pixels)
    return pixels.reshape(image.shape)


@pytest.mark.parametrize(("value", "step"), COLOR_MATRICES)
def test_each_color_transformation_is_its_matrix(value, step):
    image = soft_image(16)
    found = recolored(torch.from_numpy(image), amounts(COLOR, **dict([value])))[0].numpy()
    assert np.allclose(found, recolored_by_numpy(image[0], [step]), atol=1e-12)


def test_all_color_transformations_are_composed_in_the_papers_order():
    image, values = soft_image(16), dict(value for value, _ in COLOR_MATRICES)
    found = recolored(torch.from_numpy(image), amounts(COLOR, **values))[0].numpy()
    assert np.allclose(found, recolored_by_numpy(image[0], [step for _, step in COLOR_MATRICES]), atol=1e-12)


def test_greyscale_is_the_mean_of_what_becomes_of_grey():
    grey = torch.from_numpy(soft_image(16)[:, :1])
    values = amounts(COLOR, **dict(value for value, _ in COLOR_MATRICES))
    wanted = recolored(grey.expand(-1, 3, -1, -1), values).mean(dim=1, keepdim=True)
    assert torch.allclose(recolored(grey, values), wanted, atol=1e-12)


def test_full_precision_where_nothing_changes_color_in_a_mixed_batch():
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    both = torch.cat([amounts(COLOR, hue=1), amounts(COLOR)]).float()
    assert torch.equal(recolored(images, both)[1], images[1])
    assert not torch.equal(recolored(images, both)[0], images[0])
    assert color_change(both)[0][1].abs().max() == 0


def close(found, wanted, count):
    """Whether a share `found` of `count` draws fits the probability `wanted`, within four standard errors."""
    return abs(found - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / count) + 1e-9


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_every_transformation_fires_with_probability_p(p):
    count, p = 20_000, torch.tensor(p)
    geometry, color = draw_geometry(count, 256, p, p), draw_color(count, p)
    shares = dict(zip(GEOMETRY, geometry.ne(0).double().mean(0).tolist(), strict=True))
    shares |= dict(zip(COLOR, color.ne(0).double().mean(0).tolist(), strict=True))
    rate = float(p)
    for name in ("scale", "stretch", "drift_x", "drift_y", "brightness", "contrast", "hue", "saturation"):
        assert close(shares[name], rate, count), name
    for name, seen in {
        "mirror": 1 / 2,
        "flip": 1 / 2,
        "quarters": 3 / 4,
        "shift_x": 64 / 65,
        "shift_y": 64 / 65,
    }.items():
        assert abs(shares[name] - rate * seen) < 0.015, name
    either = (geometry[:, 5].ne(0) | geometry[:, 7].ne(0)).double().mean()
    assert close(float(either), rate, count)
    assert close(shares["before"], 1 - math.sqrt(1 - rate), count)


def test_amounts_have_the_papers_distributions():
    one = torch.ones(())
    geometry, color = draw_geometry(20_000, 256, one, one).double(), draw_color(20_000, one).double()
    deviations = dict(zip(GEOMETRY + COLOR, torch.cat([geometry, color], dim=1).std(dim=0).tolist(), strict=True))
    normal = {"scale": 0.2, "stretch": 0.2, "drift_x": 32, "drift_y": 32, "brightness": 0.2, "contrast": 0.5}
    uniform = {"before": 2 * math.pi, "after": 2 * math.pi, "hue": 2 * math.pi, "shift_x": 64, "shift_y": 64}
    wanted = normal | {"saturation": 1} | {name: width / math.sqrt(12) for name, width in uniform.items()}
    for name, deviation in wanted.items():
        assert deviations[name] == pytest.approx(deviation, rel=0.03), name
    assert torch.equal(geometry[:, 2:4], geometry[:, 2:4].round())
    assert geometry[:, 2:4].abs().max() == 32
    assert geometry.mean(dim=0)[4:].abs().div(geometry.std(dim=0)[4:]).max() < 0.03  # none is biased


def test_gradients_of_gradients_are_right():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    geometry = torch.cat([amounts(GEOMETRY, mirror=1, scale=0.3, after=0.4, drift_x=3.3), amounts(GEOMETRY)])
    color = torch.cat([amounts(COLOR, hue=1, flip=1), amounts(COLOR, brightness=0.1, saturation=1)])

    def squared(images):  # the pipe is linear in the images: only a bent function has a second derivative to check
        return recolored(moved(images, geometry), color) ** 2

    assert torch.autograd.gradcheck(squared, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(squared, images, fast_mode=True)


def test_sampling_has_the_gradient_of_pytorchs_own():
    images = torch.rand(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 7, 7, 2, dtype=torch.float64) * 4 - 2
    ours = Sampling.apply(images, grid)
    theirs = torch.nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
    weight = torch.rand_like(ours)
    assert torch.equal(ours, theirs)
    (found,) = torch.autograd.grad((ours * weight).sum(), images)
    (wanted,) = torch.autograd.grad((theirs * weight).sum(), images)
    assert torch.allclose(found, wanted)


def test_the_pipe_follows_torchs_seed_and_p():
    pipe, images = AugmentPipe("bgc"), torch.rand(16, 3, 16, 16) * 2 - 1
    assert torch.equal(pipe(images), images)
    pipe.p.fill_(0.5)
    results = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        results.append(pipe(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert set(pipe.state_dict()) == {"p"}


def test_kinds_are_the_groups_they_name():
    images = torch.rand(16, 3, 16, 16) * 2 - 1
    ranks = torch.arange(256.0).reshape(1, 1, 16, 16).expand(16, 3, 16, 16) / 128 - 1
    torch.manual_seed(0)
    for kind in ("blit", "geom", "bg"):
        found = AugmentPipe(kind, 1.0)(images)
        assert found.shape == images.shape
        assert not torch.equal(found, images)
        assert torch.allclose(AugmentPipe(kind, 1.0)(torch.full_like(images, 0.25)), torch.tensor(0.25))  # no colour
    colored = AugmentPipe("color", 1.0)(ranks)
    assert (colored[:, 0].flatten(1).diff().sign().abs().sum(1) == 255).all()  # nothing has moved: still monotonous
    assert AugmentPipe("bgc", 1.0)(images[:, :1]).shape == (16, 1, 16, 16)
    with pytest.raises(StyleganError, match="bgcfnc"):
        AugmentPipe("bgcfnc")


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives_and_never_waits():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    one = torch.tensor(1.0)
    geometry, color = draw_geometry(4, 32, one, one), draw_color(4, one)
    geometry[0], color[1] = 0, 0
    wanted = recolored(moved(images, geometry), color)
    found = recolored(moved(images.cuda(), geometry.cuda()), color.cuda())
    assert torch.allclose(found.cpu(), wanted, atol=1e-4)
    pipe, images = AugmentPipe("bgc", 0.5).cuda(), images.cuda()
    pipe(images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pipe(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
