"""Make a training set of square images, all of one size and kind, from a folder, a zip or a list of images.

StyleGAN needs images whose side is one power of two. This crops and resizes any images that Pillow reads, and writes
them as uncompressed PNG, which is read fastest, into a folder or a zip; labels come along.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stylegan_errors import Script, StyleganError

if TYPE_CHECKING:
    from stylegan_preparing import Add, Recipe
    from stylegan_sources import Source

PER_FOLDER = 1000  # images
REMEDY = "mend or remove them; --transform=center-crop --resolution=256x256 makes sizes alike"


class Resolution(click.ParamType):
    """Width and height as 256x256."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (width, height); fail if `value` is not of the form."""
        found = re.fullmatch(r"(\d+)[x,](\d+)", str(value))
        if isinstance(value, tuple):
            return value
        if not found or not all(map(int, found.groups())):
            self.fail(f"{value!r} is not a resolution such as 256x256.", param, ctx)
        return int(found[1]), int(found[2])


def name_of(place: int) -> str:
    """Return the file name of the `place`-th image."""
    return f"{place // PER_FOLDER:05d}/img{place:08d}.png"


def recipe_of(transform: str | None, size: tuple[int, int] | None, resize_filter: str) -> "Recipe":
    """Return what becomes of each image.

    Raises:
        click.UsageError: the options do not go together, or no image would come out fit to train on.
    """
    from stylegan_images import size_fault
    from stylegan_preparing import Recipe

    recipe = Recipe(transform, size, resize_filter)
    if transform and not size:
        raise click.UsageError(f"--transform={transform} needs --resolution=WxH")
    if transform == "center-crop-wide" and size and size[0] < size[1]:
        raise click.UsageError("--transform=center-crop-wide needs a --resolution=WxH that is wider than high")
    if recipe.outcome and (fault := size_fault(recipe.outcome)):
        raise click.UsageError(f"--resolution: what comes out {fault}")
    return recipe


def pack(source: "Source", add: "Add", recipe: "Recipe", most: int | None, threads: int) -> tuple[int, int]:
    """Hand the images of `source` to `add` in order, then dataset.json; return how many, and how many were left out.

    Raises:
        StyleganError: some cannot be used; the first of them are named. Then nothing is written.
    """
    from tqdm import tqdm

    from stylegan_images import channels_of, opened, refuse_faults
    from stylegan_labels import labels_by_name
    from stylegan_preparing import Maker, in_order, labels_json
    from stylegan_sources import LABELS

    count = min(len(source), most or len(source))
    labels = labels_by_name(source.labels(), f"{source.path}/{LABELS}")
    names = source.names[:count].tolist()
    if labels and (bare := next((name for name in names if name not in labels), None)):
        raise StyleganError(f"{source.path}/{LABELS} has no label for {bare}; add it, or remove {LABELS}")
    first = opened(source.read(0), source.where(0))
    maker = Maker(recipe, channels_of(first), recipe.outcome or first.size)

    def make(index: int) -> bytes | StyleganError | None:
        where = source.where(index)
        try:
            return maker.png(opened(source.read(index), where), where)
        except StyleganError as error:
            return error

    told: list[tuple[str, object]] = []
    faults: list[str] = []
    made = in_order(make, range(count), threads)
    for name, png in zip(names, tqdm(made, desc="images", total=count, unit="image", leave=False), strict=True):
        if isinstance(png, StyleganError):
            faults.append(png.message)
        elif png is not None and not faults:
            add(name_of(len(told)), png)
            told.append((name_of(len(told)), labels.get(name)))
    refuse_faults(faults, count, REMEDY)
    if not told:
        raise StyleganError("no image is as large as --resolution; lower it, or use --transform=center-crop")
    add(LABELS, labels_json(told if labels else None))
    return len(told), count - len(told)


@click.command(cls=Script)
@click.option(
    "--source", type=click.Path(path_type=Path), required=True, help="Folder, .zip, or .txt with an image path a line."
)
@click.option(
    "--dest",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER|ZIP",
    help="New or empty folder, or new .zip.",
)
@click.option(
    "--max-images",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many images are taken at most, the first by name.",
)
@click.option(
    "--transform", type=click.Choice(["center-crop", "center-crop-wide"]), help="How to crop; without it, none is cut."
)
@click.option(
    "--resolution", type=Resolution(), metavar="WxH", help="What to resize to, such as 256x256; without it, nothing is."
)
@click.option(
    "--resize-filter",
    type=click.Choice(["lanczos", "box"]),
    default="lanczos",
    show_default=True,
    help="How pixels are averaged.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=lambda: min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1),
    show_default="cores, at most 16",
    metavar="N",
    help="Threads.",
)
def main(
    source: Path,
    dest: Path,
    max_images: int | None,
    transform: str | None,
    resolution: tuple[int, int] | None,
    resize_filter: str,
    workers: int,
) -> None:
    r"""Make images alike, as training needs them: square, of one size that is a power of two, RGB or greyscale.

    \b
    Reads   --source: all images below a folder or in a zip, sorted by path, or
            those that a .txt names, and the labels in its dataset.json
    Writes  --dest: 00000/img00000000.png, ... and dataset.json, all at the end:
            until then they are in <dest>.part

    Palettes become RGB, as does greyscale if the first image is in colour. Images with transparent pixels or more than
    8 bits a channel are refused. --transform=center-crop takes the largest square in the middle;
    --transform=center-crop-wide takes the largest W:H rectangle, leaves out images that it would enlarge, and fills up
    with black to W x W.

    \b
    Example:
      python stylegan3/dataset_tool.py --source=photos --dest=photos256.zip \
          --transform=center-crop --resolution=256x256

    A run that was killed leaves only <dest>.part. To resume, run the same command again.
    """
    from stylegan_preparing import new_set
    from stylegan_sources import ListSource, open_source

    recipe = recipe_of(transform, resolution, resize_filter)
    images = ListSource(source) if source.suffix.lower() == ".txt" else open_source(source, "--source")
    with new_set(dest) as add:
        written, left_out = pack(images, add, recipe, max_images, workers)
    told = f"; {left_out} too small for --resolution left out" if left_out else ""
    click.echo(f"{written} images in {dest}{told}")


if __name__ == "__main__":
    main()
