"""Stage 5: captions from the image alone, by a vision-language model or a server.

The model sees the image and is told nothing about it (arXiv 2603.09625, the vision streams: Gemma 3 4B, 10 images at a
time, at most 100 new tokens). Such captions are varied, and may tell of what is not there: caption_metrics.py measures
how often.
"""

from functools import partial
from typing import Any

import click

from aras.captions.backends import describe, load
from aras.captions.command import Kind, captioner_options, model_options, run_captioner
from aras.command import Command

KIND = Kind("vision", image=True, percentages=False)


@click.command(cls=Command)
@captioner_options(KIND)
@model_options("google/gemma-3-4b-it", batch_size=10, temperature=0.0, top_p=1.0)
def main(**options: Any) -> None:
    r"""Caption images from what is seen in them.

    \b
    Reads   ARAS400k/{train,val,test,synth}/images, those that are there; with --layout also the masks
    Writes  captions/{split}_vision.csv: filename,caption
            captions/{split}_vision.csv.run.json: model, prompt and decoding, to go on with the same
            captions/{split}_vision.csv.failures.csv when items failed; the exit code is then 1

    \b
    Example  python vision_captioner.py
             python vision_captioner.py --split test --model Qwen/Qwen3-VL-8B-Instruct --output captions/test_qwen.csv
             python vision_captioner.py --images my/images --output mine.csv
             python vision_captioner.py --endpoint http://localhost:8000/v1 --concurrency 64

    A part of a job array (--shard 3/8) writes captions/{split}_vision_shard_3_of_8.csv; the same command without
    --shard joins all parts and captions what they left.

    To resume, run the same command again.
    """
    run_captioner(KIND, options, partial(describe, KIND), partial(load, KIND, tell=partial(click.echo, err=True)))


if __name__ == "__main__":
    main()
