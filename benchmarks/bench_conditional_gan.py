"""A training image of the conditional GAN: ours against the published recipe, in FLOP and in seconds, in the same run.

Both at full width and 256 pixels, each a whole step: discriminator and generator, forward and backward, optimisers, and
for ours LabelMix and a sixteenth of a penalty's step. The published recipe is measured with and without its VGG term.
VGG's weights are drawn, for only the cost is looked at. Rounds of the three take turns, so that whatever else the
machine does hits all alike; the median of the rounds counts. On a CPU the time is the processor's, which other programs
disturb less.

    python benchmarks/bench_conditional_gan.py [--width N] [--size N] [--batch-size N] [--rounds N]

Claim: ours is no slower than the published recipe with its VGG term.
"""

import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from aras.training import share_cores

share_cores()

import click
import torch

from aras.inference import PRECISIONS, precision_of
from aras.legend import NUM_CLASSES
from aras.spade.augmentation import turned_pairs
from aras.spade.cost import Flop, forward_flop
from aras.spade.layout import class_counts
from aras.spade.perceptual import Perceptual, drawn_features
from aras.spade.recipes import RECIPES, Batch, Recipe, recipe_named


class Trained:
    """A recipe's networks and optimisers, and one step of both."""

    def __init__(self, recipe: Recipe, width: int, device: torch.device, precision: torch.dtype):
        self.recipe, self.device, self.precision = recipe, device, precision
        networks: list[Any] = [recipe.generator(width), recipe.discriminator(width)]
        perceptual = getattr(recipe, "perceptual", None)
        for network in [*networks, *([perceptual] if perceptual else [])]:
            network.to(device=device, memory_format=torch.channels_last)
        self.generator, self.discriminator = networks
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=rate, betas=recipe.betas, fused=True)
            for network, rate in (
                (self.discriminator, recipe.discriminator_lr),
                (self.generator, recipe.generator_lr),
            )
        ]

    def drawn(self, labels: torch.Tensor) -> torch.Tensor:
        """Return a generated image of each of `labels`."""
        return self.generator(labels, torch.randn(len(labels), self.generator.z_dim, device=self.device))

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Train on `images` (B, 3, H, W) in -1..1 and `labels` (B, H, W), without a penalty."""
        recipe, chances = self.recipe, torch.rand(len(images), max(self.recipe.chances, 1))
        if recipe.augments:
            images, labels = turned_pairs(images, labels, chances)
            images = images.contiguous(memory_format=torch.channels_last)
        batch = Batch(labels, class_counts(labels), chances, 0.2)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            fake = self.drawn(labels)
            self.discriminator.requires_grad_(True)
            loss = recipe.discriminator_loss(self.discriminator, images, fake.detach(), batch)["loss"]
        self._descend(self.optimizers[0], loss)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            self.discriminator.requires_grad_(False)
            loss = recipe.generator_loss(self.discriminator, images, fake, batch)["loss"]
        self._descend(self.optimizers[1], loss)

    def penalty(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take the gradients of the penalty alone."""
        batch = Batch(labels, class_counts(labels), torch.rand(len(images), self.recipe.chances), 0.2)
        self.discriminator.requires_grad_(True)
        self.recipe.penalty(self.discriminator, images, batch)["loss"].backward()

    def _descend(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        """Step `optimizer` down the gradient of `loss`."""
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def seconds_of(trained: Trained, part: str, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return how long the `part` of `trained` takes for each of `images`."""
    if trained.device.type == "cpu":
        start = time.process_time()
        getattr(trained, part)(images, labels)
        return (time.process_time() - start) / len(images)
    torch.cuda.synchronize(trained.device)
    start = time.perf_counter()
    getattr(trained, part)(images, labels)
    torch.cuda.synchronize(trained.device)
    return (time.perf_counter() - start) / len(images)


def flop_of(trained: Trained, part: str, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the FLOP of the `part` of `trained` for each of `images`, backward passes counted."""
    with Flop() as counter:
        getattr(trained, part)(images, labels)
    return counter.count / len(images)


def measured(
    arms: dict[str, Trained], images: torch.Tensor, labels: torch.Tensor, rounds: int
) -> dict[str, tuple[float, float]]:
    """Return FLOP and seconds of a training image of each of `arms`; a penalty is spread over the steps between two."""
    parts = {name: ["step", "penalty"] if one.recipe.r1_every else ["step"] for name, one in arms.items()}
    flop = {(n, part): flop_of(arms[n], part, images, labels) for n in arms for part in parts[n]}  # warms up, too
    times: dict[tuple[str, str], list[float]] = {key: [] for key in flop}
    for _ in range(rounds):
        for name, part in times:
            times[name, part].append(seconds_of(arms[name], part, images, labels))
    found = {}
    for name, one in arms.items():
        share = {"step": 1.0, "penalty": 1 / max(one.recipe.r1_every, 1)}
        found[name] = (
            sum(share[part] * flop[name, part] for part in parts[name]),
            sum(share[part] * median(times[name, part]) for part in parts[name]),
        )
    return found


@click.command()
@click.option("--width", default=64, show_default=True)
@click.option("--size", default=256, show_default=True)
@click.option("--batch-size", type=int, help="[default: 32 on a GPU, 2 on a CPU]")
@click.option("--rounds", type=int, help="[default: 30 on a GPU, 5 on a CPU]")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True)
def main(width: int, size: int, batch_size: int | None, rounds: int | None, precision: str) -> None:
    """Print what a training image costs in each way."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    dtype, count = precision_of(precision, device), batch_size or (32 if gpu else 2)
    torch.manual_seed(0)
    images = torch.rand(count, 3, size, size, device=device) * 2 - 1
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, NUM_CLASSES, (count, size // 16, size // 16), dtype=torch.uint8, device=device)
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    recipes = {
        "published with VGG": recipe_named("published", perceptual=Perceptual(drawn_features())),
        "published without": RECIPES["published"],
        "unet-spade": RECIPES["unet-spade"],
    }
    arms = {name: Trained(recipe, width, device, dtype) for name, recipe in recipes.items()}
    threads = "" if gpu else f", {torch.get_num_threads()} threads"
    print(
        f"Batches of {count}, {size} x {size}, width {width}, {device.type}{threads}, {dtype}; VGG's weights are drawn"
    )
    for recipe in RECIPES.values():
        flop = forward_flop(recipe, width, size)
        told = [f"{name} {of / 1e9:.1f} GFLOP" for name, of in flop.items()]
        print(f"{recipe.name:20} forward: {', '.join(told)}")
    found = measured(arms, images, labels, rounds or (30 if gpu else 5))
    flop_then, seconds_then = found["published with VGG"]
    for name, (flop_now, seconds) in found.items():
        ratios = f"{flop_now / flop_then:.2f} of the FLOP, {seconds / seconds_then:.2f} of the time with VGG"
        print(f"{name:20} {flop_now / 1e9:6.0f} GFLOP   {seconds:.4f} s an image   {ratios}")


if __name__ == "__main__":
    main()
