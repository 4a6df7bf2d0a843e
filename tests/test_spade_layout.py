"""What the conditional GAN's networks see of a mask."""

import numpy as np

from aras.legend import NO_DATA, NUM_CLASSES


def labels_of(rows):
    import torch

    return torch.tensor([rows], dtype=torch.uint8)


def test_one_hot_has_one_class_a_pixel_and_none_where_there_is_no_data():
    from aras.spade.layout import one_hot

    classes = one_hot(labels_of([[0, 6], [3, NO_DATA]]))
    assert classes.shape == (1, NUM_CLASSES, 2, 2)
    assert classes.argmax(dim=1)[0, 0].tolist() == [0, 6]
    assert classes.sum(dim=1)[0].tolist() == [[1, 1], [1, 0]]


def test_area_averages_keep_what_is_a_pixel_wide():
    from aras.spade.layout import area_averages, one_hot

    rows = np.zeros((8, 8), int)
    rows[:, 3] = 6  # a stream
    scales = area_averages(one_hot(labels_of(rows.tolist())), 4)
    assert [scale.shape[2] for scale in scales] == [8, 4, 2, 1]
    assert [float(scale[0, 6].max()) for scale in scales] == [1, 0.5, 0.25, 0.125]
    assert all(float((scale.sum(dim=1) - 1).abs().max()) == 0 for scale in scales)


def test_boundaries_lie_on_both_sides():
    from aras.spade.layout import boundaries

    found = boundaries(labels_of([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]]))
    assert found[0, 0].tolist() == [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_class_counts_leave_out_no_data():
    from aras.spade.layout import class_counts

    assert class_counts(labels_of([[0, 6, 6], [3, NO_DATA, 6]])).tolist() == [1, 0, 0, 1, 0, 0, 3]
