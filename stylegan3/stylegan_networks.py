"""Networks from plain descriptions, such as snapshots hold."""

from typing import Any

import torch

GENERATORS = ("stylegan2", "stylegan3-t", "stylegan3-r")
LOWEST_RESOLUTION = {"stylegan2": 8, "stylegan3-t": 16, "stylegan3-r": 16}


def check_resolution(kind: str, resolution: int) -> None:
    """Return if a network of `kind` can have `resolution`.

    Raises:
        ValueError: it cannot.
    """
    lowest = LOWEST_RESOLUTION.get(kind, 8)
    if resolution < lowest or resolution & (resolution - 1):
        raise ValueError(f"resolution {resolution}: {kind} needs a power of two from {lowest}")


def build_generator(config: dict[str, Any]) -> torch.nn.Module:
    """Return the generator that `config` describes, on the CPU, drawn from torch's current seed.

    `config` has kind, z_dim, c_dim, w_dim, resolution, channels, channel_base, channel_max, map_depth, num_fp16_res
    and conv_clamp; StyleGAN3's also magnitude_ema_beta.

    Raises:
        ValueError: there is no such kind, or not at this resolution.
    """
    kind = config["kind"]
    if kind not in GENERATORS:
        raise ValueError(f"kind {kind!r} of a generator: only {', '.join(GENERATORS)}")
    check_resolution(kind, config["resolution"])
    if kind == "stylegan2":
        from stylegan2_networks import StyleGAN2Generator

        return StyleGAN2Generator(config)
    from stylegan3_networks import StyleGAN3Generator

    return StyleGAN3Generator(config)


def build_discriminator(config: dict[str, Any]) -> torch.nn.Module:
    """Return the discriminator that `config` describes, on the CPU, drawn from torch's current seed.

    `config` has kind, c_dim, resolution, channels, channel_base, channel_max, num_fp16_res, conv_clamp, mbstd_group
    and freeze_layers.

    Raises:
        ValueError: there is no such kind, or not at this resolution.
    """
    from stylegan_discriminator import Discriminator

    kind = config["kind"]
    if kind != "stylegan2-discriminator":
        raise ValueError(f"kind {kind!r} of a discriminator: only stylegan2-discriminator")
    check_resolution(kind, config["resolution"])
    return Discriminator(config)
