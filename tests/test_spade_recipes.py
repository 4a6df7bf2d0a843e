"""The two recipes: what a step minimises, and that their minimum is the data."""

import numpy as np
import pytest

from aras.legend import COLORS, NUM_CLASSES
from aras.training import share_cores

share_cores()
SIZE = 32


def four_pairs(seed=0):
    """Return images (4, H, W, 3) uint8 in the colours of the legend, noisy, and labels (4, H, W) uint8."""
    import torch

    rng = np.random.default_rng(seed)
    coarse = rng.permutation(np.arange(4 * 16) % NUM_CLASSES).reshape(4, 4, 4)
    labels = coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8)
    images = np.clip(COLORS[labels] + rng.normal(0, 12, (*labels.shape, 3)), 0, 255).astype(np.uint8)
    return torch.from_numpy(images), torch.from_numpy(labels)


def batch_of(recipe, labels, strength=0.0, seed=0):
    import torch

    from aras.spade.layout import class_counts
    from aras.spade.recipes import Batch

    chances = torch.rand(len(labels), recipe.chances, generator=torch.Generator().manual_seed(seed))
    return Batch(labels, class_counts(labels), chances, strength)


def made(name, width=8):
    """Return the recipe, its networks fitted to the four pairs, the images (4, 3, H, W) in -1..1 and their labels."""
    import torch

    from aras.spade.recipes import RECIPES

    torch.manual_seed(0)
    images, labels = four_pairs()
    recipe = RECIPES[name]
    generator, discriminator = recipe.generator(width), recipe.discriminator(width)
    recipe.prepare([generator, discriminator], images)
    return recipe, generator, discriminator, images.permute(0, 3, 1, 2).float() / 127.5 - 1, labels


@pytest.mark.parametrize("strength", [0.0, 0.8])
@pytest.mark.parametrize("name", ["unet-spade", "published"])
def test_the_loss_is_the_sum_of_its_parts_and_reaches_every_weight(name, strength):
    import torch

    recipe, generator, discriminator, real, labels = made(name)
    batch = batch_of(recipe, labels, strength)
    fake = generator(labels, torch.randn(4, generator.z_dim))
    for network, found in (
        (discriminator, recipe.discriminator_loss(discriminator, real, fake.detach(), batch)),
        (generator, recipe.generator_loss(discriminator, real, fake, batch)),
    ):
        parts = [float(part) for part_name, part in found.items() if part_name not in ("loss", "sign_real")]
        assert float(found["loss"].detach()) == pytest.approx(sum(parts), rel=1e-5)
        assert all(not part.requires_grad for part_name, part in found.items() if part_name != "loss")
        found["loss"].backward()
        assert all(weights.grad is not None for weights in network.parameters())
    assert ("sign_real" in recipe.discriminator_loss(discriminator, real, fake.detach(), batch)) == recipe.augments


@pytest.mark.parametrize("name", ["unet-spade", "published"])
def test_micro_batches_have_the_gradients_of_the_whole_batch(name):
    import torch

    recipe, generator, discriminator, real, labels = made(name)
    fake = generator(labels, torch.randn(4, generator.z_dim)).detach()
    batch = batch_of(recipe, labels, 0.8)

    def gradients(cuts):
        discriminator.zero_grad()
        for cut in cuts:
            part = batch._replace(labels=batch.labels[cut], chances=batch.chances[cut])
            loss = recipe.discriminator_loss(discriminator, real[cut], fake[cut], part)["loss"]
            if recipe.r1_every:
                loss = loss + recipe.penalty(discriminator, real[cut], part)["loss"]
            (loss * (len(part.labels) / 4)).backward()
        return torch.cat([weights.grad.flatten() for weights in discriminator.parameters()])

    whole = gradients([slice(None)])
    torch.testing.assert_close(
        gradients([slice(0, 1), slice(1, 4)]), whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max())
    )


def test_the_penalty_is_r1_for_as_many_steps_as_it_is_left_out():
    recipe, _, discriminator, real, labels = made("unet-spade")
    found = recipe.penalty(discriminator, real, batch_of(recipe, labels))
    assert float(found["loss"].detach()) == pytest.approx(float(found["r1"]) * recipe.r1_weight / 2 * recipe.r1_every)


@pytest.mark.parametrize("name", ["unet-spade", "published"])
def test_in_bfloat16_the_losses_stay_float32_and_near(name):
    import torch

    recipe, generator, discriminator, real, labels = made(name)
    batch, z = batch_of(recipe, labels, 0.5), torch.randn(4, generator.z_dim)
    noise = [torch.randn(4, *shape) for shape in generator.noise_shapes(SIZE, SIZE)]
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            fake = generator(labels, z, noise)
            losses = recipe.discriminator_loss(discriminator, real, fake.detach(), batch)
            losses |= {"generator": recipe.generator_loss(discriminator, real, fake, batch)["loss"]}
        assert fake.dtype == torch.float32
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        found.append(losses["loss"].detach() + losses["generator"].detach())
    assert float(found[1]) == pytest.approx(float(found[0]), rel=0.05, abs=0.02)


def test_without_label_mix_there_is_no_such_part():
    from aras.spade.recipes import recipe_named

    recipe, _, discriminator, real, labels = made("unet-spade")
    batch = batch_of(recipe, labels)
    assert "label_mix" in recipe.discriminator_loss(discriminator, real, real, batch)
    without = recipe_named("unet-spade", label_mix=0)
    assert "label_mix" not in without.discriminator_loss(discriminator, real, real, batch)


def test_the_scale_is_that_of_the_images():
    import torch

    _, generator, discriminator, real, _ = made("unet-spade")
    for network in (generator, discriminator):
        colors = network.scale.standardised(real)
        assert torch.allclose(colors.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
        assert torch.allclose(colors.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3)
        assert torch.allclose(network.scale.images(colors), real, atol=1e-5)
    assert "scale.mean" in generator.state_dict()


def trained(name, steps, batch_size=4):
    """Return the generator of `name`, trained for `steps` on the four pairs."""
    import torch

    recipe, generator, discriminator, real, labels = made(name, width=16)
    optimizers = [torch.optim.Adam(each.parameters(), 1e-3, recipe.betas) for each in (discriminator, generator)]
    for step in range(steps):
        torch.manual_seed(step)
        batch = batch_of(recipe, labels, seed=step)
        fake = generator(labels, torch.randn(len(labels), generator.z_dim))
        discriminator.requires_grad_(True)
        loss = recipe.discriminator_loss(discriminator, real, fake.detach(), batch)["loss"]
        if recipe.r1_every and step % recipe.r1_every == 0:
            loss = loss + recipe.penalty(discriminator, real, batch)["loss"]
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        discriminator.requires_grad_(False)
        optimizers[1].zero_grad()
        recipe.generator_loss(discriminator, real, fake, batch)["loss"].backward()
        optimizers[1].step()
    return generator.eval()


def nearest_class(images):
    """Return the class (B, H, W) whose legend colour is nearest to each pixel of `images` (B, 3, H, W) in -1..1."""
    import torch

    colors = torch.from_numpy(COLORS).float().view(-1, 1, 3, 1, 1) / 127.5 - 1
    return (images.unsqueeze(0) - colors).square().sum(dim=2).argmin(dim=0)


@pytest.mark.slow
def test_it_overfits_four_pairs_and_an_edit_changes_mostly_its_own_region():
    import torch

    generator = trained("unet-spade", 500)
    _, labels = four_pairs()
    torch.manual_seed(0)
    z, shapes = torch.randn(2, 4, 64), generator.noise_shapes(SIZE, SIZE)
    noise = [[torch.randn(4, *shape) for shape in shapes] for _ in range(2)]
    with torch.no_grad():
        one, other = (generator(labels, z[i], noise[i]) for i in range(2))
        for image in (one, other):
            assert float((nearest_class(image) == labels).float().mean()) > 0.8
        assert float((one - other).abs().mean()) * 127.5 > 2  # grey levels
        right = []
        for label in range(NUM_CLASSES):
            edited = labels.clone()
            edited[:, 8:24, 8:24] = label
            images = generator(edited, z[0], noise[0])
            right.append(float((nearest_class(images)[:, 10:22, 10:22] == label).float().mean()))
            change = (images - one).abs().mean(dim=1)
            assert float(change[labels != edited].mean()) > 5 * float(change[:, :4].mean())
    assert np.mean(right) > 0.7  # a layout that it has never seen; Shrub and Barren have pale colours
