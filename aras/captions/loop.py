"""One loop over one function: resuming, saving, failures.

A captioner is a function `generate(items, prompts)` that takes items as it gets to them and yields answers in whatever
groups and order suit it: by file name, a caption or the `CaptionError` that says why there is none. Each group is on
disk before the next is asked for, so a killed run loses what was being generated and nothing else.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from aras.captions.prompts import Prompts, has_numbers
from aras.captions.table import CaptionTable, is_caption, names_in, one_line, open_table, read_captions, sort_table
from aras.captions.work import Item, Work, shards_of
from aras.errors import UserError
from aras.files import sole_writer
from aras.rows import row_text
from aras.runs import check_same_options

FAILURE_COLUMNS = ("filename", "reason")
MOST_FAILURES_IN_A_ROW = 200
"""Then something else than the items is broken, and the run stops."""
JOINED_AT_A_TIME = 1000


class CaptionError(Exception):
    """Why one item has no caption."""


Answers = dict[str, "str | CaptionError"]
Generate = Callable[[Iterable[Item], Prompts], Iterator[Answers]]


def beside(output: Path, what: str) -> Path:
    """Return the file that belongs to the CSV `output`: `run.json` or `failures.csv`."""
    return output.with_name(f"{output.name}.{what}")


def names_done(work: Work) -> set[str]:
    """Return the names that have a caption: in the CSV of the whole set or in that of any shard."""
    return names_elsewhere(work) | names_in(work.output)


def names_elsewhere(work: Work) -> set[str]:
    """Return the names that have a caption in another CSV of the set than the one that `work` writes."""
    others = {work.table, *shards_of(work.table)} - {work.output}
    return set().union(*(names_in(path) for path in others))


def join_shards(work: Work, options: dict[str, object], free: frozenset[str]) -> int:
    """Move the rows of all shards' CSVs into that of the whole set, and return how many shards there were.

    Raises:
        UserError: a shard is still being written, or was made with other `options`.
    """
    shards = shards_of(work.table)
    for shard in shards:
        with sole_writer(shard, is_file=True), open_table(work.table) as table:
            if beside(shard, "run.json").exists():
                check_same_options(beside(shard, "run.json"), options, free)
            rows = read_captions(shard)
            while some := dict(islice(rows, JOINED_AT_A_TIME)):
                table.append(some)
            for path in (beside(shard, "failures.csv"), beside(shard, "run.json"), shard):  # the CSV, by which the
                path.unlink(missing_ok=True)  # others are found, goes last
    return len(shards)


def settle(output: Path) -> None:
    """Have the CSV `output`, if there is one, stand in the order of names, with nothing left of earlier failures.

    So a run that was killed and continued ends with the same bytes as an unbroken one.
    """
    beside(output, "failures.csv").unlink(missing_ok=True)
    if output.exists():
        with open_table(output):
            sort_table(output)


def caption_all(
    work: Work, generate: Generate, prompts: Prompts, advance: Callable[[int], object] = lambda count: None
) -> int:
    """Caption what has no caption yet, and return how many items failed; these go to `<output>.failures.csv`.

    Whoever calls holds the lock of `work.output`. When it ends, the CSV is in the order of names.

    Args:
        work: what is to be captioned.
        generate: the captioner.
        prompts: what it asks.
        advance: told how many items are done, for a bar.

    Raises:
        UserError: so many items failed in a row that the fault is not theirs.
    """
    failures = beside(work.output, "failures.csv")
    failures.unlink(missing_ok=True)
    failed = in_a_row = 0
    with open_table(work.output) as table:
        pending: set[str] = set()
        items = noted(work.items(table.names | names_elsewhere(work)), pending)
        for answers in answers_of(generate, items, prompts):
            bad = save(answers, table, failures)
            pending.difference_update(answers)
            failed += len(bad)
            in_a_row = in_a_row + len(bad) if len(bad) == len(answers) else 0
            if in_a_row >= MOST_FAILURES_IN_A_ROW:
                raise UserError(f"the last {in_a_row} items all failed ({next(iter(bad.values()))}), see {failures}")
            advance(len(answers))
        failed += len(save({name: CaptionError("the captioner left it out") for name in pending}, table, failures))
    sort_table(work.output)
    return failed


def noted(items: Iterable[Item], pending: set[str]) -> Iterator[Item]:
    """Yield `items`; the name of each goes into `pending` when it is taken."""
    for item in items:
        pending.add(item.name)
        yield item


def save(answers: Answers, table: CaptionTable, failures: Path) -> dict[str, str]:
    """Append the captions among `answers` to the `table` and the rest to `failures`; return the reasons of these."""
    texts = {name: one_line(answer) for name, answer in answers.items() if isinstance(answer, str)}
    table.append({name: text for name, text in texts.items() if is_caption(text)})
    bad = {name: f"no caption: {text!r}" for name, text in texts.items() if not is_caption(text)}
    bad |= {name: one_line(str(answer)) for name, answer in answers.items() if not isinstance(answer, str)}
    if bad:
        head = "" if failures.exists() else row_text(FAILURE_COLUMNS)
        with failures.open("a", encoding="utf-8") as file:
            file.write(head + "".join(row_text(row) for row in bad.items()))
    return bad


def answers_of(generate: Generate, items: Iterable[Item], prompts: Prompts) -> Iterator[Answers]:
    """Yield the answers of `generate`; where numbers are forbidden and a caption has some, it is asked once more."""
    if prompts.numbers:
        yield from generate(items, prompts)
        return
    asked: dict[str, Item] = {}
    for answers in generate(remembered(items, asked), prompts):
        again = [asked[name] for name, answer in answers.items() if isinstance(answer, str) and has_numbers(answer)]
        second: Answers = {}
        for group in generate(again, prompts.sterner()) if again else ():
            second |= group
        for name in answers:
            asked.pop(name, None)
        yield {name: without_numbers(answer) for name, answer in (answers | second).items()}


def remembered(items: Iterable[Item], asked: dict[str, Item]) -> Iterator[Item]:
    """Yield `items`; each goes into `asked` by name when it is taken."""
    for item in items:
        asked[item.name] = item
        yield item


def without_numbers(answer: "str | CaptionError") -> "str | CaptionError":
    """Return `answer`, or an error if it is a caption that has numbers."""
    if isinstance(answer, str) and has_numbers(answer):
        return CaptionError(f"has numbers, also when asked again: {one_line(answer)}")
    return answer
