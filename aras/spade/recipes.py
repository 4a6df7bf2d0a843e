"""The two recipes: what the loop that trains a conditional GAN needs to know of each.

A step of the loop: turn the pairs (`turned_pairs`, where the recipe `augments`), draw one fake for each mask, step the
discriminator on real and detached fake (with `penalty` every `r1_every` steps), then the generator on the same fake.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from aras.spade.augmentation import TURN_CHANCES, VIEW_CHANCES, View
from aras.spade.discriminator import FAKE
from aras.spade.label_mix import inconsistency, mixed, mixing_mask
from aras.spade.losses import (
    fake_pixels,
    fake_score,
    gradient_penalty,
    hinge_fake,
    hinge_real,
    real_pixels,
    real_score,
)
from aras.spade.scale import Scale

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from aras.spade.perceptual import Perceptual


class Batch(NamedTuple):
    """What a step's losses are told besides the images."""

    labels: "Tensor"
    """(B, H, W), turned as the images are."""
    class_counts: "Tensor"
    """(7,) pixels of each class in the whole batch: of all micro-batches and ranks."""
    chances: "Tensor"
    """(B, recipe.chances) uniform in 0..1, drawn for each image, on the CPU."""
    strength: float = 0.0
    """Of the adaptive augmentation, 0..1."""


@dataclass(frozen=True)
class Recipe(ABC):
    """What the loop knows of a recipe. Losses are means over the images given; "loss" is what to minimise."""

    name: str
    betas: tuple[float, float]
    generator_lr: float
    discriminator_lr: float
    averages: bool
    """Whether a moving average of the generator's weights is what draws; without it the last weights do."""
    augments: bool
    """Whether pairs are turned and the adaptive augmentation may be on."""
    r1_every: int
    """Steps from one `penalty` to the next; 0 for none."""
    chances: int
    """Uniform numbers that `Batch` holds for each image. The first `TURN_CHANCES` are for `turned_pairs`."""

    @abstractmethod
    def generator(self, width: int) -> "nn.Module":
        """Return the generator of base `width`, drawn from torch's current seed: (labels, z, noise) -> images."""

    @abstractmethod
    def discriminator(self, width: int) -> "nn.Module":
        """Return the discriminator of base `width`: (images, labels) -> what the losses take."""

    def prepare(self, networks: "Iterable[nn.Module]", images: "Tensor") -> None:
        """Fit `networks`, before their first step, to `images` (N, H, W, 3) uint8, some hundred to train on."""
        for network in networks:
            if isinstance(scale := getattr(network, "scale", None), Scale):
                scale.fit(images)

    @abstractmethod
    def discriminator_loss(self, network: Any, real: "Tensor", fake: "Tensor", batch: Batch) -> "dict[str, Tensor]":
        """Return "loss", its parts, and "sign_real" where the recipe `augments`: the mean sign of its real scores."""

    @abstractmethod
    def generator_loss(self, network: Any, real: "Tensor", fake: "Tensor", batch: Batch) -> "dict[str, Tensor]":
        """Return "loss" and its parts; freeze the discriminator `network` meanwhile, it needs no gradients."""

    @abstractmethod
    def penalty(self, network: Any, real: "Tensor", batch: Batch) -> "dict[str, Tensor]":
        """Return "loss", what to add to the discriminator's every `r1_every` steps, and the bare "r1"; in float32."""


@dataclass(frozen=True)
class UnetSpade(Recipe):
    """U-Net generator and U-Net discriminator: pixels of N + 1 classes, a global score, LabelMix, lazy R1."""

    label_mix: float = 10.0
    """Weight of LabelMix (Schönfeld et al. 2021, appendix B.1: 10)."""
    class_weight: float = 1.0
    """Weight of what the generator minimises besides: the cross-entropy among the seven classes alone.

    An auxiliary classifier (Odena et al. 2017, arXiv 1610.09585, section 3), which the discriminator is already: while
    it takes most pixels for fake, the eight-class loss says little of which class they should be.
    """
    global_weight: float = 1.0
    r1_weight: float = 1.0
    r1_every: int = 16
    """As Karras et al. 2020 (arXiv 1912.04958), section 3.1."""
    betas: tuple[float, float] = (0.5, 0.99)
    generator_lr: float = 2e-4
    discriminator_lr: float = 4e-4
    name: str = "unet-spade"
    averages: bool = True
    augments: bool = True
    chances: int = TURN_CHANCES + VIEW_CHANCES + 7

    def generator(self, width: int) -> "nn.Module":
        """Return the U-Net generator."""
        from aras.spade.generator import Generator

        return Generator(width)

    def discriminator(self, width: int) -> "nn.Module":
        """Return the U-Net discriminator."""
        from aras.spade.discriminator import Discriminator

        return Discriminator(width)

    def discriminator_loss(self, network: Any, real: "Tensor", fake: "Tensor", batch: Batch) -> "dict[str, Tensor]":
        """Return the pixels' cross-entropies, the global scores', LabelMix and their sum "loss"."""
        view = view_of(batch)
        labels, count = view.of_labels(batch.labels), len(real)
        shown = [view.of_images(real), view.of_images(fake)]
        if self.label_mix:
            mask = mixing_mask(labels, batch.chances[:, -7:].to(labels.device))
            shown.append(mixed(shown[0], shown[1], mask))
        pixels, scores = network(torch.cat(shown))
        of_real, of_fake = pixels[:count], pixels[count : 2 * count]
        parts = {
            "pixels_real": real_pixels(of_real, labels, batch.class_counts),
            "pixels_fake": fake_pixels(of_fake, labels),
            "global_real": self.global_weight * real_score(scores[:count]),
            "global_fake": self.global_weight * fake_score(scores[count : 2 * count]),
        }
        if self.label_mix:
            parts["label_mix"] = self.label_mix * inconsistency(pixels[2 * count :], of_real, of_fake, mask)
        return {"loss": total(parts), **detached(parts), "sign_real": scores[:count].detach().float().sign().mean()}

    def generator_loss(self, network: Any, real: "Tensor", fake: "Tensor", batch: Batch) -> "dict[str, Tensor]":
        """Return what the discriminator holds against `fake`, pixel by pixel and as a whole, and the sum "loss"."""
        view = view_of(batch)
        pixels, scores = network(view.of_images(fake))
        labels = view.of_labels(batch.labels)
        parts = {
            "pixels": real_pixels(pixels, labels, batch.class_counts),
            "classes": self.class_weight * real_pixels(pixels[:, :FAKE], labels, batch.class_counts),
            "global": self.global_weight * real_score(scores),
        }
        return {"loss": total(parts), **detached(parts)}

    def penalty(self, network: Any, real: "Tensor", batch: Batch) -> "dict[str, Tensor]":
        """Return R1 of the global score, times gamma / 2 and times `r1_every`, for it is added that seldom."""
        shown = view_of(batch).of_images(real).detach().requires_grad_()
        r1 = gradient_penalty(network(shown).images, shown)
        return {"loss": self.r1_weight / 2 * self.r1_every * r1, "r1": r1.detach()}


@dataclass(frozen=True)
class Published(Recipe):
    """The published recipe: plain SPADE decoder, patch discriminator, hinge losses and 10 * the perceptual term."""

    perceptual: "Perceptual | None" = None
    perceptual_weight: float = 10.0
    r1_every: int = 0
    betas: tuple[float, float] = (0.5, 0.999)
    generator_lr: float = 2e-4
    discriminator_lr: float = 2e-4
    name: str = "published"
    averages: bool = False
    augments: bool = False
    chances: int = 0

    def generator(self, width: int) -> "nn.Module":
        """Return the SPADE decoder."""
        from aras.spade.published import PublishedGenerator

        return PublishedGenerator(width)

    def discriminator(self, width: int) -> "nn.Module":
        """Return the patch discriminator."""
        from aras.spade.published import PublishedDiscriminator

        return PublishedDiscriminator(width)

    def discriminator_loss(self, network: Any, real: "Tensor", fake: "Tensor", batch: Batch) -> "dict[str, Tensor]":
        """Return the hinge losses and their sum "loss"."""
        parts = {
            "hinge_real": hinge_real(network(real, batch.labels)),
            "hinge_fake": hinge_fake(network(fake, batch.labels)),
        }
        return {"loss": total(parts), **detached(parts)}

    def generator_loss(self, network: Any, real: "Tensor", fake: "Tensor", batch: Batch) -> "dict[str, Tensor]":
        """Return minus the score of `fake`, the perceptual term if there is one, and their sum "loss"."""
        parts = {"score": -network(fake, batch.labels).mean()}
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual_weight * self.perceptual(fake, real)
        return {"loss": total(parts), **detached(parts)}

    def penalty(self, network: Any, real: "Tensor", batch: Batch) -> "dict[str, Tensor]":
        """Return nothing to add: the recipe has no penalty, and `r1_every` is 0."""
        zero = torch.zeros((), device=real.device)
        return {"loss": zero, "r1": zero}


def view_of(batch: Batch) -> View:
    """Return the change that the discriminator sees the images of `batch` under."""
    chances = batch.chances[:, TURN_CHANCES : TURN_CHANCES + VIEW_CHANCES]
    return View(chances, batch.strength, *batch.labels.shape[1:])


def total(parts: "dict[str, Tensor]") -> "Tensor":
    """Return the sum of `parts`."""
    return torch.stack(list(parts.values())).sum()


def detached(parts: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Return `parts` without their graphs, to be told."""
    return {name: part.detach() for name, part in parts.items()}


RECIPES: dict[str, UnetSpade | Published] = {recipe.name: recipe for recipe in (UnetSpade(), Published())}
"""What `--recipe` takes, with its defaults."""


def recipe_named(name: str, label_mix: float = 10.0, perceptual: "Perceptual | None" = None) -> Recipe:
    """Return the recipe `name`, one of `RECIPES`.

    Args:
        name: which.
        label_mix: weight of LabelMix, of unet-spade.
        perceptual: the term of published, None to go without.

    Raises:
        KeyError: there is no such recipe.
    """
    recipe = RECIPES[name]
    if isinstance(recipe, UnetSpade):
        return replace(recipe, label_mix=label_mix)
    return replace(recipe, perceptual=perceptual)
