"""Changes of image and mask alike: labels stay those of their pixels."""

import pytest

from aras.legend import COLORS, NO_DATA, NUM_CLASSES
from aras.training import share_cores

share_cores()


def pairs(count=16, size=(32, 32), seed=0):
    """Return images (B, 3, H, W) in -1..1 in the legend's colours, and their labels (B, H, W)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, NUM_CLASSES, (count, *size), generator=generator, dtype=torch.uint8)
    return painted(labels), labels


def painted(labels):
    import torch

    colors = torch.cat([torch.from_numpy(COLORS), torch.full((1, 3), 127.5)])  # a hole is 0 in -1..1
    return colors[labels.long().clamp(max=NUM_CLASSES)].permute(0, 3, 1, 2) / 127.5 - 1


def chances_of(count, wide, seed=1):
    import torch

    return torch.rand(count, wide, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "kinds"), [((32, 32), 8), ((32, 64), 4)])
def test_turns_move_image_and_mask_alike(size, kinds):
    import torch

    from aras.spade.augmentation import turned_pairs

    image, mask = pairs(1, size)
    count = 64
    images, labels = turned_pairs(image.expand(count, -1, -1, -1), mask.expand(count, -1, -1), chances_of(count, 1))
    assert torch.equal(images, painted(labels))
    assert len({tuple(one.flatten().tolist()) for one in labels}) == kinds


def test_shifts_and_holes_move_image_and_mask_alike():
    import torch

    from aras.spade.augmentation import VIEW_CHANCES, View

    images, labels = pairs()
    chances = chances_of(len(images), VIEW_CHANCES)
    chances[:, 2:5] = 1  # no colours
    view = View(chances, 0.9, 32, 32)
    shown = view.of_labels(labels)
    assert torch.allclose(view.of_images(images), painted(shown), atol=1e-6)
    holes = (shown == NO_DATA).flatten(1).float().mean(dim=1)
    assert 0 < float(holes.max()) <= 0.25
    assert float((holes > 0).float().mean()) > 0.7


def test_colours_leave_labels_alone_and_are_the_same_for_real_and_generated():
    import torch

    from aras.spade.augmentation import VIEW_CHANCES, View

    images, labels = pairs()
    chances = chances_of(len(images), VIEW_CHANCES)
    chances[:, :2] = 1  # nothing moves
    view = View(chances, 0.9, 32, 32)
    assert torch.equal(view.of_labels(labels), labels)
    once, again = view.of_images(images), view.of_images(images)
    assert torch.equal(once, again)
    assert float((once - images).abs().mean()) > 0.01


def test_each_kind_comes_as_often_as_the_strength_says():
    import torch

    from aras.spade.augmentation import VIEW_CHANCES, View

    images, labels = pairs(256, (4, 4))
    chances = chances_of(256, VIEW_CHANCES)
    for strength in (0.0, 0.25):
        view = View(chances, strength, 4, 4)
        cut = (view.of_labels(labels) == NO_DATA).flatten(1).any(dim=1).float().mean()
        assert float(cut) == pytest.approx(strength, abs=0.06)
    off = View(chances, 0.0, 4, 4)
    assert torch.equal(off.of_images(images), images)


def test_an_image_meets_its_own_change_however_the_batch_is_cut():
    import torch

    from aras.spade.augmentation import VIEW_CHANCES, View

    images, _ = pairs()
    chances = chances_of(len(images), VIEW_CHANCES)
    whole = View(chances, 0.6, 32, 32).of_images(images)
    parts = [View(chances[cut], 0.6, 32, 32).of_images(images[cut]) for cut in (slice(0, 5), slice(5, None))]
    assert torch.equal(torch.cat(parts), whole)


def test_gradients_flow_through_it_twice():
    import torch

    from aras.spade.augmentation import VIEW_CHANCES, View

    images, _ = pairs(4)
    view = View(chances_of(4, VIEW_CHANCES), 0.8, 32, 32)
    images = images.double().requires_grad_()
    (gradient,) = torch.autograd.grad(view.of_images(images).pow(3).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert float(images.grad.abs().max()) > 0


def test_the_strength_follows_the_signs():
    from aras.spade.augmentation import adapted

    assert adapted(0.0, 0.9, 5000) == pytest.approx(0.01)
    assert adapted(0.5, 0.3, 5000) == pytest.approx(0.49)
    assert adapted(0.0, 0.1, 5000) == 0
    assert adapted(1.0, 0.9, 5000) == 1
    assert adapted(0.3, 0.6, 5000) == 0.3
