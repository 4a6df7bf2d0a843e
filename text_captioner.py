"""Stage 5: captions from class percentages alone, by a language model, a server, or a template.

The model is told which share of the image each class covers and writes a caption without having seen the image
(arXiv 2603.09625, the text stream: Qwen3-4B, at most 100 new tokens, temperature 0.7, top-p 0.8). Such captions are
right about the classes and, without `--layout`, know nothing of where they lie. `--model template` writes plain
sentences without any model: the baseline.
"""

from functools import partial
from typing import Any

import click

from aras.captions.backends import describe, load
from aras.captions.command import Kind, captioner_options, model_options, run_captioner
from aras.command import Command

KIND = Kind("text", image=False, percentages=True)


@click.command(cls=Command)
@captioner_options(KIND)
@model_options("Qwen/Qwen3-4B-Instruct-2507", batch_size=32, temperature=0.7, top_p=0.8)
def main(**options: Any) -> None:
    r"""Caption images from their class percentages.

    \b
    Reads   ARAS400k/class_percentages/{train,val,test,synth}.csv, those that are there
            with --layout also ARAS400k/{split}/masks
    Writes  captions/{split}_text.csv: filename,caption
            captions/{split}_text.csv.run.json: model, prompt and decoding, to go on with the same
            captions/{split}_text.csv.failures.csv when items failed; the exit code is then 1

    \b
    Example  python text_captioner.py
             python text_captioner.py --split test --model template --layout
             python text_captioner.py --percentages mine.csv --output mine_text.csv --model ./SmolLM2.gguf
             python text_captioner.py --endpoint http://localhost:8000/v1 --concurrency 64

    A part of a job array (--shard 3/8) writes captions/{split}_text_shard_3_of_8.csv; the same command without --shard
    joins all parts and captions what they left.

    To resume, run the same command again.
    """
    run_captioner(KIND, options, partial(describe, KIND), partial(load, KIND, tell=partial(click.echo, err=True)))


if __name__ == "__main__":
    main()
