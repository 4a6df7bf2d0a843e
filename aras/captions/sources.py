"""Where a language model comes from: the hub, a folder, or a .gguf file.

No code of a model's repository is run. A token for the hub is taken from HF_TOKEN, and sent only when the hub refuses
without one.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aras.errors import UserError
from aras.training import reachable

WEIGHTS = {".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt"}
HUB = "https://huggingface.co"
SAMPLES, SAMPLE_BYTES = 64, 1 << 16

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        model: the hub's id, a folder, or a .gguf file.
        revision: of the hub; None for its default branch.
    """

    model: str
    revision: str | None

    @property
    def arguments(self) -> dict[str, Any]:
        """What transformers' `from_pretrained` takes."""
        path = Path(self.model)
        if path.suffix == ".gguf":
            return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        if path.is_dir():
            return {"pretrained_model_name_or_path": str(path)}
        return {"pretrained_model_name_or_path": self.model, "revision": self.revision}


def describe_model(source: Source) -> str:
    """Return the revision of the model: the hub's commit, or a digest of the files of a folder.

    Raises:
        UserError: it is not to be had.
    """
    path = Path(source.model)
    if path.exists():
        return digest_of_files([path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in WEIGHTS))
    if path.suffix == ".gguf" or path.is_absolute() or source.model.startswith((".", "~")):
        raise UserError(f"--model {source.model} is missing; check the path")
    if not reachable(os.environ.get("HF_ENDPOINT", HUB)):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # what is cached, at once, instead of half a minute of retries
    from transformers import AutoConfig

    config = fetched(source, AutoConfig.from_pretrained)
    return str(getattr(config, "_commit_hash", None) or source.revision or "unknown")


def digest_of_files(paths: list[Path]) -> str:
    """Return a digest of the names and sizes of `paths` and of samples of what is in them.

    Sixty-four places of 64 KiB a file tell any training from any other, in a second for a model of 16 GB.
    """
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for i in range(SAMPLES):
                file.seek(i * max(size - SAMPLE_BYTES, 0) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
                if size <= SAMPLE_BYTES:
                    break
    return digest.hexdigest()[:16]


def fetched(source: Source, from_pretrained: Callable[..., T], **more: Any) -> T:
    """Return what `from_pretrained` gives for `source`: first without a token, then with that of HF_TOKEN.

    Raises:
        UserError: the model is not to be had.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are no news: what fails is told below
    token = os.environ.get("HF_TOKEN")
    for attempt in (False, token) if token else (False,):
        try:
            return from_pretrained(**source.arguments, **more, token=attempt, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError, json.JSONDecodeError) as error:
            problem = error
            if cut_off(error):
                break
    told = "the hub cannot be reached, and it is not in the cache" if cut_off(problem) else in_short(problem)
    raise UserError(f"--model {source.model} cannot be loaded ({told}); {remedy(source)}") from None


def cut_off(error: BaseException) -> bool:
    """Return whether transformers tells by `error` that it had no answer from the hub."""
    return "couldn't connect" in str(error)


def remedy(source: Source) -> str:
    """Return what one can do about a model that cannot be loaded."""
    if Path(source.model).exists():
        return "it must be a folder with config.json, weights, tokenizer and chat template, or a .gguf file"
    return (
        "check its name and the network, accept its licence at the hub and set HF_TOKEN if it is gated, or name a"
        " folder that has it: --model FOLDER"
    )


def in_short(error: BaseException, most: int = 200) -> str:
    """Return what `error` says on one line of at most `most` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 3] + "..."


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of what `error` says."""
    return in_short(error).split(". ")[0]
