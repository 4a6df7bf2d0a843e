"""The captioners that look at images, run as their users run them, with tiny models of the paper's families."""

import csv
import json

import pytest
from percentages import write_percentages
from PIL import Image
from tiny_dataset import make_dataset

import vision_captioner
import vision_language_captioner
from aras.captions.template import template_caption
from aras.captions.work import split_work
from aras.training import share_cores

share_cores()
SCRIPTS = {"vision": vision_captioner, "vision_language": vision_language_captioner}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny Gemma 3 and a tiny Qwen3-VL, by the kind of caption that the paper has them write."""
    from tiny_models import make_gemma3, make_qwen3_vl

    folder = tmp_path_factory.mktemp("models")
    return {"vision": make_gemma3(folder / "gemma3"), "vision_language": make_qwen3_vl(folder / "qwen3_vl")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset of images of 64 pixels; read-only."""
    return write_percentages(make_dataset(tmp_path_factory.mktemp("data") / "ARAS400k", size=(64, 64), test=9, synth=2))


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("kind", SCRIPTS)
def test_images_are_captioned_and_batches_change_nothing(run, models, data, tmp_path, kind):
    options = ("--data", data, "--model", models[kind], "--max-new-tokens", 6, "--device", "cpu")
    found = []
    for size in (1, 8):
        result = run(SCRIPTS[kind].main, *options, "--outdir", tmp_path / str(size), "--batch-size", size)
        assert result.exit_code == 0, result.output
        found.append((tmp_path / str(size) / f"test_{kind}.csv").read_bytes())
        assert len(rows(tmp_path / str(size) / f"synth_{kind}.csv")) == 1 + 2
    assert found[0] == found[1]
    table = rows(tmp_path / "8" / f"test_{kind}.csv")
    assert [row[0] for row in table[1:]] == sorted(path.name for path in (data / "test" / "images").iterdir())
    options = json.loads((tmp_path / "8" / f"test_{kind}.csv.run.json").read_text())["options"]
    assert options["temperature"] == 0
    assert "seed" not in options


@pytest.mark.parametrize("kind", SCRIPTS)
def test_the_image_is_looked_at(run, models, tmp_path, kind):
    images = tmp_path / "images"
    images.mkdir()
    shades = [(0, 0, 0), (255, 0, 0), (255, 255, 255), (0, 90, 200)]
    for place, shade in enumerate(shades):
        Image.new("RGB", (64, 64), shade).save(images / f"{place}.png")
    table = tmp_path / "p.csv"
    lines = [f"{place}.png,100,0,0,0,0,0,0\n" for place in range(len(shades))]
    table.write_text("filename,Tree,Shrub,Grass,Crop,Built-up,Barren,Water\n" + "".join(lines))
    options = ("--images", images, "--output", tmp_path / "o.csv", "--model", models[kind], "--device", "cpu")
    more = ("--percentages", table) if kind == "vision_language" else ()
    assert run(SCRIPTS[kind].main, *options, *more, "--max-new-tokens", 12).exit_code == 0
    assert len({row[1] for row in rows(tmp_path / "o.csv")[1:]}) > 1


def test_an_unreadable_image_fails_alone_and_is_retried(run, models, data, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((data / "test" / "images").iterdir())[:4]:
        (images / path.name).write_bytes(path.read_bytes())
    broken = sorted(images.iterdir())[2]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    out = tmp_path / "o.csv"
    options = ("--images", images, "--output", out, "--model", models["vision"], "--max-new-tokens", 4)
    result = run(vision_captioner.main, *options)
    assert result.exit_code == 1
    ((name, reason),) = rows(tmp_path / "o.csv.failures.csv")[1:]
    assert name == broken.name
    assert "cannot be read" in reason
    assert len(rows(out)) == 1 + 3
    broken.write_bytes(whole)
    assert run(vision_captioner.main, *options).exit_code == 0
    assert [row[0] for row in rows(out)[1:]] == sorted(path.name for path in images.iterdir())


def test_running_out_of_memory_halves_the_batch(run, models, data, tmp_path, monkeypatch):
    import torch
    from transformers import Gemma3ForConditionalGeneration

    generate = Gemma3ForConditionalGeneration.generate

    def small_memory(self, *arguments, **options):
        if len(options["input_ids"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return generate(self, *arguments, **options)

    options = ("--data", data, "--split", "test", "--model", models["vision"], "--max-new-tokens", 4, "--device", "cpu")
    assert run(vision_captioner.main, *options, "--outdir", tmp_path / "whole").exit_code == 0
    monkeypatch.setattr(Gemma3ForConditionalGeneration, "generate", small_memory)
    result = run(vision_captioner.main, *options, "--outdir", tmp_path / "small")
    assert result.exit_code == 0
    told = [line for line in result.output.splitlines() if "out of GPU memory" in line]
    assert [line[-1] for line in told] == ["5", "2"]
    name = "test_vision.csv"
    assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_model_that_does_not_fit_into_memory_is_told(run, models, data, tmp_path, monkeypatch):
    import torch

    def too_large(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(torch.nn.Module, "to", too_large)
    options = ("--data", data, "--model", models["vision"], "--device", "cpu", "--outdir", tmp_path / "out")
    result = run(vision_captioner.main, *options)
    assert result.exit_code == 1
    assert "does not fit into the GPU's memory (CUDA out of memory)" in result.output.splitlines()[-1]


def test_the_template_needs_percentages_and_no_images(run, data, tmp_path):
    main = vision_language_captioner.main
    options = ("--data", data, "--split", "test", "--outdir", tmp_path, "--model", "template")
    assert run(main, *options).exit_code == 0
    work = split_work(data, "test", tmp_path / "x.csv", image=True, percentages=True, mask=False)
    wanted = [[item.name, template_caption(item)] for item in work.items(set())]
    assert rows(tmp_path / "test_vision_language.csv")[1:] == wanted
    own = ("--percentages", data / "class_percentages" / "test.csv", "--output", tmp_path / "o.csv")
    assert run(main, *own, "--model", "template").exit_code == 0
    assert rows(tmp_path / "o.csv")[1:] == wanted
    result = run(vision_captioner.main, "--data", data, "--model", "template", "--outdir", tmp_path)
    assert result.exit_code == 1
    assert "needs percentages" not in result.output
    assert "--model template writes from percentages" in result.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--images", "IMAGES", "--output", "o.csv"), "--percentages is missing"),
        (("--percentages", "TABLE", "--output", "o.csv"), "--images is missing"),
        (("--images", "IMAGES", "--percentages", "TABLE"), "--output CSV"),
        (("--data", "DATA", "--model", "eyes.gguf"), "--endpoint"),
    ],
)
def test_wrong_options_of_vision_language(run, data, tmp_path, options, told):
    known = {"IMAGES": data / "test" / "images", "TABLE": data / "class_percentages" / "test.csv", "DATA": data}
    result = run(vision_language_captioner.main, *(known.get(option, option) for option in options))
    assert result.exit_code == 1
    assert told in result.output.splitlines()[-1]


def test_a_model_without_eyes_is_told(run, data, tmp_path):
    from tiny_models import make_qwen3

    model = make_qwen3(tmp_path / "qwen3")
    result = run(vision_captioner.main, "--data", data, "--model", model, "--outdir", tmp_path / "out")
    assert result.exit_code == 1
    assert "cannot be loaded" in result.output.splitlines()[-1]
