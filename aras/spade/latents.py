"""What differs between two images of one mask: z and the noise of each pixel, drawn for every image from its own seed.

So an image does not depend on which others it is drawn with: in other batches, on other processes, after a kill.
"""

from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from aras.training import mixed_seed

if TYPE_CHECKING:
    import torch


def seed_of_sample(seed: int, name: str, sample: int) -> int:
    """Return the seed of image number `sample`, from 0, of the mask `name` (its stem), for `--seed` `seed`."""
    return mixed_seed(seed, sample, *name.encode())


def latent_size(generator: Any, size: tuple[int, int]) -> int:
    """Return how many numbers an image of (height, width) `size` is drawn from: z, and the noise at every scale."""
    return generator.z_dim + sum(prod(shape) for shape in generator.noise_shapes(*size))


def draw_latents(
    seeds: Iterable[int], count: int, device: "torch.device | str" = "cpu", pool: Executor | None = None
) -> "torch.Tensor":
    """Return normally distributed numbers (B, count) float32 on `device`, each row from one of `seeds`.

    The same seed gives other numbers on a GPU than on a CPU. A `pool` of threads shares out the rows.
    """
    import torch

    row = partial(_row, count=count, device=device)
    rows = list(pool.map(row, seeds) if pool else map(row, seeds))
    return torch.stack(rows) if rows else torch.empty((0, count), device=device)


def _row(seed: int, count: int, device: "torch.device | str") -> "torch.Tensor":
    import torch

    return torch.randn(count, device=device, generator=torch.Generator(device).manual_seed(seed))


def z_and_noise(
    generator: Any, latents: "torch.Tensor", size: tuple[int, int], truncation: float = 1.0
) -> tuple["torch.Tensor", "list[torch.Tensor]"]:
    """Return z (B, Z) times `truncation`, and noise (B, 1, h, w) for each scale, from `latents` (B, `latent_size`)."""
    shapes = generator.noise_shapes(*size)
    z, *noise = latents.split([generator.z_dim, *map(prod, shapes)], dim=1)
    return z * truncation, [part.view(len(latents), *shape) for part, shape in zip(noise, shapes, strict=True)]
