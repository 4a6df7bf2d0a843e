"""A step of a conditional GAN's training, the same however many processes and micro-batches share it out.

Everything drawn for an image follows from (seed, step, place in the batch), and the class weights from the whole batch,
so shares differ from the whole by no more than the order of float sums.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from aras.distributed import add_up, average_gradients, world_size
from aras.inference import precision_of
from aras.spade.augmentation import adapted, turned_pairs
from aras.spade.data import share_of_batch
from aras.spade.latents import draw_latents, latent_size, z_and_noise
from aras.spade.layout import class_counts
from aras.spade.recipes import Batch, Recipe
from aras.spade.state import State
from aras.training import mixed_seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
Told = dict[str, "Tensor"]

TRIES = 3
"""How often a step whose gradients are no numbers is tried, each time with other random numbers."""

ADAPT_EVERY = 4
"""Steps from one look at the discriminator's signs to the next (Karras et al. 2020, section 3)."""

CHANCES, LATENTS = 1, 2  # what sets the draws of one (seed, step) apart


@dataclass
class Setting:
    """What the steps of a training share.

    Attributes:
        recipe: the losses.
        seed: what all draws follow from.
        batch_size: images of a step, over all ranks.
        micro_batch: images that this process computes on at once; halved when the GPU's memory is too small.
        augment: ada, fixed or none.
        target: the share of real images, as a mean sign, over which `ada` raises the strength.
        device: where to compute.
        precision: in which to compute.
        tell: says a line to the user.
    """

    recipe: Recipe
    seed: int
    batch_size: int
    micro_batch: int
    augment: str
    target: float
    device: "torch.device"
    precision: "torch.dtype"
    tell: Callable[[str], None]


def precision_of_gan(name: str, device: "torch.device") -> "torch.dtype":
    """Return the type in which networks compute for `--precision` `name`: as for a segmenter, but never float16.

    Its loss would have to be scaled, which a penalty on gradients does not bear.
    """
    import torch

    found = precision_of(name, device)
    return torch.float32 if found == torch.float16 else found


class Share(NamedTuple):
    """This rank's images of a step, as bytes on the device, and what is drawn for each of them."""

    images: "Tensor"  # (b, 3, H, W) uint8
    labels: "Tensor"  # (b, H, W) uint8
    class_counts: "Tensor"  # (7,) of the whole batch
    chances: "Tensor"  # (b, recipe.chances) float32 on the CPU
    latents: "Tensor"  # (b, latent_size) float32
    strength: float

    def parts(self, micro_batch: int) -> "Iterator[Share]":
        """Yield the share in parts of at most `micro_batch` images, as even as can be."""
        count = -(-len(self.images) // micro_batch)
        for places in np.array_split(np.arange(len(self.images)), count):
            cut = slice(int(places[0]), int(places[-1]) + 1)
            yield self._replace(
                images=self.images[cut],
                labels=self.labels[cut],
                chances=self.chances[cut],
                latents=self.latents[cut],
            )

    @property
    def real(self) -> "Tensor":
        """The images (b, 3, H, W) float32 in -1..1."""
        return self.images.float() / 127.5 - 1

    @property
    def batch(self) -> Batch:
        """What the recipe's losses are told."""
        return Batch(self.labels, self.class_counts, self.chances, self.strength)


def train_step(state: State, images: "Tensor", labels: "Tensor", setting: Setting) -> bool:
    """Train one step, and return whether it could be taken; gradients that are no numbers reach no weight.

    The discriminator steps first, then the generator on the images that the discriminator was shown (as in Schönfeld
    et al. 2021). What the losses were goes into `state.losses`.

    Args:
        state: what is trained.
        images: this rank's share (b, H, W, 3) uint8 of the step's batch.
        labels: theirs, (b, H, W) uint8.
        setting: how.
    """
    images = images.to(setting.device, non_blocking=True).permute(0, 3, 1, 2)
    labels = labels.to(setting.device, non_blocking=True)
    counts = class_counts(labels)
    add_up(counts)
    for attempt in range(TRIES):
        share = drawn_share(state, images, labels, counts, setting, attempt)
        told = both_phases(state, share, setting)
        if told is not None:
            state.add(told)
            if state.average:
                state.average.update(state.generator)
            state.step += 1
            adapt_strength(state, told, setting)
            if state.step > state.failed_step:
                state.rollbacks = 0
            return True
        setting.tell(
            f"step {state.step + 1}: a loss or gradient is not a number; thrown away"
            + (", tried again with other random numbers" if attempt + 1 < TRIES else "")
        )
    return False


def drawn_share(
    state: State, images: "Tensor", labels: "Tensor", counts: "Tensor", setting: Setting, attempt: int
) -> Share:
    """Return this rank's share with what is drawn for it, its pairs turned if the recipe wants them so."""
    import torch

    key = (setting.seed, state.step, state.salt, attempt)
    places = share_of_batch(setting.batch_size)
    drawn = np.random.default_rng((*key, CHANCES)).random((setting.batch_size, setting.recipe.chances), np.float32)
    chances = torch.from_numpy(drawn[places])
    if setting.recipe.augments:
        images, labels = turned_pairs(images, labels, chances)
    count = latent_size(state.generator, tuple(labels.shape[1:]))  # type: ignore[arg-type]
    seeds = (mixed_seed(*key, LATENTS, place) for place in range(places.start, places.stop))
    return Share(images, labels, counts, chances, draw_latents(seeds, count, setting.device), state.strength)


def both_phases(state: State, share: Share, setting: Setting) -> dict[str, float] | None:
    """Step the discriminator, then the generator; return what they told, None if one's gradients are no numbers."""
    fakes: list[Tensor] = []
    state.generator.train()
    state.discriminator.train().requires_grad_(True)
    told = in_memory(lambda: discriminator_gradients(state, share, setting, fakes), state.discriminator, setting)
    of_discriminator = stepped(state.discriminator_optimizer, told)
    if of_discriminator is None:
        return None
    state.discriminator.requires_grad_(False)
    told = in_memory(lambda: generator_gradients(state, share, setting, fakes), state.generator, setting)
    of_generator = stepped(state.generator_optimizer, told)
    if of_generator is None:
        return None
    return {f"discriminator_{name}": value for name, value in of_discriminator.items()} | {
        f"generator_{name}": value for name, value in of_generator.items()
    }


def discriminator_gradients(state: State, share: Share, setting: Setting, fakes: "list[Tensor]") -> Told:
    """Have the discriminator hold the gradients of this rank's share; return the losses, each a part of the whole's.

    A share that is not cut into parts leaves its generated images in `fakes`, with the way back to the generator.
    """
    import torch

    recipe, told = setting.recipe, Told()
    fakes.clear()
    parts = list(share.parts(setting.micro_batch))
    for part in parts:
        with autocast(setting):
            with torch.set_grad_enabled(len(parts) == 1):
                fake = generated(state.generator, part)
            losses = recipe.discriminator_loss(state.discriminator, part.real, fake.detach(), part.batch)
        if len(parts) == 1:
            fakes.append(fake)
        backward(losses, part, setting, told)
        if recipe.r1_every and state.step % recipe.r1_every == 0:
            penalty = recipe.penalty(state.discriminator, part.real, part.batch)
            backward(penalty, part, setting, told, prefix="penalty_")
    return told


def generator_gradients(state: State, share: Share, setting: Setting, fakes: "list[Tensor]") -> Told:
    """Have the generator hold the gradients of this rank's share; return the losses, each a part of the whole's.

    Takes the images from `fakes`, or generates them again.
    """
    told = Told()
    parts = list(share.parts(setting.micro_batch))
    for part in parts:
        with autocast(setting):
            fake = fakes.pop() if fakes and len(parts) == 1 else generated(state.generator, part)
            losses = setting.recipe.generator_loss(state.discriminator, part.real, fake, part.batch)
        backward(losses, part, setting, told)
    return told


def generated(generator: Any, share: Share) -> "Tensor":
    """Return an image (b, 3, H, W) float32 in -1..1 for each mask of `share`."""
    z, noise = z_and_noise(generator, share.latents, tuple(share.labels.shape[1:]))  # type: ignore[arg-type]
    return generator(share.labels, z, noise)


def autocast(setting: Setting) -> Any:
    """Return the context in which networks compute in the precision of `setting`."""
    import torch

    return torch.autocast(setting.device.type, setting.precision, enabled=setting.precision != torch.float32)


def backward(losses: Told, share: Share, setting: Setting, told: Told, prefix: str = "") -> None:
    """Add the gradients of `losses["loss"]`, a mean over `share`, as its part of the mean over the step's batch.

    `average_gradients` divides by the number of ranks, so each takes its part that many times. What `losses` are is
    added to `told`.
    """
    part = len(share.images) / setting.batch_size
    (losses["loss"] * (part * world_size())).backward()
    for name, loss in losses.items():
        value = loss.detach().double() * part
        told[prefix + name] = told[prefix + name] + value if prefix + name in told else value


def in_memory(gradients: Callable[[], T], network: "torch.nn.Module", setting: Setting) -> T:
    """Return what `gradients` returns, whose gradients are then those of `network`.

    On a GPU whose memory is too small for it, the micro-batch is halved and all is done again, which draws the same.

    Raises:
        torch.OutOfMemoryError: one image is too much.
    """
    import torch

    while True:
        network.zero_grad()
        try:
            return gradients()
        except torch.OutOfMemoryError:
            if setting.micro_batch == 1:
                raise
        setting.micro_batch = -(-setting.micro_batch // 2)
        torch.cuda.empty_cache()
        setting.tell(f"the GPU's memory is too small: computes on {setting.micro_batch} images at once from here on")


def stepped(optimizer: "torch.optim.Optimizer", told: Told) -> dict[str, float] | None:
    """Step `optimizer` by the gradients of all ranks' shares; return what they `told`, summed.

    None if a loss or a gradient is not a number or infinite; nothing has changed then.
    """
    import torch

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    average_gradients(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients)).double()
    losses = torch.stack(list(told.values()))
    add_up(losses)
    *values, norm = torch.cat([losses, norms.norm().unsqueeze(0)]).tolist()  # the one wait for the GPU
    if not all(map(math.isfinite, (*values, norm))):
        return None
    optimizer.step()
    return dict(zip(told, values, strict=True)) | {"gradient_norm": norm}


def adapt_strength(state: State, told: dict[str, float], setting: Setting) -> None:
    """Have the adaptive augmentation follow the signs that the discriminator gives to real images."""
    sign = told.get("discriminator_sign_real")
    if setting.augment != "ada" or sign is None:
        return
    state.signs += sign
    state.sign_steps += 1
    if state.sign_steps == ADAPT_EVERY:
        images = ADAPT_EVERY * setting.batch_size
        state.strength = adapted(state.strength, state.signs / ADAPT_EVERY, images, setting.target)
        state.signs, state.sign_steps = 0.0, 0
