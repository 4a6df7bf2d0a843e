"""The training of a run folder, from wherever it stands: iterations, and what is written at the end of each tick.

What a tick writes is in this order: its line of stats.jsonl, grids and networks where it is their turn, their metrics,
the training state. Whatever a kill leaves beyond the state is dropped or written again when the run goes on.
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stylegan_dataset import EndlessBatches, loader
from stylegan_distributed import choose_device, from_first, in_any, is_first, rank, world_size
from stylegan_errors import StyleganError
from stylegan_files import sole_writer, write_json
from stylegan_grids import GRID_BATCH, generated, save_grid
from stylegan_options import Options, Settings
from stylegan_phases import Batch, Iteration, iterate
from stylegan_records import Records, Teller
from stylegan_runs import RunFolder
from stylegan_setup import begin, make_grid, make_losses, make_state, open_dataset
from stylegan_snapshot import save_snapshot
from stylegan_state import State, save
from stylegan_stats import PhaseTimes, resources, status_line, summed_up, told_time


@dataclass
class Run:
    """A training under way.

    Attributes:
        options: as told.
        settings: what follows from them.
        folder: where it goes.
        state: all that changes.
        work: what iterations are done with.
        grid: latents and labels of the grid of generated images, and its columns.
        records: where ticks are written down.
        tell: says a line to the user.
        device: where it computes.
        unavailable: metrics whose weights are missing, which was told.
    """

    options: Options
    settings: Settings
    folder: RunFolder
    state: State
    work: Iteration
    grid: tuple[torch.Tensor, torch.Tensor | None, int]
    records: Records
    tell: Teller
    device: torch.device
    unavailable: set[str]


def train_rank(options: Options, settings: Settings, folder: RunFolder) -> None:
    """Train in `folder` until `options.kimg`; what each process of a training does."""
    device = choose_device(options.device, options.gpus)
    dataset = open_dataset(options)
    record = folder.checked
    from_first(lambda: dataset.check(max(options.workers, 1), progress=True, record=record))
    with sole_writer(folder.path) if is_first() else nullcontext():
        tell = Teller(folder.log)
        from_first(lambda: begin(options, settings, folder, tell, device))
        state = make_state(options, settings, folder, device, tell)
        from_first(lambda: folder.keep_until(state.tick, state.images or -1))
        records = Records(folder, state.images, options.wandb, tell)
        losses = make_losses(options, settings, state)
        labels = dataset.random_labels if dataset.label_dim else None
        work = Iteration(settings, losses, labels, PhaseTimes(device), tell)
        grid = make_grid(options, folder, dataset, state, device)
        run = Run(options, settings, folder, state, work, grid, records, tell, device, set())
        start = EndlessBatches(dataset, options.batch, rank(), world_size(), options.seed, state.images)
        train(run, on_device(loader(dataset, start, options.workers), device))
        records.close()


def on_device(batches: Iterator[tuple[torch.Tensor, torch.Tensor]], device: torch.device) -> Iterator[Batch]:
    """Yield `batches` on `device`; a GPU gets the next one while it computes on this one."""

    def moved(batch: tuple[torch.Tensor, torch.Tensor]) -> Batch:
        pixels, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        return Batch(pixels, labels if labels.shape[1] else None)

    if device.type != "cuda":
        yield from map(moved, batches)
        return
    stream = torch.cuda.Stream(device)

    def sent() -> Batch:
        with torch.cuda.stream(stream):
            return moved(next(batches))

    ahead = sent()
    while True:
        torch.cuda.current_stream(device).wait_stream(stream)
        batch = ahead
        for tensor in (batch.pixels, batch.c):
            if tensor is not None:
                tensor.record_stream(torch.cuda.current_stream(device))
        ahead = sent()
        yield batch


def train(run: Run, batches: Iterator[Batch]) -> None:
    """Train until the images are seen, writing down each tick, and the state as often as told."""
    from tqdm import tqdm

    state, total = run.state, run.options.kimg * 1000
    began = saved = time.monotonic()
    before = state.seconds
    tick = Tick(began, state.images, 0.0)
    bar = tqdm(
        total=total, initial=min(state.images, total), unit="img", disable=None if is_first() else True, leave=False
    )
    with bar:
        while state.images < total:
            iterate(state, run.work, next(batches))
            bar.update(run.options.batch)
            done = state.images >= total
            if done or state.tick == 0 or state.images >= state.tick_images + run.options.tick * 1000:
                state.seconds = before + time.monotonic() - began
                snapshots = end_tick(run, tick, done)
                due = time.monotonic() - saved >= 60 * run.options.checkpoint_minutes
                if snapshots or in_any(is_first() and due):
                    save_state_of(run)
                    saved = time.monotonic()
                tick = tick.next(state.images)
            elif in_any(is_first() and time.monotonic() - saved >= 60 * run.options.checkpoint_minutes):
                state.seconds = before + time.monotonic() - began
                save_state_of(run)
                saved = time.monotonic()
    if is_first():
        write_json(run.folder.progress, {"images": state.images, "finished": True})
    run.tell(f"Finished {state.images / 1000:.1f} kimg, see {run.folder.path}")


@dataclass
class Tick:
    """The times of a tick.

    Attributes:
        began: when its iterations began.
        images: how many had been seen then.
        maintenance: seconds from the end of the iterations before it to its own beginning.
        ended: when its iterations ended.
    """

    began: float
    images: int
    maintenance: float
    ended: float = 0.0

    def next(self, images: int) -> "Tick":
        """Return the tick that begins now."""
        now = time.monotonic()
        return Tick(now, images, now - self.ended)


def save_state_of(run: Run) -> None:
    """Write the training state, and beside it how far it is."""
    save(run.state, run.folder.state)
    if is_first():
        write_json(run.folder.progress, {"images": run.state.images, "finished": False})


def end_tick(run: Run, tick: Tick, done: bool) -> bool:
    """Write down a tick, and the networks if it is their turn, which is returned; then count it."""
    state = run.state
    line = tick_line(run, tick)
    run.records.tick(line, state.images)
    run.tell(status_line(line))
    snapshots = done or state.tick % run.options.snap == 0
    if snapshots:
        write_snapshots(run)
    state.tick += 1
    state.tick_images = state.images
    return snapshots


def tick_line(run: Run, tick: Tick) -> dict[str, Any]:
    """Return what stats.jsonl says of a tick.

    Raises:
        StyleganError: the training has diverged.
    """
    state = run.state
    told: dict[str, Any] = state.statistics.take()
    times = run.work.times.take()
    tick.ended = time.monotonic()
    bad = [name for name, value in told.items() if not math.isfinite(value["mean"])]
    if bad:
        raise StyleganError(
            f"the training has diverged: {', '.join(bad)} not finite in tick {state.tick}, before"
            f" {state.images / 1000:.1f} kimg; {run.folder.state} is as it was before. Start another run with a larger"
            " --gamma, smaller --glr and --dlr, or --fp32=1"
        )
    seconds, images = tick.ended - tick.began, state.images - tick.images
    p = 0.0 if state.augment is None else float(state.augment.p)
    single = {"Progress/tick": state.tick, "Progress/kimg": state.images / 1000, "Progress/augment": p}
    single |= {
        "Timing/total_sec": state.seconds,
        "Timing/sec_per_tick": seconds,
        "Timing/sec_per_kimg": 1000 * seconds / images,
        "Timing/maintenance_sec": tick.maintenance,
        "Timing/total_hours": state.seconds / 3600,
        "Timing/total_days": state.seconds / 86400,
    }
    single |= {f"Resources/{name}": value for name, value in resources(run.device).items()}
    told |= {name: {"num": 1, "mean": float(value), "std": 0.0} for name, value in single.items()}
    return told | {f"Timing/{phase}": summed_up(values) for phase, values in times.items()}


def write_snapshots(run: Run) -> None:
    """Write the grid of generated images and the networks, and what the metrics say of them."""
    state, folder = run.state, run.folder
    z, c, columns = run.grid
    path = folder.snapshot(state.images)
    if is_first():
        save_grid(folder.fakes(state.images), generated(state.G_ema, z, c, GRID_BATCH), columns)
        p = 0.0 if state.augment is None else float(state.augment.p)
        info = {"augment_p": p, "dataset": run.settings.dataset, "kimg": state.images / 1000, "images": state.images}
        save_snapshot(path, state.G, state.D, state.G_ema, info)
    for name in run.options.metrics:
        if name not in run.unavailable:
            measure(run, name, path)


def measure(run: Run, name: str, path: Path) -> None:
    """Write down what the metric `name` says of the averaged generator; that its weights are missing is told once."""
    from stylegan_metrics import MetricUnavailable, compute_metric

    began = time.monotonic()
    try:
        found = compute_metric(
            name,
            run.state.G_ema,
            run.settings.dataset,
            run.device,
            rank(),
            world_size(),
            cache_dir=run.folder.path,
            fd_encoder=run.options.fd_encoder,
            inception=run.options.inception,
        )
    except MetricUnavailable as error:
        run.unavailable.add(name)
        run.tell(f"{name} is left out: {error.message}")
        return
    seconds = time.monotonic() - began
    line = {"results": found, "metric": name, "total_time": seconds, "total_time_str": told_time(seconds)}
    line |= {"num_gpus": world_size(), "snapshot_pkl": path.name, "timestamp": time.time()}
    run.records.metric(name, line, run.state.images)
    run.tell(json.dumps(line))
