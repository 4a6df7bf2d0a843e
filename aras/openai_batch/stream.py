"""The requests of one caption table, led from a file on disk to rows in the table.

`advance` takes a batch as far as it goes: written -> uploaded -> creating -> created -> collected. It is the same
function for a new batch, for one that a killed run left at any step, and for one whose creation got no answer.
"""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from aras.captions.loop import names_done
from aras.captions.prompts import Prompts, has_numbers
from aras.captions.table import CaptionTable
from aras.captions.table import names_in as table_names
from aras.captions.work import Work, shards_of
from aras.errors import UserError
from aras.files import write_bytes
from aras.openai_batch.answers import Answers, Failure
from aras.openai_batch.ledger import (
    COLLECTED,
    CREATED,
    CREATING,
    MAY_RUN,
    REFUSED,
    UPLOADED,
    WRITTEN,
    SentBatch,
    read_ledger,
)
from aras.openai_batch.requests import Decoding, FileLimits, Question, names_in, write_requests
from aras.openai_batch.service import BatchService, Busy, Refused, Uncertain, is_queue_full

if TYPE_CHECKING:
    from openai.types import Batch

ENDED = {"completed", "expired", "cancelled"}
LOOKS = 3  # at an answer file that is not there or is short of lines, before it is believed
HAS_NUMBERS = "the caption has numbers"


class CaptionStream:
    """The way of one table's requests to the server and back.

    Attributes:
        work: what is to be captioned.
        ledger: what was sent.
        table: the caption table; None until it is opened to collect.
        captioned: names that have a caption there.
        sent: names of the requests of each batch that is not over, by its number.
    """

    def __init__(self, work: Work, prompts: Prompts, decoding: Decoding, tell: Callable[[str], None]) -> None:
        """Find out where the work stands; `tell` is where remarks go."""
        self.work, self.prompts, self.decoding, self.tell = work, prompts, decoding, tell
        self.ledger = read_ledger(work.output)
        self.table: CaptionTable | None = None
        self.captioned = table_names(work.output)
        self.elsewhere = names_done(work) - self.captioned  # in the CSVs of shards
        self.sent = {batch.number: self.requested(batch) for batch in self.ledger.open}
        self.looks: dict[int, int] = {}  # by the batch's number

    def requested(self, batch: SentBatch) -> set[str]:
        """Return the names in the request file of `batch`; none if it is not there."""
        path = self.ledger.requests_path(batch)
        return set(names_in(path)) if path.exists() else set()

    def resume(self, service: BatchService, table: CaptionTable) -> None:
        """Go on from where the ledger stands, with the `table` open.

        Raises:
            UserError: requests were sent to another server.
        """
        self.table, self.captioned = table, table.names
        if self.ledger.server != service.url:
            self.move_to(service.url)
        self.ledger.remove_other_request_files()
        for batch in self.ledger.open:
            if batch.step == CREATING:  # only now is it certain that nobody is asking for it any more
                self.ledger.set(batch, CREATING)
            path = self.ledger.requests_path(batch)
            if batch.file and not path.exists():
                write_bytes(path, service.content(batch.file))
                self.sent[batch.number] = self.requested(batch)

    def move_to(self, server: str) -> None:
        """Have everything go to another `server` from now on, unless a batch may be running on the one before."""
        for batch in self.ledger.open:
            if batch.step in MAY_RUN:
                raise UserError(
                    f"{self.ledger.path} tells of batches sent to {self.ledger.server}, not to {server}; set"
                    " OPENAI_BASE_URL back until they are collected"
                )
            batch.step, batch.file = WRITTEN, None
        self.ledger.server = server

    @property
    def settled(self) -> set[str]:
        """Names that need no request: captioned, on their way, or given up."""
        return self.captioned.union(self.elsewhere, self.ledger.given_up, *self.sent.values())

    @property
    def on_the_way(self) -> int:
        """How many requests are not over."""
        return sum(map(len, self.sent.values()))

    @property
    def unsent(self) -> int:
        """How many captions are still to be asked for."""
        return len(set(self.work.names.tolist()) - self.settled)

    @property
    def answered(self) -> int:
        """How many captions there are, here or still at the server."""
        return min(len(self.work), len(self.captioned) + sum(batch.done for batch in self.ledger.open))

    def questions(self) -> Iterator[Question]:
        """Yield what is still to be asked, in the order of names."""
        for item in self.work.items(self.settled):
            again = self.ledger.failed.get(item.name, (0, ""))[1] == HAS_NUMBERS
            prompt = (self.prompts.sterner() if again else self.prompts).of(item)
            yield Question(item.name, prompt.system, prompt.user)

    def estimate(self) -> tuple[int, int, int]:
        """Return how many requests are still to be sent, and their input and output tokens, the latter at most."""
        tokens = [question.tokens for question in self.questions()]
        return len(tokens), sum(tokens), len(tokens) * self.decoding.max_tokens

    def write(self, limits: FileLimits, room: float) -> SentBatch | None:
        """Return a new batch of as much as fits, its request file written; None when nothing is left or nothing fits.

        Args:
            limits: of a request file.
            room: input tokens that may still be enqueued.
        """
        number = self.ledger.next_number()
        path = self.ledger.requests_path(number)
        count, tokens = write_requests(path, self.questions(), self.decoding, limits, room)
        if not count:
            return None
        batch = SentBatch(number, count, tokens, count * self.decoding.max_tokens)
        self.ledger.batches.append(batch)
        self.ledger.set(batch, WRITTEN)
        self.sent[number] = self.requested(batch)
        return batch

    def advance(self, batch: SentBatch, service: BatchService, settle: float, send: bool = True) -> None:
        """Take `batch` as many steps as it goes now.

        Args:
            batch: one that is not over.
            service: the server.
            settle: seconds that a new batch may take to show in the server's list.
            send: whether money may be spent.

        Raises:
            Busy: the server takes no batch now.
            UserError: the server refuses it, or something else needs the user.
        """
        if batch.step == CREATING:
            self.look_for(batch, service, settle)
        if batch.step == WRITTEN and send:
            path = self.ledger.requests_path(batch)
            if not path.exists():
                self.drop(batch, "its request file is gone, and was never sent")
                return
            batch.file = service.upload(path)
            self.ledger.set(batch, UPLOADED)
        if batch.step == UPLOADED and send:
            self.create(batch, service)
        if batch.step == CREATED:
            self.poll(batch, service)

    def create(self, batch: SentBatch, service: BatchService) -> None:
        """Ask for `batch`, having written down that it is asked for."""
        assert batch.file is not None
        self.ledger.set(batch, CREATING)
        try:
            batch.batch = service.create(batch.file, self.ledger.metadata(batch))
        except Uncertain as error:
            self.ledger.set(batch, CREATING)
            self.tell(f"batch {batch.number}: no clear answer ({error}); looking for it on the server")
            return
        except Busy:
            self.ledger.set(batch, UPLOADED)
            raise
        except Refused:
            self.ledger.set(batch, WRITTEN)  # the file is uploaded anew, in case that it was the reason
            raise
        self.ledger.set(batch, CREATED, "validating")

    def look_for(self, batch: SentBatch, service: BatchService, settle: float) -> None:
        """Find `batch` on the server; when it does not show after `settle` seconds, it was never created."""
        asked_at = time.time()
        found = service.find(batch.file, self.ledger.metadata(batch))
        for twin in found[1:]:
            service.cancel(twin.id)
        if found:
            batch.batch = found[0].id
            self.ledger.set(batch, CREATED, found[0].status)
        elif asked_at - batch.since >= settle:
            self.ledger.set(batch, UPLOADED)

    def poll(self, batch: SentBatch, service: BatchService) -> None:
        """Look how `batch` stands, and collect it when it has ended.

        Raises:
            Busy: it was turned away because too many tokens are enqueued.
            UserError: the server refused it as a whole.
        """
        assert batch.batch is not None
        remote = service.retrieve(batch.batch)
        batch.status = remote.status
        batch.done = remote.request_counts.completed if remote.request_counts else 0
        if remote.status == "failed":
            self.refused(batch, remote)
        elif remote.status in ENDED:
            self.collect(batch, remote, service)

    def refused(self, batch: SentBatch, remote: "Batch") -> None:
        """Give up a batch that failed as a whole, of which nothing was run; its requests are to be sent again."""
        errors = (remote.errors.data if remote.errors else None) or []
        told = "; ".join(f"{e.code}: {e.message}" + (f" (line {e.line})" if e.line else "") for e in errors[:3])
        full = [e.message or "" for e in errors if is_queue_full(e.code, e.message or "")]
        self.drop(batch, f"failed: {told or 'no reason given'}")
        if full:
            raise Busy(full[0], queue_full=True)
        raise UserError(
            f"the server refused batch {batch.number} of {self.work.output} ({batch.batch}), and ran none of it:"
            f" {told or 'it gives no reason'}; mend that, then run the same command again"
        )

    def drop(self, batch: SentBatch, status: str) -> None:
        """Write down that the server never ran `batch`."""
        batch.tokens_in = batch.tokens_out = 0
        self.ledger.close(batch, REFUSED, status)
        self.sent.pop(batch.number, None)

    def collect(self, batch: SentBatch, remote: "Batch", service: BatchService) -> None:
        """Put the answers to `batch` into the table, then write down that it is over."""
        asked = self.sent[batch.number]
        answers = Answers()
        for file in (remote.output_file_id, remote.error_file_id):
            if file:
                answers.read(service.content(file), asked)
        if answers.run < batch.done and self.look_again(batch):
            return
        if not self.prompts.numbers:
            self.leave_out_numbers(answers)
        missing = asked - answers.captions.keys() - answers.failures.keys() - answers.cancelled
        lost = batch.done > 0 and not remote.output_file_id  # run and paid for, so not sent again unasked
        if lost or remote.status != "cancelled":
            why = f"batch {batch.batch} is {remote.status} without " + ("an output file" if lost else "its answer")
            answers.failures |= dict.fromkeys(missing, Failure(why, lost))
        assert self.table is not None
        self.table.append(answers.captions)
        self.ledger.add_failures(answers.failures)
        for name in answers.captions:
            self.ledger.failed.pop(name, None)
        self.settle_tokens(batch, remote, answers)
        if self.ledger.queue_limit:  # there is room again, and a batch too many costs nothing
            self.ledger.queue_limit *= 2
        self.ledger.close(batch, COLLECTED, remote.status)
        del self.sent[batch.number]
        if answers.oddities:
            self.tell(f"batch {batch.number}: left out of the answers: {answers.oddities}")

    def look_again(self, batch: SentBatch) -> bool:
        """Return whether answers that are short of what the server counts may still be complete at another look."""
        self.looks[batch.number] = self.looks.get(batch.number, 0) + 1
        return self.looks[batch.number] < LOOKS

    def leave_out_numbers(self, answers: Answers) -> None:
        """Make failures of captions with numbers; the first time they are asked for again, more sternly."""
        for name in [name for name, caption in answers.captions.items() if has_numbers(caption)]:
            del answers.captions[name]
            asked_sternly = self.ledger.failed.get(name, (0, ""))[1] == HAS_NUMBERS
            answers.failures[name] = Failure(HAS_NUMBERS, asked_sternly)

    def settle_tokens(self, batch: SentBatch, remote: "Batch", answers: Answers) -> None:
        """Put the tokens paid for `batch` in the place of the estimate."""
        usage = remote.usage
        batch.tokens_in = (usage.input_tokens if usage else 0) or answers.tokens_in
        batch.tokens_out = (usage.output_tokens if usage else 0) or answers.tokens_out

    def cancel(self, service: BatchService, settle: float) -> None:
        """Ask for an end of every batch on its way; what was not sent yet is not sent."""
        for batch in self.ledger.open:
            if batch.step == CREATING:
                self.look_for(batch, service, settle)
            if batch.step == CREATED and batch.batch and batch.status != "cancelling":
                service.cancel(batch.batch)
                batch.status = "cancelling"
            elif batch.step in (WRITTEN, UPLOADED):
                self.drop(batch, "cancelled before it was sent")

    def forget_failures(self) -> None:
        """Let the next run try again what was given up in this one."""
        if self.ledger.failed:
            self.ledger.failed = {}
            self.ledger.save()


def check_not_elsewhere(work: Work) -> None:
    """Raise `UserError` when part of `work` is on its way for another CSV of the same set, whole or shard."""
    for output in {work.table, *shards_of(work.table)} - {work.output}:
        ledger = read_ledger(output)
        paths = [ledger.requests_path(batch) for batch in ledger.open]
        on_the_way = {name for path in paths if path.exists() for name in names_in(path)}
        twice = on_the_way.intersection(work.names.tolist()) - names_done(work) if on_the_way else set()
        if twice:
            raise UserError(
                f"{len(twice):,} of the captions wanted are on their way for {output}; run the command that sent them"
                " again until they are collected, or cancel them"
            )
