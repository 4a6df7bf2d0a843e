"""Generators small enough to draw in a test, and real images to hold them against."""

from pathlib import Path

import numpy as np
from PIL import Image


def save_snapshot_of(file: Path, kind: str = "stylegan2", resolution: int = 16, c_dim: int = 0, **dataset):
    """Write a snapshot of networks that were drawn, not trained, to `file`; return it."""
    import torch

    from stylegan_networks import build_discriminator, build_generator
    from stylegan_snapshot import save_snapshot

    widths = {"resolution": resolution, "channels": 3, "channel_base": 128, "channel_max": 8}
    common = widths | {"c_dim": c_dim, "num_fp16_res": 2, "conv_clamp": 256}
    G_config = {"kind": kind, "z_dim": 8, "w_dim": 8, "map_depth": 2} | common
    if kind != "stylegan2":
        G_config["magnitude_ema_beta"] = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(3)
        G, G_ema = build_generator(G_config), build_generator(G_config)
        D = build_discriminator({"kind": "stylegan2-discriminator", "mbstd_group": 2, "freeze_layers": 0} | common)
        for name, value in G_ema.named_parameters():
            if name.endswith("noise_strength"):
                value.data.fill_(0.3)
            if name.endswith("affine.weight"):
                value.data.mul_(3)  # images that differ
        if kind != "stylegan2":
            with torch.no_grad():
                G_ema(torch.randn(4, 8), update_averages=True)  # features of unit size
    told = {"path": None, "cond": bool(c_dim), "mirror": False, "dihedral": False} | dataset
    file.parent.mkdir(parents=True, exist_ok=True)
    save_snapshot(file, G, D, G_ema, {"augment_p": 0.0, "dataset": told, "kimg": 0, "images": 0})
    return file


def make_images(folder: Path, count: int = 12, resolution: int = 16) -> Path:
    """Write `count` smooth images of their own colours into `folder`; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    for number in range(count):
        coarse = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((resolution, resolution), Image.Resampling.BILINEAR)
        image.save(folder / f"{number:03d}.png")
    return folder
