"""Stage 5: captions by an Ollama server, from the images or from their class percentages.

A vision model such as moondream describes each image, or a language model such as gemma3 puts each row of percentages
into words. Several requests are in flight at a time; a request that fails is repeated a few times with growing pauses,
and what fails all the same is listed with its reason and never stands among the captions. The random stream of a
caption is drawn from --seed and its file name, so neither the order of the answers nor a restart changes it.

Paper: Grounding Synthetic Data Generation With Vision and Language Models, arXiv 2603.09625, captions.
https://arxiv.org/abs/2603.09625; the server: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aras.captions.command import Description, Kind, captioner_options, run_captioner
from aras.captions.loop import Answers, Generate
from aras.captions.ollama_server import STRANGE, Asking, address, captions_of, server_told
from aras.captions.prompts import TEXT, VISION, Prompts
from aras.captions.work import Item
from aras.command import Command, Number, seed_option
from aras.errors import UserError

if TYPE_CHECKING:
    from ollama import Client

KINDS = {
    "images": Kind("ollama", image=True, percentages=False),
    "percentages": Kind("ollama", image=False, percentages=True),
}
MODELS = {"images": "moondream", "percentages": "gemma3:4b-it-qat"}
PROMPTS = {"images": VISION, "percentages": TEXT}

MAX_NEW_TOKENS = 100
"""Of a caption, as in the paper's other streams."""

ANSWERS_WITHIN = 20.0
"""Seconds in which a server that runs tells of its models."""


def full_name(model: str) -> str:
    """Return `model` with its tag; Ollama's is `latest` where none is given."""
    return model if ":" in model.rsplit("/", 1)[-1] else f"{model}:latest"


def digest_of(model: str, client: "Client") -> str | None:
    """Return the digest of `model` on the server, empty where it tells of none; None if it has not the model."""
    there = {full_name(found.model): found.digest or "" for found in client.list().models if found.model}
    return there.get(full_name(model))


def pull(model: str) -> None:
    """Have the server fetch `model`, with a bar in bytes.

    Raises:
        UserError: it cannot.
    """
    from ollama import Client, ResponseError
    from tqdm import tqdm

    click.echo(f"Pulls {model} to the server at {address()}")
    sizes: dict[str, int] = {}
    done: dict[str, int] = {}
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, desc=f"pull {model}", disable=None) as bar:
        try:
            for step in Client().pull(model, stream=True):
                if step.digest:
                    sizes[step.digest] = step.total or 0
                    done[step.digest] = step.completed or 0
                    bar.total = sum(sizes.values())
                    bar.update(sum(done.values()) - bar.n)
        except ResponseError as error:
            raise UserError(f"the server cannot pull {model} ({error.error}); check --model") from None


def sees_images(model: str, client: "Client") -> bool:
    """Return whether `model` takes images; True where the server does not tell what a model can do."""
    from ollama import ResponseError

    try:
        capabilities = client.show(model).capabilities
    except (ResponseError, *STRANGE):
        return True  # a program that speaks Ollama's protocol, but for this call
    return not capabilities or "vision" in capabilities


def describe(options: dict[str, Any]) -> Description:
    """Return what will write the captions, after a look at the server; the model is pulled if that is asked for.

    Raises:
        UserError: the server does not run or has not the model, or the model cannot see images.
    """
    from ollama import Client

    model, source = options["model"], options["source"]
    with server_told():
        client = Client(timeout=ANSWERS_WITHIN)
        digest = digest_of(model, client)
        if digest is None and options["pull"]:
            pull(model)
            digest = digest_of(model, client)
        if digest is None:
            raise UserError(f"{model} is not on the server at {address()}; add --pull, or run `ollama pull {model}`")
        if source == "images" and not sees_images(model, client):
            raise UserError(f"--model {model} cannot see images; name one that can, such as {MODELS['images']}")
    decoding = {name: options[name] for name in ("temperature", "seed", "max_new_tokens")}
    told = {"model": model, "revision": digest, "from": source, **decoding}
    return Description(told, ("ollama",), device="server", image=source == "images")


def load(options: dict[str, Any]) -> Generate:
    """Return the captioner; the server loads the model with the first request."""
    asking = Asking(**{name: options[name] for name in Asking.__dataclass_fields__})

    def generate(items: Iterable[Item], prompts: Prompts) -> Iterator[Answers]:
        return captions_of(items, prompts, asking)

    return generate


def duration(context: click.Context, option: click.Parameter, text: str) -> float | str:
    """Return a duration as Ollama takes it: seconds as a number, or text with units."""
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        return float(text)
    if re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+", text):
        return text
    raise click.BadParameter(f"{text} is no duration; give seconds, or such as 30s, 10m or 2h; -1 is for ever")


def settle_source(path: Path | None, source: str | None, options: dict[str, Any]) -> None:
    """Fill in the options that hang on whether images or percentages are captioned.

    Raises:
        click.UsageError: more than one thing to caption is named.
    """
    named = {name: options[name] for name in ("images", "percentages") if options[name]}
    if path:
        named["path"] = path
    if len(named) > 1 or (named and source):
        raise click.UsageError("name one thing to caption: PATH, --images, --percentages, or --from for the splits")
    if path:
        kind = "percentages" if path.suffix.lower() == ".csv" and not path.is_dir() else "images"
        options[kind] = path
        named = {kind: path}
    options["source"] = source or next(iter(named), "images")
    options["model"] = options["model"] or MODELS[options["source"]]
    if options["prompt"] is None:
        options["prompt"] = PROMPTS[options["source"]]
    options["endpoint"] = address()


@click.command(cls=Command)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--from",
    "source",
    type=click.Choice(list(KINDS)),
    help="What the splits of --data are captioned from.  [default: images]",
)
@captioner_options(KINDS["images"])
@click.option(
    "--percentages",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Caption the rows of this table: a CSV with filename,Tree,Shrub,...; needs --output.",
)
@click.option("--model", help=f"On the server.  [default: {MODELS['images']}; {MODELS['percentages']} for percentages]")
@click.option("--pull", is_flag=True, help="Have the server fetch the model if it is not there.")
@click.option("--temperature", type=Number(0), help="0 takes the likeliest word each time.  [default: the model's own]")
@seed_option
@click.option(
    "--max-new-tokens", type=click.IntRange(1), default=MAX_NEW_TOKENS, show_default=True, help="Longest caption."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Requests in flight; the server works on OLLAMA_NUM_PARALLEL at a time.",
)
@click.option(
    "--keep-alive",
    metavar="TIME",
    default="10m",
    show_default=True,
    callback=duration,
    help="How long the model stays loaded after a request, such as 30s, 10m or 2h; -1 is for ever.",
)
@click.option(
    "--timeout",
    type=Number(0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds that a request may take; the first one loads the model.",
)
@click.option(
    "--retries", type=click.IntRange(0), default=3, show_default=True, help="How often a failed request is repeated."
)
def main(path: Path | None, source: str | None, **options: Any) -> None:
    r"""Caption images, or their class percentages, with a model on an Ollama server.

    \b
    Reads   ARAS400k/{train,val,test,synth}/images; with --from percentages ARAS400k/class_percentages/*.csv
            PATH or --images DIR: a folder of PNG images; PATH or --percentages CSV: a table of percentages
    Writes  captions/{split}_ollama.csv, or --output: filename,caption
            <output>.run.json: model, prompt and decoding; <output>.failures.csv: what has no caption, and why

    \b
    Example  python ollama_captioner.py --pull
             python ollama_captioner.py --from percentages --split test --outdir captions_from_percentages
             python ollama_captioner.py photographs --output photographs.csv --model gemma3:4b-it-qat
             OLLAMA_HOST=gpu2:11434 python ollama_captioner.py --shard 2/2 --concurrency 16

    The server is the one at OLLAMA_HOST, or on this machine (`ollama serve`). Shards may go to a server each; run
    without --shard in the end to join them.

    To resume, run the same command again. What failed is tried again.
    """
    settle_source(path, source, options)
    run_captioner(KINDS[options["source"]], options, describe, load)


if __name__ == "__main__":
    main()
