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


FIRST_LOOK = 256
"""Of the most probable tokens; a nucleus of 80 % seldom has more."""


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
    """Return the tokens (B,) int64 at which the cumulative probability of the nucleus, by token number, passes `draw`.

    Args:
        scores: (B, V) logits.
        draw: (B,) float64 in [0, 1).
        temperature: divides the logits; above 0.
        top_p: probability of the nucleus.
    """
    probability = (scores.float() / temperature).softmax(dim=1)  # (B, V)
    most, tokens = nucleus(probability, top_p)
    tokens, order = tokens.sort(dim=1)
    cumulative = most.gather(1, order).double().cumsum(dim=1)
    place = (cumulative <= draw[:, None] * cumulative[:, -1:]).sum(dim=1, keepdim=True)
    return tokens.gather(1, place.clamp(max=tokens.shape[1] - 1))[:, 0]


def nucleus(probability: "torch.Tensor", top_p: float) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return (B, K) probabilities and tokens, among them the nucleus; what lies outside it has probability 0.

    Sorting a vocabulary of 150,000 for every token takes longer than a small model does, so a few hundred are looked at
    first.
    """
    size = probability.shape[1]
    count = min(FIRST_LOOK, size)
    most, tokens = probability.topk(count, dim=1)
    while count < size and bool((most.sum(dim=1) < top_p).any()):
        count = min(8 * count, size)
        most, tokens = probability.topk(count, dim=1)
    before = most.double().cumsum(dim=1) - most  # what the more probable tokens have together
    return most.masked_fill(before >= top_p, 0.0), tokens
