"""Official network pickles as networks of this folder: what each was built from, and its tensors, name by name."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylegan_errors import StyleganError
from stylegan_pickles import PickledModule, read_pickle
from stylegan_snapshot import FORMAT, NETWORKS, Snapshot, build, fit_tensors, load_snapshot

FIXED: dict[str, Any] = {
    "activation": "lrelu",
    "lr_multiplier": 0.01,
    "resample_filter": [1, 3, 3, 1],
    "use_noise": True,
    "embed_features": None,
    "layer_features": None,
    "cmap_dim": None,
    "mbstd_num_channels": 1,
    "num_critical": 2,
    "first_cutoff": 2,
    "first_stopband": 2**2.1,
    "last_stopband_rel": 2**0.3,
    "margin_size": 10,
    "output_scale": 0.25,
    "filter_size": 6,
    "lrelu_upsampling": 2,
}
"""What the networks here have no choice in; an official network with other values is refused."""
TAKEN = {
    *("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "channel_base", "channel_max", "num_fp16_res"),
    *("conv_clamp", "magnitude_ema_beta", "conv_kernel", "use_radial_filters", "mbstd_group_size"),
}
IGNORED = {
    *("class_name", "num_layers", "num_ws", "w_avg_beta", "fused_modconv_default", "freeze_layers"),
    *("epilogue_kwargs", "block_kwargs", "mapping_kwargs", "synthesis_kwargs"),
}
"""What the tensors tell, what concerns training alone, and what only groups the rest."""
FILTERS = ("resample_filter", "up_filter", "down_filter")
FILTER_TOLERANCE = 1e-5


def load_pickled_snapshot(path: Path, only: Iterable[str] = ("G_ema",)) -> Snapshot:
    """Return the networks named in `only` from the official pickle at `path`, as `load_snapshot` does of our own.

    Every tensor of each network must be there by name and shape and no other, and the resampling filters, which are
    stored but never learnt, must be those that the networks here compute by themselves.

    Raises:
        StyleganError: the file is torn, asks for anything else than networks, or holds one that differs from ours.
    """
    found = read_pickle(path)
    info: dict[str, Any] = {"format": FORMAT, "imported_from": path.name, **told_beside_networks(found, path)}
    info["G_config"] = generator_config(found["G_ema"], path)
    if isinstance(found.get("D"), PickledModule):
        info["D_config"] = discriminator_config(found["D"], path)
    networks: dict[str, torch.nn.Module | None] = dict.fromkeys(NETWORKS)
    for name in only:
        if not isinstance(found.get(name), PickledModule):
            raise StyleganError(f"{path} has no network {name}; a generator alone can make images, but not be trained")
        networks[name] = restored(name, found[name], info["D_config" if name == "D" else "G_config"], path)
    return Snapshot(networks["G"], networks["D"], networks["G_ema"], info)


def load_networks(path: Path, only: Iterable[str] = ("G_ema",)) -> Snapshot:
    """Return the networks named in `only` from a snapshot of train.py (.safetensors) or an official pickle.

    Raises:
        StyleganError: the file is missing, torn or neither.
    """
    return load_snapshot(path, only) if path.suffix == ".safetensors" else load_pickled_snapshot(path, only)


def restored(name: str, module: PickledModule, config: dict[str, Any], path: Path) -> torch.nn.Module:
    """Return the network `name` of `config` with the tensors of `module`.

    Raises:
        StyleganError: it is another network.
    """
    network = build(name, config, path)
    own, tensors = network.state_dict(), {n: t.float() for n, t in module.tensors().items()}
    for tensor in (t for t in own if t.endswith(FILTERS) and t in tensors):
        same = own[tensor].shape == tensors[tensor].shape
        if not same or not torch.allclose(own[tensor].float(), tensors[tensor], rtol=0, atol=FILTER_TOLERANCE):
            raise StyleganError(f"{path}: the filter {tensor} of {name} is not the one that these networks have")
    fit_tensors(network, tensors, path, name)
    return network.eval().requires_grad_(False)


def arguments_of(module: PickledModule, path: Path) -> dict[str, Any]:
    """Return what the network was built from, groups of arguments dissolved.

    Raises:
        StyleganError: something there is unknown, or has a value that the networks here do not offer.
    """
    given = module.part("_init_kwargs")
    flat = {name: value for name, value in given.items() if not name.endswith("_kwargs")}
    for group in (value for name, value in given.items() if name.endswith("_kwargs") and isinstance(value, dict)):
        flat |= group
    for name, value in flat.items():
        if name in FIXED and not same_value(value, FIXED[name]):
            raise StyleganError(f"{path}: a {module.class_name} with {name} = {value} cannot be built here")
        if name in TAKEN and not isinstance(value, int | float | None):
            raise StyleganError(f"{path}: {name} of a {module.class_name} is no number; give an official pickle")
        if name not in FIXED and name not in TAKEN and name not in IGNORED and name != "architecture":
            raise StyleganError(f"{path}: a {module.class_name} with the argument {name} is not known here")
    return flat


def same_value(a: Any, b: Any) -> bool:
    """Return whether two arguments are equal, numbers up to rounding."""
    if isinstance(a, float | int) and isinstance(b, float | int):
        return abs(a - b) <= 1e-9 * max(abs(a), abs(b))
    return bool(a == b)


def generator_config(module: PickledModule, path: Path) -> dict[str, Any]:
    """Return the config from which `build_generator` makes the generator that `module` is.

    Raises:
        StyleganError: it is of another kind.
    """
    given, tensors = arguments_of(module, path), module.tensors()
    radial, is_third = given.get("conv_kernel") == 1, "synthesis.input.freqs" in tensors
    if not is_third and "synthesis.b4.const" not in tensors:
        raise StyleganError(f"{path} holds no generator of StyleGAN2 or StyleGAN3; give the right file")
    if given.get("architecture", "skip") != "skip" or bool(given.get("use_radial_filters")) != radial:
        raise StyleganError(f"{path} holds a generator of a configuration that is not offered here")
    kind = ("stylegan3-r" if radial else "stylegan3-t") if is_third else "stylegan2"
    scale = 2 if radial else 1  # its channels are doubled where it is built
    config = common_config(given, path) | {
        "kind": kind,
        "z_dim": given.get("z_dim", 512),
        "w_dim": given.get("w_dim", 512),
        "channel_base": given.get("channel_base", 32768) // scale,
        "channel_max": given.get("channel_max", 512) // scale,
        "map_depth": sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in tensors),
    }
    if is_third:
        config["magnitude_ema_beta"] = given.get("magnitude_ema_beta", 0.999)
    return config


def discriminator_config(module: PickledModule, path: Path) -> dict[str, Any]:
    """Return the config from which `build_discriminator` makes the discriminator that `module` is.

    Raises:
        StyleganError: it is of another kind.
    """
    given = arguments_of(module, path)
    if given.get("architecture", "resnet") != "resnet":
        raise StyleganError(f"{path} holds a discriminator of a configuration that is not offered here")
    return common_config(given, path) | {
        "kind": "stylegan2-discriminator",
        "channel_base": given.get("channel_base", 32768),
        "channel_max": given.get("channel_max", 512),
        "mbstd_group": given.get("mbstd_group_size", 4),
        "freeze_layers": 0,
    }


def common_config(given: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the part of a config that both networks have.

    Raises:
        StyleganError: `given` tells no resolution.
    """
    if "img_resolution" not in given:
        raise StyleganError(f"{path} does not tell the resolution of its networks; give an official pickle")
    return {
        "c_dim": given.get("c_dim", 0),
        "resolution": given["img_resolution"],
        "channels": given.get("img_channels", 3),
        "num_fp16_res": given.get("num_fp16_res", 4),
        "conv_clamp": given.get("conv_clamp", 256),
    }


def told_beside_networks(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the dataset, the strength of augmentation and the images seen, as far as the pickle and its name tell."""
    told = found.get("training_set_kwargs")
    told = told if isinstance(told, dict) else {}
    dataset = {
        "path": str(told["path"]) if told.get("path") else None,
        "cond": bool(told.get("use_labels", False)),
        "mirror": bool(told.get("xflip", False)),
        "max_size": told.get("max_size"),
    }
    pipe = found.get("augment_pipe")
    p: Tensor | None = pipe.tensors().get("p") if isinstance(pipe, PickledModule) else None
    match = re.search(r"network-snapshot-(\d{6,})$", path.stem)
    kimg = int(match[1]) if match else 0
    return {
        "dataset": dataset,
        "augment_p": float(p) if p is not None and p.numel() == 1 else 0.0,
        "kimg": kimg,
        "images": kimg * 1000,
    }
