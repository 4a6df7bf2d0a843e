"""All that changes while a conditional GAN is trained, and how it goes to disk and comes back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aras.averaging import WeightAverage
from aras.checkpoints import load_state, save_state
from aras.errors import UserError
from aras.spade.data import Options, TrainingSet, sample_images

if TYPE_CHECKING:
    import torch

    from aras.spade.recipes import Recipe

NUMBERS = (
    *("step", "seconds", "strength", "signs", "sign_steps", "losses"),
    *("snapshot_step", "snapshot_seconds", "best_distance", "best_step"),
    *("salt", "rollbacks", "failed_step", "measured_in", "sets"),
)


@dataclass
class State:
    """All that changes during training, the same in every process; last.pt is its image on disk.

    Attributes:
        generator: as it is trained.
        discriminator: likewise.
        average: of the generator's weights, if one is kept.
        generator_optimizer: Adam.
        discriminator_optimizer: Adam.
        step: steps done.
        seconds: of wall clock that they took.
        strength: of the adaptive augmentation, 0..1.
        signs: sum of the mean signs of real scores since it was last adapted.
        sign_steps: how many.
        losses: by name, [sum, count] of what the steps since the last snapshot told.
        snapshot_step: the step of the last snapshot.
        snapshot_seconds: `seconds` at it.
        best_distance: the lowest Fréchet distance of a snapshot; -1 before the first.
        best_step: its step, 0 before the first snapshot.
        salt: goes into every draw; raised so that what was rolled back takes another course.
        rollbacks: how many there were since training got past `failed_step`.
        failed_step: where the last one came from.
        measured_in: the space that `best_distance` was measured in, and the SHA-256 of its weights.
        sets: what tells the pairs, by the name of their set.
    """

    generator: "torch.nn.Module"
    discriminator: "torch.nn.Module"
    average: WeightAverage | None
    generator_optimizer: "torch.optim.Optimizer"
    discriminator_optimizer: "torch.optim.Optimizer"
    step: int = 0
    seconds: float = 0.0
    strength: float = 0.0
    signs: float = 0.0
    sign_steps: int = 0
    losses: dict[str, list[float]] = field(default_factory=dict)
    snapshot_step: int = 0
    snapshot_seconds: float = 0.0
    best_distance: float = -1.0
    best_step: int = 0
    salt: int = 0
    rollbacks: int = 0
    failed_step: int = 0
    measured_in: str = ""
    sets: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Any]:
        """What has tensors, by its name in last.pt."""
        parts: dict[str, Any] = {"generator": self.generator, "discriminator": self.discriminator}
        parts |= {"generator_optimizer": self.generator_optimizer}
        parts |= {"discriminator_optimizer": self.discriminator_optimizer}
        return parts | ({"average": self.average} if self.average else {})

    @property
    def judged(self) -> "torch.nn.Module":
        """The generator that draws, is judged and kept: the average of the weights if one is kept."""
        return self.average.model if self.average else self.generator

    @property
    def numbers(self) -> dict[str, Any]:
        """The rest, by its name in last.pt."""
        return {name: getattr(self, name) for name in NUMBERS}

    @property
    def mean_losses(self) -> dict[str, float]:
        """The mean of each loss over the steps since the last snapshot that told it."""
        return {name: total / count for name, (total, count) in self.losses.items()}

    def add(self, told: dict[str, float]) -> None:
        """Take in what a step `told`."""
        for name, value in told.items():
            entry = self.losses.setdefault(name, [0.0, 0])
            entry[0] += value
            entry[1] += 1

    def measure_in(self, space: str) -> bool:
        """Measure distances in `space` from now on; return whether the best so far was measured in another."""
        changed = bool(self.best_step) and self.measured_in != space
        self.measured_in = space
        self.best_distance = -1.0 if changed else self.best_distance
        return changed

    def judge(self, distance: float | None) -> bool:
        """Return whether this snapshot, of Fréchet `distance`, is the best so far, and remember it.

        The lowest distance is the best, the newest among equals; without a distance the newest is.
        """
        self.snapshot_step, self.snapshot_seconds, self.losses = self.step, self.seconds, {}
        if distance is not None and self.best_distance >= 0 and distance > self.best_distance:
            return False
        self.best_distance = -1.0 if distance is None else distance
        self.best_step = self.step
        return True


def new_state(recipe: "Recipe", options: Options, found: TrainingSet, device: "torch.device", resumes: bool) -> State:
    """Return the state before the first step, its weights drawn from torch's current seed.

    Unless the training `resumes`, the networks are fitted to some of the images.

    Raises:
        UserError: one of these cannot be read.
    """
    import torch

    def placed(network: "torch.nn.Module") -> "torch.nn.Module":
        return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def adam(network: "torch.nn.Module", rate: float) -> "torch.optim.Optimizer":
        return torch.optim.Adam(network.parameters(), rate, recipe.betas, fused=device.type == "cuda")

    generator = placed(recipe.generator(options.width))
    discriminator = placed(recipe.discriminator(options.width))
    if not resumes:
        recipe.prepare((generator, discriminator), sample_images(found))
    half_life = options.ema_kimg * 1000 / options.batch_size  # steps
    return State(
        generator,
        discriminator,
        WeightAverage(generator, 0.5 ** (1 / half_life)) if half_life else None,
        adam(generator, options.lr_generator),
        adam(discriminator, options.lr_discriminator),
        strength=options.augment_strength if options.augment == "fixed" else 0.0,
        sets={"train": found.pairs.told},
    )


def save(state: State, last: Path, kind: dict[str, str]) -> None:
    """Write `state` to `last` (last.pt)."""
    save_state(last, kind, state.parts, state.numbers)


def resume(state: State, last: Path, kind: dict[str, str]) -> None:
    """Load `last` (last.pt) into `state`.

    Raises:
        UserError: the file is torn, of another training than `kind`, or of another dataset.
    """
    now = state.sets
    found = load_state(last, kind, state.parts, state.numbers)
    changed = [
        f"{name} was {found['sets'].get(name)}, now {told}"
        for name, told in now.items()
        if found["sets"].get(name) != told
    ]
    if changed:
        raise UserError(
            f"the dataset is not the one that {last} was trained on: {'; '.join(changed)}; put it back, or name another"
            " --outdir"
        )
    for name, value in found.items():
        setattr(state, name, value)


def roll_back(state: State, last: Path, kind: dict[str, str]) -> None:
    """Load `last` (last.pt) into `state` after a step that could not be taken, to go on with other random numbers."""
    failed, salt, rollbacks = state.step, state.salt + 1, state.rollbacks + 1
    resume(state, last, kind)
    state.failed_step, state.salt, state.rollbacks = failed, salt, rollbacks
