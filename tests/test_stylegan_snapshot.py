"""Network snapshots and training states: what goes in comes out, and nothing else is taken."""

import json
import pickle
import stat

import pytest
import torch
from safetensors.torch import save_file

from stylegan_errors import StyleganError
from stylegan_networks import build_discriminator, build_generator
from stylegan_snapshot import copy_matching, load_snapshot, load_state, read_snapshot, save_snapshot, save_state

WIDTHS = {"resolution": 16, "channels": 3, "channel_base": 64, "channel_max": 6, "num_fp16_res": 4, "conv_clamp": 256}
G_CONFIG = {"kind": "stylegan2", "z_dim": 8, "c_dim": 0, "w_dim": 8, "map_depth": 2} | WIDTHS
D_CONFIG = {"kind": "stylegan2-discriminator", "c_dim": 0, "mbstd_group": 4, "freeze_layers": 2} | WIDTHS
INFO = {"augment_p": 0.25, "dataset": {"name": "images"}, "kimg": 3.2, "images": 3200}


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return build_generator(G_CONFIG), build_discriminator(D_CONFIG), build_generator(G_CONFIG)


@pytest.fixture
def path(networks, tmp_path):
    path = tmp_path / "network-snapshot-000003.safetensors"
    save_snapshot(path, *networks, INFO)
    return path


def test_a_snapshot_is_its_networks(networks, path):
    random_before = torch.get_rng_state()
    snapshot = load_snapshot(path, ("G", "D", "G_ema"))
    assert torch.equal(torch.get_rng_state(), random_before)
    for module, found in zip(networks, (snapshot.G, snapshot.D, snapshot.G_ema), strict=True):
        wanted, state = module.state_dict(), found.state_dict()
        assert wanted.keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in wanted.items())
        assert not found.training
        assert not any(p.requires_grad for p in found.parameters())
    assert snapshot.info == INFO | {"format": 1, "G_config": G_CONFIG, "D_config": D_CONFIG}
    assert json.loads(path.with_suffix(".json").read_text()) == snapshot.info
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(path.with_suffix(".json").stat().st_mode)


def test_what_is_not_asked_for_is_not_read(path):
    snapshot = load_snapshot(path)
    assert (snapshot.G, snapshot.D) == (None, None)
    _, tensors = read_snapshot(path, ("D",))
    assert all(name.startswith("D.") for name in tensors)


@pytest.mark.parametrize(
    "damage, text",
    [
        ("missing", "is missing; check the path"),
        ("folder", "is a folder; name the file in it"),
        ("torn", "is torn or not a network snapshot"),
        ("pickle", "is torn or not a network snapshot"),
        ("weights", "is not a network snapshot of train.py"),
        ("other", "does not hold the tensors of G_ema"),
        ("odd", "that cannot be built"),
    ],
)
def test_what_is_no_snapshot_is_one_line(networks, path, damage, text):
    if damage == "missing":
        path.unlink()
    elif damage == "folder":
        path = path.parent
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"G": 1}))
    elif damage == "weights":
        save_file({"a": torch.zeros(1)}, path)
    else:
        config = G_CONFIG | ({"map_depth": 3} if damage == "other" else {"kind": "biggan"})
        info = {"format": 1, "G_config": config, "D_config": D_CONFIG}
        save_file({f"G_ema.{n}": t for n, t in networks[0].state_dict().items()}, path, {"info": json.dumps(info)})
    with pytest.raises(StyleganError) as failed:
        load_snapshot(path)
    assert str(path) in failed.value.message
    assert text in failed.value.message
    assert "\n" not in failed.value.message


def test_a_state_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    torch.save({"format": 1, "evil": Evil()}, tmp_path / "training-state.pt")
    with pytest.raises(StyleganError, match="holds more than tensors and plain values"):
        load_state(tmp_path / "training-state.pt")
    assert not (tmp_path / "ran").exists()


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "training-state.pt"
    save_state(path, {"format": 1, "a": torch.ones(2)})
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        save_state(path, {"format": 1, "a": (lambda: None)})
    assert load_state(path)["a"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_only_what_fits_is_copied(networks):
    wider = build_generator(G_CONFIG | {"channel_max": 8})
    before = wider.synthesis.b8.conv1.weight.clone()
    count = copy_matching(wider, networks[0].state_dict())
    assert 0 < count < len(wider.state_dict())
    assert torch.equal(wider.mapping.fc0.weight, networks[0].mapping.fc0.weight)
    assert torch.equal(wider.synthesis.b8.conv1.weight, before)
