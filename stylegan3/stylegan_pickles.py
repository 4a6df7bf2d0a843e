"""Official network pickles, read without running anything in them.

A pickle is a program that may call whatever it names. Those of stylegan2-ada-pytorch and stylegan3 name their own
reconstruction function, which runs source code that lies in the file, and a few functions that rebuild tensors. Here
the first becomes a plain record of what the file says, the others are replaced by ones that check what they are given,
and every other name is refused.
"""

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylegan_errors import StyleganError
from stylegan_snapshot import BROKEN, check_is_file, first_line


class PickledModule:
    """What a pickle says of one network or part of it.

    Attributes:
        class_name: its class, such as Generator; the source code beside it in the file is not kept.
        state: its attributes, such as `_parameters`, `_modules` and `_init_kwargs`.
    """

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.class_name, self.state = class_name, state

    def part(self, name: str) -> dict[Any, Any]:
        """Return the attribute `name`, a dict; an empty one if it is absent or something else."""
        found = self.state.get(name)
        return found if isinstance(found, dict) else {}

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Return parameters and buffers by name, as `state_dict` names them, without buffers that are not saved."""
        unsaved = self.state.get("_non_persistent_buffers_set") or ()
        own = self.part("_parameters") | {n: t for n, t in self.part("_buffers").items() if n not in unsaved}
        found = {f"{prefix}{name}": tensor.detach() for name, tensor in own.items() if isinstance(tensor, Tensor)}
        for name, module in self.part("_modules").items():
            if isinstance(module, PickledModule):
                found |= module.tensors(f"{prefix}{name}.")
        return found


class Replacement:
    """A function that a pickle may call; unlike a plain one, it has no attributes that the pickle could set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("it sets attributes of a function")


def _module(meta: Any) -> PickledModule:
    """Take the place of the function that runs the source code in `meta`; keep what it tells instead."""
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise pickle.UnpicklingError("it describes something that is no module")
    state = meta.get("state")
    return PickledModule(meta["class_name"], state if isinstance(state, dict) else {})


def _storage(content: bytes) -> Any:
    """Take the place of torch.storage._load_from_bytes, which unpickles without restriction."""
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except AssertionError as error:  # of its reader, on damage
        raise pickle.UnpicklingError(str(error)) from None


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """Take the place of torch._utils._rebuild_tensor_v2; gradients and hooks are left behind."""
    if not isinstance(storage, torch.TypedStorage):
        raise pickle.UnpicklingError("it builds a tensor of something that is no storage")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    content, empty = storage._untyped_storage, torch.empty(0, dtype=storage.dtype)
    room = content.nbytes() // empty.element_size()
    if min(offset, *size, *stride, 0) < 0 or last >= room:  # set_ would make the storage larger
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    return empty.set_(content, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Tensor:
    """Take the place of torch._utils._rebuild_parameter."""
    if not isinstance(data, Tensor):
        raise pickle.UnpicklingError("it makes a parameter of something that is no tensor")
    return data


class NumberType:
    """What takes the place of numpy.dtype: the type of a number."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch("[biuf][1248]", code):
            raise pickle.UnpicklingError("it has NumPy values that are no numbers")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("it has NumPy values that are no numbers")
        self.order = state[1]


def _scalar(kind: Any, content: Any) -> Any:
    """Take the place of NumPy's function that rebuilds a number."""
    if not isinstance(kind, NumberType) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("it has NumPy values that are no numbers")
    return np.frombuffer(content, kind.order + kind.code)[0].item()


ALLOWED: dict[tuple[str, str], Any] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Replacement(_module),
    ("dnnlib.util", "EasyDict"): dict,
    ("dnnlib", "EasyDict"): dict,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): Replacement(_tensor),
    ("torch._utils", "_rebuild_parameter"): Replacement(_parameter),
    ("torch.storage", "_load_from_bytes"): Replacement(_storage),
    ("numpy", "dtype"): NumberType,
    ("numpy.core.multiarray", "scalar"): Replacement(_scalar),
    ("numpy._core.multiarray", "scalar"): Replacement(_scalar),
}
"""All that a network pickle may name, and what it gets."""


class NetworkUnpickler(pickle.Unpickler):
    """An unpickler that knows nothing but `ALLOWED`."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for `module.name`.

        Raises:
            StyleganError: it is none of `ALLOWED`.
        """
        found = ALLOWED.get((module, name))
        if found is not None:
            return found
        if module.partition(".")[2].startswith("tflib"):
            raise StyleganError(
                f"{self.path} is a pickle of the TensorFlow code ({module}.{name}), which cannot be read; convert it"
                " with legacy.py of stylegan2-ada-pytorch first"
            )
        raise StyleganError(
            f"{self.path} asks for {module}.{name}, which no network pickle needs; nothing was run, and the file is"
            " refused"
        )


def read_pickle(path: Path) -> dict[str, Any]:
    """Return what the official network pickle at `path` holds: `PickledModule`s and plain values by name.

    Raises:
        StyleganError: the file is missing, torn, no network pickle, or asks for anything else than networks.
    """
    check_is_file(path)
    try:
        with path.open("rb") as file:
            found = NetworkUnpickler(file, path).load()
    except (*BROKEN, OverflowError, MemoryError) as error:
        raise StyleganError(f"{path} is torn or not a network pickle ({first_line(error)}); fetch it again") from None
    if not isinstance(found, dict) or not isinstance(found.get("G_ema"), PickledModule):
        raise StyleganError(f"{path} is a pickle, but not of networks: it has no G_ema; give the right file")
    return found
