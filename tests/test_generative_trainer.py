"""The trainer of the conditional GAN, run as its users run it, on a dataset that fits a few seconds."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset
from tiny_gan import assert_same_run, make_judge, metrics_of, run, train
from tiny_training import cut_at, failure, same, tensors_of

import aras.spade.drawing
import aras.spade.gallery
import aras.spade.run_folder
import aras.spade.snapshots
from aras.legend import CLASS_NAMES, mask_image
from aras.spade.run_folder import RunFolder

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Nine pairs in batches of four: passes end within batches."""
    data = make_dataset(tmp_path_factory.mktemp("tiny") / "ARAS400k", train=9, val=3)
    make_judge(data.parent / "judge", data)
    return data


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """The run folder of two epochs, five steps, without an interruption; nothing is drawn."""
    outdir = tmp_path_factory.mktemp("unbroken") / "spade"
    assert more(data, outdir).exit_code == 0
    return outdir


@pytest.fixture
def copied(unbroken, tmp_path):
    """A copy of the finished run folder, to spoil; without its result it goes on."""
    outdir = tmp_path / "spade"
    shutil.copytree(unbroken, outdir)
    (outdir / "result.json").unlink()
    return outdir


def more(data, outdir, *options):
    return train(data, outdir, "--epochs", 2, "--no-draw", *options)


# ---------------------------------------------------------------------------------------------- what a run leaves


def test_the_run_folder_tells_the_run(unbroken):
    assert {path.name for path in unbroken.iterdir()} == {
        *(".lock", "run.json", "metrics.jsonl", "last.pt", "best.pt", "trained_generator_single_set_2.pth"),
        *("samples", "curves.png", "result.json", "quality.json", "quality.npz"),
    }
    record = json.loads((unbroken / "run.json").read_text())
    assert record["options"]["recipe"] == "unet-spade"
    assert record["options"]["lr_discriminator"] == 4e-4  # the recipe's, which the command left open
    assert record["versions"]["torch"] != "absent"
    lines = metrics_of(unbroken)
    assert [line["step"] for line in lines] == [3, 5]
    assert [line["kimg"] for line in lines] == [0.012, 0.02]
    told = {"epoch", "discriminator_loss", "generator_loss", "frechet", "agreement_miou", "diversity_levels"}
    assert told <= lines[0].keys()
    assert "discriminator_penalty_r1" in lines[0]  # of the first step
    assert "discriminator_penalty_r1" not in lines[1]
    for line in lines:
        picture = Image.open(unbroken / "samples" / f"{line['kimg']:09.3f}.png")
        picture.load()
    best = min(reversed(lines), key=lambda line: line["frechet"])
    result = json.loads((unbroken / "result.json").read_text())
    assert (result["best_step"], result["steps"], result["epochs"]) == (best["step"], 5, 2)
    assert result["best"] == best


def test_best_is_a_plain_state_dict_under_both_names(unbroken):
    best = tensors_of(unbroken / "best.pt")
    assert (unbroken / "best.pt").samefile(unbroken / "trained_generator_single_set_2.pth")
    assert best.keys() == tensors_of(unbroken / "last.pt")["generator"].keys()
    assert all(tensor.is_contiguous() for tensor in best.values())


def test_every_mask_gets_an_image_of_its_name_which_sample_only_draws_again(tmp_path, data):
    own = tmp_path / "ARAS400k"
    shutil.copytree(data, own)
    make_judge(tmp_path / "judge", own)
    result = train(own, tmp_path / "spade", "--epochs", 1)
    assert result.exit_code == 0
    generated = own / "train" / "generated"
    names = {path.name for path in (own / "train" / "masks").iterdir()}
    assert {path.name for path in generated.iterdir()} == names | {"run.json", ".lock"}
    for name in names:
        assert Image.open(generated / name).size == (32, 32)
        assert Image.open(generated / name).mode == "RGB"
    options = ("--sample-only", "--weights", tmp_path / "spade" / "best.pt", "--masks", own / "train" / "masks")
    options = (*options, "--output", tmp_path / "again", "--batch-size", 4, "--workers", 0, "--device", "cpu")
    assert run(*options).exit_code == 0
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (generated / name).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "spade").iterdir() if path.name != ".lock"}
    again = train(own, tmp_path / "spade", "--epochs", 1)
    assert "Finished already" in again.output
    assert "0 images to draw" in again.output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    line = failure(train(own, tmp_path / "other", "--epochs", 1))  # before a second of training
    assert f"{generated} was drawn by the weights of an earlier training; delete {generated}, or name another" in line
    line = failure(train(own, tmp_path / "spade", "--epochs", 2))
    assert "--no-draw" in line


@SLOW
def test_the_published_recipe_has_one_image_for_a_mask(tmp_path, data):
    result = more(data, tmp_path / "run", "--recipe", "published", "--vgg", "none", "--ema-kimg", 0, "--epochs", 1)
    assert result.exit_code == 0
    assert "goes without its perceptual term" in result.output
    (line,) = metrics_of(tmp_path / "run")
    assert line["diversity_levels"] == 0
    assert "discriminator_hinge_real" in line
    best, last = tensors_of(tmp_path / "run" / "best.pt"), tensors_of(tmp_path / "run" / "last.pt")
    assert same(dict(best), dict(last["generator"]))
    assert "average" not in last


def test_without_anything_to_measure_by_the_newest_weights_are_the_best(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no segmentation/best.pt
    make_dataset(tmp_path / "ARAS400k", train=4, val=2)
    tiny = ("--width", 4, "--batch-size", 2, "--workers", 0, "--device", "cpu", "--snapshot-kimg", 0.002, "--no-draw")
    result = run(*tiny, "--epochs", 1)
    assert result.exit_code == 0
    assert "no trained segmenter (--judge): goes without quality" in result.output
    assert [line["best"] for line in metrics_of(tmp_path / "spade")] == [True, True]
    best, last = tensors_of(tmp_path / "spade" / "best.pt"), tensors_of(tmp_path / "spade" / "last.pt")
    assert same(dict(best), dict(last["average"]["model"]))
    assert not same(dict(best), dict(last["generator"]))
    make_judge(tmp_path / "segmentation", tmp_path / "ARAS400k")  # trained since, as the pipeline goes on
    assert "Finished already" in run(*tiny, "--epochs", 1).output
    shutil.rmtree(tmp_path / "ARAS400k" / "val")
    result = run(*tiny, "--epochs", 1, "--outdir", "other")
    assert "There is no ARAS400k/val: goes without quality" in result.output
    assert json.loads((tmp_path / "other" / "result.json").read_text())["best_step"] == 2


# --------------------------------------------------------------------------------------------------------- resume


def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(unbroken, data, tmp_path):
    """Also with other workers, and through --epochs raised on a finished run."""
    outdir = tmp_path / "spade"
    assert more(data, outdir, "--epochs", 1, "--snapshot-kimg", 0.012).exit_code == 0
    assert [line["step"] for line in metrics_of(outdir)] == [3]
    with (outdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "kimg": 0.1}\n{"step": 9, "kim')
    (outdir / "best.pt.part").write_bytes(b"half")
    (outdir / "samples" / "00000.020.png").write_bytes(b"of a step that is done again")
    assert more(data, outdir, "--workers", 1).exit_code == 0
    assert_same_run(outdir, unbroken)
    assert not list(outdir.glob("*.part"))


WRITES = [  # and which call of them
    *((aras.spade.snapshots, name, 2) for name in ("append_line", "save")),
    *((RunFolder, "save_best", 1), (aras.spade.run_folder, "keep_also_as", 1)),
    *((aras.spade.snapshots.Snapshots, "picture", 2), (aras.spade.snapshots, "write_json", 1)),
]


@SLOW
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("owner, name, call", WRITES)
def test_a_run_cut_off_beside_any_write_ends_as_an_unbroken_one(
    unbroken, data, tmp_path, monkeypatch, owner, name, call, when
):
    cut_at(monkeypatch, owner, name, call, when)
    assert more(data, tmp_path / "spade").exit_code != 0
    monkeypatch.undo()
    assert more(data, tmp_path / "spade").exit_code == 0
    assert_same_run(tmp_path / "spade", unbroken)


@SLOW
def test_it_goes_on_from_within_a_snapshot(unbroken, data, tmp_path, monkeypatch):
    import aras.spade.loop

    cut_at(monkeypatch, aras.spade.loop, "train_step", 3, "before")
    assert more(data, tmp_path / "spade", "--checkpoint-minutes", 0).exit_code != 0
    monkeypatch.undo()
    result = more(data, tmp_path / "spade")
    assert "2 steps done before" in result.output
    assert_same_run(tmp_path / "spade", unbroken)


def test_a_snapshot_that_last_has_not_heard_of_is_taken_again(copied, data):
    """A checkpoint of the same step lies beneath it when the kill comes after its line of metrics."""
    import torch

    saved = tensors_of(copied / "last.pt")
    saved["numbers"] |= {"snapshot_step": 3, "best_step": 3}
    torch.save(saved, copied / "last.pt")
    assert more(data, copied).exit_code == 0
    assert [line["step"] for line in metrics_of(copied)] == [3, 5]


def test_metrics_that_were_deleted_are_gone_and_no_harm_is_done(copied, data):
    (copied / "metrics.jsonl").unlink()
    assert more(data, copied).exit_code == 0
    assert json.loads((copied / "result.json").read_text())["best"] is None


@SLOW
def test_minutes_end_a_run_and_count_on_when_it_goes_on(data, tmp_path):
    outdir = tmp_path / "spade"
    result = more(data, outdir, "--epochs", 500, "--minutes", 1e-4, "--snapshot-kimg", 100)
    assert result.exit_code == 0
    (first,) = metrics_of(outdir)
    assert first["step"] == 1
    assert "Finished already" in more(data, outdir, "--epochs", 600, "--minutes", 1e-4, "--snapshot-kimg", 100).output
    more(data, outdir, "--epochs", 500, "--minutes", (first["seconds"] + 0.3) / 60, "--snapshot-kimg", 100)
    _, second = metrics_of(outdir)
    assert second["step"] > 1
    assert first["seconds"] + 0.3 <= second["seconds"] < first["seconds"] + 5


@SLOW
def test_with_another_judge_the_best_snapshot_is_chosen_anew(unbroken, copied, data):
    """Distances in another space cannot be compared: here the earlier one is 0."""
    import torch

    saved = tensors_of(copied / "last.pt")
    saved["numbers"] |= {"best_distance": 0.0, "measured_in": "encoder of another judge"}
    torch.save(saved, copied / "last.pt")
    result = more(data, copied, "--epochs", 3)
    assert "the best snapshot is chosen anew" in result.output
    assert [line["best"] for line in metrics_of(copied)][2] is True


def test_other_options_are_named(copied, data):
    line = failure(more(data, copied, "--lr-generator", 0.01, "--seed", 1))
    assert "--lr-generator was 0.0002, now 0.01" in line
    assert "--seed was 0, now 1" in line


@pytest.mark.parametrize("damage", ["torn", "flipped", "text"])
def test_a_damaged_checkpoint_is_named(copied, data, damage):
    last = copied / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    last.write_bytes({"torn": content[: len(content) // 2], "flipped": content, "text": b"hello"}[damage])
    assert f"{last} is torn or not a file of weights" in failure(more(data, copied))


@SLOW
def test_a_torn_checkpoint_deleted_as_told_trains_from_the_first_step(unbroken, copied, data):
    (copied / "last.pt").unlink()
    assert more(data, copied).exit_code == 0
    assert_same_run(copied, unbroken)


@SLOW
def test_what_a_finished_run_lost_is_made_again(unbroken, data, tmp_path):
    outdir = tmp_path / "spade"
    shutil.copytree(unbroken, outdir)
    for name in ("trained_generator_single_set_2.pth", "curves.png"):
        (outdir / name).unlink()
    assert more(data, outdir).exit_code == 0
    assert_same_run(outdir, unbroken)
    assert (outdir / "curves.png").read_bytes() == (unbroken / "curves.png").read_bytes()
    (outdir / "last.pt").unlink()
    assert "Finished already" in more(data, outdir).output
    (outdir / "curves.png").unlink()
    line = failure(more(data, outdir))
    assert f"{outdir / 'curves.png'} is missing, and without last.pt it cannot be made again; delete {outdir}" in line


@SLOW
def test_a_best_snapshot_that_is_not_the_last_comes_back_from_its_other_name_or_not_at_all(copied, data):
    import torch

    saved = tensors_of(copied / "last.pt")
    saved["numbers"] |= {"best_step": 3, "best_distance": 0.0}
    torch.save(saved, copied / "last.pt")
    best, published = copied / "best.pt", copied / "trained_generator_single_set_2.pth"
    content = best.read_bytes()
    best.unlink()
    assert more(data, copied).exit_code == 0
    assert best.read_bytes() == content
    for path in (best, published, copied / "result.json"):
        path.unlink()
    line = failure(more(data, copied, "--epochs", 3))
    assert f"{best} is missing, and last.pt has the weights of step 5, not of the best, 3; put it back" in line


def test_another_dataset_is_not_trained_on(copied, tmp_path, data):
    own = tmp_path / "ARAS400k"
    shutil.copytree(data, own)
    make_judge(tmp_path / "judge", own)
    for kind in ("images", "masks"):
        (own / "train" / kind / "N41E031_000_000.png").unlink()
    record = json.loads((copied / "run.json").read_text())
    record["options"] |= {"data": str(own), "judge": str(tmp_path / "judge" / "best.pt")}
    (copied / "run.json").write_text(json.dumps(record))
    line = failure(more(own, copied))
    assert re.search(
        r"the dataset is not the one that .*last.pt was trained on: train was 9 pairs .* now 8 pairs", line
    )


def test_a_checkpoint_without_its_record_is_not_trusted(copied, data):
    (copied / "run.json").unlink()
    assert "last.pt lacks the run.json" in failure(more(data, copied))


def test_a_run_that_diverges_ends_with_one_line_and_keeps_what_went_well(data, tmp_path):
    import torch

    outdir = tmp_path / "spade"
    result = more(data, outdir, "--lr-generator", 1e30, "--lr-discriminator", 1e30)
    line = failure(result)
    assert re.search(r"training diverged at step \d+, and again after 3 returns to an earlier state", line)
    assert "(they were 1e+30 and 1e+30)" in line
    assert result.output.count("a loss or gradient is not a number; thrown away, tried again") == 8
    assert result.output.count("goes back to step 0, to go on with other random numbers") == 3
    last = tensors_of(outdir / "last.pt")
    assert last["numbers"]["salt"] == 3
    assert all(bool(torch.isfinite(tensor).all()) for tensor in last["generator"].values())


# ------------------------------------------------------------------------------------------------------ bad inputs


@pytest.fixture
def own(tmp_path):
    """A dataset to spoil."""
    data = make_dataset(tmp_path / "ARAS400k", train=4, val=2)
    make_judge(tmp_path / "judge", data)
    return data


def test_a_missing_dataset_is_named(own, tmp_path):
    line = failure(more(tmp_path / "nowhere", tmp_path / "run"))
    assert "nowhere is not a folder; make the dataset first (dataset_creator.py), or name --data" in line
    assert not (tmp_path / "run").exists()


def test_one_image_is_too_few(own, tmp_path):
    assert "1 image to train on; a GAN needs 2 or more" in failure(more(own, tmp_path / "run", "--limit", 1))


def test_a_missing_mask_is_named(own, tmp_path):
    (own / "train/masks/N41E031_000_002.png").unlink()
    line = failure(more(own, tmp_path / "run"))
    assert "train/masks/N41E031_000_002.png is missing (1 of 4 images" in line


def test_a_wrong_colour_is_named(own, tmp_path):
    Image.new("RGB", (32, 32), (1, 2, 3)).save(own / "train/masks/N41E031_000_002.png")
    line = failure(more(own, tmp_path / "run"))
    assert "train/masks/N41E031_000_002.png has the colour (1, 2, 3), which is not in the legend" in line


def test_sides_that_are_no_multiple_of_32_are_named(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", size=(32, 48), train=4)
    line = failure(more(data, tmp_path / "run"))
    assert "train/images/N41E031_000_000.png is 48x32 pixels; both sides must be multiples of 32" in line


@SLOW
def test_oblong_images_train(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", size=(32, 64), train=4, val=2)
    make_judge(tmp_path / "judge", data)
    assert train(data, tmp_path / "run", "--epochs", 1).exit_code == 0
    assert Image.open(data / "train/generated/N41E031_000_000.png").size == (64, 32)


def test_a_judge_that_is_missing_or_has_seen_the_masks_is_named(own, tmp_path):
    line = failure(more(own, tmp_path / "run", "--judge", tmp_path / "gone.pt"))
    assert "gone.pt is missing" in line
    other = make_dataset(tmp_path / "other" / "ARAS400k", train=1)  # which has an image of a name that val has
    judge = make_judge(tmp_path / "other" / "judge", other)
    line = failure(more(own, tmp_path / "run", "--judge", judge))
    assert re.search(r"other/judge/best.pt was trained on .*train/images, which has 1 of the 2 images of", line)
    assert not (tmp_path / "run" / "run.json").exists()


def test_images_that_it_did_not_draw_are_kept(own, tmp_path):
    shutil.copytree(own / "train" / "images", own / "train" / "generated")
    line = failure(train(own, tmp_path / "run"))
    assert "train/generated/" in line
    assert "was not drawn by this script" in line
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (("--sample-only", "--epochs", 3), "--epochs is for a training"),
        (("--masks", "here"), "--masks is for --sample-only"),
        (("--recipe", "published", "--label-mix", 1), "--label-mix is for --recipe unet-spade"),
        (("--vgg", "none"), "--vgg is for --recipe published"),
        (("--augment-strength", 0.5), "--augment-strength is for --augment fixed"),
        (("--features-weights", "file.pt"), "--features-weights is for other --features"),
        (("--lr-generator", "nan"), "nan is not a finite number"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(options, message):
    result = run(*options)
    assert result.exit_code == 2
    assert message in result.output


# -------------------------------------------------------------------------------------------------------- drawing


@pytest.fixture
def drawn(unbroken, data, tmp_path):
    """Returns a function that draws images of masks into a folder by the unbroken run's weights."""

    def draw(output, *options, masks=data / "val" / "masks"):
        words = ("--sample-only", "--weights", unbroken / "best.pt", "--masks", masks, "--output", tmp_path / output)
        return run(*words, "--workers", 0, "--device", "cpu", *options)

    return draw


def images_in(folder):
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("*.png"))}


def test_samples_do_not_depend_on_the_batch_and_differ(drawn, tmp_path):
    assert drawn("one", "--samples-per-mask", 3, "--batch-size", 1).exit_code == 0
    assert drawn("many", "--samples-per-mask", 3, "--batch-size", 5, "--workers", 2).exit_code == 0
    one, many = images_in(tmp_path / "one"), images_in(tmp_path / "many")
    assert list(one) == [f"N41E031_000_00{i}_{k}.png" for i in range(3) for k in range(3)]
    for name, image in one.items():
        assert np.abs(image - many[name]).max() <= 1  # the order of float sums may move what is on an edge
    assert np.abs(one["N41E031_000_000_0.png"] - one["N41E031_000_000_1.png"]).mean() > 2
    assert drawn("seed", "--samples-per-mask", 3, "--seed", 1).exit_code == 0
    assert np.abs(images_in(tmp_path / "seed")["N41E031_000_000_0.png"] - one["N41E031_000_000_0.png"]).mean() > 2


def test_the_first_sample_is_the_one_of_a_single_sample(drawn, tmp_path):
    assert drawn("single", "--batch-size", 3).exit_code == 0
    assert drawn("several", "--samples-per-mask", 2, "--batch-size", 3).exit_code == 0
    single, several = images_in(tmp_path / "single"), images_in(tmp_path / "several")
    assert list(single) == [f"N41E031_000_00{i}.png" for i in range(3)]
    for name, image in single.items():
        assert np.abs(image - several[name.replace(".png", "_0.png")]).max() <= 1


def test_truncation_draws_samples_together(drawn, tmp_path):
    """With a z of nothing, only the noise of the pixels still differs."""

    def apart(output, *options):
        assert drawn(output, "--samples-per-mask", 2, *options).exit_code == 0
        found = images_in(tmp_path / output)
        return np.abs(found["N41E031_000_000_0.png"] - found["N41E031_000_000_1.png"]).mean()

    assert apart("none", "--truncation", 0) < apart("full")


def test_drawing_goes_on_where_it_was_cut_off_and_draws_edited_masks_again(drawn, data, tmp_path, monkeypatch):
    masks = tmp_path / "masks"
    shutil.copytree(data / "val" / "masks", masks)
    assert drawn("whole", "--samples-per-mask", 2, "--batch-size", 2, masks=masks).exit_code == 0
    cut_at(monkeypatch, aras.spade.drawing, "write_image", 3, "before")
    assert drawn("run", "--samples-per-mask", 2, "--batch-size", 2, masks=masks).exit_code != 0
    monkeypatch.undo()
    assert 0 < len(images_in(tmp_path / "run")) < 6
    (tmp_path / "run" / "N41E031_000_002_1.png.part").write_bytes(b"half")
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*.png")}
    assert drawn("run", "--samples-per-mask", 2, "--batch-size", 2, masks=masks).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert not list((tmp_path / "run").glob("*.part"))

    def same_as_whole():
        return all(
            path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
            for path in (tmp_path / "run").glob("*.png")
        )

    assert len(images_in(tmp_path / "run")) == 6
    assert same_as_whole()
    mask_image(np.full((32, 32), CLASS_NAMES.index("Water"), np.uint8)).save(masks / "N41E031_000_001.png")
    result = drawn("run", "--samples-per-mask", 2, "--batch-size", 2, masks=masks)
    assert "3 masks, 2 images to draw" in result.output
    assert not same_as_whole()


def test_a_folder_drawn_otherwise_is_not_drawn_into(drawn, data, unbroken, tmp_path):
    assert drawn("run").exit_code == 0
    line = failure(drawn("run", "--seed", 3, "--truncation", 0.5))
    assert "--seed was 0, now 3" in line
    assert "--truncation was 1.0, now 0.5" in line
    other = tmp_path / "other"
    shutil.copytree(unbroken, other)
    (other / "best.pt").write_bytes((unbroken / "best.pt").read_bytes() + b" ")
    words = ("--masks", data / "val" / "masks", "--output", tmp_path / "run", "--workers", 0, "--device", "cpu")
    line = failure(run("--sample-only", "--weights", other / "best.pt", *words))
    assert "the content of" in line
    assert f"delete {tmp_path / 'run'}" in line
    copy = tmp_path / "copy" / "weights.pt"  # the content counts, not the name; but then someone must say what it is
    copy.parent.mkdir()
    shutil.copy(unbroken / "best.pt", copy)
    assert "give --recipe and --width" in failure(run("--sample-only", "--weights", copy, *words))
    kind = ("--recipe", "unet-spade", "--width", 4)
    assert run("--sample-only", "--weights", copy, *kind, *words).exit_code == 0
    line = failure(run("--sample-only", "--weights", copy, "--recipe", "unet-spade", "--width", 8, *words))
    assert "--width was 4, now 8" in line


def test_masks_of_all_sizes_are_drawn_from_and_bad_ones_are_listed(drawn, data, tmp_path):
    masks = tmp_path / "masks"
    shutil.copytree(data / "val" / "masks", masks)
    labels = np.zeros((96, 64), np.uint8)
    mask_image(labels).save(masks / "large.png")
    mask_image(labels[:40]).save(masks / "odd.png")
    Image.new("RGB", (32, 32), (9, 9, 9)).save(masks / "wrong.png")
    (masks / "torn.png").write_bytes(b"no image")
    result = drawn("run", "--batch-size", 4, masks=masks)
    assert f"3 masks gave no image, see {tmp_path / 'run' / 'failures.csv'}" in failure(result)
    found = images_in(tmp_path / "run")
    assert found["large.png"].shape == (96, 64, 3)
    assert len(found) == 4
    rows = (tmp_path / "run" / "failures.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["filename", "odd.png", "torn.png", "wrong.png"]
    for name in ("odd", "torn", "wrong"):
        mask_image(labels).save(masks / f"{name}.png")
    assert drawn("run", "--batch-size", 4, masks=masks).exit_code == 0
    assert len(images_in(tmp_path / "run")) == 7
    assert not (tmp_path / "run" / "failures.csv").exists()


def test_weights_that_are_none_are_named(copied, data, tmp_path):
    words = ("--masks", data / "val" / "masks", "--output", tmp_path / "drawn", "--device", "cpu")
    line = failure(run("--sample-only", "--weights", tmp_path / "gone.pt", *words))
    assert "gone.pt is missing; train first, or name the file by --weights" in line
    line = failure(run("--sample-only", "--weights", copied / "last.pt", *words))
    assert "last.pt is the state of a training; give best.pt beside it" in line
    (copied / "best.pt").write_bytes(b"torn")
    shutil.rmtree(tmp_path / "drawn", ignore_errors=True)
    line = failure(run("--sample-only", "--weights", copied / "best.pt", *words))
    assert "best.pt is torn or not a file of weights" in line
    line = failure(
        run(
            "--sample-only",
            "--weights",
            copied / "best.pt",
            "--masks",
            data / "val/masks",
            "--output",
            data / "val/masks",
        )
    )
    assert "was not drawn by this script" in line  # and the masks are still there
