"""Training on the images that a list names: `--only SET=FILE`."""

import json
import shutil

import pytest
from tiny_dataset import make_dataset
from tiny_training import failure, train

from aras.errors import UserError
from aras.pairs import find_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("tiny") / "ARAS400k", train=8, val=3, test=3, synth=6)
    shutil.copytree(data / "train" / "images", data / "train" / "generated")
    return data


def listed(path, *numbers, suffix=""):
    """Write a list of the patches with these `numbers`, and return it."""
    path.write_text("".join(f"N41E031_000_00{number}{suffix}\n" for number in numbers))
    return path


def test_pairs_are_those_of_the_list_in_the_sets_own_order(data, tmp_path):
    names = find_pairs(data, "synth", only=listed(tmp_path / "list", 4, 1, 3)).names.tolist()
    assert names == [f"N41E031_000_00{number}" for number in (1, 3, 4)]
    with_suffix = listed(tmp_path / "windows", 4, 1, suffix=".png\r\n")
    assert find_pairs(data, "generated", only=with_suffix).names.tolist() == [names[0], names[2]]
    assert find_pairs(data, "synth", 2, tmp_path / "list").names.tolist() == names[:2]


def test_images_that_are_not_listed_need_no_mask(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", synth=3)
    (data / "synth" / "masks" / "N41E031_000_000.png").unlink()
    assert len(find_pairs(data, "synth", only=listed(tmp_path / "list", 1, 2))) == 2
    with pytest.raises(UserError, match=r"N41E031_000_000\.png is missing"):
        find_pairs(data, "synth", only=listed(tmp_path / "list", 0, 1))


@pytest.mark.parametrize(
    "content, message",
    [
        ("N41E031_000_001\nelsewhere\n", r"names elsewhere, which is no image of .*synth/images .*\(1 of its 2 names"),
        ("\n  \n", "names no image; make the list again with milder thresholds"),
        ("N41E031_000_001\nN41E031_000_001.png\n", "has N41E031_000_001 twice"),
        (b"\xff\xfe", "is not a list of names"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(data, tmp_path, content, message):
    path = tmp_path / "list"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        find_pairs(data, "synth", only=path)


def test_a_training_on_lists_goes_on_with_the_same_lists_alone(data, tmp_path):
    """Wherever they then lie: it is their content that counts."""
    outdir, synth = tmp_path / "run", listed(tmp_path / "synth", 5, 0, 2)
    drawn = listed(tmp_path / "drawn", 7)
    sets = [word for name in ("train", "synth", "generated") for word in ("--train", name)]
    sets += ["--limit", "6", "--mix", "2:1:1", "--sampling", "balanced"]
    first = train(data, outdir, *sets, "--only", f"synth={synth}", "--only", f"generated={drawn}", "--epochs", 1)
    assert first.exit_code == 0
    assert "6 train + 3 synth + 1 generated to train on" in first.output
    options = json.loads((outdir / "run.json").read_text())["options"]
    assert options["only"] == [f"synth={synth}", f"generated={drawn}"]
    assert options["only_sha256"].count(" ") == 3
    moved = synth.rename(tmp_path / "moved")
    again = ("--only", f"generated={drawn}", "--only", f"synth={moved}")
    assert train(data, outdir, *sets, *again, "--epochs", 2).exit_code == 0
    listed(moved, 5, 0, 3)
    line = failure(train(data, outdir, *sets, *again, "--epochs", 3))
    assert "is of a run with other options: --only-sha256 was" in line
    assert "--only-sha256 was" in failure(train(data, outdir, *sets, "--epochs", 3))


@pytest.mark.slow
def test_a_run_of_before_there_were_lists_goes_on(data, tmp_path):
    outdir = tmp_path / "run"
    assert train(data, outdir, "--epochs", 1).exit_code == 0
    record = json.loads((outdir / "run.json").read_text())
    assert record["options"].pop("only") == []
    assert record["options"].pop("only_sha256") is None
    (outdir / "run.json").write_text(json.dumps(record))
    assert train(data, outdir, "--epochs", 2).exit_code == 0


@pytest.mark.parametrize(
    "given, message",
    [
        (["synth=list"], "synth is not trained on; add --train synth"),
        (["list"], "list is not SET=FILE"),
        (["train=a", "train=b"], "train has two lists"),
    ],
)
def test_lists_of_no_set_are_usage_errors(data, tmp_path, given, message):
    words = [word for text in given for word in ("--only", text)]
    result = train(data, tmp_path / "run", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_list_that_is_missing_is_one_line(data, tmp_path):
    line = failure(train(data, tmp_path / "run", "--only", f"train={tmp_path / 'gone'}"))
    assert f"{tmp_path / 'gone'}: No such file or directory" in line
