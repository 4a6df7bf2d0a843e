"""Losses, regularisers, micro-batches, averages and ADA, against what one computes by hand."""

import copy
import math

import numpy as np
import pytest
import torch

from stylegan_loss import (
    Latents,
    Losses,
    blur_sigma,
    blurred,
    draw_latents,
    gradient_penalty,
    path_lengths,
    styles,
    training,
)
from stylegan_memory import bytes_per_image, choose_micro_batch, feature_values, micro_batches, smaller_micro_batch
from stylegan_networks import build_discriminator, build_generator
from stylegan_options import Settings
from stylegan_phases import Batch, Iteration, Phase, accumulate, adapt, average_weights, phases_of, reduce_gradients
from stylegan_state import new_state
from stylegan_stats import PhaseTimes, Statistics

WIDTHS = {"resolution": 16, "channels": 3, "channel_base": 64, "channel_max": 6, "num_fp16_res": 4, "conv_clamp": 256}
G_CONFIG = {"kind": "stylegan2", "z_dim": 8, "c_dim": 0, "w_dim": 8, "map_depth": 2} | WIDTHS
D_CONFIG = {"kind": "stylegan2-discriminator", "c_dim": 0, "mbstd_group": 4, "freeze_layers": 0} | WIDTHS
ADAM = {"lr": 0.002, "betas": [0.0, 0.99], "eps": 1e-8}
CPU = torch.device("cpu")


def settings(**changes):
    told = {
        "seed": 3,
        "batch": 16,
        "G_config": G_CONFIG,
        "D_config": D_CONFIG,
        "G_optimizer": ADAM | {"interval": 4},
        "D_optimizer": ADAM | {"interval": 16},
        "loss": {
            "r1_gamma": 0.5,
            "style_mixing_prob": 0.9,
            "pl_weight": 2.0,
            "blur_init_sigma": 0.0,
            "blur_fade_kimg": 0.0,
        },
        "augment": {"mode": "ada", "kind": "bgc", "p": 0.0, "target": 0.6, "kimg": 500},
        "ema": {"kimg": 5.0, "rampup": 0.05},
        "dataset": {},
    }
    return Settings(**told | changes)


class Linear:
    """A generator of one layer: images are a matrix times w, and w is z."""

    def __init__(self, matrix, num_ws):
        self.matrix, self.num_ws, self.z_dim = matrix, num_ws, matrix.shape[2]

    def mapping(self, z, c, update_averages):
        return z[:, None].expand(-1, self.num_ws, -1)

    def synthesis(self, ws, noise_mode="random"):
        return torch.einsum("lpd,nld->np", self.matrix, ws).view(len(ws), 1, 4, 4)


# ----------------------------------------------------------------------------------------------------- by hand


def test_path_lengths_of_a_linear_map_are_those_of_its_matrix():
    torch.manual_seed(0)
    matrix = torch.randn(3, 16, 5, dtype=torch.float64)
    ws = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    found = path_lengths(Linear(matrix, 3).synthesis(ws), ws, noise).detach().numpy()
    for n in range(2):
        y = noise[n].numpy().ravel() / 4  # the root of 16 pixels
        squares = [np.sum((matrix[layer].numpy().T @ y) ** 2) for layer in range(3)]
        assert found[n] == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-12)


def test_r1_of_a_linear_judge_is_the_square_of_its_weights():
    weights = torch.arange(12.0, dtype=torch.float64).view(3, 2, 2)
    images = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    found = gradient_penalty(images, (images * weights).sum([1, 2, 3])[:, None])
    assert torch.allclose(found, weights.square().sum().expand(4), rtol=1e-12)


def losses_of(G, D, reported, augment=None, pl_weight=2.0):
    return Losses(
        G,
        G.synthesis,
        D,
        D,
        augment,
        lambda name, values: reported.setdefault(name, []).append(values.detach().clone()),
        signs=torch.zeros(2, dtype=torch.float64),
        lengths=torch.zeros(2, dtype=torch.float64),
        r1_gamma=0.5,
        pl_weight=pl_weight,
        noise_mode="const",
    )


@pytest.fixture
def networks():
    """Tiny networks in float64."""
    torch.manual_seed(1)
    G, D = build_generator(G_CONFIG).double(), build_discriminator(D_CONFIG).double()
    return G.requires_grad_(False), D.requires_grad_(False)


def some_latents(count, dtype=torch.float64):
    z = torch.randn(count, 8, generator=torch.Generator().manual_seed(5), dtype=dtype)
    return Latents(z, None, None, None)


def test_main_losses_are_logistic_and_their_gradients_those_of_the_formula(networks):
    G, D = networks
    reported: dict[str, list[torch.Tensor]] = {}
    losses, latents = losses_of(G, D, reported), some_latents(4)
    pixels = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with training(G):
        losses.generator_main(latents, sigma=0.0, gain=3.0)
        fake = D(G.synthesis(G.mapping(latents.z, None), noise_mode="const"))
        wanted = torch.autograd.grad(3 * torch.log1p(torch.exp(-fake)).mean(), list(G.synthesis.parameters()))
    for parameter, gradient in zip(G.synthesis.parameters(), wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    assert torch.allclose(reported["Loss/G/loss"][0], torch.log1p(torch.exp(-fake)))
    with training(D):
        losses.discriminator_main(latents, pixels, None, sigma=0.0, gain=2.0)
        real = D(pixels.double() / 127.5 - 1)
        formula = torch.log1p(torch.exp(D(G.synthesis(G.mapping(latents.z, None), noise_mode="const"))))
        formula = formula + torch.log1p(torch.exp(-real))
        wanted = torch.autograd.grad(2 * formula.mean(), list(D.parameters()))
    for parameter, gradient in zip(D.parameters(), wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-5, atol=1e-7)  # pixels are scaled in float32
    assert losses.signs.tolist() == [4, float(real.detach().sign().sum())]
    assert torch.allclose(reported["Loss/D/loss"][0], formula, atol=1e-6)


def directional(module, penalty):
    """Return the derivative of `penalty()` along a random direction, by central differences and by the gradients.

    The step is short: a penalty on gradients jumps where a leaky ReLU turns.
    """
    generator = torch.Generator().manual_seed(2)
    step, direction = 1e-7, [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in module.parameters()]
    values = []
    for sign in (1, -1):
        for parameter, d in zip(module.parameters(), direction, strict=True):
            parameter.data.add_(d, alpha=sign * step)
        values.append(float(penalty().detach()))
        for parameter, d in zip(module.parameters(), direction, strict=True):
            parameter.data.add_(d, alpha=-sign * step)
    pairs = zip(module.parameters(), direction, strict=True)
    along = sum(float((p.grad * d).sum()) for p, d in pairs if p.grad is not None)
    return (values[0] - values[1]) / (2 * step), along


def test_r1_pulls_the_weights_as_finite_differences_say(networks):
    _, D = networks
    pixels = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def penalty():
        images = (pixels.double() / 127.5 - 1).requires_grad_()
        return 16 * 0.25 * gradient_penalty(images, D(images)).mean()

    losses = losses_of(networks[0], D, {})
    with training(D):
        losses.discriminator_r1(pixels, None, sigma=0.0, gain=16.0)
        numeric, analytic = directional(D, penalty)
    assert analytic == pytest.approx(numeric, rel=1e-3)  # images are read as float32
    assert abs(numeric) > 1e-4


def test_path_lengths_pull_the_weights_as_finite_differences_say(networks):
    G, D = networks
    latents, mean_length = some_latents(8), torch.tensor(0.3, dtype=torch.float64)
    reported: dict[str, list[torch.Tensor]] = {}
    losses = losses_of(G, D, reported)

    def penalty():
        torch.manual_seed(11)
        ws = G.mapping(latents.z[:4], None).requires_grad_()
        images = G.synthesis(ws, noise_mode="const")
        return 4 * 2 * (path_lengths(images, ws, torch.randn_like(images)) - 0.3).square().mean()

    with training(G):
        torch.manual_seed(11)
        losses.generator_paths(latents, mean_length, gain=4.0)
        numeric, analytic = directional(G, penalty)
    assert analytic == pytest.approx(numeric, rel=1e-4)
    assert abs(numeric) > 1e-3
    assert losses.lengths[0] == 4
    assert torch.allclose(reported["Loss/G/reg"][0], 2 * reported["Loss/pl_penalty"][0])


def test_the_blur_is_a_convolution_and_fades_linearly():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    taps = np.exp2(-((np.arange(-3, 4) / 1.2) ** 2))
    taps /= taps.sum()
    assert np.allclose(blurred(image, 1.2)[0, 0, 1:8, 1:8], np.outer(taps, taps), atol=1e-6)
    assert blurred(image, 0.0) is image
    assert [blur_sigma(10, 200, kimg * 1000) for kimg in (0, 50, 200, 300)] == [10, 7.5, 0, 0]
    assert blur_sigma(0.0, 0.0, 0) == 0


# ----------------------------------------------------------------------------------------------- latents and mixing


def test_styles_are_mixed_from_each_images_own_layer_on(networks):
    G, _ = networks
    z, other = torch.randn(2, 3, 8, dtype=torch.float64)
    ws = styles(G, Latents(z, other, torch.tensor([1, 3, G.num_ws]), None), update_averages=True)
    first, second = G.mapping(z, None), G.mapping(other, None)
    for image, cutoff in enumerate((1, 3, G.num_ws)):
        assert torch.equal(ws[image, :cutoff], first[image, :cutoff])
        assert torch.equal(ws[image, cutoff:], second[image, cutoff:])
    assert torch.allclose(G.mapping.w_avg, 0.002 * first[:, 0].mean(0))


def test_nine_in_ten_images_are_mixed_from_any_layer_but_the_first(networks):
    G, _ = networks
    latents = draw_latents(G, 20_000, 0.9, torch.Generator().manual_seed(0))
    shares = np.bincount(latents.cutoff.numpy(), minlength=G.num_ws + 1) / 20_000
    assert shares[0] == 0
    assert np.allclose(shares[1 : G.num_ws], 0.9 / (G.num_ws - 1), atol=0.01)
    assert shares[G.num_ws] == pytest.approx(0.1, abs=0.01)
    assert draw_latents(G, 2, 0.0, torch.Generator()).other is None


# ------------------------------------------------------------------------------------------------------ micro-batches


def work_of(state, told, noise_mode="const"):
    losses = losses_of(state.G, state.D, {})
    losses.report, losses.signs, losses.noise_mode = state.statistics.report, state.signs, noise_mode
    return Iteration(told, losses, None, PhaseTimes(CPU), print)


def gradients_of(phase, micro_batch, pixels):
    told = settings(augment={"mode": "noaug"})
    state = new_state(told, CPU, torch.float16)
    state.micro_batch = micro_batch
    work = work_of(state, told)
    network = getattr(state, phase.network)
    number = [p.name for p in phases_of(told)].index(phase.name)
    with training(network):
        accumulate(state, work, phase, number, Batch(pixels, None))
    return [p.grad for p in network.parameters()], state


@pytest.mark.parametrize("phase", [Phase("Gmain", "G"), Phase("Dmain", "D"), Phase("Dreg", "D", 16)], ids=str)
def test_micro_batches_add_up_to_the_batch(phase):
    """Also where the judge compares the images of a batch, and for the averages and what is told."""
    pixels = torch.randint(0, 256, (16, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole, state = gradients_of(phase, 16, pixels)
    for size in (8, 4):
        parts, other = gradients_of(phase, size, pixels)
        for one, two in zip(whole, parts, strict=True):
            if one is None:
                assert two is None
                continue
            assert torch.allclose(one, two, rtol=1e-3, atol=1e-5 * float(one.abs().max()) + 1e-9)
        assert torch.allclose(state.G.mapping.w_avg, other.G.mapping.w_avg, atol=1e-7)
        assert torch.allclose(state.signs, other.signs)
        assert torch.allclose(state.statistics.sums, other.statistics.sums, rtol=1e-4, atol=1e-5)


def test_path_lengths_of_micro_batches_are_of_the_same_images():
    """Their noise is their own; their number and the step that is not taken yet are the batch's."""
    pixels = torch.zeros(16, 3, 16, 16, dtype=torch.uint8)
    for size in (16, 4):
        gradients, state = gradients_of(Phase("Greg", "G", 4), size, pixels)
        assert any(g is not None and bool(g.any()) for g in gradients)
        assert float(state.mean_length) == 0
        row = state.statistics.sums[3]
        assert row[0] == 8


def test_micro_batches_hold_whole_groups():
    assert micro_batches(256, 4) == [4, 8, 16, 32, 64, 128, 256]
    assert micro_batches(60, 4) == [4, 12, 20, 60]
    assert smaller_micro_batch(256, 64, 4) == 32
    assert smaller_micro_batch(60, 60, 4) == 20
    assert smaller_micro_batch(60, 4, 4) is None
    assert smaller_micro_batch(3, 3, 1) == 1


def test_the_first_micro_batch_is_the_largest_expected_to_fit():
    G_config = G_CONFIG | {"resolution": 256, "channel_base": 16384, "channel_max": 512}
    assert feature_values(G_config) == sum(
        c * r * r for r, c in zip((4, 8, 16, 32, 64, 128, 256), (512, 512, 512, 512, 256, 128, 64), strict=True)
    )
    per_image = bytes_per_image(G_config, G_config, half=True)
    weights, gigabyte = 49_000_000, 2**30
    assert choose_micro_batch(256, 4, per_image, 141 * gigabyte, weights) == 64  # never more, however large the GPU
    assert choose_micro_batch(256, 4, per_image, 23 * gigabyte, weights) == 64
    assert choose_micro_batch(256, 4, per_image, 0, weights) == 4
    assert choose_micro_batch(40, 4, per_image, 141 * gigabyte, weights) == 40


# ------------------------------------------------------------------------------------- optimizers, averages, ADA


def test_lazy_regularisation_corrects_adam():
    state = new_state(settings(), CPU, torch.float16)
    for optimizer, lr, second in ((state.G_optimizer, 0.0016, 0.991992), (state.D_optimizer, 0.00188235, 0.990585)):
        (group,) = optimizer.param_groups
        assert group["lr"] == pytest.approx(lr, rel=1e-5)
        assert group["betas"][0] == 0.0
        assert group["betas"][1] == pytest.approx(second, rel=1e-6)
    once = new_state(settings(G_optimizer=ADAM | {"interval": None}), CPU, torch.float16)
    assert once.G_optimizer.param_groups[0]["betas"] == (0.0, 0.99)


def test_phases_have_their_turns():
    assert [(p.name, p.interval) for p in phases_of(settings())] == [
        ("Gmain", 1),
        ("Greg", 4),
        ("Dmain", 1),
        ("Dreg", 16),
    ]
    told = settings().loss
    third = settings(G_optimizer=ADAM | {"interval": None}, loss=told | {"r1_gamma": 0})
    assert [p.name for p in phases_of(third)] == ["Gboth", "Dmain"]


def test_the_average_forgets_the_beginning():
    told = settings(batch=100, ema={"kimg": 5.0, "rampup": 0.05})
    state = new_state(told, CPU, torch.float16)
    start = copy.deepcopy(state.G_ema.state_dict())
    for parameter in state.G.parameters():
        parameter.data += 1
    state.G.mapping.w_avg.fill_(7)
    for images, half_life in ((40_000, 2000), (1_000_000, 5000)):
        state.G_ema.load_state_dict(start)
        state.images = images
        average_weights(state, told)
        share = 1 - 0.5 ** (100 / half_life)
        for name, parameter in state.G_ema.named_parameters():
            assert torch.allclose(parameter, start[name] + share, atol=1e-5), name
        assert float(state.G_ema.mapping.w_avg[0]) == 7
    state.images = 0
    average_weights(state, told)
    assert torch.equal(state.G_ema.mapping.fc0.weight, state.G.mapping.fc0.weight)


@pytest.mark.parametrize(
    "signs, before, after",
    [((1024, 1024), 0.3, 0.302048), ((1024, 0), 0.3, 0.297952), ((1024, 0), 0.001, 0.0), ((1024, 1000), 0.9999, 1.0)],
)
def test_p_moves_by_one_step_and_stays_a_probability(signs, before, after):
    told = settings(batch=256)
    state = new_state(told, CPU, torch.float16)
    state.augment.p.fill_(before)
    state.signs.copy_(torch.tensor(signs))
    adapt(state, told)
    assert float(state.augment.p) == pytest.approx(after, abs=1e-7)
    assert state.signs.tolist() == [0, 0]


def test_gradients_become_finite():
    layer = torch.nn.Linear(3, 1)
    layer.weight.grad = torch.tensor([[math.nan, math.inf, -math.inf]])
    reduce_gradients(layer)
    assert layer.weight.grad.tolist() == [[0, 1e5, -1e5]]
    assert layer.bias.grad is None


def test_statistics_are_those_of_all_that_was_reported():
    statistics = Statistics(CPU)
    values = np.random.default_rng(0).normal(5, 2, (4, 25)).astype(np.float32)
    for part in values:
        statistics.report("Loss/G/loss", torch.from_numpy(part))
    found = statistics.take()
    assert found.keys() == {"Loss/G/loss"}
    assert found["Loss/G/loss"] == {
        "num": 100,
        "mean": pytest.approx(values.mean(dtype=np.float64)),
        "std": pytest.approx(values.std(dtype=np.float64)),
    }
    assert statistics.take() == {}
