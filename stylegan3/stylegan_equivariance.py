"""How well an image follows when what a generator draws is moved or turned, and the ideal motions it is held against.

Karras et al. 2021, Alias-Free Generative Adversarial Networks, section 2.2 and appendix E: EQ-T and EQ-R are the peak
signal-to-noise ratio, in dB, of two sets of images: those of a transformed input, and the transformed ones of the
plain input. Images are sums of sincs on a pixel grid; here every sinc is a Lanczos-windowed one of three lobes.

Positions are in pixels, x to the right and y down; angles turn counter-clockwise as seen, about the image's centre.
"""

import math

import torch
import torch.nn.functional as F

LOBES = 3
OVERSAMPLING = 16  # entries of a kernel's table for each pixel
PEAK = 2.0  # images reach from -1 to 1


def input_transform(right: float = 0, down: float = 0, angle: float = 0) -> torch.Tensor:
    """Return what a generator's `synthesis.input.transform` must be for its image to turn, then move, (3, 3) float32.

    Args:
        right: in widths of the image.
        down: in widths of the image.
        angle: in radians.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    motion = torch.tensor([[cosine, sine, right], [-sine, cosine, down], [0, 0, 1]], dtype=torch.float64)
    return motion.inverse().float()


def translate_integer(images: torch.Tensor, right: int, down: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `images` (N, C, H, W) moved by whole pixels, and where they are known, (H, W) of 0 and 1."""
    height, width = images.shape[2:]
    mask = images.new_zeros(height, width)
    mask[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = 1
    return images.roll((down, right), (2, 3)) * mask, mask


def translate_fractional(images: torch.Tensor, right: float, down: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `images` (N, C, H, W) moved by any part of a pixel, and where they are known, (H, W) of 0 and 1.

    Known is what has all of its neighbours within the kernel's reach.
    """
    rows, known_rows = _shift_matrix(images.shape[2], down)
    columns, known_columns = _shift_matrix(images.shape[3], right)
    mask = torch.outer(known_rows, known_columns).to(images)
    return rows.to(images) @ images @ columns.to(images).T * mask, mask


def rotate(images: torch.Tensor, angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `images` (N, C, R, R) turned, and where they are known, (R, R) of 0 and 1.

    Frequencies that a turned pixel grid cannot hold are taken out; compare with `rotation_limited`.
    """
    side = images.shape[2]
    cosine, sine = math.cos(angle), math.sin(angle)
    place = torch.arange(side, device=images.device, dtype=torch.float32) - (side - 1) / 2
    x, y = place[None, :], place[:, None]
    came_x = cosine * x - sine * y + (side - 1) / 2  # (R, R)
    came_y = sine * x + cosine * y + (side - 1) / 2
    mask = ((came_x - side / 2 + 0.5).abs() < side / 2 - 2 * LOBES) & (
        (came_y - side / 2 + 0.5).abs() < side / 2 - 2 * LOBES
    )
    return _resampled(images, came_x, came_y, _kernel_table(-angle)) * mask, mask.to(images.dtype)


def rotation_limited(images: torch.Tensor, angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `images` (N, C, R, R) not turned, but less the frequencies that one turned to here could not have had.

    With it where they are known, (R, R) of 0 and 1.
    """
    side, reach = images.shape[2], 2 * LOBES
    table = _kernel_table(angle)
    middle = table.shape[0] // 2
    offsets = torch.arange(-reach, reach + 1) * OVERSAMPLING + middle
    inside = (offsets >= 0) & (offsets < table.shape[0])
    kernel = table[offsets[inside]][:, offsets[inside]]
    kernel = (kernel / kernel.sum()).to(images).expand(images.shape[1], 1, -1, -1)
    limited = F.conv2d(images, kernel, padding=kernel.shape[2] // 2, groups=images.shape[1])
    mask = F.pad(images.new_ones(side - 2 * reach, side - 2 * reach), (reach,) * 4)
    return limited * mask, mask


def decibels(squares: float, count: float) -> float:
    """Return the peak signal-to-noise ratio for the sum of `count` squared differences."""
    return math.inf if squares == 0 else 10 * math.log10(PEAK**2 * count / squares)


def compare(moved: torch.Tensor, ideal: torch.Tensor, *masks: torch.Tensor) -> tuple[float, float]:
    """Return the sum of squared differences of (N, C, H, W) images where all `masks` (H, W) are 1, and their number."""
    mask = torch.stack(masks).prod(0).double()
    squares = (moved.double() - ideal.double()).square() * mask
    return float(squares.sum()), float(mask.sum()) * moved.shape[0] * moved.shape[1]


def _lanczos(x: torch.Tensor) -> torch.Tensor:
    """Return the windowed sinc at `x` pixels."""
    return torch.sinc(x) * torch.sinc(x / LOBES) * (x.abs() < LOBES)


def _shift_matrix(size: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrix (size, size) that moves a signal by `shift` samples, and which it knows, (size,) of 0 and 1."""
    came = torch.arange(size, dtype=torch.float64) - shift
    near = came.floor()[:, None] + torch.arange(1 - LOBES, LOBES + 1)  # all that the kernel reaches, within or not
    total = _lanczos(came[:, None] - near).sum(1, keepdim=True)
    matrix = _lanczos(came[:, None] - torch.arange(size)) / total
    known = (near[:, 0] >= 0) & (near[:, -1] <= size - 1)
    return matrix, known.double()


def _kernel_table(angle: float) -> torch.Tensor:
    """Return a sinc of the pixel grid, convolved with one of a grid turned by `angle`, sampled from -2 to 2 reaches.

    What passes both is what both grids can hold: the octagon in which two squares of frequencies overlap.
    """
    place = torch.arange(-LOBES * OVERSAMPLING, LOBES * OVERSAMPLING + 1, dtype=torch.float64) / OVERSAMPLING
    x, y = place[None, :], place[:, None]
    straight = _lanczos(x) * _lanczos(y)
    turned = _lanczos(math.cos(angle) * x - math.sin(angle) * y) * _lanczos(math.sin(angle) * x + math.cos(angle) * y)
    size = 2 * len(place) - 1
    spectrum = torch.fft.rfft2(straight, (size, size)) * torch.fft.rfft2(turned, (size, size))
    return torch.fft.irfft2(spectrum, (size, size)) / OVERSAMPLING**2


def _resampled(images: torch.Tensor, x: torch.Tensor, y: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return `images` (N, C, R, R) at positions (x, y), (R, R) each, by the kernel of `table`; 0 beyond the borders."""
    side, reach = images.shape[2], 2 * LOBES
    flat = F.pad(images, (reach + 1,) * 4).flatten(2)
    wide = side + 2 * (reach + 1)
    left, top = x.floor(), y.floor()
    lookup = table.to(images)[None, None]
    scale = OVERSAMPLING / (table.shape[0] / 2)
    total, output = torch.zeros_like(x), torch.zeros_like(images)
    for down in range(1 - reach, reach + 1):
        for right in range(1 - reach, reach + 1):
            place = torch.stack([left + right - x, top + down - y], -1) * scale
            weight = F.grid_sample(lookup, place[None].to(images.dtype), "bicubic", "zeros", align_corners=False)[0, 0]
            rows = (top + down + reach + 1).clamp(0, wide - 1).long()
            columns = (left + right + reach + 1).clamp(0, wide - 1).long()
            output += flat[:, :, rows * wide + columns] * weight
            total += weight
    return output / total
