"""The steps of a batch: written -> uploaded -> creating -> created -> collected.

`advance` takes a batch as far as it goes. It is the same function for a new batch, for one that a killed run left at
any step, and for one whose creation got no answer.
"""

import time
from typing import TYPE_CHECKING

from aras.captions.prompts import has_numbers
from aras.errors import UserError
from aras.openai_batch.answers import Answers, Failure
from aras.openai_batch.ledger import COLLECTED, CREATED, CREATING, UPLOADED, WRITTEN, SentBatch
from aras.openai_batch.service import BatchService, Busy, Refused, Uncertain, is_queue_full
from aras.openai_batch.stream import HAS_NUMBERS, CaptionStream

if TYPE_CHECKING:
    from openai.types import Batch

ENDED = {"completed", "expired", "cancelled", "failed"}
NEVER_RUN = {"failed", "cancelled"}  # if it has a twin on the server, that one is the batch
LOOKS = 3  # at an answer file that is not there or is short of lines, before it is believed


def advance(stream: CaptionStream, batch: SentBatch, service: BatchService, settle: float, send: bool = True) -> None:
    """Take `batch` as many steps as it goes now.

    Args:
        stream: whose batch it is.
        batch: one that is not over.
        service: the server.
        settle: seconds that a new batch may take to show in the server's list.
        send: whether money may be spent.

    Raises:
        Busy: the server takes no batch now.
        UserError: the server refuses it, or something else needs the user.
    """
    if batch.step == CREATING:
        look_for(stream, batch, service, settle)
    if batch.step == WRITTEN and send:
        path = stream.ledger.requests_path(batch)
        if not path.exists():
            stream.drop(batch, "its request file is gone, and was never sent")
            return
        batch.file = service.upload(path)
        stream.ledger.set(batch, UPLOADED)
    if batch.step == UPLOADED and send:
        create(stream, batch, service)
    if batch.step == CREATED:
        poll(stream, batch, service)


def create(stream: CaptionStream, batch: SentBatch, service: BatchService) -> None:
    """Ask for `batch`, having written down that it is asked for."""
    assert batch.file is not None
    stream.ledger.set(batch, CREATING)
    try:
        batch.batch = service.create(batch.file, stream.ledger.metadata(batch))
    except Uncertain as error:
        stream.ledger.set(batch, CREATING)
        stream.tell(f"batch {batch.number}: no clear answer ({error}); looking for it on the server")
        return
    except Busy:
        stream.ledger.set(batch, UPLOADED)
        raise
    except Refused:
        stream.ledger.set(batch, WRITTEN)  # the file is uploaded anew, in case that it was the reason
        raise
    stream.ledger.set(batch, CREATED, "validating")


def look_for(stream: CaptionStream, batch: SentBatch, service: BatchService, settle: float) -> None:
    """Find `batch` on the server; when it does not show after `settle` seconds, it was never created."""
    asked_at = time.time()
    found = service.find(batch.file, stream.ledger.metadata(batch))
    found.sort(key=lambda remote: remote.status in NEVER_RUN)
    for twin in found[1:]:
        service.cancel(twin.id)
    if found:
        batch.batch = found[0].id
        stream.ledger.set(batch, CREATED, found[0].status)
    elif asked_at - batch.since >= settle:
        stream.ledger.set(batch, UPLOADED)


def poll(stream: CaptionStream, batch: SentBatch, service: BatchService) -> None:
    """Look how `batch` stands, and collect it when it has ended.

    Raises:
        Busy: it was turned away because too many tokens are enqueued.
        UserError: the server refused it as a whole.
    """
    assert batch.batch is not None
    remote = service.retrieve(batch.batch)
    batch.status = remote.status
    batch.done = remote.request_counts.completed if remote.request_counts else 0
    if remote.status == "failed" and not (remote.output_file_id or batch.done):
        refused(stream, batch, remote)
    elif remote.status in ENDED:
        collect(stream, batch, remote, service)


def refused(stream: CaptionStream, batch: SentBatch, remote: "Batch") -> None:
    """Give up a batch that failed as a whole, of which nothing was run; its requests are to be sent again."""
    errors = (remote.errors.data if remote.errors else None) or []
    told = "; ".join(f"{e.code}: {e.message}" + (f" (line {e.line})" if e.line else "") for e in errors[:3])
    full = [e.message or "" for e in errors if is_queue_full(e.code, e.message or "")]
    stream.drop(batch, f"failed: {told or 'no reason given'}")
    if full:
        raise Busy(full[0], queue_full=True)
    raise UserError(
        f"the server refused batch {batch.number} of {stream.work.output} ({batch.batch}), and ran none of it:"
        f" {told or 'it gives no reason'}; mend that, then run the same command again"
    )


def collect(stream: CaptionStream, batch: SentBatch, remote: "Batch", service: BatchService) -> None:
    """Put the answers to `batch` into the table, then write down that it is over."""
    asked = stream.sent[batch.number]
    answers = Answers()
    for file in (remote.output_file_id, remote.error_file_id):
        if file:
            answers.read(service.content(file), asked)
    if answers.run < batch.done and look_again(stream, batch):
        return
    if not stream.prompts.numbers:
        leave_out_numbers(stream, answers)
    missing = asked - answers.captions.keys() - answers.failures.keys() - answers.cancelled
    lost = batch.done > 0 and not remote.output_file_id  # run and paid for, so not sent again unasked
    if lost or remote.status != "cancelled":
        why = f"batch {batch.batch} is {remote.status} without " + (
            "an output file: paid and lost" if lost else "its answer"
        )
        answers.failures |= dict.fromkeys(missing, Failure(why, lost))
    assert stream.table is not None
    stream.table.append(answers.captions)
    stream.ledger.add_failures(answers.failures)
    for name in answers.captions:
        stream.ledger.failed.pop(name, None)
    settle_tokens(batch, remote, answers)
    if stream.ledger.queue_limit:  # there is room again, and a batch too many costs nothing
        stream.ledger.queue_limit *= 2
    stream.ledger.close(batch, COLLECTED, remote.status)
    del stream.sent[batch.number]
    if answers.oddities:
        stream.tell(f"batch {batch.number}: left out of the answers: {answers.oddities}")


def look_again(stream: CaptionStream, batch: SentBatch) -> bool:
    """Return whether answers that are short of what the server counts may still be complete at another look."""
    stream.looks[batch.number] = stream.looks.get(batch.number, 0) + 1
    return stream.looks[batch.number] < LOOKS


def leave_out_numbers(stream: CaptionStream, answers: Answers) -> None:
    """Make failures of captions with numbers; the first time they are asked for again, more sternly."""
    for name in [name for name, caption in answers.captions.items() if has_numbers(caption)]:
        del answers.captions[name]
        asked_sternly = stream.ledger.failed.get(name, (0, ""))[1] == HAS_NUMBERS
        answers.failures[name] = Failure(HAS_NUMBERS, asked_sternly)


def settle_tokens(batch: SentBatch, remote: "Batch", answers: Answers) -> None:
    """Put the tokens paid for `batch` in the place of the estimate."""
    usage = remote.usage
    batch.tokens_in = (usage.input_tokens if usage else 0) or answers.tokens_in
    batch.tokens_out = (usage.output_tokens if usage else 0) or answers.tokens_out


def cancel(stream: CaptionStream, service: BatchService, settle: float) -> None:
    """Ask for an end of every batch on its way; what was not sent yet is not sent."""
    for batch in stream.ledger.open:
        if batch.step == CREATING:
            look_for(stream, batch, service, settle)
        if batch.step == CREATED and batch.batch and batch.status != "cancelling":
            service.cancel(batch.batch)
            batch.status = "cancelling"
        elif batch.step in (WRITTEN, UPLOADED):
            stream.drop(batch, "cancelled before it was sent")
