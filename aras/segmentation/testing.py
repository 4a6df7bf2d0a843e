"""The test of a trained segmenter: its best weights' scores, how sure they are, its predictions and figures."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.blocks import blocks_of
from aras.checkpoints import fit_tensors, load_tensors
from aras.confusion import scores
from aras.distributed import from_first, is_first
from aras.errors import UserError
from aras.figures import draw_confusion, draw_curves
from aras.files import write_json
from aras.inference import SYMMETRIES, precision_of
from aras.legend import CLASS_NAMES
from aras.scoring import intervals, tile_table
from aras.segmentation.data import Loaders, Options
from aras.segmentation.evaluation import evaluate
from aras.segmentation.losses import loss_named
from aras.segmentation.state import State
from aras.training import read_lines

if TYPE_CHECKING:
    import torch


def score_test(state: State, loaders: Loaders, options: Options, device: "torch.device") -> dict[str, Any]:
    """Return best.pt's scores on the test split; write its predictions, zipped, the figures and test_metrics.json."""
    folder, names = options.folder, loaders.names
    best = from_first(lambda: folder.best)  # which it has written by then
    fit_tensors(state.model, load_tensors(best), best, folder.told_kind)
    if is_first():
        draw_curves(folder.curves, read_lines(folder.metrics))
    blocks = blocks_of(options.data, names)
    with folder.prediction_writer(names) if is_first() else nullcontext(lambda predictions: None) as take:
        tested = evaluate(
            state.model,
            loaders.test,
            "test",
            device,
            loss_named(options.loss),
            precision_of(options.precision, device),
            blocks.index,
            take,
            SYMMETRIES if options.tta else 1,
        )
        if not np.isfinite(tested.loss):
            raise UserError(
                f"the loss on the test split is {tested.loss}; train again with a lower --lr and another --outdir"
            )
    trained_on = dict(zip(options.train, map(len, loaders.train.dataset.sets), strict=True))
    found = {
        **{"images": len(names), "trained_on": trained_on, "epochs": state.epoch, "best_epoch": state.best_epoch},
        **{"stopped_early": state.epoch - state.best_epoch >= options.patience, "loss": tested.loss},
        **scores(tested.matrix),
        **{"class_names": CLASS_NAMES, "confusion_matrix": tested.matrix.tolist()},  # rows are the truth
        **{"interval95": intervals(tested.matrices, options.seed)},
        **{"blocks": {"count": len(blocks), "source": blocks.source}, "tiles": tile_table(tested.matrices, blocks)},
    }
    if is_first():
        draw_confusion(folder.confusion, tested.matrix, f"{folder.told_kind}, test split")
        write_json(folder.tested, found)
    return found
