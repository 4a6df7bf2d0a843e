"""What is done at each snapshot of a conditional GAN: it is measured, told, drawn from and kept."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aras.distributed import is_first, world_size
from aras.feature_spaces import encoder_space, open_space
from aras.files import read_json, remove_parts, write_json
from aras.pairs import Pairs, find_pairs
from aras.runs import begin_run
from aras.spade.data import FREE_OPTIONS, Options, TrainingSet
from aras.spade.drawing import images_of
from aras.spade.judge import judges_apart, load_judge
from aras.spade.latents import draw_latents, latent_size, seed_of_sample
from aras.spade.quality import Quality
from aras.spade.state import State, save
from aras.tracking import Log
from aras.training import append_line, keep_epochs, read_lines, told_device

if TYPE_CHECKING:
    import torch

Tell = Callable[[str], None]

PACKAGES = ("torch", "numpy", "pillow", "opencv-python-headless", "segmentation-models-pytorch", "timm")
QUALITY_BATCH = 16  # images; more do not fit a CPU's caches, and a GPU is busy with as many


@dataclass(frozen=True)
class Snapshots:
    """What the snapshots of a training share.

    Attributes:
        options: of the command line.
        found: the pairs that are trained on.
        shown: the pairs whose masks the pictures are drawn from.
        quality: measures held-out masks; None where there is nothing to measure by.
        device: where to compute.
        tell: says a line to the user.
        log: takes the values of a snapshot too.
    """

    options: Options
    found: TrainingSet
    shown: Pairs
    quality: Quality | None
    device: "torch.device"
    tell: Tell
    log: Log

    def take(self, state: State) -> None:
        """Measure `state`, tell of it, and keep it: a picture in samples/, metrics.jsonl, last.pt, best.pt.

        Written in this order a kill does no harm: on resume, pictures and metrics beyond last.pt are dropped, and a
        best.pt behind last.pt is written again from it.
        """
        folder, began = self.options.folder, time.perf_counter()
        state.judged.eval()
        draw = partial(draw_samples, state.judged, self.options.seed, self.device)
        measured = self.quality.measure(draw) if self.quality else {}
        line = self.line_of(state) | measured
        is_best = state.judge(measured.get("frechet"))
        line |= {"best": is_best, "snapshot_seconds": round(time.perf_counter() - began, 3)}
        if is_first():
            picture = self.picture(state, draw)
            append_line(folder.metrics, line)
            save(state, folder.last, folder.kind)
            if is_best:
                folder.save_best(state.judged.state_dict())
            self.log(line | {"samples": picture})
        self.tell(told_snapshot(line, state))

    def line_of(self, state: State) -> dict[str, Any]:
        """Return what metrics.jsonl has of `state` besides its quality."""
        images = (state.step - state.snapshot_step) * self.options.batch_size
        seconds = state.seconds - state.snapshot_seconds
        return {
            "step": state.step,
            "kimg": state.step * self.options.batch_size / 1000,
            "epoch": round(self.found.epoch(state.step), 4),
            **state.mean_losses,
            "augment_strength": state.strength,
            "seconds": round(state.seconds, 3),
            "images_per_second": round(images / seconds, 2) if seconds else None,
        }

    def picture(self, state: State, draw: Any) -> Path:
        """Write the picture of this snapshot, and return its file."""
        from aras.spade.grids import draw_grid

        path = self.options.folder.samples / f"{state.step * self.options.batch_size / 1000:09.3f}.png"
        draw_grid(path, self.shown, self.found.size, draw)
        return path

    def write_result(self, state: State) -> None:
        """Write what the training came to (result.json) and the figure of its course, and log the figure."""
        from aras.spade.grids import draw_curves

        options, lines = self.options, read_lines(self.options.folder.metrics)
        draw_curves(options.folder.curves, lines, self.quality.reference.marks if self.quality else None)
        over = state.step >= self.found.steps(options.epochs)
        best = next((line for line in lines if line["step"] == state.best_step), None)  # a user may have deleted them
        result = {
            **{"steps": state.step, "images": state.step * options.batch_size, "seconds": round(state.seconds, 3)},
            **{"epochs": int(self.found.epoch(state.step)), "minutes": None if over else options.minutes},
            **{"best_step": state.best_step, "best": best},
        }
        write_json(options.folder.result, result)
        self.log({"epoch": self.found.epoch(state.step), "curves": options.folder.curves})


def draw_samples(
    generator: "torch.nn.Module",
    seed: int,
    device: "torch.device",
    labels: "torch.Tensor",
    items: list[tuple[str, int]],
) -> "torch.Tensor":
    """Return images (B, 3, H, W) uint8 of `labels` (B, H, W) uint8; `items` are each one's mask and sample."""
    seeds = (seed_of_sample(seed, name, sample) for name, sample in items)
    latents = draw_latents(seeds, latent_size(generator, (labels.shape[1], labels.shape[2])))
    return images_of(generator, labels, latents, device)


def told_snapshot(line: dict[str, Any], state: State) -> str:
    """Return a snapshot's metrics as one line."""
    kimg = line["kimg"]
    told = f"{kimg:,.{1 if kimg >= 10 else 3}f} kimg  epoch {line['epoch']:.1f}  step {line['step']:,}"
    told += f"  loss D {line.get('discriminator_loss', float('nan')):.3f}"
    told += f" G {line.get('generator_loss', float('nan')):.3f}"
    if line["augment_strength"] >= 0.0005:
        told += f"  augment {line['augment_strength']:.3f}"
    if "frechet" in line:
        told += f"  Fréchet {line['frechet']:.4g}"
    if "agreement_miou" in line:
        told += f"  agreement {line['agreement_miou']:.3f}"
    if line.get("diversity_levels") is not None:
        told += f"  diversity {line['diversity_levels']:.1f}"
    if line["images_per_second"] is not None:
        told += f"  {line['images_per_second']:.1f} images/s"
    return told + ("  best" if line["best"] else f"  best at step {state.best_step:,}")


def open_quality(options: Options, found: TrainingSet, device: "torch.device", tell: Tell) -> Quality | None:
    """Return what measures the held-out masks, None where there are none or there is no space to measure in.

    Raises:
        UserError: the judge or the features that were asked for are not to be had, or the judge has seen the masks.
    """
    if not (options.data / options.quality_split / "images").is_dir():
        tell(
            f"There is no {options.data / options.quality_split}: goes without quality, the newest weights are the best"
        )
        return None
    if options.judge is None and options.features == "encoder":
        tell(
            "There is no trained segmenter (--judge): goes without quality, the newest weights are the best; train one"
            " first by segmentation_train.py, or name other --features"
        )
        return None
    held_out = find_pairs(options.data, options.quality_split, options.limit)
    judge = load_judge(options.judge, device) if options.judge else None
    if options.judge and judge:
        warning = judges_apart(options.judge, held_out)
        if warning:
            tell(f"WARNING: {warning}")
    if judge and options.features == "encoder":
        space = encoder_space(judge.model, judge.digest, device)
    else:
        space = open_space(options.features, options.features_weights, device)
    return Quality(
        *(held_out, found.pairs, space, judge, options.outdir, options.quality_samples),
        seed=options.seed,
        batch_size=QUALITY_BATCH,
    )


def begin_folder(options: Options, state: State, device: "torch.device", tell: Tell) -> dict[str, Any]:
    """Return what run.json tells, and make the run folder fit `state`."""
    folder = options.folder
    begin_run(folder.record, asdict(options), PACKAGES, told_device(device), FREE_OPTIONS)
    remove_parts(options.outdir)
    folder.result.unlink(missing_ok=True)
    # By the snapshot and not the step: a kill may have come when a snapshot was told of and last.pt, of the same step,
    # not yet written, and then it is taken again.
    keep_epochs(folder.metrics, state.snapshot_step, "step")
    clear_pictures(folder.samples, state.snapshot_step * options.batch_size / 1000)
    if state.best_step:
        folder.mend_best(state.step, state.best_step, state.judged.state_dict())
    tell(f"Writes {options.outdir}/{{last.pt,best.pt,{folder.published.name},metrics.jsonl,samples/,run.json}}")
    processes = f" in {world_size()} processes" if world_size() > 1 else ""
    tell(f"{folder.told_kind} on {told_device(device)}{processes}, {state.step} steps done before")
    return read_json(folder.record)


def shown_pairs(options: Options, found: TrainingSet, quality: Quality | None) -> Pairs:
    """Return the pairs whose masks the pictures are drawn from: held-out ones where there are some."""
    return quality.held_out if quality else found.pairs


def clear_pictures(folder: Path, kimg: float) -> None:
    """Delete pictures in `folder` of snapshots after `kimg`, which are taken again, and what a kill left half-drawn."""
    remove_parts(folder)
    for path in folder.glob("*.png"):
        if path.stem.replace(".", "").isdigit() and float(path.stem) > kimg:
            path.unlink()
