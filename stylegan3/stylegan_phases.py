"""One iteration: each network's phases, in micro-batches that add up to the batch, then the averages and ADA.

Every random number follows from (seed, iteration, phase, place in the batch): latents are drawn for the whole batch and
shared out; noise and augmentation are drawn per micro-batch, from a seed that tells it among those of all ranks. A
phase changes nothing before its step, so one that runs out of memory is done again, in smaller micro-batches, as if
nothing had happened. Micro-batch k of n has the images k, k + n, k + 2n ...: the groups of minibatch standard
deviation, whose members are as far apart as possible, are so the same as in one piece.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stylegan_distributed import add_up, in_any, rank, share, world_size
from stylegan_errors import StyleganError
from stylegan_loss import PL_DECAY, Latents, Losses, blur_sigma, draw_latents, training
from stylegan_memory import smaller_micro_batch
from stylegan_options import Settings
from stylegan_state import State
from stylegan_stats import PhaseTimes

LARGEST_GRADIENT = 1e5  # what an infinite one becomes
ADAPT_EVERY = 4  # iterations


@dataclass(frozen=True)
class Phase:
    """A step of one network's optimizer: its name, the network, and in every how many iterations it is taken."""

    name: str
    network: str
    interval: int = 1


@dataclass(frozen=True)
class Batch:
    """This rank's real images of a batch on the device: pixels (N, C, R, R) uint8, c (N, c_dim) or None."""

    pixels: torch.Tensor
    c: torch.Tensor | None


def phases_of(settings: Settings) -> list[Phase]:
    """Return the phases of an iteration in their order; those of regularisers with no weight are left out."""
    phases = []
    if settings.G_optimizer["interval"]:
        phases.append(Phase("Gmain", "G"))
        if settings.loss["pl_weight"]:
            phases.append(Phase("Greg", "G", settings.G_optimizer["interval"]))
    else:
        phases.append(Phase("Gboth", "G"))
    phases.append(Phase("Dmain", "D"))
    if settings.loss["r1_gamma"]:
        phases.append(Phase("Dreg", "D", settings.D_optimizer["interval"]))
    return phases


def mixed_seed(*numbers: int) -> int:
    """Return a seed (64 bits) that depends on every one of `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


@dataclass
class Iteration:
    """What an iteration is done with.

    Attributes:
        settings: what does not change.
        losses: of the networks.
        random_labels: count, generator -> labels (count, c_dim) of generated images, or None where there are none.
        times: of the phases.
        tell: is called with a line for the user.
    """

    settings: Settings
    losses: Losses
    random_labels: Callable[[int, torch.Generator], torch.Tensor] | None
    times: PhaseTimes
    tell: Callable[[str], None]


def iterate(state: State, work: Iteration, batch: Batch) -> None:
    """Do one iteration on `batch`: every phase whose turn it is, the moving average, and ADA."""
    settings = work.settings
    for number, phase in enumerate(phases_of(settings)):
        if state.iteration % phase.interval == 0:
            with work.times.timed(phase.name):
                run_phase(state, work, phase, number, batch)
    average_weights(state, settings)
    state.images += settings.batch
    state.iteration += 1
    if settings.augment["mode"] == "ada" and state.iteration % ADAPT_EVERY == 0:
        adapt(state, settings)


def run_phase(state: State, work: Iteration, phase: Phase, number: int, batch: Batch) -> None:
    """Take the step of `phase`, the `number`-th; in smaller micro-batches from now on if the GPU cannot hold these.

    Raises:
        StyleganError: it cannot hold the smallest.
    """
    network, optimizer = getattr(state, phase.network), getattr(state, f"{phase.network}_optimizer")
    while True:
        kept = [*state.sums, *state.averages]
        before = [tensor.clone() for tensor in kept]
        try:
            with training(network):
                accumulate(state, work, phase, number, batch)
                reduce_gradients(network)
            failed = ""
        except torch.OutOfMemoryError as error:
            failed = str(error).split(". ")[0]
        if not in_any(bool(failed)):
            break
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_copy_(kept, before)
        shrink(state, work, failed)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if phase.name == "Greg":
        add_up(work.losses.lengths)
        count, total = work.losses.lengths.unbind()
        state.mean_length.lerp_((total / count).to(state.mean_length.dtype), PL_DECAY)


def shrink(state: State, work: Iteration, reason: str) -> None:
    """Go on in smaller micro-batches.

    Raises:
        StyleganError: there is none smaller.
    """
    settings, was = work.settings, state.micro_batch
    smaller = smaller_micro_batch(settings.batch // world_size(), was, settings.D_config["mbstd_group"])
    if smaller is None:
        raise StyleganError(
            f"the GPU ran out of memory with {was} images at a time ({reason or 'on another GPU'}); lower --cbase,"
            f" --cmax or --mbstd-group"
        )
    state.micro_batch = smaller
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    work.tell(f"The GPU ran out of memory with {was} images at a time; goes on with {smaller}, which add up alike")


def accumulate(state: State, work: Iteration, phase: Phase, number: int, batch: Batch) -> None:
    """Accumulate the gradients of `phase` over the micro-batches."""
    settings, losses = work.settings, work.losses
    sigma = blur_sigma(settings.loss["blur_init_sigma"], settings.loss["blur_fade_kimg"], state.images)
    key = (settings.seed, state.iteration, number)
    latents = None if phase.name == "Dreg" else drawn(state, work, key, batch.pixels.device)
    rounds = len(batch.pixels) // state.micro_batch
    gain = phase.interval / rounds
    losses.lengths.zero_()
    averages = RunningAverages(state.averages)
    for chunk in range(rounds):
        torch.manual_seed(mixed_seed(*key, 1 + rank() + world_size() * chunk))
        part = slice(chunk, None, rounds)
        pixels, c = batch.pixels[part], None if batch.c is None else batch.c[part]
        if latents is None:
            losses.discriminator_r1(pixels, c, sigma, gain)
        elif phase.network == "D":
            averages.restore()
            losses.discriminator_main(latents.part(part), pixels, c, sigma, gain)
            averages.add()
        elif phase.name == "Greg":
            losses.generator_paths(latents.part(part), state.mean_length, gain)
        else:
            losses.generator_main(latents.part(part), sigma, gain)
    if phase.name == "Dmain":
        averages.finish()


def drawn(state: State, work: Iteration, key: tuple[int, ...], device: torch.device) -> Latents:
    """Return this rank's share of the latents that `key` draws for the whole batch."""
    settings, seed = work.settings, mixed_seed(*key, 0)
    labels = None
    if work.random_labels is not None:
        labels = work.random_labels(settings.batch, torch.Generator().manual_seed(seed)).to(device, non_blocking=True)
    generator = torch.Generator(device).manual_seed(seed)
    whole = draw_latents(state.G, settings.batch, settings.loss["style_mixing_prob"], generator, labels)
    return Latents(*(None if t is None else share(t) for t in (whole.z, whole.other, whole.cutoff, whole.c)))  # type: ignore[arg-type]


class RunningAverages:
    """Running averages that every micro-batch of every rank moves from the same place, by its share of the batch.

    A running average moves linearly to what it is shown, so the mean of where the micro-batches would move it is where
    the whole batch moves it.
    """

    def __init__(self, averages: list[torch.Tensor]) -> None:
        self.averages = averages
        self.before = [average.clone() for average in averages]
        self.sums = [torch.zeros_like(average) for average in averages]
        self.count = 0

    def restore(self) -> None:
        """Go back to where the batch found them."""
        torch._foreach_copy_(self.averages, self.before)

    def add(self) -> None:
        """Count where a micro-batch moved them."""
        torch._foreach_add_(self.sums, self.averages)
        self.count += 1

    def finish(self) -> None:
        """Move them to the mean of all that was counted, in all ranks."""
        torch._foreach_div_(self.sums, self.count * world_size())
        add_up(*self.sums)
        torch._foreach_copy_(self.averages, self.sums)


def reduce_gradients(network: torch.nn.Module) -> None:
    """Make each gradient the mean of the ranks', and finite."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    limits: Any = {"nan": 0.0, "posinf": LARGEST_GRADIENT, "neginf": -LARGEST_GRADIENT}
    if world_size() == 1:
        for gradient in gradients:
            gradient.nan_to_num_(**limits)
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    add_up(flat)
    parts = flat.div_(world_size()).nan_to_num_(**limits).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


@torch.no_grad()
def average_weights(state: State, settings: Settings) -> None:
    """Move the averaged generator towards the trained one, by a half-life in images that grows to its full length.

    The half-life is `ema_kimg`, but at most `rampup` times the images seen so far, so that the average forgets the
    beginning.
    """
    half_life = settings.ema["kimg"] * 1000
    if settings.ema["rampup"] is not None:
        half_life = min(half_life, state.images * settings.ema["rampup"])
    decay = 0.5 ** (settings.batch / max(half_life, 1e-8))
    torch._foreach_lerp_(list(state.G_ema.parameters()), list(state.G.parameters()), 1 - decay)
    buffers = list(state.G.buffers())
    if buffers:
        torch._foreach_copy_(list(state.G_ema.buffers()), buffers)


@torch.no_grad()
def adapt(state: State, settings: Settings) -> None:
    """Move the probability of augmentation by one step, towards where real images' scores have the wanted mean sign.

    The device decides, so the host waits for nothing. p stays within 0 and 1. (Karras et al. 2020, Training Generative
    Adversarial Networks with Limited Data, section 3.)
    """
    signs = state.signs.clone()
    state.signs.zero_()
    add_up(signs)
    step = settings.batch * ADAPT_EVERY / (settings.augment["kimg"] * 1000)
    towards = torch.sign(signs[1] / signs[0] - settings.augment["target"])
    state.augment.p.add_((towards * step).to(state.augment.p.dtype)).clamp_(0, 1)
