"""Weights & Biases beside metrics.jsonl: values, figures and sample predictions, and no harm when it fails.

Where several processes train together, the first alone calls what is here.
"""

import netrc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from aras.inference import mean_logits
from aras.legend import CLASS_NAMES, NO_DATA
from aras.pairs import Pairs, read_pair
from aras.training import reachable

if TYPE_CHECKING:
    import torch

Log = Callable[[dict[str, Any]], None]

SAMPLES = 4  # images whose predictions are shown
CLASS_LABELS = dict(enumerate(CLASS_NAMES)) | {NO_DATA: "no data"}
"""The legend, as W&B has it beside a mask."""


@contextmanager
def wandb_log(
    project: str | None, folder: Path, config: dict[str, Any], run_id: str, tell: Callable[[str], None]
) -> Iterator[Log]:
    """Yield a function that logs a dict of values to Weights & Biases, or does nothing without a `project`.

    Values are numbers, dicts of them, W&B's media such as `sample_images`, and the paths of figures. The run is
    offline, in `<folder>/wandb`, when there is no login or no network (`wandb sync` sends it later); it never asks. A
    project or a setting that it refuses, or a service that fails later, is told by `tell` and left out rather than let
    stop the training, because the run folder has the same values. `WANDB_MODE` in the environment goes before all this.
    `run_id` makes a resumed run one curve, whose points stand at their `epoch`.
    """
    if project is None:
        yield lambda values: None
        return
    tracker = Tracker(tell)
    tracker.begin(project, folder, config, run_id)
    try:
        yield tracker.log
    finally:
        tracker.finish()


class Tracker:
    """A run of Weights & Biases that ends with one warning when anything goes wrong with it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.run: Any = None

    def begin(self, project: str, folder: Path, config: dict[str, Any], run_id: str) -> None:
        """Begin the run, offline where it cannot be online."""
        import wandb

        def begun(mode: str) -> Any:
            run = wandb.init(
                project=project, dir=folder, config=config, id=run_id, resume="allow", settings=settings_of(mode)
            )
            run.define_metric("*", step_metric="epoch")
            return run

        with self._left_out_when_it_fails():
            try:
                self.run = begun(os.environ.get("WANDB_MODE") or ("online" if service_answers() else "offline"))
            except failures():
                wandb.teardown()  # which else holds on to the run's id
                self.run = begun("offline")

    def log(self, values: dict[str, Any]) -> None:
        """Log `values`; a path among them is a figure."""
        import wandb

        if self.run is None:
            return
        with self._left_out_when_it_fails():
            self.run.log({k: wandb.Image(str(v)) if isinstance(v, Path) else v for k, v in values.items()})

    def finish(self) -> None:
        """End the run, with all of it on disk."""
        import wandb

        if self.run is None:
            return
        with self._left_out_when_it_fails():
            self.run.finish()
            wandb.teardown()  # waits for its service, which is still writing the run's file when `finish` returns

    @contextmanager
    def _left_out_when_it_fails(self) -> Iterator[None]:
        try:
            yield
        except failures() as error:
            self.run = None
            reason = " ".join(str(error).split())[:200]
            self.tell(f"WARNING: goes on without Weights & Biases ({reason}); metrics.jsonl has the same values")


def failures() -> tuple[type[Exception], ...]:
    """Return what W&B raises on a name or key that it refuses, a service that is away, a setting that is no value."""
    import wandb

    return wandb.Error, OSError, ValueError


def settings_of(mode: str) -> Any:
    """Return W&B's settings for a run that asks nothing, prints nothing and waits for nobody long."""
    import wandb

    return wandb.Settings(
        mode=mode,  # type: ignore[arg-type]
        init_timeout=30,
        finish_timeout=60,
        finish_timeout_raises=False,
        silent=True,
        console="off",
        disable_git=True,
    )


def service_answers() -> bool:
    """Return whether there is a login for Weights & Biases and its server answers."""
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not os.environ.get("WANDB_API_KEY"):
        try:
            login = netrc.netrc().authenticators(urlsplit(url).hostname or "")
        except (OSError, netrc.NetrcParseError):
            login = None
        if not login:
            return False
    return reachable(url)


def sample_images(
    model: "torch.nn.Module",
    pairs: Pairs,
    size: tuple[int, int],
    device: "torch.device",
    precision: "torch.dtype | None" = None,
    count: int = SAMPLES,
) -> list[Any]:
    """Return images of `pairs` with what `model` says of them and the truth, as W&B's images with masks to lay over.

    They are always the same `count`, evenly spread over the names, so that the epochs can be compared. `size` is the
    images' (height, width).

    Raises:
        UserError: a file of them cannot be used.
    """
    import torch
    import wandb

    places = np.unique(np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int))
    read = [read_pair(pairs.image(place), pairs.mask(place), size) for place in places]
    images = np.stack([image for image, _ in read])
    model.eval()
    with torch.inference_mode():
        logits = mean_logits([model], torch.from_numpy(images), device, precision)
    predictions = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()  # (B, H, W)

    def laid_over(labels: np.ndarray) -> dict[str, Any]:
        return {"mask_data": labels, "class_labels": CLASS_LABELS}

    return [
        wandb.Image(
            image,
            caption=str(pairs.names[place]),
            file_type="png",
            masks={"prediction": laid_over(prediction), "truth": laid_over(truth)},
        )
        for place, (image, truth), prediction in zip(places, read, predictions, strict=True)
    ]
