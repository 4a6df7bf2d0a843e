"""A video of a trained generator: images whose w moves smoothly from seed to seed, in a grid, without end.

Frames go to the encoder one by one, so that the length of a video takes no memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stylegan_distributed import choose_device
from stylegan_errors import Script, StyleganError
from stylegan_files import whole_file
from stylegan_seeds import Grid, Seeds, class_option, device_option, network_option, truncation_option

if TYPE_CHECKING:
    import numpy as np

FRAMES_PER_SECOND = 60
BIT_RATE = 12_000_000


def seeds_of_cells(
    seeds: list[int], cells: int, keyframes: int | None, shuffle_seed: int | None
) -> "np.ndarray[Any, Any]":
    """Return which seed each cell of the grid shows at each keyframe, (cells, keyframes).

    Without `keyframes`, each seed comes once; with it, they are gone through as often as needed.

    Raises:
        StyleganError: the seeds do not fill the grid evenly.
    """
    import numpy as np

    if keyframes is None:
        if len(seeds) % cells:
            raise StyleganError(
                f"--seeds: {len(seeds)} seeds do not fill a grid of {cells} evenly; give a multiple, or --num-keyframes"
            )
        keyframes = len(seeds) // cells
    found = np.resize(np.array(seeds), cells * keyframes)
    if shuffle_seed is not None:
        np.random.RandomState(shuffle_seed).shuffle(found)
    return found.reshape(cells, keyframes)


def frames(options: dict[str, Any], G: Any, device: Any) -> Iterator["np.ndarray[Any, Any]"]:
    """Yield the frames (H, W, 3) uint8.

    Each cell's w runs through its keyframes along a cubic spline that closes, so that the video loops without a seam.
    """
    import numpy as np
    import torch
    from scipy.interpolate import CubicSpline

    from stylegan_generate import bytes_of, label_of, latents_of
    from stylegan_grids import sheet_of

    width, height = options["grid"]
    chosen = seeds_of_cells(options["seeds"], width * height, options["num_keyframes"], options["shuffle_seed"])
    z = latents_of(chosen.flatten().tolist(), G.z_dim).to(device)
    label = label_of(G, options["class"])
    c = None if label is None else label.to(device).expand(len(z), -1)
    ws = G.mapping(z, c, truncation=options["trunc"])
    keys = ws.unflatten(0, chosen.shape).transpose(0, 1).double().cpu().numpy()  # (keyframes, cells, num_ws, w_dim)
    spline = CubicSpline(np.arange(len(keys) + 1), np.concatenate([keys, keys[:1]]), bc_type="periodic")
    for number in range(len(keys) * options["w_frames"]):
        w = torch.from_numpy(spline(number / options["w_frames"])).float().to(device)
        images = torch.cat([G.synthesis(part, noise_mode="const") for part in w.split(options["batch"])])
        sheet = sheet_of(bytes_of(images).permute(0, 3, 1, 2).cpu().numpy(), width)
        yield np.repeat(sheet, 3, axis=2) if sheet.shape[2] == 1 else sheet


def write_video(path: Path, pictures: Iterator["np.ndarray[Any, Any]"], count: int) -> None:
    """Write `count` pictures (H, W, 3) uint8 as H.264 at 60 frames a second to `path`, wholly or not at all.

    Raises:
        StyleganError: the library that encodes is missing, or cannot.
    """
    try:
        import av
    except ImportError as error:
        raise StyleganError(f"gen_video.py encodes by the library PyAV ({error}); pip install av") from None
    from tqdm import tqdm

    with whole_file(path) as part, av.open(part, "w", format="mp4") as container:
        stream: Any = None
        for picture in tqdm(pictures, total=count, unit=" frames"):
            if stream is None:
                try:
                    stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
                except (ValueError, av.FFmpegError):
                    raise StyleganError("this PyAV has no H.264 (libx264); install it by pip install av") from None
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt, stream.bit_rate = "yuv420p", BIT_RATE
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@click.command(cls=Script)
@network_option
@click.option("--seeds", type=Seeds(), required=True, help="Seeds of the keyframes, such as 0-31.")
@click.option("--shuffle-seed", type=click.IntRange(0), metavar="N", help="Shuffle the seeds by this one first.")
@click.option("--grid", type=Grid(), default="1x1", show_default=True, help="Columns x rows of images, such as 4x2.")
@click.option(
    "--num-keyframes",
    type=click.IntRange(1),
    metavar="N",
    show_default="as many as the seeds give",
    help="Keyframes of each image of the grid.",
)
@click.option(
    "--w-frames",
    type=click.IntRange(1),
    default=120,
    show_default=True,
    metavar="N",
    help="Frames from keyframe to keyframe.",
)
@truncation_option
@class_option
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, metavar="N", help="Images at a time.")
@device_option
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE.mp4", help="The video."
)
def main(**options: Any) -> None:
    r"""Make a video that moves smoothly from seed to seed.

    \b
    Reads   a network snapshot of train.py, or an official pickle, of which nothing is run
    Writes  an MP4 (H.264, 60 frames a second), whole or not at all

    \b
    Example  python stylegan3/gen_video.py --network network-snapshot-005000.safetensors --seeds 0-31 --grid 4x2 \
                 --output video.mp4

    To resume, run the same command again. It begins anew.
    """
    import torch

    from stylegan_generate import exact_float32
    from stylegan_official import load_networks

    if options["output"].suffix != ".mp4":
        raise click.UsageError("--output must end in .mp4.")
    device = choose_device(options["device"])
    loaded: Any = load_networks(options["network"]).G_ema
    width, height = options["grid"]
    keyframes = options["num_keyframes"] or len(options["seeds"]) // (width * height)
    G = loaded.to(device)
    with torch.inference_mode(), exact_float32():
        write_video(options["output"], frames(options, G, device), keyframes * options["w_frames"])
    click.echo(f"Wrote {options['output']}")


if __name__ == "__main__":
    main()
