"""The captioners' command line: the options that they share, and what is done with them in order.

A script has two functions of its own: `describe(options)`, which finds out cheaply what will write the captions and
fails when it is not to be had, and `load(options)`, which returns the captioner and is called when there is work.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from aras.captions.loop import Generate, beside, caption_all, join_shards, names_done, settle
from aras.captions.prompts import PROMPTS, SYSTEM, Prompts, check_prompt
from aras.captions.work import CAPTIONED_SPLITS, Work, own_work, parse_shard, shards_of, split_work, splits_present
from aras.command import Decorator, Number, data_option, device_option, limit_option, seed_option
from aras.errors import UserError
from aras.files import sole_writer
from aras.runs import begin_run, check_same_options

FREE = frozenset({"device", "batch_size", "limit", "shard", "concurrency", "timeout", "endpoint", "output", "outdir"})
"""Options that cannot change a caption, and so may change between a run and its continuation."""

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True)
class Kind:
    """A kind of caption: the name in `{split}_{name}.csv`, and what it is written from."""

    name: str
    image: bool
    percentages: bool


@dataclass(frozen=True)
class Description:
    """What will write the captions.

    Attributes:
        options: what decides a caption, such as model, revision and decoding, for run.json.
        packages: distributions whose versions matter.
        device: where it computes.
        image: whether it looks at images; the template does not.
    """

    options: dict[str, Any]
    packages: tuple[str, ...] = ()
    device: str = "cpu"
    image: bool = True


def captioner_options(kind: Kind) -> Decorator:
    """Return the options that every captioner of this `kind` has."""
    options: list[Decorator] = [
        data_option,
        click.option(
            "--split",
            "splits",
            multiple=True,
            type=click.Choice(CAPTIONED_SPLITS),
            help="A split to caption; may be given more than once.  [default: all that --data has]",
        ),
        click.option(
            "--outdir",
            type=FOLDER,
            default=Path("captions"),
            show_default=True,
            help=f"Folder of the CSVs {{split}}_{kind.name}.csv.",
        ),
        click.option("--output", type=FILE, help="The CSV to write, for one --split or for a set of your own."),
    ]
    if kind.image:
        options.append(click.option("--images", type=FOLDER, help="Caption this folder of PNG images; needs --output."))
    if kind.percentages:
        own = "Percentages of --images" if kind.image else "Caption the rows of this table; needs --output"
        options.append(click.option("--percentages", type=FILE, help=f"{own}: a CSV with filename,Tree,Shrub,..."))
    options += [
        click.option("--masks", type=FOLDER, help="Masks of a set of your own, for --layout."),
        click.option(
            "--prompt", metavar="TEXT", help="What to ask, with {percentages} and {layout} where they belong."
        ),
        click.option("--system", metavar="TEXT", help="The system prompt; may be empty."),
        click.option("--layout", is_flag=True, help="Tell the model where the classes lie in the mask."),
        click.option("--no-numbers", is_flag=True, help="Ask for captions without digits and percentages, and check."),
        limit_option,
        click.option("--shard", metavar="I/N", help="Do one of N parts, into a CSV of its own; for job arrays."),
    ]
    return decorated_by(options)


def model_options(model: str, batch_size: int, temperature: float, top_p: float) -> Decorator:
    """Return the options of the captioners that run a model themselves or ask a server; the arguments are defaults."""
    options: list[Decorator] = [
        click.option(
            "--model", default=model, show_default=True, help="A hub id, a folder, a .gguf file (text), or template."
        ),
        click.option("--revision", metavar="NAME", help="Branch, tag or commit of the hub's model."),
        click.option(
            "--batch-size", type=BatchSizeType(), default=str(batch_size), show_default=True, help="A number, or auto."
        ),
        device_option,
        click.option("--max-new-tokens", type=click.IntRange(1), default=100, show_default=True),
        click.option("--temperature", type=Number(0), default=temperature, show_default=True, help="0 is greedy."),
        click.option(
            "--top-p",
            type=Number(0, 1, min_open=True),
            default=top_p,
            show_default=True,
            help="Draw from the most probable tokens that have this share together.",
        ),
        seed_option,
        click.option("--endpoint", metavar="URL", help="Ask this OpenAI-compatible server, http://localhost:8000/v1."),
        click.option(
            "--concurrency", type=click.IntRange(1), default=32, show_default=True, help="Requests to it at once."
        ),
        click.option("--timeout", type=Number(0, min_open=True), default=120, show_default=True, help="Its seconds."),
    ]
    return decorated_by(options)


class BatchSizeType(click.ParamType):
    """A number from 1 on, or `auto`, which becomes None."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number, or None for `auto`."""
        if value == "auto" or value is None:
            return None
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither a number from 1 on nor auto", param, ctx)
        return int(value)


def decorated_by(options: list[Decorator]) -> Decorator:
    """Return one decorator for `options`, which the help lists in this order."""

    def decorate(main: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            main = option(main)
        return main

    return decorate


def prompts_of(kind: Kind, options: dict[str, Any], decimals: int = 2) -> Prompts:
    """Return what is asked: the kind's prompt or that of the options."""
    prompts = Prompts(
        user=PROMPTS[kind.name] if options["prompt"] is None else options["prompt"],
        system=SYSTEM if options["system"] is None else options["system"],
        decimals=decimals,
        layout=options["layout"],
        numbers=not options["no_numbers"],
    )
    check_prompt(prompts, kind.percentages, only_percentages=kind.percentages and not kind.image)
    return prompts


def works_of(kind: Kind, options: dict[str, Any], image: bool = True) -> list[Work]:
    """Return what is to be captioned: the splits under `--data`, or a set of the user's own.

    Args:
        kind: the kind of caption.
        options: the command's options.
        image: whether the captioner looks at images, if its kind does.

    Raises:
        UserError: the options contradict each other, or what they name is not there.
    """
    images, percentages = options.get("images"), options.get("percentages")
    shard = parse_shard(options["shard"]) if options["shard"] else None
    if images or percentages:
        check_own(kind, options, image)
        found = [own_work(options["output"], images, percentages, options["masks"] if options["layout"] else None)]
    else:
        found = works_of_splits(kind, options)
    return [work.first(options["limit"]).shard(shard) for work in found]


def check_own(kind: Kind, options: dict[str, Any], image: bool) -> None:
    """Raise `UserError` when an option is missing or too many for a set of the user's own."""
    if options["output"] is None:
        raise UserError("a set of your own needs --output CSV")
    if options["splits"]:
        raise UserError("--split is of --data; leave it out, or leave out --images and --percentages")
    if kind.image and image and not options["images"]:
        raise UserError("--images is missing: this captioner looks at images")
    if kind.percentages and not options["percentages"]:
        raise UserError("--percentages is missing: this captioner needs the class percentages of the images")
    if options["layout"] and not options["masks"]:
        raise UserError("--layout needs --masks DIR for a set of your own")
    if options["masks"] and not options["layout"]:
        raise UserError("--masks is for --layout; add that, or leave --masks out")


def works_of_splits(kind: Kind, options: dict[str, Any]) -> list[Work]:
    """Return the work on splits of the dataset."""
    if options["masks"]:
        raise UserError("--masks is for a set of your own; those of --data are in {split}/masks")
    splits = options["splits"] or splits_present(options["data"], kind.image)
    if options["output"] and len(splits) != 1:
        raise UserError(f"--output is one CSV and there are {len(splits)} splits; choose one by --split")
    return [
        split_work(
            options["data"],
            split,
            options["output"] or options["outdir"] / f"{split}_{kind.name}.csv",
            kind.image,
            kind.percentages,
            options["layout"],
        )
        for split in dict.fromkeys(splits)
    ]


def record_of(prompts: Prompts, options: dict[str, Any], description: Description) -> dict[str, Any]:
    """Return what goes into run.json: all that decides a caption, and how this run was cut up."""
    own = options.get("images") or options.get("percentages")
    sources = ("images", "percentages", "masks") if own else ("data",)
    return {
        **description.options,
        "prompt": prompts.user,
        "system": prompts.system,
        "layout": prompts.layout,
        "no_numbers": not prompts.numbers,
        **{name: options.get(name) for name in sources},
        **{name: options[name] for name in sorted(FREE & options.keys()) if options[name] is not None},
    }


def run_captioner(
    kind: Kind,
    options: dict[str, Any],
    describe: Callable[[dict[str, Any]], Description],
    load: Callable[[dict[str, Any]], Generate],
    decimals: int = 2,
) -> None:
    """Caption what the options name, from wherever it stands.

    Raises:
        UserError: an option or a file is wrong, nothing can caption, or items failed.
    """
    prompts = prompts_of(kind, options, decimals)
    works = works_of(kind, options, image=options.get("model") != "template")
    description = describe(options)
    record = record_of(prompts, options, description)
    for path in {beside(csv, "run.json") for work in works for csv in (work.output, work.table)}:
        if path.exists():
            check_same_options(path, record, FREE)

    def begin(work: Work) -> None:
        begin_run(beside(work.output, "run.json"), record, description.packages, description.device, FREE)

    with ExitStack() as stack:
        for work in works:
            stack.enter_context(sole_writer(work.output, is_file=True))
        todo = 0
        for work in works:
            if work.part is None and shards_of(work.table):
                begin(work)
                click.echo(f"Joined {join_shards(work, record, FREE)} shards in {work.table}")
            left = len(set(work.names.tolist()) - names_done(work))
            click.echo(f"Writes {work.output}: {len(work):,} images, {left:,} to caption")
            todo += left
            if not left:
                settle(work.output)
        if todo:
            caption_works(works, begin, prompts, load(options), todo)


def caption_works(
    works: list[Work], begin: Callable[[Work], object], prompts: Prompts, generate: Generate, todo: int
) -> None:
    """Caption `works` with one bar over all of them; say how it went.

    Raises:
        UserError: items failed.
    """
    from tqdm import tqdm

    start = time.monotonic()
    failed: dict[Path, int] = {}
    with tqdm(total=todo, unit="caption", desc="caption", disable=None, smoothing=0.05) as bar:
        for work in works:
            begin(work)
            failed[work.output] = caption_all(work, generate, prompts, bar.update)
    seconds = time.monotonic() - start
    bad = sum(failed.values())
    click.echo(f"{todo - bad:,} captions in {seconds:.1f} s, {(todo - bad) / max(seconds, 1e-9):.1f} a second")
    if bad:
        told = ", ".join(str(beside(path, "failures.csv")) for path, count in failed.items() if count)
        raise UserError(f"{bad:,} items have no caption, see {told}; mend them and run the same command again")
