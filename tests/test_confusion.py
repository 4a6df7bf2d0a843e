import numpy as np
import pytest

from aras.confusion import SCORES, class_scores, confusion_matrices, score_table, scores
from aras.legend import CLASS_NAMES, NO_DATA, NUM_CLASSES
from aras.training import share_cores

share_cores()


def matrix_of(truth, prediction):
    import torch

    one_image = (1, -1) if truth.ndim == 1 else truth.shape
    matrices = confusion_matrices(*(torch.from_numpy(labels.reshape(one_image)) for labels in (truth, prediction)))
    return matrices.sum(dim=0).numpy()


def labels_like(rng, shape, classes):
    return rng.choice(classes, shape).astype(np.uint8)


@pytest.mark.parametrize("classes", [range(7), (0, 2, 3, 6)])
def test_scores_are_those_of_scikit_learn(classes):
    from sklearn import metrics

    rng = np.random.default_rng(1)
    truth = labels_like(rng, (4, 32, 32), list(classes))
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, labels_like(rng, truth.shape, 7)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = NO_DATA
    matrix = matrix_of(truth, prediction)

    counted = truth != NO_DATA
    y_true, y_pred = truth[counted], prediction[counted]
    assert (matrix == metrics.confusion_matrix(y_true, y_pred, labels=range(7))).all()
    found, of_class = scores(matrix), class_scores(matrix)
    present = sorted(set(y_true))
    functions = (metrics.f1_score, metrics.jaccard_score, metrics.precision_score, metrics.recall_score)
    for name, function in zip(SCORES, functions, strict=True):
        each = function(y_true, y_pred, labels=range(7), average=None, zero_division=0)
        np.testing.assert_allclose(of_class[name], each)
        mean_present = function(y_true, y_pred, labels=present, average="macro", zero_division=0)
        assert found[name] == pytest.approx(mean_present)
        assert found[f"{name}_all"] == pytest.approx(each.mean())
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y_true, y_pred))
    assert found["pixels"] == len(y_true)
    assert found["absent"] == [CLASS_NAMES[c] for c in range(7) if c not in present]


def test_matrices_add_up():
    rng = np.random.default_rng(2)
    truth, prediction = (labels_like(rng, (6, 16, 16), 7) for _ in range(2))
    parts = matrix_of(truth[:2], prediction[:2]) + matrix_of(truth[2:], prediction[2:])
    assert (parts == matrix_of(truth, prediction)).all()


def test_a_class_absent_from_truth_and_prediction_is_not_counted():
    truth = np.array([0, 0, 3, 3], np.uint8)
    found = scores(matrix_of(truth, truth))
    assert found["f1"] == found["iou"] == 1
    assert found["f1_all"] == pytest.approx(2 / 7)
    assert found["absent"] == ["Shrub", "Grass", "Built-up", "Barren", "Water"]
    water = {name: None for name in SCORES} | {"support": 0, "predicted": 0}
    assert found["classes"]["Water"] == water
    assert "Shrub, Grass, Built-up, Barren, Water" in score_table(found)


def test_a_class_predicted_but_never_there_costs_the_others_their_recall_only():
    truth, prediction = np.array([0, 0, 3, 3], np.uint8), np.array([0, 6, 3, 3], np.uint8)
    found = scores(matrix_of(truth, prediction))
    assert found["classes"]["Water"] == dict.fromkeys(SCORES, 0.0) | {"support": 0, "predicted": 1}
    assert found["f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert "Water" in found["absent"]


def test_nothing_at_all_scores_zero():
    found = scores(np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64))
    assert found["f1"] == found["accuracy"] == 0
    assert found["absent"] == list(CLASS_NAMES)
