"""Networks and training states on disk: never half a file, and no file that can run code.

A network snapshot is one safetensors file with the tensors `G.<name>`, `D.<name>` and `G_ema.<name>`, whose header has
in JSON what the networks are built from. A training state is what a run goes on from, to the bit on a CPU.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stylegan_errors import StyleganError
from stylegan_files import whole_file, write_json
from stylegan_networks import build_discriminator, build_generator

FORMAT = 1
NETWORKS = ("G", "D", "G_ema")
BROKEN = (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError)
"""What torch.load raises on a file that is torn, flipped or not its own, by where the damage is."""


@dataclass
class Snapshot:
    """What a network snapshot holds.

    Attributes:
        G: the generator that was trained, or None if it was not asked for; on the CPU, in eval mode, without gradients.
        D: the discriminator, likewise.
        G_ema: the moving average of the generator, likewise; what images are made with.
        info: G_config, D_config, augment_p, dataset (path, name, resolution, channels, label_dim, mirror ...), kimg,
            images, format.
    """

    G: torch.nn.Module | None
    D: torch.nn.Module | None
    G_ema: torch.nn.Module | None
    info: dict[str, Any]


def save_snapshot(
    path: Path, G: torch.nn.Module, D: torch.nn.Module, G_ema: torch.nn.Module, info: dict[str, Any]
) -> None:
    """Write the networks to `path` (.safetensors), and `info` beside it as .json for people to read.

    `info` gains the networks' configs and the format; only the .safetensors file is ever read.
    """
    info = {"format": FORMAT, "G_config": G.config, "D_config": D.config} | info
    networks = {"G": G, "D": D, "G_ema": G_ema}
    tensors = {
        f"{network}.{name}": tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for network, module in networks.items()
        for name, tensor in module.state_dict().items()
    }
    with whole_file(path) as part:
        try:
            save_file(tensors, part, metadata={"info": json.dumps(info)})
            part.chmod(0o666 & ~own_umask())  # it makes files that nobody else can read
        except SafetensorError as error:  # which hides that the disk is full, for one
            raise StyleganError(f"{path}: {error}; free some disk space, then run the same command again") from None
    write_json(path.with_suffix(".json"), info)


def load_snapshot(path: Path, only: Iterable[str] = ("G_ema",)) -> Snapshot:
    """Return the networks named in `only`, and what is told of them, from the snapshot at `path`.

    Raises:
        StyleganError: the file is missing, torn, or not such a snapshot.
    """
    info, tensors = read_snapshot(path, only)
    networks: dict[str, torch.nn.Module | None] = dict.fromkeys(NETWORKS)
    for network in only:
        config = info["D_config" if network == "D" else "G_config"]
        module = build(network, config, path)
        own = {name.partition(".")[2]: t for name, t in tensors.items() if name.partition(".")[0] == network}
        fit_tensors(module, own, path, network)
        networks[network] = module.eval().requires_grad_(False)
    return Snapshot(networks["G"], networks["D"], networks["G_ema"], info)


def read_snapshot(path: Path, only: Iterable[str] = NETWORKS) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return what the snapshot at `path` tells of its networks, and the tensors of those named in `only`.

    Raises:
        StyleganError: the file is missing, torn, or not such a snapshot.
    """
    check_is_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            info = json.loads((file.metadata() or {}).get("info", "null"))
            names = [name for name in file.keys() if name.partition(".")[0] in only]  # noqa: SIM118  it is no dict
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise StyleganError(
            f"{path} is torn or not a network snapshot ({first_line(error)}); fetch or make it again"
        ) from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise StyleganError(f"{path} is not a network snapshot of train.py; import an official pickle first")
    return info, tensors


def build(network: str, config: dict[str, Any], path: Path) -> torch.nn.Module:
    """Return `network` as the snapshot at `path` tells of it, with drawn weights, leaving the random state as it is.

    Raises:
        StyleganError: it tells of none that can be built.
    """
    try:
        with torch.random.fork_rng(devices=()):
            return build_discriminator(config) if network == "D" else build_generator(config)
    except (KeyError, TypeError, ValueError) as error:
        raise StyleganError(f"{path} tells of a network {network} that cannot be built ({first_line(error)})") from None


def fit_tensors(module: torch.nn.Module, tensors: dict[str, Any], path: Path, what: str) -> None:
    """Load `tensors` into `module`, all of them or none.

    Raises:
        StyleganError: names or shapes differ from the module's; the message names `path` and `what` the module is.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in tensors]
    foreign = [name for name in tensors if name not in wanted]
    other = [n for n in wanted if n in tensors and getattr(tensors[n], "shape", None) != wanted[n].shape]
    told = [
        f"{len(names)} {kind} (such as {names[0]})"
        for kind, names in (("missing", missing), ("unknown", foreign), ("of another shape", other))
        if names
    ]
    if told:
        raise StyleganError(f"{path} does not hold the tensors of {what}: {', '.join(told)}; give the right file")
    module.load_state_dict(tensors)


def copy_matching(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> int:
    """Copy into `module` those of `tensors` whose name and shape it has; return how many they were."""
    own = module.state_dict()
    found = {name: tensor for name, tensor in tensors.items() if name in own and own[name].shape == tensor.shape}
    module.load_state_dict(own | found)
    return len(found)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the training state, tensors and plain values, to `path`, wholly or not at all.

    Raises:
        OSError: the disk is full, for one. PyTorch hides it behind an error of its own zip writer.
    """
    with whole_file(path) as part:
        try:
            with part.open("wb") as file:
                torch.save(state, file)
        except RuntimeError as error:
            cause = error.__context__
            if not isinstance(cause, OSError):
                raise
            raise OSError(cause.errno, cause.strerror, str(path)) from None


def load_state(path: Path) -> dict[str, Any]:
    """Return the training state in `path`, on the CPU; no code in it is run.

    Raises:
        StyleganError: the file is torn, or holds something else.
    """
    check_is_file(path)
    remedy = "delete it to train from the beginning, or name another run by --new-run"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch.load would pass a changed byte on as a weight
            if damaged:
                raise zipfile.BadZipFile(f"{damaged} has another checksum")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (*BROKEN, zipfile.BadZipFile) as error:
        reason = first_line(error)
        if isinstance(error, pickle.UnpicklingError):  # whose message is a page on what PyTorch allows
            reason = "it is no file of torch.save, or holds more than tensors and plain values"
        raise StyleganError(f"{path} is torn or not a training state ({reason}); {remedy}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StyleganError(f"{path} is not a training state of train.py; {remedy}")
    return found


def own_umask() -> int:
    """Return which permissions new files of this process go without."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def check_is_file(path: Path) -> None:
    """Raise `StyleganError` if `path` is no file."""
    if path.is_dir():
        raise StyleganError(f"{path} is a folder; name the file in it")
    if not path.is_file():
        raise StyleganError(f"{path} is missing; check the path")


def first_line(error: Exception) -> str:
    """Return the beginning of what `error` says."""
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
