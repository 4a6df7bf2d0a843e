"""Processes that train together, as real ones: what they share is what one process alone would have."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from aras.legend import NO_DATA, NUM_CLASSES
from aras.training import share_cores

share_cores()
WORLD = 2
SHARES = (slice(0, 3), slice(3, 5))  # of a batch of five


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def in_processes(work, folder):
    """Run `work(rank, folder)` in `WORLD` processes that torchrun could have started; return what each saved."""
    import torch

    torch.multiprocessing.spawn(_begin, (work, folder, free_port()), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def _begin(rank, work, folder, port):
    import torch

    from aras.distributed import process_group

    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    with process_group():
        torch.save(work(rank, folder), folder / f"{rank}.pt")


def whole_batch(seed=1, images=5, side=64):
    """Return images (B, 3, H, W) float64 and labels (B, H, W), of which some are ignored, most in the first share."""
    import torch

    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES - 1, (images, side, side)).astype(np.uint8)  # one class is absent
    labels[0, : side // 2] = NO_DATA
    return torch.from_numpy(rng.normal(size=(images, 3, side, side))), torch.from_numpy(labels)


def model():
    """Return a segmenter with both kinds of batch normalisation and without dropout, in float64."""
    import torch

    from aras.segmenter import build_model

    torch.manual_seed(0)
    return build_model("Unet", "tu-test_efficientnet", "none").double().train()


def trained(net, images, labels, loss_of):
    """Return the loss, the gradients and the buffers after two passes of a batch."""
    from aras.distributed import average_gradients

    for _ in range(2):
        net.zero_grad()
        loss = loss_of(net(images), labels)
        loss.backward()
        average_gradients(net.parameters())
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    return {"loss": loss.detach(), "gradients": gradients, "buffers": dict(net.named_buffers())}


def work(rank, folder):
    import torch

    from aras.batch_norm import synchronised
    from aras.distributed import add_up, from_first, gathered, is_first, sum_over_ranks, world_size
    from aras.segmentation import losses

    assert (world_size(), is_first()) == (WORLD, rank == 0)
    images, labels = (tensor[SHARES[rank]] for tensor in whole_batch())
    net = synchronised(model(), torch.device("cpu"))
    found = {"names": list(net.state_dict())}
    for name, loss_of in (("dice", losses.dice), ("dice+ce", losses.dice_and_cross_entropy)):
        net.load_state_dict(model().state_dict())
        found[name] = trained(net, images, labels, lambda *pair, of=loss_of: of(*pair, sum_over_ranks))
        net.zero_grad(set_to_none=True)
    found["evaluated"] = net.eval()(images).detach()
    numbers = torch.tensor([rank + 1.0])
    add_up(numbers)
    found["sum"] = numbers
    found["first"] = from_first(lambda: {"rank": rank, "list": [1, 2]})
    found["gathered"] = [part.tolist() for part in gathered(np.full((2, 3), rank, np.uint8))]
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return in_processes(work, tmp_path_factory.mktemp("ranks"))


def assert_close(one, other):
    """Assert that all tensors are the same but for the order of float64 sums."""
    import torch

    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dice", "dice+ce"])
def test_two_shares_have_the_loss_the_gradients_and_the_statistics_of_the_whole_batch(shared, name):
    from aras.segmentation import losses

    loss_of = {"dice": losses.dice, "dice+ce": losses.dice_and_cross_entropy}[name]
    alone = trained(model(), *whole_batch(), loss_of)
    assert max(float(gradient.abs().max()) for gradient in alone["gradients"].values()) > 1e-3
    for found in shared:
        assert_close({"loss": found[name]["loss"]}, {"loss": alone["loss"]})
        assert_close(found[name]["gradients"], alone["gradients"])
        assert_close(found[name]["buffers"], alone["buffers"])


@pytest.mark.slow
def test_a_synchronised_model_has_the_names_of_the_plain_one(shared):
    assert shared[0]["names"] == shared[1]["names"] == list(model().state_dict())


@pytest.mark.slow
def test_numbers_are_summed_arrays_gathered_and_the_first_decides(shared):
    assert [float(found["sum"]) for found in shared] == [3, 3]
    assert [found["first"] for found in shared] == [{"rank": 0, "list": [1, 2]}] * 2
    assert shared[0]["gathered"] == [[[0] * 3] * 2, [[1] * 3] * 2]
    assert shared[1]["gathered"] == []


def test_a_process_alone_needs_no_other():
    import torch

    from aras.batch_norm import synchronised
    from aras.distributed import add_up, from_first, gathered, is_first, process_group, sum_over_ranks, world_size

    tensor = torch.ones(3)
    with process_group():
        assert (world_size(), is_first()) == (1, True)
        assert sum_over_ranks(tensor) is tensor
        add_up(tensor)
        assert tensor.tolist() == [1, 1, 1]
        assert from_first(lambda: 5) == 5
        assert [part.tolist() for part in gathered(np.arange(2))] == [[0, 1]]
        net = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
        assert type(synchronised(net, torch.device("cpu"))[0]) is torch.nn.BatchNorm2d
        assert not torch.distributed.is_initialized()


def _threads_afterwards(rank, folder, port, module):
    """Save how many of gloo's threads live on after a group in which what compiles was first imported."""
    import gc
    import importlib
    import sys

    import torch

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stylegan3"))
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"}
    with importlib.import_module(module).process_group():
        importlib.import_module("torch._dynamo")
    gc.collect()
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert names
    torch.save(torch.tensor(sum("gloo" in name for name in names)), folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize("module", ["aras.distributed", "stylegan_distributed"])
def test_a_group_leaves_no_thread_behind(module, tmp_path):
    """One that is left can end the process by an abort, when the interpreter is gone and it asks for it."""
    import torch

    torch.multiprocessing.spawn(_threads_afterwards, (tmp_path, free_port(), module), nprocs=WORLD)
    for rank in range(WORLD):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == 0
