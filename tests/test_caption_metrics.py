"""Measuring captions, run as its users run it, and its measures against numbers worked out by hand."""

import csv
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset

from aras.caption_metrics import measuring
from aras.caption_metrics.claims import claims_of
from aras.caption_metrics.grounding import COLUMNS, WIDTH, counts_of, grounding, ratios
from aras.caption_metrics.leakage import leakage
from aras.caption_metrics.reading import POSITIONS
from aras.caption_metrics.redundancy import TextTally, distinct, near_clusters, texts_of, words_of
from aras.caption_metrics.report import paper_stream
from aras.caption_metrics.truth import places_of
from aras.files import sole_writer
from aras.legend import CLASS_NAMES, NUM_CLASSES, class_percentages, mask_image, read_mask
from caption_metrics import main

ROOT = Path(__file__).resolve().parent.parent
NAMES_OF = ("trees", "shrubs", "grassland", "cropland", "buildings", "bare soil", "water")


def shares_of_masks(folder):
    """Return the percentages of each mask, by file name."""
    counts = {path.name: np.bincount(read_mask(path).ravel(), minlength=NUM_CLASSES) for path in folder.iterdir()}
    return {name: class_percentages(count) for name, count in sorted(counts.items())}


def true_caption(shares):
    order = sorted(range(NUM_CLASSES), key=lambda c: -shares[c])
    listed = ", ".join(f"{NAMES_OF[c]} ({shares[c]:.2f}%)" for c in order if shares[c])
    return f"The image is dominated by {NAMES_OF[order[0]]}. It shows {listed}."


def write_table(path, rows, header=("filename", "caption"), end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
        file.write(end.removesuffix("\n"))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of 70 test images with masks and percentages; read-only."""
    data = make_dataset(tmp_path_factory.mktemp("data") / "ARAS400k", test=70)
    rows = [(name, *shares) for name, shares in shares_of_masks(data / "test" / "masks").items()]
    write_table(data / "class_percentages" / "test.csv", rows, ("filename", *CLASS_NAMES))
    return data


@pytest.fixture
def shares(dataset):
    return shares_of_masks(dataset / "test" / "masks")


@pytest.fixture
def measure(run, dataset, tmp_path):
    """Run the script without CLIP on one process; return click's result and what caption_metrics.json holds."""

    def invoke(*arguments, data=dataset, output=None):
        output = output or tmp_path / "out"
        result = run(main, *arguments, "--data", data, "--output", output, "--workers", 1, "--clip", "none")
        found = output / "caption_metrics.json"
        return result, json.loads(found.read_text()) if found.exists() else None

    return invoke


def failure(result):
    """Return the one line with which a run failed."""
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert result.output.splitlines()[-1:] == lines
    return lines[0]


# The script


def test_true_captions_score_full_and_those_of_other_images_do_not(measure, shares, tmp_path):
    names = list(shares)
    write_table(tmp_path / "test_true.csv", [(name, true_caption(shares[name])) for name in names])
    write_table(tmp_path / "test_astray.csv", [(n, true_caption(shares[names[i - 1]])) for i, n in enumerate(names)])
    result, found = measure(tmp_path / "test_true.csv", tmp_path / "test_astray.csv")
    assert result.exit_code == 0
    true, astray = (found["streams"][name]["grounding"] for name in ("true", "astray"))
    for score in ("precision", "recall", "f1", "f1_macro", "dominant_accuracy", "percentages_close"):
        assert true[score]["value"] == 1, score
        low, high = astray[score]["interval"]
        assert low <= astray[score]["value"] <= high < 1, score
    assert true["hallucination"]["value"] == true["percentage_error"]["value"] == 0
    assert astray["hallucination"]["value"] > 0.05
    assert astray["captions_hallucinating"]["value"] > astray["hallucination"]["value"]
    assert true["classes"]["Water"]["f1"] == 1
    assert true["count_captions"] == len(names)
    leaks = {name: found["streams"][name]["leakage"] for name in ("true", "astray")}
    assert leaks["true"]["r2_with_numbers"] > 0.95 > 0.3 > leaks["astray"]["r2_with_numbers"]
    assert leaks["true"]["error_with_numbers"] < leaks["true"]["error_of_mean"] / 4
    assert "12.85" in result.output
    assert "no CLIPScore" not in result.output


def test_the_worst_captions_are_listed_and_drawn(measure, shares, tmp_path):
    names = list(shares)
    bad = next(name for name in names if 0 in shares[name])
    absent, largest = shares[bad].index(0), int(np.argmax(shares[bad]))
    captions = {name: true_caption(shares[name]) for name in names}
    captions[bad] = f"Only {NAMES_OF[absent]}, without {NAMES_OF[largest]}; no $x_1$."
    write_table(tmp_path / "test_text.csv", captions.items())
    measure(tmp_path / "test_text.csv", "--worst", 3)
    with (tmp_path / "out" / "worst_captions.csv").open(newline="") as file:
        worst = list(csv.DictReader(file))
    assert [row["filename"] for row in worst] == [bad]  # the others have no mistake
    assert worst[0]["invented"] == CLASS_NAMES[absent]
    assert worst[0]["denied"] == CLASS_NAMES[largest]
    assert float(worst[0]["points"]) > 2
    with Image.open(tmp_path / "out" / "worst_captions.png") as figure:
        assert np.asarray(figure.convert("RGB")).std() > 5


def test_what_cannot_be_measured_is_one_line_each_and_the_rest_is_measured(measure, shares, dataset, tmp_path):
    names = list(shares)
    rows = [(name, true_caption(shares[name])) for name in names[:60]]
    rows[3:3] = [
        ("filename", "caption"),
        (names[0], "A second caption."),
        (names[60], "  "),
        (names[61], "ERROR: connection refused"),
        ("N00E000_000_000.png", "Forest of an image that is gone."),
        (names[62], "a", "b"),
    ]
    path = write_table(tmp_path / "test_text.csv", rows, end=f'{names[63]},"A caption that is cut o')
    result, found = measure(path)
    assert result.exit_code == 0
    assert found["streams"]["text"]["texts"]["captions"] == 61
    assert found["streams"]["text"]["grounding"]["count_captions"] == 60
    for told in (
        "repeat the header",
        "one already",
        "empty",
        "error messages",
        "neither percentages",
        "columns",
        "torn",
    ):
        assert sum(told in line for line in found["notes"]) == 1, told
        assert sum(told in line for line in result.output.splitlines()) == 1, told
    assert all(": 1 " in note for note in found["notes"])


def test_positions_are_held_against_masks_and_a_missing_mask_is_told(measure, dataset, shares, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    labels = np.full((64, 64), 3, np.uint8)
    labels[:32, 32:] = 6  # water in the north-east
    names = list(shares)[:4]
    for name in names[:2]:
        mask_image(labels).save(masks / name)
    (masks / names[2]).write_bytes(b"not an image")
    path = write_table(
        tmp_path / "mine.csv",
        [
            (names[0], "Water in the north-east and crops in the south."),
            (names[1], "Water in the south-west, crops in the centre."),
            (names[2], "Water in the north."),
            (names[3], "Water in the north."),
        ],
    )
    result, found = measure(path, "--masks", masks)
    judged = found["streams"]["mine"]["grounding"]
    assert result.exit_code == 0
    assert judged["count_captions"] == 2
    assert judged["count_positions"] == 4
    assert judged["position_accuracy"]["value"] == 0.5  # the centre has a quarter of water, as the image has
    assert judged["precision"]["value"] == judged["recall"]["value"] == 1
    assert any("neither percentages nor a mask" in note for note in found["notes"])
    assert any("cannot be used" in note for note in found["notes"])
    table = write_table(
        tmp_path / "p.csv", [(name, 0, 0, 0, 75, 0, 0, 25) for name in names], ("filename", *CLASS_NAMES)
    )
    _, found = measure(path, "--masks", masks, "--percentages", table)
    assert found["streams"]["mine"]["grounding"]["count_captions"] == 4
    assert found["streams"]["mine"]["grounding"]["count_positions"] == 4
    assert any("positions have no mask" in note for note in found["notes"])


def test_published_tables_and_names_are_read(measure, shares, dataset, tmp_path):
    names = list(shares)
    header = ("filename", "split", *CLASS_NAMES, "hybrid_gemma3-4b", "text_qwen3-4b", "id")
    rows = [(n, "test", *shares[n], true_caption(shares[n]), "All forest here.", 7) for n in names]
    table = write_table(tmp_path / "captions.csv", rows, header)
    single = [(name.removesuffix(".png"), "Some forest.") for name in names]
    published = write_table(tmp_path / "ARAS400k_test_vision_language_qwen3_vl_8b.csv", single)
    write_table(tmp_path / "test_text.failures.csv", [("a.png", "no answer")], ("filename", "reason"))
    result, found = measure(table, published, tmp_path / "test_text.failures.csv")
    assert sorted(found["streams"]) == ["hybrid_gemma3-4b", "text_qwen3-4b", "vision_language_qwen3_vl_8b"]
    assert found["streams"]["hybrid_gemma3-4b"]["grounding"]["f1"]["value"] == 1
    assert found["streams"]["text_qwen3-4b"]["texts"]["redundancy"] == 1 - 1 / 70
    assert found["streams"]["vision_language_qwen3_vl_8b"]["grounding"]["count_captions"] == 70
    assert any("no captions" in note and "id" in note for note in found["notes"])
    for figure in ("46.45", "0.47", "6.41"):
        assert figure in result.output
    _, alone = measure(table, data=tmp_path / "nowhere")  # the table has percentages of its own
    assert alone["streams"]["hybrid_gemma3-4b"]["grounding"]["f1"]["value"] == 1


def test_a_stream_is_one_over_its_splits_and_shards(measure, shares, tmp_path):
    names = list(shares)
    write_table(tmp_path / "test_text_shard_1_of_2.csv", [(name, "Forest.") for name in names[::2]])
    write_table(tmp_path / "test_text_shard_2_of_2.csv", [(name, "Forest.") for name in names[1::2]])
    write_table(tmp_path / "val_text.csv", [(names[0], "Forest.")])
    _, found = measure(*tmp_path.glob("*.csv"))
    assert list(found["streams"]) == ["text"]
    assert found["streams"]["text"]["texts"]["captions"] == 71
    assert found["streams"]["text"]["texts"]["redundancy"] == pytest.approx(1 - 1 / 71)
    write_table(tmp_path / "test_vision.csv", [(name, true_caption(shares[name])) for name in names])
    result, first = measure(*tmp_path.glob("*.csv"), "--limit", 2, output=tmp_path / "first")
    assert first["streams"]["text"]["texts"]["captions"] == 5
    assert [first["streams"][name]["sample"]["captions"] for name in ("text", "vision")] == [2, 2]
    assert first["streams"]["text"]["sample"]["distinct_1"] == 0.5  # "Forest." twice
    assert "worst_captions.png" in result.output


def test_processes_and_seeds(run, measure, shares, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "BATCH", 7)
    path = write_table(tmp_path / "test_text.csv", [(name, true_caption(shares[name])) for name in shares])
    _, one = measure(path, "--sample", 60)
    two = run(
        main, path, "--data", dataset, "--output", tmp_path / "two", "--workers", 2, "--clip", "none", "--sample", 60
    )
    assert two.exit_code == 0
    assert json.loads((tmp_path / "two" / "caption_metrics.json").read_text())["streams"] == one["streams"]
    pictures = [(tmp_path / name / "worst_captions.csv").read_bytes() for name in ("out", "two")]
    assert pictures[0] == pictures[1]
    _, other = measure(path, "--sample", 60, "--seed", 1, output=tmp_path / "other")
    assert other["streams"]["text"]["texts"] == one["streams"]["text"]["texts"]
    assert other["streams"]["text"]["leakage"] != one["streams"]["text"]["leakage"]


def test_a_table_that_breaks_off_late_is_one_line_with_processes_too(run, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "BATCH", 2)
    path = write_table(tmp_path / "test_text.csv", [(f"{i}.png", "Forest.") for i in range(40)])
    with path.open("a") as file:
        file.write('x.png,"a"b\n')
    result = run(main, path, "--data", dataset, "--output", tmp_path / "out", "--workers", 2, "--clip", "none")
    assert "from line 42 on" in failure(result)


def test_the_threshold_of_presence(measure, shares, tmp_path):
    path = write_table(tmp_path / "test_text.csv", [(name, true_caption(shares[name])) for name in shares])
    _, found = measure(path, "--present", 20)
    judged = found["streams"]["text"]["grounding"]
    assert judged["recall"]["value"] == 1 > judged["precision"]["value"]
    assert judged["hallucination"]["value"] == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name,caption\na.png,b\n", "no column filename"),
        (b"", "no column filename"),
        (b"filename,Tree,Shrub\na.png,1,2\n", "no captions"),
        (b"filename,caption\na.png,\xff\xfe\n", "not in UTF-8"),
        (b'filename,caption\na.png,"x"y\n', "line 2"),
        (b'filename,caption\na.png,"x\n' + 50 * b"b.png,y\n", "never closed"),
        (b"filename,caption\n", "no caption to measure"),
        (b"filename,caption\na.png,\n", "no caption to measure"),
    ],
)
def test_what_is_no_table_is_one_line(measure, tmp_path, content, told):
    path = tmp_path / "test_text.csv"
    path.write_bytes(content)
    result, found = measure(path)
    assert told in failure(result)
    assert "test_text.csv" in result.output
    assert found is None


def test_wrong_options_are_one_line(measure, run, shares, tmp_path, monkeypatch):
    path = write_table(tmp_path / "test_text.csv", [(name, "Forest.") for name in shares])
    assert "none.csv" in failure(measure(tmp_path / "none.csv")[0])
    assert "--data" in failure(measure(path, data=tmp_path / "none")[0])
    assert "--masks" in failure(measure(path, "--masks", tmp_path / "none")[0])
    assert "p.csv" in failure(measure(path, "--percentages", tmp_path / "p.csv")[0])
    with sole_writer(tmp_path / "out"):
        assert "another process" in failure(measure(path)[0])
    monkeypatch.chdir(tmp_path)
    assert "no CSV of captions" in failure(run(main))
    assert run(main, path, "--present", 0).exit_code == 2


def test_what_is_written_is_whole_or_the_old_one(measure, shares, tmp_path, monkeypatch):
    path = write_table(tmp_path / "test_text.csv", [(name, "Forest.") for name in shares])
    _, before = measure(path)

    def cut(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("caption_metrics.draw_worst", cut)
    write_table(path, [(name, true_caption(shares[name])) for name in shares])
    assert measure(path)[0].exit_code == 1
    assert json.loads((tmp_path / "out" / "caption_metrics.json").read_text()) == before
    monkeypatch.undo()
    assert measure(path)[1]["streams"]["text"]["grounding"]["f1"]["value"] == 1
    assert not list((tmp_path / "out").glob("*.part"))


def children_of(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_the_next_ends_as_an_unbroken_one(measure, shares, dataset, tmp_path):
    captions = [true_caption(row) for row in shares.values()]
    path = write_table(tmp_path / "test_text.csv", [(f"{i}.png", captions[i % 70]) for i in range(8_000)])
    _, unbroken = measure(path, output=tmp_path / "unbroken")
    out = tmp_path / "out"
    options = ["--data", dataset, "--output", out, "--workers", "2", "--clip", "none"]
    for seconds in (0, 1):
        process = subprocess.Popen([sys.executable, ROOT / "caption_metrics.py", path, *options])
        while not (workers := children_of(process.pid)):
            time.sleep(0.05)
        time.sleep(seconds)
        workers = children_of(process.pid)
        process.kill()
        assert process.wait() == -9 or seconds  # a fast machine may be done after a second
        assert process.returncode == 0 or not (out / "caption_metrics.json").exists()
        patience = time.monotonic() + 60
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < patience, "a worker outlives the run"
            time.sleep(0.1)
    subprocess.run([sys.executable, ROOT / "caption_metrics.py", path, *options], check=True)
    assert json.loads((out / "caption_metrics.json").read_text())["streams"] == unbroken["streams"]


def test_without_a_clip_model_one_line_says_so(run, shares, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = write_table(tmp_path / "test_text.csv", [(name, "Forest.") for name in shares])
    (tmp_path / "empty").mkdir()
    result = run(main, path, "--data", dataset, "--output", tmp_path / "out", "--clip", tmp_path / "empty")
    assert result.exit_code == 0
    assert sum("no CLIPScore" in line for line in result.output.splitlines()) == 1
    assert json.loads((tmp_path / "out" / "caption_metrics.json").read_text())["streams"]["text"]["clip"] is None


def tiny_clip(folder):
    """Write a CLIP model of the real class, drawn and not trained, with its tokenizer and image processor."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<start>", "<end>"]
    tokenizer.train_from_iterator(NAMES_OF, trainers.WordLevelTrainer(special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<start>", eos_token="<end>", pad_token="<end>", unk_token="<unk>"
    )
    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = part | {
        "vocab_size": 32,
        "max_position_embeddings": 12,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 2,
    }
    vision = part | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**sizes), wrapped).save_pretrained(folder)


@pytest.mark.slow
def test_clip_scores_are_100_times_the_cosine(run, shares, dataset, tmp_path):
    import torch
    from transformers import AutoProcessor, CLIPModel

    tiny_clip(tmp_path / "clip")
    names = list(shares)
    captions = {name: f"{NAMES_OF[i % 7]} " * (1 + i % 20) for i, name in enumerate(names)}
    path = write_table(tmp_path / "test_text.csv", captions.items())
    out = tmp_path / "out"
    result = run(main, path, "--data", dataset, "--output", out, "--clip", tmp_path / "clip", "--device", "cpu")
    assert result.exit_code == 0
    found = json.loads((out / "caption_metrics.json").read_text())["streams"]["text"]["clip"]
    model, processor = CLIPModel.from_pretrained(tmp_path / "clip"), AutoProcessor.from_pretrained(tmp_path / "clip")
    expected = []
    for name, caption in captions.items():
        with Image.open(dataset / "test" / "images" / name) as image:
            told = processor(text=[caption], images=[image], return_tensors="pt", truncation=True, max_length=12)
        with torch.inference_mode():
            output = model(**told)
        expected.append(max(0, 100 * float(torch.cosine_similarity(output.image_embeds, output.text_embeds))))
    assert found["value"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    assert found["captions"] == len(names)


# The measures


def test_counts_of_a_caption():
    caption = "Dominated by crops (60%). Water (20%) in the north. No trees, no buildings."
    shares = np.array([30, 0, 0, 50, 0, 0.5, 19.5])
    counts = counts_of(claims_of(caption), shares, None, present=1)

    def of(name):
        return counts[COLUMNS[name]]

    assert of("hit").tolist() == [0, 0, 0, 1, 0, 0, 1]
    assert of("missed").tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert of("wrong").sum() == of("absent").sum() == 0
    assert (of("denials"), of("false_denials")) == (2, 1)
    assert (of("dominant_claims"), of("dominant_right")) == (1, 1)
    assert (of("percentages"), of("percentage_error"), of("percentages_close")) == (2, 10.5, 1)
    assert of("positions") == 0  # the mask is not at hand
    unknown = counts_of(claims_of(caption), np.full(7, np.nan), None, present=1)
    assert not unknown.any()


def test_scores_are_ratios_of_sums_and_intervals_narrow_with_blocks():
    sums = np.zeros(WIDTH)
    sums[COLUMNS["hit"]], sums[COLUMNS["wrong"]], sums[COLUMNS["missed"]] = 6, [2, 0, 0, 0, 0, 0, 0], 1
    found = ratios(sums)
    assert found["precision"] == 42 / 44
    assert found["recall"] == 42 / 49
    assert found["f1"] == pytest.approx(2 * 42 / (84 + 2 + 7))
    assert np.isnan(found["dominant_accuracy"])
    rng = np.random.default_rng(0)
    widths = []
    for blocks in (10, 1000):
        rows = np.zeros((blocks, WIDTH))
        rows[:, COLUMNS["hit"]] = rng.integers(0, 5, (blocks, 7))
        rows[:, COLUMNS["wrong"]] = rng.integers(0, 5, (blocks, 7))
        low, high = grounding(rows, seed=0)["precision"]["interval"]
        widths.append(high - low)
    assert 0 < widths[1] < widths[0] / 5  # as one over the root of the number of blocks: 10
    assert grounding(rows[:1], seed=0)["precision"]["interval"] is None


def test_where_classes_are_denser(tmp_path):
    labels = np.zeros((64, 64), np.uint8)
    labels[24:40, 24:40] = 6
    labels[:, :4] = 4
    mask_image(labels).save(tmp_path / "m.png")
    denser = places_of(tmp_path / "m.png").denser
    assert [POSITIONS[p] for p in np.flatnonzero(denser[6])] == ["centre"]
    assert [POSITIONS[p] for p in np.flatnonzero(denser[4])] == ["west", "north-west", "south-west"]
    assert not denser[1].any()


def test_blocks_are_those_of_neighbours_and_bounded_in_number(monkeypatch):
    monkeypatch.setattr(measuring, "GROUPS", 5)
    tally = measuring.StreamTally(0, 1, 1, {"N41E031_001_001": "other"})
    near, same, listed, far = (
        tally.block(f"N41E031_{place}.png") for place in ("000_000", "007_007", "001_001", "008_000")
    )
    assert near == same
    assert len({near, listed, far}) == 3
    drawn = [tally.block(f"{i:06d}.png") for i in range(300)]
    assert set(drawn) == set(range(5))
    assert [tally.block(f"{i:06d}.png") for i in range(300)] == drawn
    assert tally.block_sums.shape == (5, WIDTH)


def summary(captions):
    tally = TextTally()
    for start in range(0, len(captions), 7):
        tally.add(texts_of(captions[start : start + 7]))
    return tally.summary(0.7)


def test_redundancy_richness_and_length():
    captions = ["Trees cover 10% of it."] * 3 + ["Trees cover 20% of it.", "Water only.", "Fields and a road."]
    found = summary(captions)
    assert found["redundancy"] == 1 - 4 / 6
    assert found["redundancy_without_numbers"] == 1 - 3 / 6
    assert found["vocabulary"] == 12
    assert found["distinct_1"] == 12 / 26
    assert found["distinct_2"] == 10 / 20
    assert found["words"]["mean"] == 26 / 6
    assert found["vocabulary_growth"] == [[1, 5], [2, 5], [5, 8]]
    assert distinct(captions, 1) == 12 / 26
    assert distinct(captions, 2) == 10 / 20
    assert distinct([], 2) is None


def test_near_duplicates_are_those_that_comparing_all_pairs_finds():
    rng = np.random.default_rng(5)
    words = np.array([f"w{i}" for i in range(400)])
    captions = []
    for _ in range(120):
        base = rng.choice(words, 30)
        captions.append(" ".join(base))
        for changes in (1, 12):  # similarity about 0.9, and about 0.2
            other = base.copy()
            other[rng.choice(30, changes, replace=False)] = rng.choice(words, changes)
            captions.append(" ".join(other))
    sets = [set(itertools.pairwise(words_of(caption))) for caption in captions]
    parent = list(range(len(captions)))

    def root(i):
        return i if parent[i] == i else root(parent[i])

    for i, j in itertools.combinations(range(len(captions)), 2):
        if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.7:
            parent[root(i)] = root(j)
    exact = len({root(i) for i in range(len(captions))})
    assert exact == 240
    found = near_clusters(np.concatenate([texts_of([caption]).signatures for caption in captions]), 0.7)
    assert abs(found - exact) <= 2
    assert near_clusters(texts_of(["a b c", "a b c", "x y z"]).signatures, 1.0) == 2


def test_leakage_is_what_words_and_numbers_tell():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(7) * 0.5, 400) * 100
    blocks = np.arange(400) // 4
    largest = [f"mainly {NAMES_OF[c]}" for c in shares.argmax(axis=1)]
    stated = [", ".join(f"{name} {s:.2f}%" for name, s in zip(NAMES_OF, row, strict=True)) for row in shares]
    nothing = [f"an image of {rng.choice(['hills', 'plains'])}" for _ in shares]
    told = {name: leakage(c, shares, blocks, 0) for name, c in (("l", largest), ("s", stated), ("n", nothing))}
    assert told["s"]["r2_with_numbers"] > 0.99 > 0.7 > told["l"]["r2"] > 0.3
    assert told["l"]["r2"] == pytest.approx(told["l"]["r2_with_numbers"])
    assert abs(told["s"]["r2"]) < 0.1  # the same words in each
    assert abs(told["n"]["r2"]) < 0.1
    assert told["n"]["error"] == pytest.approx(told["n"]["error_of_mean"], rel=0.05)
    assert leakage(largest[:49], shares[:49], blocks[:49], 0) is None
    assert leakage(largest, shares, np.zeros(400, int), 0) is None


def test_the_papers_figures_stand_beside_their_streams():
    redundancy = {
        name: (paper_stream(name) or {}).get("redundancy")
        for name in (
            "text",
            "vision",
            "vision_language",
            "hybrid_gemma3-4b",
            "vision_qwen3-vl-8b",
            "language_qwen3_4b",
            "gpt",
            "text_template",
        )
    }
    assert list(redundancy.values()) == [46.45, 0.84, 6.41, 0.47, 10.05, 46.45, None, None]
