"""What becomes of a raster that is labelled: which files, whether they are finished, and of which options they are."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aras.errors import UserError
from aras.files import read_json
from aras.labelling.outputs import check_same_labeller
from aras.patches import REFLECTANCE_MAX
from aras.rasters import stamp_of
from aras.runs import begin_run, check_same_options

FREE_OPTIONS = frozenset({"weights", "weights_sha256", "raster_stamp"})
"""The content of the weights counts, not their name; a raster that was made again is labelled again."""
PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "numpy", "rasterio")


@dataclass(frozen=True)
class Target:
    """What becomes of one raster."""

    raster: Path
    labels: Path

    @property
    def confidence(self) -> Path:
        """The map of confidence, beside the labels."""
        return self.labels.with_name(f"{self.labels.stem}_confidence{self.labels.suffix}")

    @property
    def names(self) -> Path:
        """GDAL's file beside the labels, which tells the names of the classes, as QGIS shows them."""
        return self.labels.with_name(self.labels.name + ".aux.xml")

    @property
    def record(self) -> Path:
        """The run.json beside the labels."""
        return self.labels.with_name(self.labels.name + ".run.json")

    @property
    def work(self) -> Path:
        """Folder of what is not finished."""
        return self.labels.with_name(self.labels.name + ".work")

    @property
    def is_of_raster(self) -> bool:
        """Whether the record tells of the raster as it is now."""
        return bool(told_option(self.record, "raster_stamp") == stamp_of(str(self.raster)))

    def is_finished(self, maps: bool) -> bool:
        """Return whether the labels, and with `maps` the confidence, are those of the raster as it is now."""
        needed = [self.raster, self.record, self.labels] + ([self.confidence] if maps else [])
        return all(path.exists() for path in needed) and self.is_of_raster

    def forget(self) -> None:
        """Delete what was made, the record last, so that a kill leaves nothing that no run.json tells of."""
        for path in (self.labels, self.confidence, self.names, self.record):
            path.unlink(missing_ok=True)


def targets_of(rasters: tuple[Path, ...], output: Path) -> list[Target]:
    """Return what becomes of `rasters`: the file `output` if its name ends on .tif, else files in the folder `output`.

    Raises:
        UserError: several rasters would become one file, a raster would be written over, or a folder is a file.
    """
    if output.suffix.lower() in (".tif", ".tiff"):
        targets = [Target(raster, output) for raster in rasters]
    else:
        targets = [Target(raster, output / f"{raster.stem}_labels.tif") for raster in rasters]
        if output.is_file():
            raise UserError(f"--output {output} is a file that is no .tif; name a folder or a .tif")
    for number, target in enumerate(targets):
        others = [other.raster for other in targets[:number] if other.labels == target.labels]
        if others:
            raise UserError(f"{others[0]} and {target.raster} would both become {target.labels}; label them apart")
        if target.labels.absolute() in {raster.absolute() for raster in rasters}:
            raise UserError(f"{target.labels} is a raster to read; name another --output")
    return targets


def check_target(target: Target, told: dict[str, Any], weights: Iterable[Path]) -> None:
    """Have the files be those of `told` or absent: what was only begun, or made before the raster was, is deleted.

    Args:
        target: the files.
        told: the options now, by name.
        weights: the files of weights now.

    Raises:
        UserError: labels are there that this script did not write, or wrote with other options.
    """
    if target.record.exists() and not target.labels.exists():
        target.forget()
    elif target.record.exists():
        check_same_options(target.record, told, FREE_OPTIONS)
        check_same_labeller(target.record, weights, told["weights_sha256"], (target.labels, target.record))
        if not target.is_of_raster:
            target.forget()
    for path in (target.labels, target.confidence):
        if path.exists() and not target.record.exists():
            raise UserError(f"{path} was not written by this script: there is no {target.record}; move it away")


def begin_target(target: Target, told: dict[str, Any], device: str) -> None:
    """Write the record of a raster that is to be labelled on `device` with the options `told`."""
    begin_run(target.record, told | {"raster_stamp": stamp_of(str(target.raster))}, PACKAGES, device, FREE_OPTIONS)


def reflectance_max_of(weights: tuple[Path, ...]) -> int | None:
    """Return the reflectance x 10000 that is 255 in the images that `weights` were trained on; None if nothing tells.

    Raises:
        UserError: the dataset was not scaled like this, or the weights were trained on different scales, where the
            default of dataset_creator.py stands for one that nothing tells.
    """
    told = [told_reflectance_max(path) for path in weights]
    if not any(told):
        return None
    found = {scale or REFLECTANCE_MAX for scale in told}
    if len(found) > 1:
        raise UserError(f"the weights were trained on scales of {sorted(found)}; give --reflectance-max")
    return found.pop()


def told_reflectance_max(weights: Path) -> int | None:
    """Return the scale that the run.json of the dataset tells of which the run.json beside `weights` tells, or None.

    A relative path of a dataset is looked for from here, and from every folder above the weights: one of them is where
    the training was started.

    Raises:
        UserError: the dataset was scaled otherwise than by reflectance.
    """
    data = told_option(weights.with_name("run.json"), "data")
    if not data:
        return None
    bases = (Path(), *weights.resolve().parents)
    dataset = next((base / data / "run.json" for base in bases if (base / data / "run.json").is_file()), None)
    if not dataset:
        return None
    stretch = told_option(dataset, "stretch")
    if stretch not in (None, "reflectance"):
        raise UserError(f"{dataset} tells of --stretch {stretch}, which has no scale; give --reflectance-max")
    return int(told_option(dataset, "reflectance_max") or REFLECTANCE_MAX)


def told_option(record: Path, name: str) -> Any:
    """Return an option of the run that `record` (a run.json) tells of, None where it does not."""
    told = read_json(record) if record.is_file() else None
    options = told.get("options") if isinstance(told, dict) else None
    return options.get(name) if isinstance(options, dict) else None
