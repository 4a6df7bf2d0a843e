"""The networks of the conditional GAN: sizes, what follows from what, and what they cost."""

import pytest

from aras.legend import NUM_CLASSES
from aras.training import share_cores

share_cores()
SIZES = ((32, 32), (64, 64), (64, 96), (160, 32))


def labels_of(height, width, count=2, seed=0):
    """Return labels (B, H, W) uint8 in squares of 8 pixels."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, NUM_CLASSES, (count, height // 8, width // 8), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)


def networks(name, width=8, seed=0):
    import torch

    from aras.spade.recipes import RECIPES

    torch.manual_seed(seed)
    recipe = RECIPES[name]
    return recipe.generator(width).eval(), recipe.discriminator(width)


def drawn(generator, labels, seed=0):
    """Return images of `labels` whose z and noise follow from `seed` and their place in the batch."""
    import torch

    zs, noises = [], []
    for i in range(len(labels)):
        one = torch.Generator().manual_seed(100 * seed + i)
        zs.append(torch.randn(generator.z_dim, generator=one))
        noises.append([torch.randn(shape, generator=one) for shape in generator.noise_shapes(*labels.shape[1:])])
    with torch.no_grad():
        return generator(labels, torch.stack(zs), [torch.stack(scale) for scale in zip(*noises, strict=True)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["unet-spade", "published"])
def test_images_and_verdicts_of_any_size_that_32_divides(name, size):
    import torch

    generator, discriminator = networks(name)
    labels = labels_of(*size)
    images = drawn(generator, labels)
    assert images.shape == (2, 3, *size)
    assert images.dtype == torch.float32
    assert float(images.abs().max()) <= 1
    with torch.no_grad():
        verdict = discriminator(images, labels)
    if name == "unet-spade":
        assert verdict.pixels.shape == (2, NUM_CLASSES + 1, *size)
        assert verdict.images.shape == (2,)
    else:
        assert verdict.shape == (2, 1, size[0] // 8 - 2, size[1] // 8 - 2)


def test_one_mask_has_many_images_and_each_follows_from_its_z_and_noise():
    import torch

    generator, _ = networks("unet-spade")
    labels = labels_of(64, 64)
    one, other = drawn(generator, labels, seed=0), drawn(generator, labels, seed=1)
    assert torch.equal(one, drawn(generator, labels, seed=0))
    assert float((one - other).abs().mean()) * 127.5 > 2  # grey levels


def test_z_alone_and_noise_alone_change_the_image():
    import torch

    generator, _ = networks("unet-spade")
    labels = labels_of(64, 64)
    shapes = generator.noise_shapes(64, 64)
    zs = [torch.randn(2, 64) for _ in range(2)]
    noises = [[torch.randn(2, *shape) for shape in shapes] for _ in range(2)]
    with torch.no_grad():
        images = {(i, j): generator(labels, zs[i], noises[j]) for i in range(2) for j in range(2)}
    assert float((images[0, 0] - images[1, 0]).abs().mean()) > 0.01
    assert float((images[0, 0] - images[0, 1]).abs().mean()) > 0.01


def test_an_image_does_not_depend_on_those_it_is_drawn_with():
    import torch

    generator, discriminator = networks("unet-spade")
    labels = labels_of(64, 64, count=3)
    together = drawn(generator, labels)
    torch.testing.assert_close(drawn(generator, labels[:1]), together[:1], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        of_all, of_one = discriminator(together), discriminator(together[:1])
    torch.testing.assert_close(of_one.pixels, of_all.pixels[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of_one.images, of_all.images[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["unet-spade", "published"])
@pytest.mark.parametrize("label", range(NUM_CLASSES))
def test_editing_a_class_changes_that_region(name, label):
    """That it is mostly that region is learned: tests/test_spade_recipes.py."""
    import torch

    generator, _ = networks(name)
    labels = torch.full((1, 32, 32), (label + 1) % NUM_CLASSES, dtype=torch.uint8)
    edited = labels.clone()
    edited[:, 12:20, 12:20] = label
    change = (drawn(generator, labels) - drawn(generator, edited)).abs().mean(dim=1)[0]
    assert float(change[12:20, 12:20].mean()) > 0.01


@pytest.mark.parametrize("label", range(NUM_CLASSES))
def test_a_patch_of_one_class_differs_from_that_of_another(label):
    """What InstanceNorm would erase (Park et al. 2019, section 3.1)."""
    import torch

    generator, _ = networks("unet-spade")
    one, other = (
        drawn(generator, torch.full((1, 64, 64), of, dtype=torch.uint8)) for of in (label, (label + 1) % NUM_CLASSES)
    )
    assert float((one.mean(dim=(2, 3)) - other.mean(dim=(2, 3))).abs().max()) > 0.02


def test_the_published_generator_draws_one_image_a_mask():
    import torch

    generator, _ = networks("published")
    labels = labels_of(64, 64)
    assert generator.noise_shapes(64, 64) == []
    assert torch.equal(drawn(generator, labels, seed=0), drawn(generator, labels, seed=1))


def test_published_sizes_and_costs():
    """Parameters and FLOP at 256 pixels as counted for the published script: 21.3 M and 62.2 G, 2.8 M and 6.5 G."""
    import torch

    from aras.spade.cost import forward_flop, parameters
    from aras.spade.recipes import RECIPES

    recipe = RECIPES["published"]
    with torch.device("meta"):
        assert parameters(recipe.generator(64)) == pytest.approx(21.3e6, rel=0.01)
        assert parameters(recipe.discriminator(64)) == pytest.approx(2.8e6, rel=0.02)
    flop = forward_flop(recipe, 64, 256)
    assert flop["generator"] == pytest.approx(62.2e9, rel=0.01)
    assert flop["discriminator"] == pytest.approx(6.5e9, rel=0.02)


def test_ours_stays_in_its_budget():
    from aras.spade.cost import forward_flop
    from aras.spade.recipes import RECIPES

    flop = forward_flop(RECIPES["unet-spade"], 64, 256)
    assert flop["generator"] <= 60e9
    assert flop["discriminator"] <= 45e9


def test_modulation_is_a_small_part_of_the_generators_cost():
    """SPADE's own more than doubles a generator's (Tan et al. 2021, table 1)."""
    import torch

    from aras.spade.cost import Flop
    from aras.spade.modulation import Embedding, Modulation
    from aras.spade.recipes import RECIPES

    spent = []
    with torch.device("meta"), torch.no_grad():
        generator = RECIPES["unet-spade"].generator(64)
        counters = {module: Flop() for module in generator.modules() if isinstance(module, Embedding | Modulation)}
        for module, counter in counters.items():
            module.register_forward_pre_hook(lambda *_, counter=counter: counter.__enter__() and None)
            module.register_forward_hook(lambda *_, counter=counter: counter.__exit__(None, None, None))
        with Flop() as whole:
            generator(torch.zeros(1, 64, 64, dtype=torch.uint8), torch.zeros(1, 64))
        spent = [counter.count for counter in counters.values()]
    assert min(spent) > 0
    assert sum(spent) < 0.35 * whole.count
