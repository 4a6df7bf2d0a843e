"""Official pickles, imitated: modules pickled under the names that the reference gives its functions.

What is shown is that pickles of this form come in whole, and that others do not; no published file was at hand.
"""

import json
import os
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from import_snapshot import main
from stylegan_errors import StyleganError
from stylegan_networks import build_discriminator, build_generator
from stylegan_official import generator_config, load_networks
from stylegan_pickles import read_pickle
from stylegan_snapshot import NETWORKS

RESOLUTION = 16
WIDTHS = {"channel_base": 256, "channel_max": 16, "num_fp16_res": 2, "conv_clamp": 256}


class Persistent:
    """A module as the reference pickles it: by a function of its own, with the source code that this is to run."""

    def __init__(self, class_name, state):
        self.class_name, self.state = class_name, state

    def __reduce__(self):
        meta = sys.modules["dnnlib.util"].EasyDict(
            type="class",
            version=6,
            module_src="raise SystemExit('source code in the pickle was run')",
            class_name=self.class_name,
            state=self.state,
        )
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


@pytest.fixture
def reference(monkeypatch):
    """Modules with the names of the reference's, while something is pickled."""

    def _reconstruct_persistent_obj(meta):
        raise SystemExit("the reference's function was called")

    class EasyDict(dict):
        pass

    for place, name, value in (
        ("torch_utils.persistence", "_reconstruct_persistent_obj", _reconstruct_persistent_obj),
        ("dnnlib.util", "EasyDict", EasyDict),
        ("dnnlib.tflib.network", "Network", type("Network", (), {})),
    ):
        value.__module__, value.__qualname__ = place, name
        module = types.ModuleType(place)
        setattr(module, name, value)
        for part in (place.split(".")[0], ".".join(place.split(".")[:2])):
            if part != place and part not in sys.modules:
                monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        monkeypatch.setitem(sys.modules, place, module)


def pickled(module, class_name, arguments=None):
    """Return `module` as a `Persistent`, its submodules likewise."""
    state: dict[str, object] = {
        "training": False,
        "_parameters": OrderedDict(module._parameters),
        "_buffers": OrderedDict(module._buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict((name, pickled(part, type(part).__name__)) for name, part in module._modules.items()),
        "_init_args": (),
        "_init_kwargs": arguments or {},
    }
    return Persistent(class_name, state)


def networks_of(kind, c_dim=0):
    common = {"c_dim": c_dim, "resolution": RESOLUTION, "channels": 3} | WIDTHS
    G_config = {"kind": kind, "z_dim": 24, "w_dim": 24, "map_depth": 3} | common
    if kind != "stylegan2":
        G_config["magnitude_ema_beta"] = 0.99
    D_config = {"kind": "stylegan2-discriminator", "mbstd_group": 2, "freeze_layers": 0} | common
    torch.manual_seed(5)
    return {"G": build_generator(G_config), "D": build_discriminator(D_config), "G_ema": build_generator(G_config)}


def arguments_of(network, kind):
    """Return what the reference builds such a network from, as its training script names it."""
    shape = {"c_dim": network.config["c_dim"], "img_resolution": RESOLUTION, "img_channels": 3}
    if kind == "D":
        return shape | WIDTHS | {"block_kwargs": {"freeze_layers": 0}, "epilogue_kwargs": {"mbstd_group_size": 2}}
    shape |= {"z_dim": 24, "w_dim": 24, "mapping_kwargs": {"num_layers": 3}}
    if kind == "stylegan2":
        return shape | WIDTHS | {"fused_modconv_default": "inference_only"}
    if kind == "stylegan3-t":
        return shape | WIDTHS | {"magnitude_ema_beta": 0.99}
    twice = {"channel_base": 512, "channel_max": 32, "conv_kernel": 1, "use_radial_filters": True}
    return shape | WIDTHS | twice | {"magnitude_ema_beta": np.float64(0.99)}


def write_pickle(path, networks, kind, **more):
    content: dict[str, object] = {}
    for name, network in networks.items():
        class_name, arguments = ("Discriminator", "D") if name == "D" else ("Generator", kind)
        content[name] = pickled(network, class_name, arguments_of(network, arguments))
    pipe = torch.nn.Module()
    pipe.register_buffer("p", torch.tensor(0.25))
    content["augment_pipe"] = pickled(pipe, "AugmentPipe")
    content["training_set_kwargs"] = sys.modules["dnnlib.util"].EasyDict(path="/data/images.zip", xflip=True)
    with path.open("wb") as file:
        pickle.dump(content | more, file)


@pytest.mark.parametrize(
    ("kind", "c_dim"), [("stylegan2", 0), ("stylegan2", 3), ("stylegan3-t", 0), ("stylegan3-r", 0)]
)
def test_every_tensor_comes_in_under_its_name(run, tmp_path, reference, kind, c_dim):
    networks = networks_of(kind, c_dim)
    path = tmp_path / "network-snapshot-001200.pkl"
    write_pickle(path, networks, kind)
    result = run(main, "--network", path)
    assert result.exit_code == 0, result.output
    tensors = load_file(path.with_suffix(".safetensors"))
    wanted = {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    snapshot = load_networks(path.with_suffix(".safetensors"), NETWORKS)
    assert snapshot.info["augment_p"] == 0.25
    assert snapshot.info["kimg"] == 1200
    assert snapshot.info["dataset"]["path"] == "/data/images.zip"
    assert isinstance(snapshot.G_ema, torch.nn.Module)
    assert snapshot.G_ema.config == networks["G_ema"].config


def test_the_scripts_take_a_pickle_itself(tmp_path, reference):
    networks = networks_of("stylegan2")
    write_pickle(tmp_path / "net.pkl", networks, "stylegan2")
    found = load_networks(tmp_path / "net.pkl", NETWORKS)
    z = torch.randn(2, 24)
    assert isinstance(found.G_ema, torch.nn.Module)
    assert isinstance(found.D, torch.nn.Module)
    with torch.no_grad():
        images = networks["G_ema"](z, noise_mode="const")
        assert torch.equal(found.G_ema(z, noise_mode="const"), images)
        assert torch.equal(found.D(images, None), networks["D"](images, None))


def test_what_is_in_a_pickle_is_told(run, tmp_path, reference):
    networks = networks_of("stylegan2")
    write_pickle(tmp_path / "net.pkl", {"G_ema": networks["G_ema"]}, "stylegan2")
    result = run(main, "--network", tmp_path / "net.pkl", "--network-info")
    assert result.exit_code == 0
    told, _, lines = result.output.partition("\n}\n")
    assert json.loads(told + "}")["G_config"] == networks["G_ema"].config
    assert f"{sum(p.numel() for p in networks['G_ema'].parameters()):,} parameters" in lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pkl"]
    result = run(main, "--network", tmp_path / "net.pkl")
    assert result.exit_code == 1
    assert "no network G;" in result.output


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


EVIL = {
    "os.system": lambda mark: Runs(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"),
    "builtins.getattr": lambda mark: Runs(getattr, Runs(OrderedDict), "keys"),
    "numpy": lambda mark: Runs(np.save, str(mark), 1),
    "torch": lambda mark: Runs(torch.save, 1, str(mark)),
}


@pytest.mark.parametrize("what", EVIL)
def test_a_pickle_that_asks_for_more_is_refused_before_anything_runs(run, tmp_path, reference, what):
    mark = tmp_path / "mark"
    for place in ("beside", "inside"):
        networks = {"G_ema": networks_of("stylegan2")["G_ema"]}
        evil = EVIL[what](mark)
        if place == "inside":
            networks["G_ema"].synthesis._buffers["evil"] = evil
        write_pickle(tmp_path / "evil.pkl", networks, "stylegan2", **({"evil": evil} if place == "beside" else {}))
        result = run(main, "--network", tmp_path / "evil.pkl", "--network-info")
        assert result.exit_code == 1
        assert f"evil.pkl asks for {'posix' if what == 'os.system' else what.split('.')[0]}" in result.output
        assert len(result.output.splitlines()) == 1
        assert not mark.exists()


def test_storages_are_read_without_running_what_is_in_them(run, tmp_path, reference):
    mark = tmp_path / "mark"
    inner = tmp_path / "inner"
    torch.save(Runs(os.system, f"touch {mark}"), inner)
    loads = torch.storage._load_from_bytes
    with (tmp_path / "evil.pkl").open("wb") as file:
        pickle.dump({"G_ema": Runs(loads, inner.read_bytes())}, file)
    result = run(main, "--network", tmp_path / "evil.pkl", "--network-info")
    assert result.exit_code == 1
    assert "torn or not a network pickle" in result.output
    assert not mark.exists()


def test_a_pickle_cannot_change_the_functions_that_it_calls(tmp_path):
    sets = b"N}\x8c\x09_functionNs\x86b."  # BUILD with the state (None, {"_function": None})
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x04ctorch._utils\n_rebuild_parameter\n" + sets)
    with pytest.raises(StyleganError, match="sets attributes of a function"):
        read_pickle(tmp_path / "evil.pkl")


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, reference):
    storage = torch.zeros(4).storage()
    huge = Runs(torch._utils._rebuild_tensor_v2, storage, 0, (1000,), (1,), False, OrderedDict())
    with (tmp_path / "net.pkl").open("wb") as file:
        pickle.dump({"G_ema": huge}, file)
    with pytest.raises(StyleganError, match="larger than its storage"):
        read_pickle(tmp_path / "net.pkl")


def test_pickles_of_other_kinds_are_told_apart(run, tmp_path, reference):
    cases = {
        "tensorflow.pkl": (sys.modules["dnnlib.tflib.network"].Network(), "pickle of the TensorFlow code"),
        "list.pkl": ([1, 2], "not of networks"),
        "other.pkl": ({"G": 1}, "no G_ema"),
    }
    for name, (content, told) in cases.items():
        (tmp_path / name).write_bytes(pickle.dumps(content))
        result = run(main, "--network", tmp_path / name)
        assert result.exit_code == 1
        assert told in result.output
    whole = tmp_path / "whole.pkl"
    write_pickle(whole, {"G_ema": networks_of("stylegan2")["G_ema"]}, "stylegan2")
    (tmp_path / "torn.pkl").write_bytes(whole.read_bytes()[:-5000])
    for name in ("torn.pkl", "missing.pkl"):
        result = run(main, "--network", tmp_path / name)
        assert result.exit_code == 1
        assert name in result.output
        assert len(result.output.splitlines()) == 1


def test_a_snapshot_is_written_under_the_name_by_which_it_is_known(run, tmp_path, reference):
    write_pickle(tmp_path / "net.pkl", networks_of("stylegan2"), "stylegan2")
    result = run(main, "--network", tmp_path / "net.pkl", "--output", tmp_path / "other.pkl")
    assert result.exit_code == 2
    assert "must end in .safetensors" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["net.pkl"]


def test_bytes_changed_within_a_storage_are_one_line(tmp_path, reference):
    write_pickle(tmp_path / "net.pkl", {"G_ema": networks_of("stylegan2")["G_ema"]}, "stylegan2")
    content = (tmp_path / "net.pkl").read_bytes()
    key = content.rindex(b"cpu") - 12  # PyTorch's number of a storage stands before its place, and again at the end
    assert content[key : key + 1].isdigit()
    (tmp_path / "net.pkl").write_bytes(content[:key] + b"x" + content[key + 1 :])
    with pytest.raises(StyleganError, match="torn or not a network pickle"):
        read_pickle(tmp_path / "net.pkl")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"channel_base": "16384"}, "channel_base of a Generator is no number"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter = "),
        ({"synthesis_kwargs": {"architecture": "orig"}}, "configuration that is not offered"),
        ({"attention": True}, "argument attention is not known"),
        ({"channel_max": 8}, "does not hold the tensors of G_ema"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(tmp_path, reference, arguments, told):
    G = networks_of("stylegan2")["G_ema"]
    content = {"G_ema": pickled(G, "Generator", arguments_of(G, "stylegan2") | arguments)}
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(StyleganError, match=told):
        load_networks(tmp_path / "net.pkl")


def test_a_filter_that_differs_is_refused(tmp_path, reference):
    networks = {"G_ema": networks_of("stylegan2")["G_ema"]}
    networks["G_ema"].synthesis.b8.conv0.resample_filter += 0.01
    write_pickle(tmp_path / "net.pkl", networks, "stylegan2")
    with pytest.raises(StyleganError, match=r"synthesis.b8.conv0.resample_filter"):
        load_networks(tmp_path / "net.pkl")


def test_arguments_in_groups_as_the_older_code_had_them(tmp_path, reference):
    G = networks_of("stylegan2")["G_ema"]
    flat = arguments_of(G, "stylegan2")
    grouped = {name: value for name, value in flat.items() if name not in WIDTHS} | {"synthesis_kwargs": WIDTHS}
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"G_ema": pickled(G, "Generator", grouped)}))
    found = read_pickle(tmp_path / "net.pkl")["G_ema"]
    assert generator_config(found, tmp_path) == G.config
