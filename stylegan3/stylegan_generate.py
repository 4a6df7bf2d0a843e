"""Images from seeds: latents, labels, the transform of StyleGAN3's input, and bytes.

The same seed gives the same image whatever else is drawn with it. Sums of floats depend on how many images go through a
convolution at once, so that many is fixed: on a CPU `CPU_CHUNK`, however large the batch; on a GPU the whole batch, and
the last one is filled up. On a GPU, another batch size rounds sums differently, which can move pixels by about a
grey level.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylegan_equivariance import input_transform
from stylegan_errors import StyleganError

CPU_CHUNK = 4
"""Images at once on a CPU: 2.2 times the speed of one at 64 pixels, 1.2 times at 256, and no slower than more."""


def latents_of(seeds: Sequence[int], z_dim: int) -> Tensor:
    """Return the latents (N, z_dim) float32 that `seeds` stand for, as NumPy's RandomState draws them."""
    drawn = np.stack([np.random.RandomState(seed).randn(z_dim) for seed in seeds])
    return torch.from_numpy(drawn.astype(np.float32))


def bytes_of(images: Tensor) -> Tensor:
    """Return `images` (N, C, H, W) of about -1..1 as (N, H, W, C) uint8: x * 127.5 + 128, cut off at 0 and 255."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def label_of(G: Any, chosen: int | None) -> Tensor | None:
    """Return the one-hot label (c_dim,) of the class `chosen`, None for a network without labels.

    Raises:
        StyleganError: the network has labels and none was chosen, there are fewer classes, or it has no labels.
    """
    if not G.c_dim:
        if chosen is not None:
            raise StyleganError(f"--class {chosen}: this network was trained without labels; leave --class out")
        return None
    if chosen is None:
        raise StyleganError("Must specify class label with --class when using a conditional network")
    if chosen >= G.c_dim:
        raise StyleganError(f"--class {chosen}: the network has the classes 0 to {G.c_dim - 1}")
    return torch.eye(G.c_dim)[chosen]


def transform_input(G: Any, translate: tuple[float, float], rotate: float) -> None:
    """Have `G`, of StyleGAN3, draw images moved by `translate` (x, y in image sides) and turned by `rotate` degrees.

    Raises:
        StyleganError: `G` is of StyleGAN2, which has no such input.
    """
    if translate == (0, 0) and rotate == 0:
        return
    if not hasattr(G.synthesis, "input"):
        raise StyleganError("--translate and --rotate need a network of StyleGAN3; this one is of StyleGAN2")
    motion = input_transform(translate[0], translate[1], math.radians(rotate))
    G.synthesis.input.transform.copy_(motion)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Have GPUs compute float32 in float32, not in TF32, while the body runs: as published networks were measured."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def filled_up(rows: Tensor, count: int) -> Tensor:
    """Return `rows` (N, ...) with the last one repeated up to `count`."""
    missing = count - len(rows)
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing > 0 else rows


@torch.inference_mode()
def draw(
    G: Any,
    seeds: Sequence[int],
    label: Tensor | None,
    device: torch.device,
    *,
    batch: int,
    truncation: float = 1.0,
    noise_mode: str = "const",
) -> Tensor:
    """Return the images (N, H, W, C) uint8 of `seeds` on `device`; each depends on its own seed alone.

    Args:
        G: the generator, on `device`.
        seeds: at most `batch` of them.
        label: (c_dim,), the same for all, or None.
        device: where to compute.
        batch: how many go through the network at once on a GPU.
        truncation: how far to keep from the average of w; 1 is untouched.
        noise_mode: `const`, `random` (each image's own, from its seed) or `none`.
    """
    size = CPU_CHUNK if device.type == "cpu" else batch
    drawn = []
    for start in range(0, len(seeds), size):
        own = list(seeds[start : start + size])
        z = filled_up(latents_of(own, G.z_dim), size).to(device)
        c = None if label is None else label.to(device).expand(size, -1)
        noise = own + own[-1:] * (size - len(own)) if noise_mode == "random" else None
        ws = G.mapping(z, c, truncation=truncation)
        drawn.append(bytes_of(G.synthesis(ws, noise_mode=noise_mode, noise_seeds=noise))[: len(own)])
    return torch.cat(drawn)
