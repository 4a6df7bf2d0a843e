"""The requests of one caption table: which there are to send, which are on their way, which are over."""

from collections.abc import Callable, Iterator

from aras.captions.loop import names_done
from aras.captions.prompts import Prompts
from aras.captions.table import CaptionTable
from aras.captions.table import names_in as table_names
from aras.captions.work import Work, shards_of
from aras.errors import UserError
from aras.files import write_bytes
from aras.openai_batch.ledger import CREATING, MAY_RUN, READY, REFUSED, WRITTEN, SentBatch, read_ledger
from aras.openai_batch.requests import Decoding, FileLimits, Question, names_in, write_requests
from aras.openai_batch.service import BatchService

HAS_NUMBERS = "the caption has numbers"


class CaptionStream:
    """The way of one table's requests to the server and back.

    Attributes:
        work: what is to be captioned.
        ledger: what was sent.
        table: the caption table; None until it is opened to collect.
        captioned: names that have a caption there.
        sent: names of the requests of each batch that is not over, by its number.
        looks: how often the answers of a batch were short of what the server counts, by its number.
    """

    def __init__(self, work: Work, prompts: Prompts, decoding: Decoding, tell: Callable[[str], None]) -> None:
        """Find out where the work stands; `tell` is where remarks go."""
        self.work, self.prompts, self.decoding, self.tell = work, prompts, decoding, tell
        self.ledger = read_ledger(work.output)
        self.table: CaptionTable | None = None
        self.captioned = table_names(work.output)
        self.elsewhere = names_done(work) - self.captioned  # in the CSVs of shards
        self.sent = {batch.number: self.requested(batch) for batch in self.ledger.open}
        self.looks: dict[int, int] = {}

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
        """Return how many requests are still to be sent, and their input and output tokens, the latter at most.

        Those of batches that wait for their upload are among them.
        """
        tokens = [question.tokens for question in self.questions()]
        ready = [batch for batch in self.ledger.open if batch.step in READY]
        count = len(tokens) + sum(batch.requests for batch in ready)
        return count, sum(tokens) + sum(batch.tokens_in for batch in ready), count * self.decoding.max_tokens

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

    def drop(self, batch: SentBatch, status: str) -> None:
        """Write down that the server never ran `batch`."""
        batch.tokens_in = batch.tokens_out = 0
        self.ledger.close(batch, REFUSED, status)
        self.sent.pop(batch.number, None)

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
