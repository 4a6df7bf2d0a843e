"""Mapping sets of images by an encoder's features, run as its users run it."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset

import segformer_vis
from aras.feature_maps import scatter
from aras.files import sole_writer
from aras.training import share_cores
from segformer_vis import main, weights_or_default

share_cores()
ROOT = Path(__file__).resolve().parent.parent
ENCODER = "tu-test_efficientnet"
NEEDS_NO_MODEL = ("load_segmenter", "distance_sums", "nearest_neighbors")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a model that was drawn, not trained, beside a run.json that tells what it is."""
    import torch

    from aras.checkpoints import save_tensors
    from aras.segmenter import build_model

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    save_tensors(folder / "best.pt", build_model("Unet", ENCODER, "none").state_dict())
    (folder / "run.json").write_text(json.dumps({"options": {"arch": "Unet", "encoder": ENCODER}}))
    return folder / "best.pt"


@pytest.fixture
def data(tmp_path):
    """A dataset with 12 real images and 9 that were generated, brighter, under the same names."""
    data = make_dataset(tmp_path / "ARAS400k", train=12)
    generated = data / "train" / "generated"
    generated.mkdir()
    for path in sorted((data / "train" / "images").iterdir())[:9]:
        pixels = np.asarray(Image.open(path)).astype(int)
        Image.fromarray(np.clip(pixels + 60, 0, 255).astype(np.uint8)).save(generated / path.name)
    return data


@pytest.fixture
def vis(run, weights, data, tmp_path, monkeypatch):
    """Run the script on the CPU for t-SNE alone, with figures of few pixels; return click's result."""
    monkeypatch.setattr(scatter, "DPI", 30)

    def invoke(*more, method=("--method", "tsne"), outdir=None):
        options = ("--weights", weights, "--workers", 0, "--device", "cpu", "--batch-size", 4)
        return run(main, "--data", data, "--outdir", outdir or tmp_path / "maps", *options, *method, *more)

    return invoke


@pytest.fixture
def maps(tmp_path):
    return tmp_path / "maps"


def failure(result):
    """Return the one line with which a run failed."""
    assert result.exit_code == 1, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert result.output.splitlines()[-1:] == lines
    return lines[0]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(folder):
    """Return the content of every result below `folder`, by relative path."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in ("run.json", ".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths)}


def without_folders(files):
    """Return `files` with silhouette.json as values, less the folders that it names."""
    scores = json.loads(files["silhouette.json"])
    for told in scores["sets"]:
        del told["folder"]
    return files | {"silhouette.json": scores}


def test_a_bare_run_maps_and_scores_the_published_sets(run, weights, data, monkeypatch, tmp_path):
    from sklearn.metrics import silhouette_score
    from sklearn.preprocessing import StandardScaler

    shutil.copytree(weights.parent, tmp_path / "segmentation")
    monkeypatch.chdir(tmp_path)
    result = run(main, "--thumbnails")
    assert result.exit_code == 0
    assert f"Leaves out synthetic: there is no image in {Path('ARAS400k/synth/images')}" in result.output
    maps = tmp_path / "feature_maps"
    rows = []
    for name, folder in (("real", "images"), ("generated", "generated")):
        with np.load(maps / "features" / f"{name}.npz") as file:
            rows.append(file["features"])
            assert file["names"].tolist() == sorted(p.stem for p in (data / "train" / folder).iterdir())
    labels = np.repeat((0, 1), (12, 9))
    wanted = silhouette_score(StandardScaler().fit_transform(np.concatenate(rows)), labels)
    scores = json.loads((maps / "silhouette.json").read_text())
    assert scores["overall"]["silhouette"] == pytest.approx(wanted, abs=1e-5)
    assert scores["pairs"][0]["silhouette"] == pytest.approx(wanted, abs=1e-5)
    assert [(told["name"], told["images"]) for told in scores["sets"]] == [("real", 12), ("generated", 9)]
    assert scores["features"] == 64
    assert f"silhouette of the features by set {wanted:.4f}" in result.output
    for method in ("tsne", "umap"):
        points = table(maps / f"{method}.csv")
        assert [row["set"] for row in points] == ["real"] * 12 + ["generated"] * 9
        assert (data / "train" / "generated" / points[-1]["filename"]).is_file()
        assert np.ptp([float(row["x"]) for row in points]) > 0.1
        for kind in ("comparison", "thumbnails"):
            with Image.open(maps / f"{method}_{kind}.png") as image:
                assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
                assert image.width > 1800
                assert len(image.convert("RGB").getcolors(1 << 24)) > 50
    told = json.loads((maps / "run.json").read_text())
    assert (told["seed"], told["options"]["encoder"]) == (42, ENCODER)


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(vis, maps, tmp_path):
    both = ("--method", "tsne", "--method", "umap")
    cache = ("--features-cache", tmp_path / "cache")
    for name, seed in (("maps", 42), ("again", 42), ("other", 43)):
        assert vis("--seed", seed, *cache, method=both, outdir=tmp_path / name).exit_code == 0
    assert files_of(maps) == files_of(tmp_path / "again")
    first, other = files_of(maps), files_of(tmp_path / "other")
    assert sorted(first) == sorted(other)
    assert first["umap.csv"] != other["umap.csv"]
    assert first["umap_comparison.png"] != other["umap_comparison.png"]


def test_a_second_run_redoes_nothing(vis, maps, monkeypatch):
    assert vis().exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in maps.rglob("*") if path.name != ".lock"}
    for name in (*NEEDS_NO_MODEL, "draw_map"):
        monkeypatch.setattr(segformer_vis, name, None)
    result = vis()
    assert result.exit_code == 0
    assert "Writes nothing: all is there" in result.output
    assert "silhouette of the features by set" in result.output
    assert {path: path.stat().st_mtime_ns for path in maps.rglob("*") if path.name != ".lock"} == before


def test_what_is_missing_is_made_of_what_is_there(vis, maps, monkeypatch):
    assert vis().exit_code == 0
    before = files_of(maps)
    (maps / "tsne.csv").unlink()
    (maps / "tsne_comparison.png").unlink()
    with monkeypatch.context() as patch:
        for name in NEEDS_NO_MODEL[:2]:
            patch.setattr(segformer_vis, name, None)
        assert vis().exit_code == 0
    assert files_of(maps) == before
    (maps / "tsne_comparison.png").unlink()
    for name in NEEDS_NO_MODEL:
        monkeypatch.setattr(segformer_vis, name, None)
    assert vis("--thumbnails").exit_code == 0
    after = files_of(maps)
    assert after.pop("tsne_thumbnails.png")
    assert after == before


def test_a_set_whose_images_changed_is_extracted_again_and_only_that(vis, maps, data, tmp_path):
    assert vis().exit_code == 0
    before = files_of(maps)
    stamp = (maps / "features" / "real.npz").stat().st_mtime_ns
    generated = data / "train" / "generated"
    shutil.copy(data / "train" / "images" / "N41E031_001_000.png", generated / "N41E031_000_003.png")
    result = vis()
    assert result.exit_code == 0
    assert "The images are not those of the earlier run" in result.output
    assert "generated.npz is of other images or weights, or torn: extracts" in result.output
    assert "real.npz is of other" not in result.output
    assert (maps / "features" / "real.npz").stat().st_mtime_ns == stamp
    after = files_of(maps)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {*before} - {"features/real.npz"}
    assert vis(outdir=tmp_path / "new").exit_code == 0
    assert after == files_of(tmp_path / "new")


def test_another_run_shares_the_features(vis, maps, tmp_path, monkeypatch):
    assert vis().exit_code == 0
    monkeypatch.setattr(segformer_vis, "load_segmenter", None)
    other = tmp_path / "other"
    assert vis("--perplexity", 3, "--features-cache", maps / "features", outdir=other).exit_code == 0
    assert (other / "tsne.csv").read_bytes() != (maps / "tsne.csv").read_bytes()
    assert not (other / "features").exists()


def test_other_options_and_other_weights_are_refused(vis, maps, weights):
    from aras.checkpoints import load_tensors, save_tensors

    assert vis().exit_code == 0
    before = files_of(maps)
    assert "--perplexity was 30.0, now 5.0" in failure(vis("--perplexity", 5))
    assert "--max-images was 50000, now 5" in failure(vis("--max-images", 5))
    content = weights.read_bytes()
    save_tensors(weights, {name: tensor * 2 for name, tensor in load_tensors(weights).items()})
    line = failure(vis())
    weights.write_bytes(content)
    assert f"the content of {weights} is not what it was when {maps} was begun" in line
    assert files_of(maps) == before


def test_images_that_cannot_be_used_are_listed_and_the_rest_is_kept(vis, maps, data):
    bad = [data / "train" / kind / "N41E031_000_004.png" for kind in ("images", "generated")]
    content = [path.read_bytes() for path in bad]
    bad[0].write_bytes(b"no image")
    bad[1].write_bytes(content[1][:90])
    line = failure(vis())
    assert f"2 images could not be used, see {maps / 'failures.csv'}" in line
    failures = table(maps / "failures.csv")
    assert [(row["set"], row["filename"]) for row in failures] == [(s, bad[0].name) for s in ("real", "generated")]
    assert str(bad[0]) in failures[0]["reason"]
    for path, whole in zip(bad, content, strict=True):
        path.write_bytes(whole)
    assert vis().exit_code == 0
    assert not (maps / "failures.csv").exists()
    assert len(table(maps / "tsne.csv")) == 21


def test_a_damaged_cache_is_extracted_again_and_a_damaged_map_named(vis, maps):
    assert vis().exit_code == 0
    before = files_of(maps)
    (maps / "features" / "real.npz").write_bytes(b"torn")
    (maps / "silhouette.json").unlink()
    result = vis()
    assert result.exit_code == 0
    assert "real.npz is of other images or weights, or torn" in result.output
    assert files_of(maps) == before
    (maps / "tsne_comparison.png").unlink()
    (maps / "tsne.csv").write_bytes(before["tsne.csv"][:-40])
    line = failure(vis())
    assert f"{maps / 'tsne.csv'} is not the map of these 21 images; delete it" in line
    (maps / "tsne.csv").unlink()
    assert vis().exit_code == 0
    assert files_of(maps) == before
    (maps / "silhouette.json").write_text("{")
    assert "silhouette.json is not readable JSON" in failure(vis())


def test_scores_of_another_shape_are_one_line_and_made_again_when_deleted(vis, maps):
    assert vis().exit_code == 0
    before = files_of(maps)
    good = json.loads(before["silhouette.json"])
    for content in ({}, [], {"sets": [1]}, good | {"overall": None}, good | {"pairs": [{"sets": ["a"]}]}):
        (maps / "silhouette.json").write_text(json.dumps(content))
        line = failure(vis())
        assert f"{maps / 'silhouette.json'} is not the silhouettes of a comparison; delete it" in line
    (maps / "silhouette.json").unlink()
    assert vis().exit_code == 0
    assert files_of(maps) == before


def test_at_most_so_many_of_each_set_are_drawn(vis, maps):
    assert vis("--max-images", 6, "--seed", 1).exit_code == 0
    rows = table(maps / "tsne.csv")
    assert [row["set"] for row in rows] == ["real"] * 6 + ["generated"] * 6
    assert len({row["filename"] for row in rows[:6]}) == 6


def test_few_images_take_smaller_neighbourhoods_and_say_so(vis, maps):
    result = vis("--max-images", 4, method=("--method", "tsne", "--method", "umap"))
    assert result.exit_code == 0
    assert "--perplexity 30 is too much for 8 images; takes 2.33" in result.output
    assert "--neighbors 15 is too much for 8 images; takes 7" in result.output
    assert len(table(maps / "umap.csv")) == 8


def test_any_sets_can_be_compared_and_of_any_sizes(vis, maps, data, tmp_path):
    large = make_dataset(tmp_path / "large", size=(50, 71), test=5, seed=4) / "test" / "images"
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(large / "N41E031_000_001.png", one / "a,b.png")
    sets = {"real": data / "train" / "images", "large-1": large, "one": one, "twin": data / "train" / "images"}
    result = vis(*(word for name, folder in sets.items() for word in ("--set", f"{name}={folder}")))
    assert result.exit_code == 0
    scores = json.loads((maps / "silhouette.json").read_text())
    assert [told["name"] for told in scores["sets"]] == list(sets)
    assert len(scores["pairs"]) == 6
    assert scores["overall"]["of_set"]["one"] == 0
    twins = next(pair for pair in scores["pairs"] if pair["sets"] == ["real", "twin"])
    assert -0.2 < twins["silhouette"] < 0
    assert "a,b.png" in [row["filename"] for row in table(maps / "tsne.csv")]


@pytest.mark.parametrize(
    "sets, told",
    [
        (["real"], "--set real is not NAME=DIR"),
        (["a/b={images}", "c={images}"], "--set a/b={images} is not NAME=DIR with a name of letters"),
        (["a={images}", "a={images}"], "--set a is given twice"),
        (["a={images}"], "2 to 8 sets are compared, and here are 1 (a)"),
        ([f"s{k}={{images}}" for k in range(9)], "2 to 8 sets are compared, and here are 9"),
        (["a={images}", "b={empty}"], "{empty} has no PNG image"),
        (["a={images}", "b={empty}/none"], "{empty}/none is not a folder"),
    ],
)
def test_sets_that_cannot_be_compared_are_one_line(vis, maps, data, tmp_path, sets, told):
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"images": data / "train" / "images", "empty": empty}
    line = failure(vis(*(word for text in sets for word in ("--set", text.format(**places)))))
    assert told.format(**places) in line
    assert not maps.exists()


def test_a_dataset_with_one_set_is_one_line_that_names_the_option(vis, data, maps):
    shutil.rmtree(data / "train" / "generated")
    assert "name folders of images by --set NAME=DIR" in failure(vis())
    assert not maps.exists()


def test_too_few_images_are_one_line(vis, maps):
    assert "6 images are too few for a map; give at least 8" in failure(vis("--max-images", 3))
    assert not maps.exists()


def test_images_that_are_all_the_same_are_one_line(vis, tmp_path):
    for k in range(9):
        (tmp_path / "black").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "black" / f"{k}.png")
    sets = (f"--set={name}={tmp_path / 'black'}" for name in "ab")
    assert "all images have the same features; compare images that differ" in failure(vis(*sets))


def test_weights_that_are_missing_or_of_another_kind_are_one_line(vis, maps, weights, tmp_path, monkeypatch):
    assert f"{tmp_path / 'no.pt'} is missing" in failure(vis("--weights", tmp_path / "no.pt"))
    alone = tmp_path / "alone.pt"
    shutil.copy(weights, alone)
    assert "does not tell what alone.pt is; give --arch and --encoder" in failure(vis("--weights", alone))
    line = failure(vis("--weights", alone, "--arch", "FPN", "--encoder", ENCODER))
    assert f"{alone} does not hold the weights of FPN with {ENCODER}" in line
    monkeypatch.chdir(tmp_path)
    with pytest.raises(segformer_vis.UserError, match=r"best\.pt is missing, and so is best_ARAS400k_Segformer"):
        weights_or_default(None)
    Path("segmentation").mkdir()
    for path in (segformer_vis.OWN_WEIGHTS, segformer_vis.PUBLISHED_WEIGHTS):
        path.touch()
        assert weights_or_default(None) == path


def test_what_another_made_is_not_written_over(vis, maps):
    maps.mkdir()
    (maps / "umap_comparison.png").write_bytes(b"mine")
    line = failure(vis())
    assert f"{maps / 'umap_comparison.png'} was not written by this script" in line
    assert (maps / "umap_comparison.png").read_bytes() == b"mine"


def test_a_second_process_stops_with_one_line(vis, maps):
    maps.mkdir()
    with sole_writer(maps):
        assert "another process is writing to" in failure(vis())


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_the_next_does_not_mend(weights, tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", train=60, val=30)

    def command(output):
        sets = [word for split in ("train", "val") for word in ("--set", f"{split}={data / split / 'images'}")]
        options = ("--weights", weights, "--outdir", output, "--batch-size", 4, "--device", "cpu", "--workers", 1)
        return [sys.executable, str(ROOT / "segformer_vis.py"), "--method", "tsne", *map(str, (*options, *sets))]

    def outputs(folder):
        return {path.name for path in folder.rglob("*") if not path.name.endswith((".part", ".lock"))}

    subprocess.run(command(tmp_path / "unbroken"), check=True, capture_output=True)
    broken, kills = tmp_path / "broken", 0
    for _ in range(20):
        process = subprocess.Popen(command(broken), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        before = outputs(broken)
        while process.poll() is None and outputs(broken) == before:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, errors = process.communicate()
        assert b"Traceback" not in errors.split(b"DataLoader")[0]
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert kills > 4
    assert without_folders(files_of(broken)) == without_folders(files_of(tmp_path / "unbroken"))
