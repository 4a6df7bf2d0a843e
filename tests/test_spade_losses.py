"""The conditional GAN's losses, by hand numbers and by finite differences."""

import math

import pytest

from aras.legend import NO_DATA, NUM_CLASSES
from aras.training import share_cores

share_cores()


def tensor(values, **options):
    import torch

    return torch.tensor(values, **options)


def test_class_weights_by_hand():
    """Two classes, 30 and 10 of 40 pixels: 40 / (2 * 30) and 40 / (2 * 10)."""
    from aras.spade.losses import class_weights

    weights = class_weights(tensor([30.0, 0, 10, 0, 0, 0, 0]))
    assert weights.tolist() == pytest.approx([2 / 3, 0, 2, 0, 0, 0, 0])


def test_a_mask_without_data_has_no_weights_and_no_loss():
    import torch

    from aras.spade.losses import class_weights, real_pixels

    counts = torch.zeros(NUM_CLASSES)
    assert class_weights(counts).tolist() == [0] * NUM_CLASSES
    labels = torch.full((1, 2, 2), NO_DATA, dtype=torch.uint8)
    assert float(real_pixels(torch.randn(1, NUM_CLASSES + 1, 2, 2), labels, counts)) == 0


def test_pixel_losses_by_hand():
    """Logits of 0 give every class 1/8, and a lifted right class of ln 8 gives it 8/15."""
    import torch

    from aras.spade.layout import class_counts
    from aras.spade.losses import fake_pixels, real_pixels

    labels = tensor([[[0, 0, 0, 2]]], dtype=torch.uint8)
    logits = torch.zeros(1, NUM_CLASSES + 1, 1, 4)
    counts = class_counts(labels)
    assert float(real_pixels(logits, labels, counts)) == pytest.approx(math.log(8))
    assert float(fake_pixels(logits, labels)) == pytest.approx(math.log(8))
    logits[0, 2, 0, 3] = math.log(8)  # the one pixel of class 2 has half the say
    assert float(real_pixels(logits, labels, counts)) == pytest.approx((math.log(8) + math.log(15 / 8)) / 2)
    labels[0, 0, 0] = NO_DATA  # cut out
    assert float(fake_pixels(logits, labels)) == pytest.approx((2 * math.log(8) + math.log(15)) / 4)


def test_micro_batches_add_up_to_the_whole_batch():
    import torch

    from aras.spade.layout import class_counts
    from aras.spade.losses import real_pixels

    torch.manual_seed(0)
    labels = torch.randint(0, NUM_CLASSES, (5, 8, 8), dtype=torch.uint8)
    labels[0] = 3
    logits, counts = torch.randn(5, NUM_CLASSES + 1, 8, 8), class_counts(labels)
    whole = real_pixels(logits, labels, counts)
    parts = [(real_pixels(logits[cut], labels[cut], counts), len(labels[cut])) for cut in (slice(0, 2), slice(2, 5))]
    assert float(sum(loss * size for loss, size in parts) / 5) == pytest.approx(float(whole), rel=1e-6)


def test_scores():
    from aras.spade.losses import fake_score, hinge_fake, hinge_real, real_score

    scores = tensor([0.0, 2.0])
    assert float(real_score(scores)) == pytest.approx((math.log(2) + math.log(1 + math.exp(-2))) / 2)
    assert float(fake_score(scores)) == pytest.approx((math.log(2) + math.log(1 + math.exp(2))) / 2)
    assert float(hinge_real(scores)) == 0.5
    assert float(hinge_fake(scores)) == 2


def test_the_gradient_penalty_against_finite_differences():
    """In float64 through a small discriminator; the gradient of a sum of outputs, each of its own image."""
    import torch

    from aras.spade.discriminator import Discriminator
    from aras.spade.losses import gradient_penalty

    torch.manual_seed(0)
    network = Discriminator(8).double()

    def score_of(shown):
        return network(shown).images

    images = torch.randn(2, 3, 32, 32, dtype=torch.float64).requires_grad_()
    penalty = gradient_penalty(score_of(images), images)
    step, expected = 1e-5, 0.0
    with torch.no_grad():
        base = images.detach()
        directions = torch.linalg.qr(torch.randn(3 * 32 * 32, 16, dtype=torch.float64))[0].T.view(16, 3, 32, 32)
        for direction in directions:
            there, back = score_of(base + step * direction), score_of(base - step * direction)
            expected = expected + ((there - back) / (2 * step)).square()
    (gradient,) = torch.autograd.grad(score_of(images).sum(), images)
    shares = torch.stack([(gradient * direction).sum(dim=(1, 2, 3)) for direction in directions]).square().sum(dim=0)
    torch.testing.assert_close(shares, expected, rtol=1e-5, atol=1e-12)
    assert float(penalty.detach()) == pytest.approx(float(gradient.square().sum(dim=(1, 2, 3)).mean()), rel=1e-5)
    penalty.backward()
    assert float(network.stem.weight.grad.abs().max()) > 0


def test_label_mix_takes_whole_classes_from_one_image():
    import torch

    from aras.spade.label_mix import inconsistency, mixed, mixing_mask

    labels = tensor([[[0, 1], [6, NO_DATA]]], dtype=torch.uint8)
    chances = tensor([[0.1, 0.9, 0.2, 0.2, 0.2, 0.2, 0.7]])
    mask = mixing_mask(labels, chances)
    assert mask[0, 0].tolist() == [[1, 0], [0, 1]]
    real, fake = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    assert mixed(real, fake, mask)[0, 0].tolist() == [[1, 0], [0, 1]]
    logits = torch.randn(1, 8, 2, 2)
    assert float(inconsistency(logits, logits, logits, mask)) == 0
    assert float(inconsistency(logits + 2, logits, logits, mask)) == pytest.approx(4, rel=1e-5)


def test_the_classes_alone_leave_out_what_is_taken_for_fake():
    """A pixel that is surely fake, and if not then surely class 2."""
    import torch

    from aras.spade.layout import class_counts
    from aras.spade.losses import real_pixels

    labels = tensor([[[2]]], dtype=torch.uint8)
    logits = torch.zeros(1, NUM_CLASSES + 1, 1, 1)
    logits[0, 2], logits[0, NUM_CLASSES] = 50, 100
    assert float(real_pixels(logits, labels, class_counts(labels))) == pytest.approx(50)
    assert float(real_pixels(logits[:, :NUM_CLASSES], labels, class_counts(labels))) == pytest.approx(0, abs=1e-6)
