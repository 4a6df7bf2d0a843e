"""What a training begins with: its dataset, its state on disk or drawn, its losses, its grid of latents."""

import os
import platform
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from stylegan_cache import default_cache_bytes
from stylegan_dataset import ImageDataset
from stylegan_distributed import from_first, is_first, world_size
from stylegan_errors import StyleganError
from stylegan_files import remove_parts
from stylegan_grids import GRID_BATCH, choose_reals, generated, grid_size, save_grid
from stylegan_heap import keep_freed_memory
from stylegan_loss import Losses
from stylegan_memory import bytes_per_image, choose_micro_batch, free_memory, micro_batches
from stylegan_official import load_networks
from stylegan_options import Options, Settings
from stylegan_records import Teller
from stylegan_runs import RunFolder, begin_folder
from stylegan_snapshot import copy_matching
from stylegan_state import State, new_state, resume, share_weights

PACKAGES = ("torch", "safetensors", "numpy", "pillow")


def open_dataset(options: Options) -> ImageDataset:
    """Return the dataset that `options` name."""
    cache = None if options.cache_gb is None else int(options.cache_gb * 2**30)
    cache = default_cache_bytes(options.gpus) if cache is None else cache
    return ImageDataset(
        options.data, cond=options.cond, mirror=options.mirror, dihedral=options.dihedral, cache_bytes=cache
    )


def begin(options: Options, settings: Settings, folder: RunFolder, tell: Teller, device: torch.device) -> None:
    """Make the run folder and say what is about to be done."""
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}
    begin_folder(folder, options, settings, versions)
    remove_parts(folder.path)
    slow = "the CPU, which is slow: weeks for what a GPU does in hours"
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else slow
    processes = f"{options.gpus} processes" if options.gpus > 1 else "one process"
    tell(f"Writes {folder.path}; trains in {processes} on {what}")


def make_state(options: Options, settings: Settings, folder: RunFolder, device: torch.device, tell: Teller) -> State:
    """Return where the run stands: at its state on disk, at the networks of --resume, or at drawn ones."""
    set_precision(options)
    use_the_processor(options, device)
    state = new_state(settings, device, torch.bfloat16 if options.bf16 else torch.float16)
    goes_on = from_first(folder.state.exists)
    if goes_on:
        resume(state, folder.state)
        tell(f"Goes on with the run after {state.images / 1000:.1f} kimg, tick {state.tick}")
    elif options.resume is not None:
        transfer(state, options.resume, tell)
    share_weights(state)
    local = settings.batch // world_size()
    group = settings.D_config["mbstd_group"]
    if options.batch_gpu:
        state.micro_batch = options.batch_gpu
    elif not goes_on or state.micro_batch not in micro_batches(local, group):
        state.micro_batch = from_first(lambda: estimate_micro_batch(options, settings, state, device))
        if state.micro_batch < local:
            tell(
                f"{state.micro_batch} images at a time are expected to fit; gradients add up to batches of"
                f" {settings.batch}"
            )
    return state


def use_the_processor(options: Options, device: torch.device) -> None:
    """Share out the cores among the processes that compute on them, and keep memory for the next tensors."""
    if device.type == "cuda":
        return
    keep_freed_memory()
    if options.gpus > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("LOCAL_WORLD_SIZE", options.gpus))))


def set_precision(options: Options) -> None:
    """Have GPUs compute in the precision, and look for the quickest kernels, as the options say."""
    torch.backends.cudnn.benchmark = not options.nobench
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    torch.backends.cudnn.allow_tf32 = options.tf32


def estimate_micro_batch(options: Options, settings: Settings, state: State, device: torch.device) -> int:
    """Return how many images at a time are expected to fit the device."""
    per_image = bytes_per_image(settings.G_config, settings.D_config, half=device.type == "cuda" and not options.fp32)
    weights = sum(p.numel() for module in (state.G, state.D) for p in module.parameters())
    local, group = settings.batch // world_size(), settings.D_config["mbstd_group"]
    return choose_micro_batch(local, group, per_image, free_memory(device, options.gpus), weights)


def transfer(state: State, path: Path, tell: Teller) -> None:
    """Copy into the networks what those in the snapshot at `path`, ours or an official pickle, have by name and shape.

    Raises:
        StyleganError: there is nothing such.
    """
    names = ("G", "D", "G_ema")
    snapshot = load_networks(path, names)
    told = []
    for name in names:
        module, source = getattr(state, name), getattr(snapshot, name)
        count, wanted = copy_matching(module, source.state_dict()), len(module.state_dict())
        if not count:
            raise StyleganError(f"--resume {path}: its {name} has nothing in common with the one to train; check --cfg")
        told.append(f"{count} of {wanted} tensors of {name}")
    tell(f"Starts from {path}: {', '.join(told)}")


def make_losses(options: Options, settings: Settings, state: State) -> Losses:
    """Return the losses of the run; only the main phases can be compiled, as double backward cannot."""
    synthesis, judge = state.G.synthesis, state.D
    if options.compile:
        synthesis, judge = (torch.compile(module, dynamic=False) for module in (synthesis, judge))
    return Losses(
        state.G,
        synthesis,
        state.D,
        judge,
        state.augment,
        state.statistics.report,
        signs=state.signs,
        lengths=torch.zeros_like(state.signs),
        r1_gamma=settings.loss["r1_gamma"],
        pl_weight=settings.loss["pl_weight"],
    )


def make_grid(
    options: Options, folder: RunFolder, dataset: ImageDataset, state: State, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None, int]:
    """Return the latents, labels and columns of the run's grids; write reals.png and fakes_init.png where missing."""
    columns, rows = grid_size(dataset.resolution, device.type == "cpu")
    z = torch.randn(columns * rows, state.G.z_dim, generator=torch.Generator().manual_seed(options.seed)).to(device)
    reals = choose_reals(dataset.labels, len(dataset), columns, rows)
    c = None
    if dataset.label_dim:
        c = torch.stack([torch.from_numpy(dataset[index][1]) for index in reals]).to(device)
    if is_first():
        if not (folder.path / "reals.png").exists():
            save_grid(folder.path / "reals.png", np.stack([dataset[index][0] for index in reals]), columns)
        if not state.iteration:
            save_grid(folder.path / "fakes_init.png", generated(state.G_ema, z, c, GRID_BATCH), columns)
    return z, c, columns
