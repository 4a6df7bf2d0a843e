"""A training that goes on from any step, in any precision, with all that it keeps beside its weights."""

import pytest
from tiny_dataset import make_dataset
from tiny_training import assert_same_run, cut_at, failure, same, tensors_of, train

import segmentation_train

THREE_STEPS = ("--batch-size", 3)  # an epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("tiny") / "ARAS400k", train=9, val=3, test=3)


EVERYTHING = ("--ema", 0.9, "--sampling", "balanced", "--loss", "dice+ce", "--precision", "fp16")


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), EVERYTHING])
def test_a_run_killed_in_each_of_its_steps_ends_as_one_never_killed(data, tmp_path, monkeypatch, more):
    """Each process does two steps and is cut off before it has saved the second."""
    options = (*THREE_STEPS, "--limit", 6, "--epochs", 2, *more)  # two steps
    assert train(data, tmp_path / "unbroken", *options).exit_code == 0
    outdir, goes = tmp_path / "broken", []
    while not goes or goes[-1].exit_code:
        cut_at(monkeypatch, segmentation_train, "save", 2, "before")
        goes.append(train(data, outdir, *options, "--checkpoint-minutes", 0))
        monkeypatch.undo()
        assert len(goes) < 20
    assert len(goes) >= 5
    for go, steps in ((1, "1"), (2, "2")):
        assert f"0 epochs and {steps} steps done before" in goes[go].output
    assert_same_run(outdir, tmp_path / "unbroken")
    assert len((outdir / "metrics.jsonl").read_text().splitlines()) == 2


def test_checkpoints_within_an_epoch_come_by_the_clock(data, tmp_path, monkeypatch):
    saves = []
    original = segmentation_train.save
    monkeypatch.setattr(
        segmentation_train, "save", lambda state, *rest: saves.append(state.step) or original(state, *rest)
    )
    assert train(data, tmp_path / "often", *THREE_STEPS, "--epochs", 1, "--checkpoint-minutes", 0).exit_code == 0
    assert saves == [1, 2, 3, 0]
    saves.clear()
    assert train(data, tmp_path / "seldom", *THREE_STEPS, "--epochs", 1).exit_code == 0
    assert saves == [0]


def test_what_is_in_a_checkpoint(data, tmp_path):
    for name, more, parts in (
        ("plain", ("--precision", "bf16"), set()),
        ("all", ("--precision", "fp16", "--ema", 0.9), {"scaler", "average"}),
    ):
        assert train(data, tmp_path / name, "--epochs", 1, "--limit", 3, *more).exit_code == 0
        saved = tensors_of(tmp_path / name / "last.pt")
        assert saved.keys() == {"kind", "numbers", "model", "optimizer", "scheduler"} | parts
        assert saved["numbers"]["step"] == 0


def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path):
    """Whatever part of it is another's, what was there before is still there."""
    import copy

    import torch

    from aras.checkpoints import load_state, save_state
    from aras.errors import UserError

    def parts(seed):
        torch.manual_seed(seed)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    kind, numbers, last = {"arch": "Linear"}, {"epoch": 1}, tmp_path / "last.pt"
    save_state(last, kind, parts(0), numbers)
    good = tensors_of(last)
    other_shape = copy.deepcopy(good["optimizer"])
    other_shape["state"][1]["exp_avg"] = torch.zeros(5)
    bad = (
        ({"model": good["model"] | {"bias": torch.zeros(3)}}, "1 of another shape (such as bias)"),
        ({"optimizer": good["optimizer"] | {"param_groups": []}}, "has another optimizer than this training"),
        ({"optimizer": other_shape}, "exp_avg of shape (5,) for a weight of (2,)"),
        ({"scheduler": {"best": 1}}, "has another scheduler than this training"),
        ({"numbers": {"epoch": "1"}}, "has other numbers than this training"),
        ({"numbers": {}}, "has other numbers than this training"),
        ({"scaler": {}}, "is not the state of training Linear"),
    )
    mine = parts(1)
    before = copy.deepcopy({name: part.state_dict() for name, part in mine.items()})
    for change, message in bad:
        torch.save(good | change, last)
        with pytest.raises(UserError) as error:
            load_state(last, kind, mine, numbers)
        assert message in str(error.value)
        assert str(last) in str(error.value)
        assert same({name: part.state_dict() for name, part in mine.items()}, before)
    torch.save(good, last)
    assert load_state(last, kind, mine, numbers) == numbers
    assert same(mine["model"].state_dict(), good["model"])


def test_a_run_that_diverges_within_an_epoch_keeps_no_checkpoint_without_numbers(data, tmp_path):
    import torch

    result = train(data, tmp_path / "run", *THREE_STEPS, "--lr", 1e30, "--checkpoint-minutes", 0)
    assert "training diverged in epoch 1" in failure(result)
    saved = tensors_of(tmp_path / "run" / "last.pt")
    assert saved["numbers"]["step"] < 3
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved["model"].values())
