"""A step of the conditional GAN: cut into micro-batches it is the same, and what is no number reaches no weight."""

import numpy as np
import pytest
import torch
from torch.nn.parameter import Parameter

from aras.spade.data import EndlessBatches
from aras.spade.latents import draw_latents, seed_of_sample
from aras.spade.layout import class_counts
from aras.spade.learning import (
    ADAPT_EVERY,
    Setting,
    adapt_strength,
    discriminator_gradients,
    drawn_share,
    generator_gradients,
    train_step,
)
from aras.spade.recipes import RECIPES, recipe_named
from aras.spade.run_folder import RECIPES as OFFERED
from aras.spade.state import State

CPU = torch.device("cpu")
BATCH = 6


def pairs(size=(32, 32)):
    """Images (6, H, W, 3) uint8 and labels (6, H, W) uint8."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (BATCH, *size, 3), np.uint8))
    return images, torch.from_numpy(rng.integers(0, 7, (BATCH, *size), np.uint8))


def begun(name="unet-spade", micro_batch=BATCH, strength=0.0, told=None):
    """Return a state before its first step, and its setting; what is told goes into the list `told`."""
    torch.manual_seed(0)
    recipe = recipe_named(name)
    networks = recipe.generator(4), recipe.discriminator(4)
    with torch.no_grad():  # a bias of 0 puts what is cut out, 0 too, on the edge of every rectifier
        for network in networks:
            for parameter in network.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    adams = (torch.optim.Adam(network.parameters(), 1e-3, recipe.betas) for network in networks)
    say = told.append if told is not None else lambda line: None
    setting = Setting(recipe, 0, BATCH, micro_batch, "ada", 0.6, CPU, torch.float32, say)
    return State(*networks, None, *adams, strength=strength), setting


def gradients(name, micro_batch, strength):
    """Return both networks' gradients of one step, and the losses."""
    state, setting = begun(name, micro_batch, strength)
    images, labels = pairs()
    counts = class_counts(labels)
    share = drawn_share(state, images.permute(0, 3, 1, 2), labels, counts, setting, 0)
    fakes: list[torch.Tensor] = []
    told = discriminator_gradients(state, share, setting, fakes)
    told |= {f"generator_{name}": part for name, part in generator_gradients(state, share, setting, fakes).items()}
    found = [p.grad for network in (state.generator, state.discriminator) for p in network.parameters()]
    return found, told


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_micro_batches_have_the_gradients_of_the_whole_batch(name, micro_batch):
    whole, losses = gradients(name, BATCH, strength=0.5)
    cut, same_losses = gradients(name, micro_batch, strength=0.5)
    assert losses.keys() == same_losses.keys()
    for loss in losses:
        assert float(same_losses[loss]) == pytest.approx(float(losses[loss]), rel=1e-5, abs=1e-6), loss
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)


def test_too_little_memory_halves_the_micro_batch_and_changes_nothing_else():
    """A network that has room for two images raises what a GPU would."""

    def room_for_two(module, inputs):
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("no room")

    told: list[str] = []
    state, setting = begun(told=told)
    state.generator.register_forward_pre_hook(room_for_two)
    assert train_step(state, *pairs(), setting)
    assert setting.micro_batch == 2
    assert [line.rpartition(": ")[2] for line in told] == [
        "computes on 3 images at once from here on",
        "computes on 2 images at once from here on",
    ]
    other, small = begun(micro_batch=2)
    assert train_step(other, *pairs(), small)
    for one, two in zip(state.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.equal(one, two)


def test_one_image_without_room_is_an_error():
    state, setting = begun()

    def no_room(module, inputs):
        raise torch.OutOfMemoryError("no room")

    state.discriminator.register_forward_pre_hook(no_room)
    with pytest.raises(torch.OutOfMemoryError):
        train_step(state, *pairs(), setting)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_gradient_that_is_no_number_is_thrown_away_and_the_step_tried_with_other_numbers(network):
    told: list[str] = []
    state, setting = begun(told=told)
    spoiled: list[Parameter] = []

    def spoil(module, inputs, output):
        if not spoiled:
            spoiled.append(next(module.parameters()))
            return (
                torch.full_like(output, torch.nan)
                if network == "generator"
                else output._replace(pixels=output.pixels * torch.nan)
            )
        return output

    getattr(state, network).register_forward_hook(spoil)
    before = [parameter.clone() for parameter in state.generator.parameters()]
    assert train_step(state, *pairs(), setting)
    assert told == ["step 1: a loss or gradient is not a number; thrown away, tried again with other random numbers"]
    assert state.step == 1
    assert all(np.isfinite(value) for value in state.mean_losses.values())
    plain, other = begun()
    assert train_step(plain, *pairs(), other)
    changed = list(zip(before, state.generator.parameters(), plain.generator.parameters(), strict=True))
    assert all(bool(torch.isfinite(now).all()) for _, now, _ in changed)
    assert any(not torch.equal(was, now) for was, now, _ in changed)
    assert any(not torch.equal(now, else_) for _, now, else_ in changed)  # the numbers were others


def test_a_step_that_can_never_be_taken_changes_no_weight():
    told: list[str] = []
    state, setting = begun(told=told)
    state.generator.register_forward_hook(lambda module, inputs, output: output * torch.nan)
    before = [p.clone() for network in (state.generator, state.discriminator) for p in network.parameters()]
    assert not train_step(state, *pairs(), setting)
    now = [p for network in (state.generator, state.discriminator) for p in network.parameters()]
    assert all(map(torch.equal, before, now))
    assert (state.step, state.losses, len(told)) == (0, {}, 3)


def test_the_augmentation_gets_stronger_while_real_scores_are_too_sure():
    state, setting = begun()
    for _ in range(ADAPT_EVERY):
        adapt_strength(state, {"discriminator_sign_real": 0.9}, setting)
    assert state.strength == pytest.approx(ADAPT_EVERY * BATCH / 500_000)
    assert (state.signs, state.sign_steps) == (0.0, 0)
    for _ in range(2 * ADAPT_EVERY):
        adapt_strength(state, {"discriminator_sign_real": 0.5}, setting)
    assert state.strength == 0
    setting.augment = "fixed"
    adapt_strength(state, {"discriminator_sign_real": 0.9}, setting)
    assert state.sign_steps == 0


def test_the_stream_has_every_pair_once_in_each_pass_however_it_is_cut():
    def keys(batch_size, start=0, stop=12):
        batches = EndlessBatches(7, batch_size, 3)
        batches.start, batches.stop = start, stop
        assert len(batches) == stop - start
        return [key for batch in batches for key in batch]

    stream = keys(4)
    assert [epoch for epoch, _, _ in stream] == [1 + number // 7 for number in range(48)]
    for epoch in range(6):
        assert sorted(index for _, index, _ in stream[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert len({tuple(index for _, index, _ in stream[7 * e : 7 * e + 7]) for e in range(6)}) > 1
    assert keys(16, stop=3) == stream  # batches that are larger than the set
    assert keys(4, start=5) == stream[20:]


def test_latents_follow_from_the_seed_the_name_and_the_sample():
    one = seed_of_sample(0, "N41E031_000_001", 0)
    others = [("N41E031_000_001", 1, 0), ("N41E031_000_010", 0, 0), ("N41E031_000_001", 0, 1)]
    assert one not in {seed_of_sample(seed, name, sample) for name, sample, seed in others}
    together, alone = draw_latents([5, 6], 50_000), draw_latents([6], 50_000)
    assert torch.equal(together[1:], alone)
    assert abs(float(together.mean())) < 0.02
    assert abs(float(together.std()) - 1) < 0.02


def test_the_command_line_offers_the_recipes_that_there_are():
    assert tuple(RECIPES) == OFFERED
