"""The record on disk of what was sent, one small JSON file beside the caption table.

Each step is written down before it is taken where it costs money, and after it is taken in any case. A request file
says which captions a batch was asked for, and is there until its answers are in the table.
"""

import glob
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aras.errors import UserError
from aras.files import read_json, write_json
from aras.openai_batch.answers import Failure

WRITTEN, UPLOADED, CREATING, CREATED = "written", "uploaded", "creating", "created"
COLLECTED, REFUSED = "collected", "refused"
"""The steps of a batch: its request file is on disk; is on the server; a batch is being asked for, and there may be one
or not; there is one; its answers are in the table; the server never ran it."""

OPEN = {WRITTEN, UPLOADED, CREATING, CREATED}
READY = {WRITTEN, UPLOADED}
MAY_RUN = {CREATING, CREATED}
TRIES = 3  # of a request that fails in passing, in one run


@dataclass
class SentBatch:
    """One batch: where it stands, and what it costs.

    Attributes:
        number: which of the table's batches it is.
        requests: captions asked for.
        tokens_in: input tokens, estimated until it is collected, then those paid.
        tokens_out: output tokens, at most, until it is collected, then those paid.
        step: see `WRITTEN` and the others.
        since: Unix time of that step.
        file: the request file's id on the server.
        batch: its own id on the server.
        status: what the server last said, with a reason where it failed.
        done: requests that the server last said were answered.
    """

    number: int
    requests: int
    tokens_in: int
    tokens_out: int
    step: str = WRITTEN
    since: float = 0.0
    file: str | None = None
    batch: str | None = None
    status: str = ""
    done: int = 0


@dataclass
class Ledger:
    """What was sent for one caption table.

    Attributes:
        path: the file.
        run: random name of this run, by which its batches are known on the server.
        server: address to which it was sent.
        batches: in the order of their numbers.
        failed: by name, how often a request failed in this run and why last.
        queue_limit: input tokens to send at a time, since the server would not hold more; None while it does.
    """

    path: Path
    run: str
    server: str = ""
    batches: list[SentBatch] = field(default_factory=list)
    failed: dict[str, tuple[int, str]] = field(default_factory=dict)
    queue_limit: int | None = None

    @property
    def open(self) -> list[SentBatch]:
        """The batches that are not over."""
        return [batch for batch in self.batches if batch.step in OPEN]

    @property
    def queued(self) -> int:
        """Estimated input tokens of the batches that are not over."""
        return sum(batch.tokens_in for batch in self.open)

    @property
    def tokens(self) -> tuple[int, int]:
        """Input and output tokens of all batches asked for: paid where that is known, estimated where it is not."""
        asked = [batch for batch in self.batches if batch.step not in READY]
        return sum(batch.tokens_in for batch in asked), sum(batch.tokens_out for batch in asked)

    @property
    def given_up(self) -> dict[str, str]:
        """Reasons by name of the requests that are not sent again in this run."""
        return {name: reason for name, (tries, reason) in self.failed.items() if tries >= TRIES}

    def metadata(self, batch: SentBatch) -> dict[str, str]:
        """Return what tells `batch` from all others on the server."""
        return {"aras_run": self.run, "aras_batch": str(batch.number)}

    def requests_path(self, batch: SentBatch | int) -> Path:
        """Return the request file of a batch, or of the batch of that number."""
        number = batch.number if isinstance(batch, SentBatch) else batch
        return self.path.with_name(f"{self.path.stem}.{number:04d}.jsonl")

    def next_number(self) -> int:
        """Return the number of the batch after the last."""
        return self.batches[-1].number + 1 if self.batches else 1

    def set(self, batch: SentBatch, step: str, status: str = "") -> None:
        """Write down that `batch` is at `step` now."""
        batch.step, batch.since, batch.status = step, time.time(), status or batch.status
        self.save()

    def close(self, batch: SentBatch, step: str, status: str) -> None:
        """Write down that `batch` is over, then let go of its request file."""
        self.set(batch, step, status)
        self.requests_path(batch).unlink(missing_ok=True)

    def add_failures(self, failures: dict[str, Failure]) -> None:
        """Count `failures`; those that are final are not tried again."""
        for name, (reason, final) in failures.items():
            tries = self.failed.get(name, (0, ""))[0]
            self.failed[name] = (TRIES if final else tries + 1, reason)

    def remove_other_request_files(self) -> None:
        """Delete request files of batches that are over, or that a killed run had not written down yet."""
        kept = {self.requests_path(batch) for batch in self.open}
        for path in self.path.parent.glob(f"{glob.escape(self.path.stem)}.*.jsonl"):
            if path not in kept:
                path.unlink()

    def save(self) -> None:
        """Write the file, wholly or not at all."""
        told = asdict(self)
        del told["path"]
        write_json(self.path, told)


def ledger_path(output: Path) -> Path:
    """Return where the ledger of the caption table `output` lies."""
    return output.with_name(f"{output.name}.batches.json")


def read_ledger(output: Path) -> Ledger:
    """Return the ledger of the caption table `output`, a new one if it has none; nothing is written.

    Raises:
        UserError: the file is not a ledger.
    """
    path = ledger_path(output)
    if not path.exists():
        return Ledger(path, secrets.token_hex(8))
    told = read_json(path)
    try:
        batches = [SentBatch(**batch) for batch in told.pop("batches")]
        failed = {name: (int(tries), str(reason)) for name, (tries, reason) in told.pop("failed").items()}
        return Ledger(path, batches=batches, failed=failed, **told)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} does not tell which batches were sent ({error}); put back the file that was there: without it"
            " their captions would be paid for again"
        ) from None
