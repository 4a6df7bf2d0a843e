"""CLIPScore: how near a CLIP model finds an image and its caption.

Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", without its factor 2.5: 100
times the cosine of the two embeddings, not below 0, as the paper of the dataset gives it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.caption_metrics.measuring import Sampled
from aras.caption_metrics.streams import Notes
from aras.caption_metrics.truth import Truth
from aras.errors import UserError
from aras.pairs import read_image
from aras.scoring import REPEATS, ends
from aras.training import choose_device, reachable

if TYPE_CHECKING:
    import torch

BATCH = 32


class Clip:
    """A CLIP model with its processor."""

    def __init__(self, source: str, device: "torch.device", local: bool) -> None:
        from transformers import AutoConfig, AutoProcessor, CLIPModel

        kind = AutoConfig.from_pretrained(source, local_files_only=local).model_type
        if kind != "clip":
            raise ValueError(f"it is a model of type {kind}, not clip")
        self.device = device
        model: Any = CLIPModel.from_pretrained(source, local_files_only=local)
        self.model = model.to(device).eval()
        self.processor: Any = AutoProcessor.from_pretrained(source, local_files_only=local)

    def scores(self, images: list[np.ndarray], captions: list[str]) -> np.ndarray:
        """Return 100 cos (B,) of `images`, (H, W, 3) uint8 RGB, with `captions`, cut to the length it takes."""
        import torch

        told = self.processor(
            text=captions, images=images, return_tensors="pt", padding=True, truncation=True, max_length=self.longest
        )
        with torch.inference_mode():
            found = self.model(**told.to(self.device))
        cosines = (found.image_embeds * found.text_embeds).sum(dim=1)  # both have length 1
        return 100 * cosines.clamp(min=0).float().cpu().numpy()

    @property
    def longest(self) -> int:
        """How many tokens the text model takes."""
        return int(self.model.config.text_config.max_position_embeddings)


def find_clip(source: str, device_name: str) -> tuple[Clip | None, str]:
    """Return the CLIP model `source`, a folder or a hub's name, or None and why there is none.

    Nothing slow is imported before the model is known to be at hand.
    """
    reason, local = "", True
    if Path(source).is_dir():
        reason = "" if (Path(source) / "config.json").is_file() else "the folder has no config.json"
    else:
        from huggingface_hub import constants, try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            local = isinstance(try_to_load_from_cache(source, "config.json"), str)
        except HFValidationError:
            reason = "it is neither a folder nor a hub's name"
        if not (reason or local) and (constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)):
            reason = "it is not on disk, and the model hub cannot be reached"
    if not reason:
        try:
            return Clip(source, choose_device(device_name), local), ""
        except (OSError, ValueError, KeyError) as error:  # what transformers raises for files that are no such model
            reason = " ".join(str(error).split())[:120]
    return None, f"no CLIPScore: {source}: {reason}; name a folder that holds a CLIP model by --clip"


def clip_scores(clip: Clip, sample: list[Sampled], truth: Truth, seed: int, notes: Notes) -> dict[str, Any] | None:
    """Return the mean CLIPScore of the captions of `sample` whose images are there, ready for JSON; None if none is.

    The interval is that of the mean over blocks drawn with replacement. Images that cannot be read are noted.
    """
    values: list[np.ndarray] = []
    blocks: list[int] = []
    for start in range(0, len(sample), BATCH):
        images, read = [], []
        for kept in sample[start : start + BATCH]:
            path = truth.image_of(kept.row.split, kept.row.name)
            try:
                images.append(read_image(path).copy() if path else None)  # writable, as PyTorch wants it
            except UserError as error:
                notes.add("CLIPScore", "images cannot be used", str(error))
                continue
            read.append(kept)
        there = [(image, kept) for image, kept in zip(images, read, strict=True) if image is not None]
        if there:
            values.append(clip.scores([image for image, _ in there], [kept.row.caption for _, kept in there]))
            blocks += [kept.block for _, kept in there]
    if not values:
        return None
    flat = np.concatenate(values)
    return {
        "value": float(flat.mean()),
        "interval": interval_of_mean(flat, np.array(blocks), seed),
        "captions": len(flat),
    }


def interval_of_mean(values: np.ndarray, blocks: np.ndarray, seed: int) -> list[float] | None:
    """Return the 95 % interval of the mean of `values` (N,) over draws of their `blocks` (N,); None for one block."""
    _, index = np.unique(blocks, return_inverse=True)
    counts = np.bincount(index)
    if len(counts) < 2:
        return None
    sums = np.bincount(index, weights=values)
    times = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), REPEATS)
    return ends((times @ sums) / (times @ counts))
