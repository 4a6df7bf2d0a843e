"""Stage 5: captions from the image and its class percentages, by a vision-language model, a server, or a template.

The model sees the image and is told which share of it each class covers (arXiv 2603.09625, the hybrid streams:
Qwen3-VL 8B, greedy, 32 images at a time, padded on the left, at most 100 new tokens). So it can say where things are
without inventing what they are.
"""

from functools import partial
from typing import Any

import click

from aras.captions.backends import describe, load
from aras.captions.command import Kind, captioner_options, model_options, run_captioner
from aras.command import Command

KIND = Kind("vision_language", image=True, percentages=True)


@click.command(cls=Command)
@captioner_options(KIND)
@model_options("Qwen/Qwen3-VL-8B-Instruct", batch_size=32, temperature=0.0, top_p=1.0)
def main(**options: Any) -> None:
    r"""Caption images from what is seen in them and from their class percentages.

    \b
    Reads   ARAS400k/{train,val,test,synth}/images, those that are there, and ARAS400k/class_percentages/{split}.csv
            with --layout also ARAS400k/{split}/masks
    Writes  captions/{split}_vision_language.csv: filename,caption
            captions/{split}_vision_language.csv.run.json: model, prompt and decoding, to go on with the same
            captions/{split}_vision_language.csv.failures.csv when items failed; the exit code is then 1

    \b
    Example  python vision_language_captioner.py
             python vision_language_captioner.py --split test --model google/gemma-3-4b-it --outdir captions_gemma
             python vision_language_captioner.py --images my/images --percentages mine.csv --output mine_captions.csv
             python vision_language_captioner.py --endpoint http://localhost:8000/v1 --concurrency 64

    A part of a job array (--shard 3/8) writes captions/{split}_vision_language_shard_3_of_8.csv; the same command
    without --shard joins all parts and captions what they left.

    To resume, run the same command again.
    """
    run_captioner(KIND, options, partial(describe, KIND), partial(load, KIND, tell=partial(click.echo, err=True)))


if __name__ == "__main__":
    main()
