"""Tensors on disk: weights alone, or all that a training goes on from, and never a half of either.

Files are read with `weights_only=True`, so none of them can run code.
"""

import copy
import os
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aras.errors import UserError
from aras.files import whole_file

if TYPE_CHECKING:
    import torch

BROKEN = (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError)
"""What torch.load raises on a file that is torn, flipped or not its own, by where the damage is."""


def load_tensors(path: Path, remedy: str = "fetch or make it again") -> dict[str, Any]:
    """Return the dict in `path`, a `.safetensors` or a `torch.save` file; no code in it is run.

    Raises:
        UserError: the file is missing, torn (with `remedy`), of another kind, or holds more than tensors and plain
            values.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file of weights in it")
    if not path.is_file():
        raise UserError(f"{path} is missing; check the path, or run the stage that writes it first")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        check_sums(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (*BROKEN, zipfile.BadZipFile, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # whose message is a page on what PyTorch allows
            reason = "it is no file of torch.save, or holds more than tensors and plain values"
        raise UserError(f"{path} is torn or not a file of weights ({reason[:120]}); {remedy}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not a dict of tensors; give the right file")
    return found


def check_sums(path: Path) -> None:
    """Raise `BadZipFile` when a byte of a `torch.save` file has changed; torch.load would pass it on as a weight."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} has another checksum")


def save_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write `tensors` to `path` by `torch.save`, wholly or not at all.

    Raises:
        OSError: the disk is full, for one. PyTorch hides it behind an error of its own zip writer.
    """
    import torch

    with whole_file(path) as part:
        try:
            with part.open("wb") as file:
                torch.save(tensors, file)
        except RuntimeError as error:
            cause = error.__context__
            if not isinstance(cause, OSError):
                raise
            raise OSError(cause.errno, cause.strerror, str(path)) from None


def fit_tensors(module: "torch.nn.Module", tensors: dict[str, Any], path: Path, what: str) -> None:
    """Load `tensors` into `module`, all of them or none.

    Raises:
        UserError: names or shapes differ from the module's; the message names `path` and `what` the module is.
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
        raise UserError(
            f"{path} does not hold the weights of {what}: {', '.join(told)}; give the file that belongs to it"
        )
    module.load_state_dict(tensors)


def save_state(path: Path, kind: dict[str, str], parts: dict[str, Any], numbers: dict[str, Any]) -> None:
    """Write to `path` (last.pt) all that a training goes on from.

    Args:
        path: the file.
        kind: what is trained, such as its architecture; `load_state` refuses another.
        parts: by name, the models, optimisers, schedulers: whatever has a `state_dict`.
        numbers: by name, the counters and scores beside them.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    save_tensors(path, {"kind": kind, "numbers": numbers} | states)


def load_state(path: Path, kind: dict[str, str], parts: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    """Load `path` (last.pt) into `parts`, all of it or nothing, and return the numbers saved beside them.

    Args:
        path: the file.
        kind: what is trained.
        parts: as `save_state` has them.
        numbers: what the numbers are before; those saved must be of the same names and types.

    Raises:
        UserError: the file is torn, or of another training; the message names it and what to do.
    """
    remedy = f"delete {path.parent} to start again, or name another --outdir"
    saved = load_tensors(path, "delete it, and the same command trains from the first epoch")
    if saved.get("kind") != kind or saved.keys() != {"kind", "numbers", *parts}:
        raise UserError(f"{path} is not the state of training {' with '.join(kind.values())}; {remedy}")
    rehearsal = copy.deepcopy(parts)  # in one go, so that the optimizer's copy is of the model's
    for name, part in rehearsal.items():
        fit_part(name, part, saved[name], path, " with ".join(kind.values()), remedy)
    found = saved["numbers"]
    if not isinstance(found, dict) or {n: type(v) for n, v in found.items()} != {
        n: type(v) for n, v in numbers.items()
    }:
        raise UserError(f"{path} has other numbers than this training; {remedy}")
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return found


def fit_part(name: str, part: Any, saved: Any, path: Path, what: str, remedy: str) -> None:
    """Load the state `saved` into `part`.

    Raises:
        UserError: it is not of such a part.
    """
    import torch

    if isinstance(part, torch.nn.Module):
        fit_tensors(part, saved, path, what)
        return
    try:
        if saved.keys() != part.state_dict().keys():
            raise ValueError(f"it has {', '.join(map(str, saved)) or 'nothing'}")
        part.load_state_dict(saved)
        if isinstance(part, torch.optim.Optimizer):
            check_moments(part)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} has another {name} than this training ({error}); {remedy}") from None


def check_moments(optimizer: "torch.optim.Optimizer") -> None:
    """Raise `ValueError` when the moments of a parameter have another shape than it, which loading does not notice."""
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if name != "step" and moment.shape != parameter.shape:
                raise ValueError(f"{name} of shape {tuple(moment.shape)} for a weight of {tuple(parameter.shape)}")


def keep_also_as(path: Path, other: Path) -> None:
    """Have `other` be the same file as `path` is now, or a copy where the file system has no hard links."""
    with whole_file(other) as part:
        part.unlink(missing_ok=True)
        try:
            os.link(path, part)
        except OSError:
            part.write_bytes(path.read_bytes())
