"""All that changes while the networks are trained, and how it goes to disk and comes back."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stylegan_augment import AugmentPipe
from stylegan_distributed import add_up, copy_from_first, is_first
from stylegan_errors import StyleganError
from stylegan_networks import build_discriminator, build_generator
from stylegan_options import Settings
from stylegan_snapshot import FORMAT, fit_tensors, load_state, save_state
from stylegan_stats import Statistics

AVERAGES = ("w_avg", "magnitude_ema")  # buffers of the generator that are running averages of what it has seen


@dataclass
class State:
    """All that changes during training; training-state.pt is its image on disk.

    Random numbers are no part of it: each follows from the seed, the iteration, the phase and the image's place.

    Attributes:
        G: the generator.
        D: the discriminator.
        G_ema: the moving average of the generator's weights.
        augment: what the discriminator sees everything through, with its probability p; or None.
        G_optimizer: Adam of the generator.
        D_optimizer: Adam of the discriminator.
        signs: (2,) float64: real images judged since p was last adapted, and the sum of their scores' signs; this
            rank's.
        mean_length: () float32: the moving average of path lengths.
        statistics: sums of what the losses told since the last tick; this rank's.
        images: real images seen by all ranks.
        iteration: iterations done.
        tick: ticks done.
        tick_images: images seen when the present tick began.
        micro_batch: images of a rank that are computed on at once.
        seconds: time spent in training.
    """

    G: Any
    D: Any
    G_ema: Any
    augment: Any
    G_optimizer: torch.optim.Optimizer
    D_optimizer: torch.optim.Optimizer
    signs: torch.Tensor
    mean_length: torch.Tensor
    statistics: Statistics
    images: int = 0
    iteration: int = 0
    tick: int = 0
    tick_images: int = 0
    micro_batch: int = 1
    seconds: float = 0.0

    @property
    def parts(self) -> dict[str, Any]:
        """What has a state dict, by its name on disk."""
        names = ("G", "D", "G_ema", "augment", "G_optimizer", "D_optimizer")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def numbers(self) -> dict[str, Any]:
        """The counters, by name."""
        names = ("images", "iteration", "tick", "tick_images", "micro_batch", "seconds")
        return {name: getattr(self, name) for name in names}

    @property
    def sums(self) -> list[torch.Tensor]:
        """What each rank keeps its own share of."""
        return [self.signs, self.statistics.sums]

    @property
    def averages(self) -> list[torch.Tensor]:
        """The generator's running averages."""
        return [b for name, b in self.G.named_buffers() if name.rpartition(".")[2] in AVERAGES]


def new_state(settings: Settings, device: torch.device, half_dtype: torch.dtype) -> State:
    """Return the state before the first iteration, its weights drawn from the seed."""
    torch.manual_seed(settings.seed)
    G: Any = build_generator(settings.G_config).train().requires_grad_(False).to(device)
    D: Any = build_discriminator(settings.D_config).train().requires_grad_(False).to(device)
    for module in (G.synthesis, D):
        module.half_dtype = half_dtype
    G_ema = copy.deepcopy(G).eval()
    augment = None
    if settings.augment["mode"] != "noaug":
        augment = AugmentPipe(settings.augment["kind"], p=settings.augment["p"]).to(device)
    return State(
        G,
        D,
        G_ema,
        augment,
        optimizer_of(D_or_G=G, told=settings.G_optimizer),
        optimizer_of(D_or_G=D, told=settings.D_optimizer),
        signs=torch.zeros(2, dtype=torch.float64, device=device),
        mean_length=torch.zeros((), device=device),
        statistics=Statistics(device),
    )


def optimizer_of(D_or_G: torch.nn.Module, told: dict[str, Any]) -> torch.optim.Optimizer:
    """Return Adam with what `told` says, corrected for lazy regularisation.

    A regulariser computed every k iterations takes steps of its own, k + 1 in all where there were k; so that as much
    is learnt and forgotten in k iterations as before, rate and decays are raised to k / (k + 1). (Karras et al. 2020,
    appendix B.)
    """
    interval = told["interval"]
    ratio = interval / (interval + 1) if interval else 1.0
    first, second = (float(beta) ** ratio for beta in told["betas"])
    return torch.optim.Adam(
        D_or_G.parameters(), lr=told["lr"] * ratio, betas=(first, second), eps=told["eps"], fused=True
    )


def share_weights(state: State) -> None:
    """Make every rank's tensors the first's."""
    for module in (state.G, state.D, state.G_ema, state.augment):
        if module is not None:
            copy_from_first(*module.state_dict().values())


def save(state: State, path: Path) -> None:
    """Write `state` to `path`; every rank calls this, the first one writes."""
    sums = [own.clone() for own in state.sums]
    add_up(*sums)
    if is_first():
        tensors = {"signs": sums[0], "statistics": sums[1], "mean_length": state.mean_length}
        parts = {name: part.state_dict() for name, part in state.parts.items()}
        save_state(path, {"format": FORMAT, "numbers": state.numbers, "tensors": tensors} | parts)


def resume(state: State, path: Path) -> None:
    """Load the training state at `path` into `state`; every rank calls this and reads the file.

    Raises:
        StyleganError: the file is torn, or of a training of other networks.
    """
    saved = load_state(path)
    whole = {"format", "numbers", "tensors", *state.parts}
    if saved.keys() != whole or saved["numbers"].keys() != state.numbers.keys():
        raise StyleganError(f"{path} is not the state of such a training; name another run by --new-run")
    for name, part in state.parts.items():
        if isinstance(part, torch.nn.Module):
            fit_tensors(part, saved[name], path, name)
        else:
            load_optimizer(part, saved[name], path)
    tensors = saved["tensors"]
    state.mean_length.copy_(tensors["mean_length"])
    for own, total in zip(state.sums, (tensors["signs"], tensors["statistics"]), strict=True):
        own.copy_(total if is_first() else torch.zeros_like(total))
    for name, value in saved["numbers"].items():
        setattr(state, name, value)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Any, path: Path) -> None:
    """Load the state `saved` into `optimizer`.

    Raises:
        StyleganError: it is of another network's.
    """
    remedy = "name another run by --new-run"
    try:
        optimizer.load_state_dict(saved)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise StyleganError(f"{path} has another optimizer than this training ({error}); {remedy}") from None
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if name != "step" and moment.shape != parameter.shape:
                raise StyleganError(f"{path} has an optimizer of other networks; {remedy}")
