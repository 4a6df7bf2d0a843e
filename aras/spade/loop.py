"""The loop that trains a conditional GAN: from snapshot to snapshot, back to the last checkpoint when it diverges."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aras.distributed import from_first, is_first
from aras.errors import UserError
from aras.loading import batches_of
from aras.spade.data import Options, TrainingSet
from aras.spade.learning import Setting, train_step
from aras.spade.state import State, roll_back, save

ROLLBACKS = 3
"""How often in a row training is rolled back before it ends with an error."""


@dataclass(frozen=True)
class Course:
    """What is trained on, how far and how.

    Attributes:
        options: of the command line.
        found: the pairs.
        loader: this rank's batches of them, by `EndlessBatches`.
        setting: of the steps.
        snapshot: judges and keeps the state, at each snapshot.
    """

    options: Options
    found: TrainingSet
    loader: Any
    setting: Setting
    snapshot: Callable[[State], None]

    @property
    def steps(self) -> int:
        """How many steps the epochs are."""
        return self.found.steps(self.options.epochs)

    def next_snapshot(self, step: int) -> int:
        """Return the step of the next snapshot after `step`; the last step has one too."""
        every, batch_size = 1000 * self.options.snapshot_kimg, self.options.batch_size
        done = step * batch_size // every
        while step < self.steps:
            step += 1
            if step * batch_size // every > done:
                break
        return step

    def is_over(self, state: State) -> bool:
        """Return whether the epochs are done or the minutes are up."""
        return state.step >= self.steps or self.time_is_up(state)

    def time_is_up(self, state: State) -> bool:
        """Return whether the steps took as many minutes as they may, by the first process's clock."""
        minutes = self.options.minutes
        return minutes is not None and from_first(lambda: state.seconds >= 60 * minutes)


def train(state: State, course: Course) -> None:
    """Train until the epochs are done or the minutes are up, with a snapshot now and then and one at the end.

    Raises:
        UserError: training diverged again and again; what the folder held before is still there.
    """
    folder = course.options.folder
    if is_first() and not folder.last.exists():
        save(state, folder.last, folder.kind)  # so that there is something to go back to
    while not course.is_over(state):
        if train_until(course.next_snapshot(state.step), state, course):
            course.snapshot(state)
        else:
            go_back(state, course)
    if state.snapshot_step < state.step:  # a kill came between the last step and its snapshot
        course.snapshot(state)


def train_until(stop: int, state: State, course: Course) -> bool:
    """Train up to step `stop`, or as long as there is time; return whether every step could be taken."""
    options, batches = course.options, course.loader.batch_sampler
    batches.start, batches.stop = state.step, stop
    told = f"to {stop * options.batch_size / 1000:g} kimg"
    saved, began = time.monotonic(), time.perf_counter()
    for images, labels in batches_of(course.loader, told):
        if not train_step(state, images, labels, course.setting):
            return False
        state.seconds += time.perf_counter() - began
        if course.time_is_up(state):
            break
        if is_first() and time.monotonic() - saved >= 60 * options.checkpoint_minutes:
            save(state, options.folder.last, options.folder.kind)
            saved = time.monotonic()
        began = time.perf_counter()
    return True


def go_back(state: State, course: Course) -> None:
    """Have `state` be that of the last checkpoint, to go on from with other random numbers.

    Raises:
        UserError: it went back from here too often.
    """
    options, failed = course.options, state.step
    if state.rollbacks == ROLLBACKS:
        raise UserError(
            f"training diverged at step {failed + 1}, and again after {ROLLBACKS} returns to an earlier state; start"
            f" again with a lower --lr-generator and --lr-discriminator (they were {options.lr_generator:g} and"
            f" {options.lr_discriminator:g}) and another --outdir; {options.outdir} still holds what went well"
        )
    folder = options.folder
    roll_back(state, folder.last, folder.kind)
    if is_first():
        save(state, folder.last, folder.kind)  # a kill must not undo that other numbers are drawn
    from_first(lambda: None)  # none goes on, and perhaps back again, before that is written
    course.setting.tell(f"goes back to step {state.step}, to go on with other random numbers")
