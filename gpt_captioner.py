"""Stage 5d: captions from class percentages by OpenAI's Batch API, at half the usual price, none paid for twice.

The images' class percentages, as integers, become requests; these are cut into files, uploaded, run as batches within
24 hours, collected, and sent again where they failed or expired. Each step is in a ledger on disk before it is taken,
so that a killed run goes on where it was: a batch that was created but not written down is found again on the server.
Paper: "Grounding Synthetic Data Generation With Vision and Language Models", section on captions,
https://arxiv.org/abs/2603.09625. Where we differ from the published script: docs/differences.md.
"""

import time
from contextlib import ExitStack
from typing import Any

import click

from aras.captions.command import FREE, Description, Kind, captioner_options, prompts_of, record_of, works_of
from aras.captions.loop import FAILURE_COLUMNS, beside, join_shards, settle
from aras.captions.prompts import Prompts
from aras.captions.table import open_table, sort_table
from aras.captions.work import Work, shards_of
from aras.command import Command, Number, dry_run_option
from aras.errors import UserError
from aras.files import sole_writer, write_text
from aras.openai_batch.campaign import Campaign
from aras.openai_batch.ledger import CREATED, ledger_path, read_ledger
from aras.openai_batch.requests import FILE_REQUESTS, MODELS, PRICES_OF, Decoding, FileLimits, Prices, prices_of
from aras.openai_batch.service import BatchService, check_key
from aras.openai_batch.stream import CaptionStream, check_not_elsewhere
from aras.rows import row_text
from aras.runs import begin_run, check_same_options

PACKAGES = ("openai",)
KIND = Kind("gpt", image=False, percentages=True)
DECIMALS = 0  # of the percentages, as published
MODEL = "gpt-6-luna"  # the cheapest that OpenAI has not announced to shut down, as of PRICES_OF
RUN, STATUS, COLLECT, CANCEL = "run", "status", "collect", "cancel"


def decoding_of(options: dict[str, Any]) -> Decoding:
    """Return how the model is to answer: with the least reasoning that it is known to take, unless told otherwise."""
    known = MODELS.get(options["model"])
    effort = options["reasoning_effort"] or (known.effort if known else None)
    return Decoding(options["model"], options["max_tokens"], effort)


def record(prompts: Prompts, decoding: Decoding, options: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the captions, for run.json."""
    own = {"model": decoding.model, "max_tokens": decoding.max_tokens, "reasoning_effort": decoding.effort}
    return record_of(prompts, options, Description({**own, "decimals": DECIMALS}))


def told_cost(prices: Prices, tokens_in: int, tokens_out: int) -> str:
    """Return the cost of that many tokens in words."""
    return f"${prices.cost(tokens_in, tokens_out):,.2f}" if prices.known else "unknown price"


def tell_plan(streams: list[CaptionStream], prices: Prices, options: dict[str, Any]) -> None:
    """Print what would be sent and what it would cost."""
    total_in = total_out = 0
    for stream in streams:
        requests, tokens_in, tokens_out = stream.estimate()
        total_in, total_out = total_in + tokens_in, total_out + tokens_out
        click.echo(
            f"{stream.work.output}: {requests:,} requests to send, about {tokens_in:,} tokens in, at most"
            f" {tokens_out:,} out, up to {told_cost(prices, tokens_in, tokens_out)}"
        )
        before_in, before_out = stream.ledger.tokens
        if before_in:
            told = told_cost(prices, before_in, before_out)
            click.echo(f"  sent before: {before_in:,} tokens in, {before_out:,} out, {told}")
    click.echo(f"In all up to {told_cost(prices, total_in, total_out)} for {options['model']}")
    click.echo(
        "Tokens in are estimated as one for 3.5 characters of prompt, tokens out as --max-tokens for each request."
        + (f" Prices: ${prices.into:g} and ${prices.out:g} a million tokens." if prices.known else "")
        + f" The built-in prices are of {PRICES_OF}; --price-in and --price-out replace them."
    )


def tell_status(works: list[Work], prices: Prices, tries: int) -> None:
    """Print how every batch of `works` stands."""
    service: BatchService | None = None
    for work in works:
        ledger = read_ledger(work.output)
        click.echo(f"{work.output}: {len(ledger.batches)} batches, {len(ledger.open)} of them not over")
        for batch in ledger.batches:
            if batch.step == CREATED and batch.batch:
                service = service or BatchService(tries)
                remote = service.retrieve(batch.batch)
                batch.status = remote.status
                batch.done = remote.request_counts.completed if remote.request_counts else 0
            click.echo(
                f"  {batch.number:4} {batch.step:9} {batch.status:12} {batch.done:,} of {batch.requests:,} answered,"
                f" {batch.tokens_in:,} tokens in, {batch.tokens_out:,} out,"
                f" {told_cost(prices, batch.tokens_in, batch.tokens_out)} {batch.batch or ''}"
            )


def wait(campaign: Campaign, options: dict[str, Any]) -> None:
    """Send and collect until nothing is left, with one bar over all captions; once only with `--no-wait`."""
    from tqdm import tqdm

    streams = campaign.streams
    total, answered = sum(len(stream.work) for stream in streams), sum(stream.answered for stream in streams)
    with tqdm(total=total, initial=answered, unit="caption", desc="caption", disable=None, smoothing=0.05) as bar:
        left = True
        while left:
            if options["verb"] == CANCEL:
                campaign.cancel()
            left = campaign.round(send=options["verb"] == RUN)
            bar.update(sum(stream.answered for stream in streams) - bar.n)
            if options["no_wait"] or options["verb"] == COLLECT:
                return
            if left:
                time.sleep(options["poll"])


def conclude(streams: list[CaptionStream]) -> None:
    """Put the tables in order, say what they have now, and write down what failed for good.

    Raises:
        UserError: something did.
    """
    told = []
    for stream in streams:
        output, given_up = stream.work.output, stream.ledger.given_up
        sort_table(output)
        click.echo(
            f"{output}: {len(stream.captioned):,} captions, {stream.on_the_way:,} on their way,"
            f" {stream.unsent:,} not sent yet"
        )
        if given_up and not stream.on_the_way:
            path = beside(output, "failures.csv")
            write_text(path, "".join(map(row_text, [FAILURE_COLUMNS, *sorted(given_up.items())])))
            stream.forget_failures()
            told.append(f"{len(given_up):,} images have no caption, see {path}")
    if told:
        raise UserError(f"{'; '.join(told)}; run the same command again to try them again")


def prepare(work: Work, told: dict[str, Any]) -> None:
    """Put the table of `work` in order, and join the CSVs of its shards if it is the whole set."""
    check_not_elsewhere(work)
    if work.part is None and shards_of(work.table):
        begin_run(beside(work.output, "run.json"), told, PACKAGES, "cpu", FREE)
        click.echo(f"Joined {join_shards(work, told, FREE)} shards in {work.table}")
    settle(work.output)


def run(works: list[Work], prompts: Prompts, decoding: Decoding, prices: Prices, options: dict[str, Any]) -> None:
    """Do what the verb says with the captions of `works`.

    Raises:
        UserError: captions failed, the server refuses, or the budget is too small.
    """
    told = record(prompts, decoding, options)
    for path in {beside(csv, "run.json") for work in works for csv in (work.output, work.table)}:
        if path.exists():
            check_same_options(path, told, FREE)
    with ExitStack() as locks:
        for work in works:
            locks.enter_context(sole_writer(work.output, is_file=True))
            prepare(work, told)
        streams = [CaptionStream(work, prompts, decoding, tell) for work in works]
        campaign = campaign_of(streams, prices, options)
        if options["verb"] == RUN:
            campaign.check_cost()
        with ExitStack() as tables:
            for stream in streams:
                begin_run(beside(stream.work.output, "run.json"), told, PACKAGES, "cpu", FREE)
                stream.resume(campaign.service, tables.enter_context(open_table(stream.work.output)))
            wait(campaign, options)
        conclude(streams)


def campaign_of(streams: list[CaptionStream], prices: Prices, options: dict[str, Any]) -> Campaign:
    """Return the campaign that the options ask for."""
    return Campaign(
        streams,
        BatchService(options["tries"]),
        prices,
        max_cost=options["max_cost"],
        max_enqueued=options["max_enqueued_tokens"] or float("inf"),
        limits=FileLimits(options["requests_per_batch"]),
        settle=options["settle"],
        pause=options["poll"],
        tell=tell,
    )


def tell(text: str) -> None:
    """Print a remark beside the bar."""
    from tqdm import tqdm

    with tqdm.external_write_mode():
        click.echo(text, err=True)


# fmt: off
@click.command(cls=Command)
@click.argument("verb", type=click.Choice([RUN, STATUS, COLLECT, CANCEL]), default=RUN)
@captioner_options(KIND)
@click.option(
    "--model", default=MODEL, show_default=True,
    help=f"A chat model of the server. The default is the cheapest current one as of {PRICES_OF}.",
)
@click.option("--max-tokens", type=click.IntRange(1), default=100, show_default=True, help="Longest caption.")
@click.option(
    "--reasoning-effort", metavar="LEVEL",
    help="How much the model is to think; billed as output.  [default: the least that a known model takes]",
)
@dry_run_option
@click.option("--no-wait", is_flag=True, help="Send, and collect what is finished, but wait for nothing.")
@click.option(
    "--max-cost", type=Number(0), metavar="DOLLARS",
    help="Send nothing when these tables would cost more than this in all, earlier runs included.",
)
@click.option(
    "--price-in", type=Number(0), metavar="DOLLARS", show_default="a built-in table",
    help="Price of a million input tokens by the Batch API.",
)
@click.option(
    "--price-out", type=Number(0), metavar="DOLLARS", show_default="a built-in table",
    help="Price of a million output tokens by the Batch API.",
)
@click.option(
    "--max-enqueued-tokens", type=click.IntRange(1), metavar="N",
    help="Input tokens to have on their way at a time; your account has such a limit for each model.",
)
@click.option(
    "--requests-per-batch", type=click.IntRange(1, FILE_REQUESTS), default=FILE_REQUESTS, show_default=True,
    help="Captions asked for by one batch.",
)
@click.option(
    "--poll", type=Number(0), default=60.0, show_default=True, metavar="SECONDS",
    help="Time between two looks at the batches.",
)
@click.option(
    "--settle", type=Number(0), default=60.0, show_default=True, metavar="SECONDS",
    help="Time that a new batch may take to show in the server's list, before one that nobody answered for is asked "
    "for again.",
)
@click.option(
    "--tries", type=click.IntRange(1, 64), default=8, show_default=True,
    help="Tries of a call that costs nothing.",
)
def main(**options: Any) -> None:
    r"""Caption images from their class percentages by OpenAI's Batch API.

    VERB is run (the default: send, wait, collect), status, collect (what is finished, sending nothing) or cancel.

    \b
    Reads   ARAS400k/class_percentages/{train,val,test,synth}.csv; with --layout ARAS400k/{split}/masks
            OPENAI_API_KEY from the environment; OPENAI_BASE_URL for another server that has files and batches
    Writes  captions/{split}_gpt.csv (filename,caption)
            beside it .run.json, .batches.json (what was sent; keep it: without it captions are paid for again),
            .batches.0001.jsonl ... (requests on their way), .failures.csv when something failed for good; the
            exit code is then 1

    \b
    Example  python gpt_captioner.py --split test --dry-run
             python gpt_captioner.py --split test --max-cost 1
             python gpt_captioner.py status

    To resume, run the same command again. Nothing is paid for twice, wherever it was stopped.
    """
    prompts = prompts_of(KIND, options, DECIMALS)
    decoding = decoding_of(options)
    prices = prices_of(options["model"], options["price_in"], options["price_out"])
    if options["max_cost"] is not None and not prices.known:
        raise click.UsageError(f"no price of {options['model']} is known: give --price-in and --price-out")
    if not options["dry_run"]:
        try:
            check_key()
        except UserError as error:
            raise click.UsageError(str(error)) from None
    works = works_of(KIND, options)
    if options["dry_run"]:
        tell_plan([CaptionStream(work, prompts, decoding, tell) for work in works], prices, options)
    elif options["verb"] == STATUS:
        tell_status(works, prices, options["tries"])
    else:
        if options["verb"] != RUN:
            works = [work for work in works if ledger_path(work.output).exists()]
        run(works, prompts, decoding, prices, options)


# fmt: on

if __name__ == "__main__":
    main()
