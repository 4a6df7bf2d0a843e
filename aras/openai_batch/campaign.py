"""Several caption tables sent to one server, within its queue and the user's budget."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aras.errors import UserError
from aras.openai_batch import steps
from aras.openai_batch.ledger import COLLECTED, UPLOADED, SentBatch
from aras.openai_batch.requests import FileLimits, Prices
from aras.openai_batch.service import BatchService, Busy
from aras.openai_batch.stream import CaptionStream

STATED_LIMIT = re.compile(r"limit:? *([\d,]+) enqueued tokens", re.IGNORECASE)
LONGEST_PAUSE = 32  # times the usual one between two looks


@dataclass
class Campaign:
    """All that is sent and awaited.

    Attributes:
        streams: one for each caption table.
        service: the server.
        prices: of the model.
        max_cost: US dollars that may be spent on these tables in all; None for any sum.
        max_enqueued: input tokens that may wait at the server at a time.
        limits: of a request file.
        settle: seconds that a new batch may take to show in the server's list.
        pause: seconds between two looks.
        tell: where remarks go.
    """

    streams: list[CaptionStream]
    service: BatchService
    prices: Prices
    max_cost: float | None = None
    max_enqueued: float = float("inf")
    limits: FileLimits = field(default_factory=FileLimits)
    settle: float = 60.0
    pause: float = 60.0
    tell: Callable[[str], None] = print
    quiet_until: float = 0.0  # monotonic time before which nothing is sent
    busy: int = 0  # times in a row that the server was

    @property
    def queued(self) -> int:
        """Estimated input tokens on their way."""
        return sum(stream.ledger.queued for stream in self.streams)

    @property
    def room(self) -> float:
        """Input tokens that may be sent now; always enough for one request when nothing is on its way."""
        limits = [stream.ledger.queue_limit for stream in self.streams if stream.ledger.queue_limit]
        return min([self.max_enqueued, *limits]) - self.queued

    @property
    def waiting(self) -> bool:
        """Whether any batch is not over."""
        return any(stream.ledger.open for stream in self.streams)

    @property
    def quiet(self) -> bool:
        """Whether the server asked for a pause that is not over."""
        return time.monotonic() < self.quiet_until

    def round(self, send: bool = True) -> bool:
        """Take every batch as far as it goes, and `send` new ones; return whether anything is left to wait for.

        Raises:
            UserError: something needs the user.
        """
        self.advance_all(send)
        left = self.send_new() if send else False
        return left or self.waiting

    def advance_all(self, send: bool) -> None:
        """Take the batches that are not over as far as they go."""
        for stream in self.streams:
            for batch in stream.ledger.open:
                self.advance(stream, batch, send and not self.quiet)

    def advance(self, stream: CaptionStream, batch: SentBatch, send: bool = True) -> None:
        """Take `batch` as far as it goes; hold back when the server is busy."""
        queued = self.queued
        try:
            steps.advance(stream, batch, self.service, self.settle, send)
        except Busy as busy:
            self.hold_back(stream, busy, queued)
            if busy.queue_full and batch.step == UPLOADED:
                stream.drop(batch, "the server's queue was full")
        else:
            if batch.step == COLLECTED:
                self.busy = 0

    def cancel(self) -> None:
        """Ask for an end of all that is on its way."""
        for stream in self.streams:
            steps.cancel(stream, self.service, self.settle)

    def hold_back(self, stream: CaptionStream, busy: Busy, queued: int) -> None:
        """Send nothing for a while, longer each time in a row, and less when the server's queue was full."""
        self.busy += 1
        seconds = max(busy.seconds, self.pause * min(2 ** (self.busy - 1), LONGEST_PAUSE))
        self.quiet_until = time.monotonic() + seconds
        if busy.queue_full:
            stated = STATED_LIMIT.search(str(busy))
            limit = int(stated[1].replace(",", "")) if stated else queued
            stream.ledger.queue_limit = max(1, min(limit, queued // 2))
            stream.ledger.save()
        self.tell(f"the server is busy ({busy}); nothing more is sent for {seconds:.0f} s")

    def send_new(self) -> bool:
        """Send what is not sent yet and fits; return whether anything does not.

        Raises:
            UserError: it would cost more than `max_cost`, or a single request is larger than `max_enqueued`.
        """
        for stream in self.streams:
            first = next(stream.questions(), None)
            if first is None:
                continue
            if first.tokens > self.max_enqueued:
                raise UserError(
                    f"a single request has about {first.tokens:,} tokens, more than --max-enqueued-tokens"
                    f" {self.max_enqueued:,}; allow more"
                )
            if not self.quiet and (self.room >= first.tokens or not self.waiting):
                self.check_cost()
            while not self.quiet:
                batch = stream.write(self.limits, self.room if self.waiting else max(self.room, first.tokens))
                if batch is None:
                    break
                self.advance(stream, batch)
            if next(stream.questions(), None):
                return True
        return False

    def check_cost(self) -> None:
        """Raise `UserError` when what was sent and what is still to be sent would cost more than `max_cost`."""
        if self.max_cost is None:
            return
        spent = sum(self.prices.cost(*stream.ledger.tokens) for stream in self.streams)
        more = sum(self.prices.cost(*stream.estimate()[1:]) for stream in self.streams)
        if spent + more > self.max_cost:
            raise UserError(
                f"this would cost up to ${spent + more:.2f} (${spent:.2f} for what was sent before), more than"
                f" --max-cost {self.max_cost:g}; allow more, or caption fewer by --limit"
            )
