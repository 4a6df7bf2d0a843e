"""Sampling with one random stream per caption.

A batch that shares one stream gives each caption another text with every other batch size and after every resuming.
Here a caption's draws follow from (seed, file name, place in the text) alone.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_of(seed: int, name: str) -> int:
    """Return a seed of 63 bits that follows from `seed` and the file name `name`."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1


def draws_of(seed: int, names: Sequence[str], count: int) -> np.ndarray:
    """Return uniform draws (len(names), count) float64 in [0, 1), a row for each name."""
    return np.stack([np.random.default_rng(seed_of(seed, name)).random(count) for name in names])


class NucleusSampler:
    """A logits processor that draws one token a row and forbids the others, so that greedy search takes it.

    Nucleus sampling (Holtzman et al. 2020, "The curious case of neural text degeneration", arXiv 1904.09751): of the
    most probable tokens that have `top_p` of the probability together, one is drawn by its probability.
    """

    def __init__(self, draws: np.ndarray, prompt_length: int, temperature: float, top_p: float) -> None:
        self.draws = draws
        self.prompt_length = prompt_length
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Return `scores` (B, V) with minus infinity everywhere but at the token drawn in each row."""
        import torch

        step = input_ids.shape[1] - self.prompt_length
        draw = torch.as_tensor(self.draws[:, step], device=scores.device, dtype=torch.float64)
        token = draw_tokens(scores, draw, self.temperature, self.top_p)
        return torch.full_like(scores, float("-inf")).scatter_(1, token[:, None], 0.0)


def draw_tokens(scores: "torch.Tensor", draw: "torch.Tensor", temperature: float, top_p: float) -> "torch.Tensor":
    """Return the tokens (B,) int64 at which the cumulative probability of the nucleus passes `draw` (B,)."""
    import torch

    probability = torch.softmax(scores.double() / temperature, dim=1)  # (B, V)
    ordered, _ = probability.sort(dim=1, descending=True)
    before = ordered.cumsum(dim=1) - ordered  # what the more probable tokens have together
    least = ordered.masked_fill(before >= top_p, 2.0).amin(dim=1, keepdim=True)  # the nucleus's least probable token
    kept = torch.where(probability >= least, probability, 0.0).cumsum(dim=1)
    return torch.searchsorted(kept, (draw[:, None] * kept[:, -1:]), right=True).clamp(max=scores.shape[1] - 1)[:, 0]
