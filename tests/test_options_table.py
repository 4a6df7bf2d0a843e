"""Several trainings' scores as one table."""

import json

from click.testing import CliRunner

from aras.confusion import SCORES
from aras.legend import CLASS_NAMES
from aras.segmentation.repeats import summary_of
from runs.options_table import main


def metrics_of(f1):
    """Return what a test_metrics.json holds of a run without Barren."""
    names = (*SCORES, *(f"{name}_all" for name in SCORES))
    classes = {c: {"f1": f1 if c != "Barren" else None, "iou": f1 / 2} for c in CLASS_NAMES}
    return {"loss": 1, "accuracy": 0.5, "best_epoch": 3, "absent": ["Barren"], "classes": classes} | dict.fromkeys(
        names, f1
    )


def test_each_training_is_a_row_and_absent_classes_no_column(tmp_path):
    for name, scores in (("paper", (0.5, 0.7)), ("one", (0.4,))):
        (tmp_path / name).mkdir()
        summary = summary_of({seed: metrics_of(score) for seed, score in enumerate(scores)})
        (tmp_path / name / "seeds.json").write_text(json.dumps(summary))
    result = CliRunner().invoke(main, [str(tmp_path / name / "seeds.json") for name in ("paper", "one")])
    assert result.exit_code == 0, result.output
    head, _, first, second = result.output.splitlines()
    assert "Barren" not in head
    assert first.startswith("| paper | 2 | 60.0 ± 14.1 | 60.0 ± 14.1 | 50.0 ± 0.0 |")
    assert second.startswith("| one | 1 | 40.0 | 40.0 | 50.0 |")
    result = CliRunner().invoke(main, [str(tmp_path / "gone.json")])
    assert result.exit_code == 1
    assert "gone.json is missing; run segmentation_train.py with --seeds" in result.output
