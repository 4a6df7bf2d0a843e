import copy

import pytest

from aras.averaging import WeightAverage
from aras.training import share_cores

share_cores()


def small_model(seed=0):
    import torch

    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 7, 1))


def steps(model, average, count, seed=1):
    """Train `model` for `count` steps with the average beside it; return its states after each."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    states = []
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.rand(2, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        average.update(model)
        states.append(copy.deepcopy(model.state_dict()))
    return states


@pytest.mark.parametrize("decay", [0.999, 0.3])
def test_it_is_the_average_by_hand(decay):
    import torch

    model = small_model()
    expected = {name: tensor.double() for name, tensor in model.state_dict().items()}
    average = WeightAverage(model, decay)
    for n, state in enumerate(steps(model, average, 12), start=1):
        d = min(decay, (1 + n) / (10 + n))
        for name, tensor in state.items():
            expected[name] = d * expected[name] + (1 - d) * tensor if tensor.is_floating_point() else tensor
    found = average.model.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name].double(), rtol=1e-5, atol=1e-7)
    assert found["1.num_batches_tracked"] == 12
    assert not torch.equal(found["1.running_mean"], state["1.running_mean"])
    assert not torch.equal(found["0.weight"], state["0.weight"])
    assert average.updates == 12


def test_it_stands_by_itself():
    import torch

    model = small_model()
    average = WeightAverage(model, 0.9)
    assert model.training
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = {name: tensor.clone() for name, tensor in average.model.state_dict().items()}
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(average.model.state_dict()["0.weight"], before["0.weight"])
    logits = average.model(torch.rand(2, 3, 8, 8))
    assert logits.shape == (2, 7, 6, 6)
    assert not logits.requires_grad


def test_weights_that_do_not_move_are_their_own_average_to_the_bit():
    import torch

    model = small_model().to(memory_format=torch.channels_last)
    average = WeightAverage(model, 0.999)
    for _ in range(5):
        average.update(model)
    for name, tensor in average.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert average.model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_an_average_that_was_interrupted_goes_on_to_the_bit(tmp_path):
    import torch

    model = small_model()
    whole = WeightAverage(model, 0.999)
    first = copy.deepcopy(model)
    steps(model, whole, 4)
    steps(model, whole, 5, seed=2)

    begun = WeightAverage(first, 0.999)
    steps(first, begun, 4)
    torch.save({"average": begun.state_dict(), "model": first.state_dict()}, tmp_path / "last.pt")
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    again, resumed = small_model(seed=9), small_model(seed=8)
    resumed.load_state_dict(saved["model"])
    average = WeightAverage(again, 0.999)
    average.load_state_dict(saved["average"])
    steps(resumed, average, 5, seed=2)
    assert average.updates == whole.updates == 9
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, average.model.state_dict()[name]), name


@pytest.mark.parametrize("spoil", ["missing", "shape", "foreign", "updates"])
def test_a_state_of_another_model_changes_nothing(spoil):
    import torch

    average = WeightAverage(small_model(), 0.9)
    state = copy.deepcopy(WeightAverage(small_model(seed=5), 0.9).state_dict())
    if spoil == "missing":
        del state["model"]["2.bias"]
    elif spoil == "shape":
        state["model"]["2.bias"] = torch.zeros(3)
    elif spoil == "foreign":
        state["model"]["3.bias"] = torch.zeros(3)
    else:
        del state["updates"]
    before = copy.deepcopy(average.model.state_dict())
    with pytest.raises((KeyError, ValueError)):
        average.load_state_dict(state)
    assert average.updates == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.model.state_dict().items())
