"""Stage 5b: measure captions: how they repeat each other, whether they are true, and what they give away.

Exact redundancy is the paper's (arXiv 2603.09625: 1 - different captions / captions). The rest it does not have: which
classes a caption asserts, denies, calls dominant, and states percentages and positions of is read by a lexicon
(aras/caption_metrics/lexicon.toml) and held against the mask. How well the words predict the composition tells what
leaks from percentages into captions.
"""

import hashlib
from pathlib import Path
from typing import Any

import click
import numpy as np

from aras.caption_metrics.grounding import grounding
from aras.caption_metrics.leakage import leakage
from aras.caption_metrics.measuring import Sampled, StreamTally, measured_batches, tally_stream
from aras.caption_metrics.reading import LEXICON
from aras.caption_metrics.redundancy import distinct
from aras.caption_metrics.report import table
from aras.caption_metrics.streams import Notes, Source, find_sources, stream_rows
from aras.caption_metrics.truth import Truth
from aras.caption_metrics.worst import draw_worst, write_worst
from aras.command import Command, Number, data_option, device_option, limit_option, seed_option, workers_option
from aras.errors import UserError
from aras.files import remove_parts, sole_writer, write_json
from aras.legend import CLASS_NAMES
from aras.runs import commit_of_code, plain, versions

PACKAGES = ("numpy", "scipy", "scikit-learn", "transformers", "torch")
RESULTS = "caption_metrics.json"
DISTINCT_SAMPLE = 1000  # captions
CLIP_SAMPLE = 2000
CLIP_DEFAULT = "openai/clip-vit-base-patch32"
NO_CLIP = "none"


def read_stream(
    stream: str, sources: list[Source], truth: Truth, blocks: dict[str, str], options: dict[str, Any], notes: Notes
) -> StreamTally:
    """Return the tally of a stream, read with a bar."""
    from tqdm import tqdm

    tally = StreamTally(options["seed"], options["sample"], options["worst"], blocks)
    rows = stream_rows(sources, notes, options["limit"])
    measured = measured_batches(rows, truth, options["present"], options["workers"])
    with tqdm(unit="caption", desc=stream, disable=None, smoothing=0.05) as bar:
        for count in tally_stream(tally, measured, stream, notes):
            bar.update(count)
    return tally


def summary_of(tally: StreamTally, options: dict[str, Any]) -> dict[str, Any]:
    """Return all measures of a stream but CLIPScore, ready for JSON."""
    sample = tally.sample
    judged = [kept for kept in sample if not np.isnan(kept.shares[0])]
    leak = None
    if judged:
        leak = leakage(
            [kept.row.caption for kept in judged],
            np.stack([kept.shares for kept in judged]).astype(float),
            np.array([kept.block for kept in judged]),
            options["seed"],
        )
    return {
        "texts": tally.texts.summary(options["near"]),
        "grounding": grounding(tally.block_sums, options["seed"]),
        "leakage": leak,
        "clip": None,
    }


def add_distinct(summaries: dict[str, Any], samples: dict[str, list[Sampled]]) -> None:
    """Add distinct-n of equally many captions of each stream to `summaries`, since it falls with their number."""
    count = min(DISTINCT_SAMPLE, *(len(sample) for sample in samples.values()))
    for stream, sample in samples.items():
        captions = [kept.row.caption for kept in sample[:count]]
        found = {f"distinct_{n}": distinct(captions, n) for n in (1, 2)}
        summaries[stream]["sample"] = {"captions": count} | found


def add_clip(
    summaries: dict[str, Any], samples: dict[str, list[Sampled]], truth: Truth, options: dict[str, Any], notes: Notes
) -> str:
    """Add CLIPScore to `summaries`, the same images for every stream; return why there is none, else nothing."""
    from aras.caption_metrics.clip import clip_scores, find_clip
    from aras.training import share_cores

    share_cores()
    clip, reason = find_clip(options["clip"], options["device"])
    if clip is None:
        return reason
    for stream, sample in samples.items():
        summaries[stream]["clip"] = clip_scores(clip, sample[:CLIP_SAMPLE], truth, options["seed"], notes)
    return (
        "" if any(summary["clip"] for summary in summaries.values()) else "no CLIPScore: no image of a caption is there"
    )


def redundancy_of_all(digests: list[np.ndarray]) -> dict[str, Any]:
    """Return the exact redundancy of all streams together, from the digests of their captions."""
    together = np.concatenate(digests)
    return {"captions": len(together), "redundancy": 1 - len(np.unique(together)) / len(together)}


def run(streams: dict[str, list[Source]], truth: Truth, options: dict[str, Any], notes: Notes) -> None:
    """Measure `streams` and write everything.

    Raises:
        UserError: there is no caption to measure.
    """
    from aras.blocks import listed_blocks

    output: Path = options["output"]
    blocks = listed_blocks(truth.data / "patches.csv")
    summaries: dict[str, Any] = {}
    samples: dict[str, list[Sampled]] = {}
    worst: dict[str, list[Sampled]] = {}
    digests: list[np.ndarray] = []
    for stream, sources in streams.items():
        tally = read_stream(stream, sources, truth, blocks, options, notes)
        if not tally.texts.exact:
            notes.add(sources[0].path, f"captions of the stream {stream} to measure", count=0)
            continue
        summaries[stream] = summary_of(tally, options)
        samples[stream], worst[stream] = tally.sample[:CLIP_SAMPLE], tally.worst
        digests.append(np.concatenate(tally.texts.exact))
    if not summaries:
        raise UserError(f"no caption to measure: {'; '.join(notes.lines()) or 'the tables have no rows'}")
    add_distinct(summaries, samples)
    no_clip = "" if options["clip"] == NO_CLIP else add_clip(summaries, samples, truth, options, notes)
    together = redundancy_of_all(digests)
    lines = notes.lines() + ([no_clip] if no_clip else [])
    click.echo(table(summaries, options["present"]))
    click.echo(f"all streams: {together['captions']:,} captions, exact redundancy {100 * together['redundancy']:.2f} %")
    click.echo(
        "± is half of the 95 % interval over blocks of neighbouring images. The paper's: 12.85 % over all streams."
    )
    for line in lines:
        click.echo(line)
    write_worst(output / "worst_captions.csv", worst, truth, options["present"])
    draw_worst(output / "worst_captions.png", worst, truth, options["present"])
    results = {"streams": summaries, "all": together, "notes": lines}
    write_json(output / RESULTS, results | told_run(streams, options))
    drawn = " and worst_captions.png" if (output / "worst_captions.png").exists() else ""
    click.echo(f"Wrote {output / RESULTS}, worst_captions.csv{drawn}")


def told_run(streams: dict[str, list[Source]], options: dict[str, Any]) -> dict[str, Any]:
    """Return what the measures were made from and by."""
    return {
        "options": {name: plain(value) for name, value in options.items()},
        "sources": {name: sorted({str(source.path) for source in sources}) for name, sources in streams.items()},
        "classes": list(CLASS_NAMES),
        "lexicon_sha256": hashlib.sha256(LEXICON.read_bytes()).hexdigest(),
        "commit": commit_of_code(),
        "versions": versions(PACKAGES),
    }


FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(cls=Command)
@click.argument("captions", nargs=-1, type=FILE)
@data_option
@click.option("--percentages", type=FILE, help="Class percentages of a set of your own: filename,Tree,Shrub,...")
@click.option("--masks", type=FOLDER, help="Masks of a set of your own.")
@click.option("--images", type=FOLDER, help="Images of a set of your own, for CLIPScore and the worst captions.")
@click.option(
    "--output",
    type=FOLDER,
    default=Path("captions/metrics"),
    show_default=True,
    help="Folder for all that is written.",
)
@click.option(
    "--present",
    type=Number(0, 100, min_open=True),
    default=1.0,
    show_default=True,
    help="Percent from which on a class is present: 1 is a square of 26 pixels in 256, which one can see.",
)
@click.option(
    "--near",
    type=Number(0.6, 1),  # below, MinHash would miss more than one pair in ten
    default=0.7,
    show_default=True,
    help="Similarity from which on captions are near-duplicates: 3 other words in 40 leave 0.75.",
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=20_000,
    show_default=True,
    help="Captions of each stream from which leakage is measured.",
)
@click.option(
    "--worst", type=click.IntRange(0), default=20, show_default=True, help="Worst captions to list, a stream."
)
@click.option(
    "--clip",
    default=CLIP_DEFAULT,
    show_default=True,
    metavar="MODEL",
    help=f"CLIP model for CLIPScore: a folder, or a hub's name; {NO_CLIP!r} for none.",
)
@workers_option()
@limit_option
@seed_option
@device_option
def main(**options: Any) -> None:
    r"""Measure captions against masks and percentages.

    \b
    Reads   the CSVs named, else captions/*.csv: {split}_{stream}.csv with filename,caption; published names
            and tables with a column for each stream are read too
            ARAS400k/class_percentages/{split}.csv, ARAS400k/{split}/masks, ARAS400k/patches.csv
    Writes  captions/metrics/caption_metrics.json
            captions/metrics/worst_captions.csv, worst_captions.png

    \b
    Example  python caption_metrics.py
             python caption_metrics.py captions/test_*.csv --clip none
             python caption_metrics.py mine.csv --percentages mine_percentages.csv --output mine_metrics

    A stated position is right when its class covers a larger share of that half, quarter or middle than of the image.
    A class below --present may be left out, and costs precision when it is named; "not there" is one without a pixel.

    To resume, run the same command again. It begins anew, and what it writes is whole or not at all.
    """
    notes = Notes()
    paths = options["captions"] or tuple(sorted(Path("captions").glob("*.csv")))
    streams = find_sources(paths, notes)
    truth = Truth(options["data"], options["percentages"], options["masks"], options["images"])
    own = all(set(CLASS_NAMES) <= source.columns.keys() for sources in streams.values() for source in sources)
    truth.check(own)
    output: Path = options["output"]
    with sole_writer(output):
        remove_parts(output)
        run(streams, truth, options, notes)


if __name__ == "__main__":
    main()
