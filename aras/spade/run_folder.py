"""The folder of a conditional GAN's training: what lies where, what of it is missing, and how it is mended."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aras.checkpoints import fit_tensors, keep_also_as, load_tensors, save_tensors
from aras.errors import UserError
from aras.files import read_json
from aras.runs import check_same_options

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RECIPES = ("unet-spade", "published")
"""What `--recipe` takes; `aras.spade.recipes` has them, and waits for PyTorch."""

PUBLISHED_NAME = "trained_generator_single_set_2.pth"
"""What the published script calls the generator's weights."""


@dataclass(frozen=True)
class RunFolder:
    """The folder `path` of a training by `recipe` at `width`."""

    path: Path
    recipe: str
    width: int

    @property
    def kind(self) -> dict[str, str]:
        """What is trained, as last.pt has it."""
        return {"recipe": self.recipe, "width": str(self.width)}

    @property
    def told_kind(self) -> str:
        """What is trained, in words."""
        return f"{self.recipe} of width {self.width}"

    @property
    def record(self) -> Path:
        """run.json."""
        return self.path / "run.json"

    @property
    def last(self) -> Path:
        """All that the training goes on from."""
        return self.path / "last.pt"

    @property
    def metrics(self) -> Path:
        """A line for each snapshot."""
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """The generator's weights at the best snapshot."""
        return self.path / "best.pt"

    @property
    def published(self) -> Path:
        """The same under the name that the published script gives them."""
        return self.path / PUBLISHED_NAME

    @property
    def samples(self) -> Path:
        """Folder of a picture for each snapshot: masks, real images, samples."""
        return self.path / "samples"

    @property
    def curves(self) -> Path:
        """The figure of losses and quality over the training."""
        return self.path / "curves.png"

    @property
    def result(self) -> Path:
        """What the finished training came to."""
        return self.path / "result.json"

    def is_finished(self, options: dict[str, Any], free: frozenset[str]) -> bool:
        """Return whether the folder holds the result of a training with `options` that would not go on.

        Raises:
            UserError: the folder is of a run with other options (but for the `free` ones), or does not say of which.
        """
        if self.record.exists():
            check_same_options(self.record, options, free)
        elif self.last.exists():
            raise UserError(
                f"{self.last} lacks the run.json that tells of what run it is; delete it, or name another --outdir"
            )
        if not self.result.exists():
            return False
        found = read_json(self.result)
        if not isinstance(found, dict) or not {"epochs", "minutes"} <= found.keys():
            raise UserError(f"{self.result} does not tell of a training; delete it and run the same command again")
        longer = found["minutes"] is not None and (options["minutes"] or float("inf")) > found["minutes"]
        over = not longer if found["minutes"] is not None else found["epochs"] >= options["epochs"]
        missing = [path for path in (self.best, self.published, self.curves) if not path.exists()]
        if over and missing and not self.last.exists():
            raise UserError(
                f"{missing[0]} is missing, and without {self.last.name} it cannot be made again; delete {self.path} to"
                " train again"
            )
        return over and not missing

    def save_best(self, weights: "dict[str, Tensor]") -> None:
        """Write `weights` as best.pt, which is the file of the published name too."""
        # In PyTorch's default layout: safetensors takes no other.
        save_tensors(self.best, {name: tensor.contiguous() for name, tensor in weights.items()})
        keep_also_as(self.best, self.published)

    def mend_best(self, step: int, best_step: int, weights: "dict[str, Tensor]") -> None:
        """Have the best snapshot's weights be there under both names, after a kill or a deletion.

        Args:
            step: where last.pt stands, with the generator's `weights`.
            best_step: that of the best snapshot.
            weights: of the generator there.

        Raises:
            UserError: they are gone, and last.pt does not have them.
        """
        if best_step == step:
            self.save_best(weights)  # a kill may have come between last.pt and best.pt
        elif self.best.exists():
            keep_also_as(self.best, self.published)
        elif self.published.exists():
            keep_also_as(self.published, self.best)
        else:
            raise UserError(
                f"{self.best} is missing, and last.pt has the weights of step {step}, not of the best, {best_step}; put"
                f" it back, or delete {self.path} to train again"
            )


def kind_of_generator(weights: Path, recipe: str | None, width: int | None) -> tuple[str, int]:
    """Return (recipe, width) as given, or from the run.json beside `weights`.

    Raises:
        UserError: neither says.
    """
    if not weights.is_file():
        raise UserError(f"{weights} is missing; train first, or name the file by --weights")
    run = weights.with_name("run.json")
    found = read_json(run) if run.is_file() else {}
    options = found.get("options") if isinstance(found, dict) else None
    if isinstance(options, dict):
        recipe, width = recipe or options.get("recipe"), width or options.get("width")
    if not recipe or not width:
        raise UserError(f"{run} does not tell what {weights.name} is; give --recipe and --width")
    return recipe, width


def load_generator(weights: Path, recipe: str | None, width: int | None) -> "torch.nn.Module":
    """Return the trained generator in `weights`, best.pt or a copy of it, on the CPU.

    Raises:
        UserError: the file cannot be read or does not fit, or nothing tells its recipe and width.
    """
    from aras.spade.recipes import recipe_named

    recipe, width = kind_of_generator(weights, recipe, width)
    tensors = load_tensors(weights)
    if "numbers" in tensors:
        raise UserError(f"{weights} is the state of a training; give best.pt beside it")
    if recipe not in RECIPES:
        raise UserError(f"{weights.with_name('run.json')} tells of the recipe {recipe}; give --recipe")
    generator = recipe_named(recipe).generator(width)
    fit_tensors(generator, tensors, weights, f"the generator of {recipe} of width {width}")
    return generator.eval()
