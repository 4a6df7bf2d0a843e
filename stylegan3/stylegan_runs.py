"""Run folders: which one a command goes on with, and what is in it."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylegan_errors import StyleganError
from stylegan_files import PART, keep_lines, read_json, write_json
from stylegan_options import Options, Settings, dataset_changes, differences, told_options, told_settings

FORMAT = 1


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, `<number>-<description>` under --outdir."""

    path: Path

    @property
    def options(self) -> Path:
        """What the run was told, and what follows from it."""
        return self.path / "training_options.json"

    @property
    def state(self) -> Path:
        """All that the run goes on from."""
        return self.path / "training-state.pt"

    @property
    def progress(self) -> Path:
        """How far the state is, and whether everything that was asked for is there."""
        return self.path / "training-state.json"

    @property
    def checked(self) -> Path:
        """Which dataset was found good."""
        return self.path / ".checked.json"

    @property
    def stats(self) -> Path:
        """A line for each tick."""
        return self.path / "stats.jsonl"

    @property
    def log(self) -> Path:
        """What the run said."""
        return self.path / "log.txt"

    def snapshot(self, images: int) -> Path:
        """Return where the networks after `images` go."""
        return self.path / f"network-snapshot-{images // 1000:06}.safetensors"

    def fakes(self, images: int) -> Path:
        """Return where the grid of generated images after `images` goes."""
        return self.path / f"fakes{images // 1000:06}.png"

    def metric(self, name: str) -> Path:
        """Return where a line for each snapshot goes."""
        return self.path / f"metric-{name}.jsonl"

    def told(self) -> dict[str, Any] | None:
        """Return what training_options.json says, or None where it is absent."""
        return read_json(self.options) if self.options.exists() else None

    def is_ours(self) -> bool:
        """Return whether this is a folder of such runs: told as one, or still empty."""
        told = self.told()
        if told is None:
            return all(path.name.startswith(".") or path.suffix == PART for path in self.path.iterdir())
        return isinstance(told, dict) and told.get("format") == FORMAT

    def is_finished(self, kimg: int) -> bool:
        """Return whether `kimg` and all that belongs to them are done."""
        if not self.progress.exists():
            return False
        progress = read_json(self.progress)
        return bool(progress["finished"]) and progress["images"] >= kimg * 1000

    def keep_until(self, tick: int, images: int) -> None:
        """Drop the lines of what is about to be done again: ticks from `tick` on, and metrics after `images`."""
        keep_lines(self.stats, lambda line: line["Progress/tick"]["mean"] < tick)
        for path in self.path.glob("metric-*.jsonl"):
            keep_lines(path, lambda line: 1000 * kimg_of(str(line.get("snapshot_pkl"))) <= images)


def kimg_of(name: str) -> int:
    """Return the kimg in the name of a snapshot, 0 where there is none."""
    found = re.search(r"network-snapshot-(\d+)", name)
    return int(found.group(1)) if found else 0


def run_folders(outdir: Path) -> dict[int, Path]:
    """Return the folders under `outdir` whose names begin with a number, by that."""
    if not outdir.is_dir():
        return {}
    found = ((re.match(r"\d+", path.name), path) for path in outdir.iterdir() if path.is_dir())
    return {int(number.group()): path for number, path in found if number}


def next_folder(outdir: Path, name: str) -> RunFolder:
    """Return the folder of a new run called `name`; it is not made yet."""
    return RunFolder(outdir / f"{max(run_folders(outdir), default=-1) + 1:05}-{name}")


def choose_folder(outdir: Path, name: str, kimg: int, new_run: bool) -> tuple[RunFolder, bool]:
    """Return the folder of the run called `name`, and whether all of it is done.

    It is the newest one of that name that has not yet done `kimg`; if all have, the newest; a new one if there is none.
    """
    same = [
        RunFolder(path) for _, path in sorted(run_folders(outdir).items()) if re.sub(r"^\d+-", "", path.name) == name
    ]
    ours = [folder for folder in same if folder.is_ours()]
    if new_run or not ours:
        return next_folder(outdir, name), False
    unfinished = [folder for folder in ours if not folder.is_finished(kimg)]
    return (unfinished or ours)[-1], not unfinished


def check_same(folder: RunFolder, options: Options, settings: Settings) -> None:
    """Return if a run in `folder` can go on with `options` on the dataset of `settings`.

    Raises:
        StyleganError: it was told otherwise; the message names each option.
    """
    told = folder.told()
    if told is None:
        return
    changed = differences(told["options"], told_options(options))
    changed = changed or dataset_changes(told["dataset"], settings.dataset)
    if changed:
        raise StyleganError(
            f"{folder.path} is of a run with other options: {'; '.join(changed)}. Repeat those to go on with it, or"
            " start another by --new-run"
        )


def begin_folder(folder: RunFolder, options: Options, settings: Settings, versions: dict[str, str]) -> None:
    """Make the folder, and write what the run is told; what an earlier command told remains."""
    folder.path.mkdir(parents=True, exist_ok=True)
    if folder.told() is None:
        told = {"format": FORMAT, "options": told_options(options)} | told_settings(settings)
        write_json(folder.options, told | {"versions": versions, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
