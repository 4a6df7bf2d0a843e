"""The report of what the stages left, made as its users make it, with pieces missing, all there, and torn."""

import base64
import html
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset

from aras.legend import CLASS_NAMES, COLORS, read_mask
from aras.pairs import read_image
from aras.report import mapping
from aras.report.gather import SECTIONS, Limits, gather_page
from aras.report.mapping import Extent
from aras.report.page import as_json
from aras.report.pictures import Store
from aras.report.provenance import is_secret, shown_command
from aras.report.reading import MOST_NOTES, Reader, plain_text
from aras.report.sampling import Draw, dealt_out, tally_table
from report import main, places_of

ROOT = Path(__file__).resolve().parent.parent
EVIL = '</script><img src=x onerror="alert(1)">'
TOKEN = "hf_abcdefghijklmnopqrstuvwx"
SIDE = 32  # pixels of a patch
DEGREES = SIDE / 12000


def write_tables(data):
    """Write the percentages of the masks in `data`, patches.csv and skipped.csv."""
    patches = ["name,split,tile,row,col,block,west,south,east,north"]
    for split in ("train", "val", "test"):
        lines = ["filename," + ",".join(CLASS_NAMES)]
        for path in sorted((data / split / "masks").iterdir()):
            shares = np.bincount(read_mask(path).ravel(), minlength=7) / SIDE**2 * 100
            lines.append(f"{path.name}," + ",".join(f"{share:.2f}" for share in shares))
            row, col = (int(part) for part in path.stem.split("_")[1:])
            west, north = 31 + col * DEGREES, 42 - row * DEGREES
            edges = (west, north - DEGREES, west + DEGREES, north)
            patches.append(f"{path.stem},{split},N41E031,{row},{col},b," + ",".join(f"{edge:.8f}" for edge in edges))
        (data / "class_percentages").mkdir(exist_ok=True)
        (data / "class_percentages" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    (data / "patches.csv").write_text("\n".join(patches) + "\n")
    (data / "skipped.csv").write_text("name,reason\na,nodata\nb,nodata\nc,water\n")


def rename_by_split(data):
    """Give each patch a name of its own, as every patch of a dataset has."""
    for place, split in enumerate(("train", "val", "test")):
        for kind in ("images", "masks"):
            for path in list((data / split / kind).iterdir()):
                path.rename(path.with_name(path.name.replace("_000_", f"_{10 * place:03d}_")))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def write_png(path, size=(96, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)


def write_trainings(root):
    """Write what a segmenter, a conditional GAN and StyleGAN leave."""
    seg, spade, gan = root / "segmentation", root / "spade", root / "stylegan" / "00000-stylegan2"
    epochs = [
        {"epoch": e, "train_loss": 1 / e, "val_loss": 2 / e, "f1": e / 10, "class_iou": {"Tree": e / 9, "Barren": None}}
        for e in (1, 2, 3)
    ]
    write_lines(seg / "metrics.jsonl", epochs)
    write_json(
        seg / "test_metrics.json",
        {
            "images": 3,
            "f1": 0.5,
            "iou": 0.25,
            "absent": ["Barren"],
            "interval95": {"f1": [0.4, 0.625]},
            "classes": {"Tree": {"f1": 0.75, "support": 10}},
        },
    )
    command = ["segmentation_train.py", "--data", "x y", "--api-key", "opensesame1", f"--hub={TOKEN}"]
    write_json(
        seg / "run.json",
        {
            "options": {
                "arch": "Unet",
                "api_key": "opensesame2",
                "max_new_tokens": 60,
                "hub": TOKEN,
                "endpoint": "https://me:opensesame3@host/v1",
            },
            "command": command,
            "versions": {"torch": "2"},
        },
    )
    write_lines(
        spade / "metrics.jsonl",
        [{"kimg": k, "discriminator_loss": 2.0, "generator_loss": 1.0, "frechet": 100 / k} for k in (1, 2)],
    )
    for name in ("00001.000", "00010.000", "00002.500"):
        write_png(spade / "samples" / f"{name}.png")
    write_lines(gan / "stats.jsonl", [{"Progress/kimg": {"mean": k}, "Loss/G/loss": {"mean": 1 / k}} for k in (1, 2)])
    write_lines(
        gan / "metric-fid50k_full.jsonl",
        [{"results": {"fid50k_full": 9.5}, "snapshot_pkl": "network-snapshot-000002.safetensors"}],
    )
    write_json(gan / "training_options.json", {"G_config": {}, "options": {"kimg": 5}})
    for name in ("fakes_init", "fakes000002", "reals"):
        write_png(gan / f"{name}.png")


def write_measures(root):
    """Write what the measuring stages leave."""
    names = sorted(path.name for path in (root / "ARAS400k" / "train" / "images").iterdir())
    rows = "".join(f"train,{name},{place},{-place - 0.5}\n" for place, name in enumerate(names))
    for method in ("tsne", "umap"):
        (root / "feature_maps").mkdir(exist_ok=True)
        (root / "feature_maps" / f"{method}.csv").write_text("set,filename,x,y\n" + rows)
    sets = [{"name": "train", "folder": "gone/ARAS400k/train/images", "images": len(names), "key": "k"}]
    pair = {"sets": ["train", "synth"], "silhouette": 0.25, "standard_error": 0.125}
    write_json(
        root / "feature_maps" / "silhouette.json",
        {"sets": sets, "overall": {"silhouette": 0.5, "standard_error": None}, "pairs": [pair]},
    )
    about = {
        "frechet.encoder": {
            "heading": "Fréchet distance",
            "better": "lower",
            "unit": "",
            "source": "Heusel et al. 2017",
        },
        "memorised.encoder": {"heading": "Closer to training images than usual (encoder)", "better": "lower"},
        "agreement_miou": {"heading": "Agreement", "better": "higher"},
    }
    told = {
        name: {"images": 9, "measures": {"frechet.encoder": {"value": value, "low": value - 1, "high": value + 1}}}
        for name, value in (("synth", 12.0), ("generated", 10.0), ("noise", 1.0))
    }
    told["synth"]["left_out"] = {"agreement_miou": "no masks"}
    told["noise"]["noise"] = True
    told["generated"]["measures"] |= {
        "memorised.encoder": {"value": 0.5, "expected": 0.05},
        "agreement_miou": {"value": 0.25},
    }
    write_json(
        root / "fidelity" / "fidelity.json",
        {
            "reference": {"name": "test"},
            "equal_n": 9,
            "sets": told,
            "measures": about,
            "floor": {"name": "train", "measures": {"frechet.encoder": {"value": 2.0}}},
        },
    )
    write_png(root / "fidelity" / "neighbours.png")
    write_json(root / "selection" / "run.json", {"options": {"set": "generated"}})
    write_json(
        root / "selection" / "selection.json",
        {
            "selected": 6,
            "dropped": {"unsure": 3, "budget": 0},
            "mix": {"before": {"Tree": 3, "Crop": 1}},
            "distance_to_target": {"before": 0.5},
            "thresholds": {"unsure": {"value": 0.75, "source": "given"}},
        },
    )
    cells = [
        {"ours": "", "paper": "64.49", "state": "not run"},
        {"ours": "70.1", "paper": "76.37", "state": "not comparable"},
    ]
    write_json(
        root / "results" / "results.json",
        {
            "tables": [
                {
                    "title": "Segmentation, /home/someone/runs/results.json",
                    "corner": "model",
                    "columns": ["IoU", "F1"],
                    "rows": [{"label": "Unet", "cells": cells}],
                    "notes": ["a note"],
                },
                {
                    "title": "Waiting",
                    "corner": "model",
                    "columns": ["IoU"],
                    "rows": [{"label": "Unet", "cells": [{"ours": "", "state": "not run"}]}],
                },
            ]
        },
    )
    (root / "captions").mkdir()
    first = sorted((root / "ARAS400k" / "test" / "images").iterdir())[0].name
    (root / "captions" / "test_evil.csv").write_text(
        f'filename,caption\n{first},"{EVIL.replace(chr(34), chr(34) * 2)}"\n'
    )
    (root / "captions" / "test_evil.csv.failures.csv").write_text("filename,reason\n")
    (root / "captions" / "metrics").mkdir()
    columns = "stream,split,filename,points,invented,denied,dominant,missed,misstated,misplaced,composition,caption"
    (root / "captions" / "metrics" / "worst_captions.csv").write_text(
        f"{columns}\nevil,test,{first},1.5,Tree,,,,,,,words\n"
    )


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A folder with something of every stage; read-only."""
    root = tmp_path_factory.mktemp("full")
    data = make_dataset(root / "ARAS400k", size=(SIDE, SIDE), train=6, val=2, test=3)
    rename_by_split(data)
    write_tables(data)
    shutil.copytree(data / "train" / "images", data / "synth" / "images")
    shutil.copytree(data / "train" / "images", data / "train" / "generated")
    shutil.copytree(data / "test" / "masks", root / "predictions" / "masks")
    changed = sorted((root / "predictions" / "masks").iterdir())[0]
    labels = read_mask(changed).copy()
    labels[:8] = (labels[:8] + 1) % 7  # a quarter of it is wrong
    palette = Image.fromarray(labels)
    palette.putpalette(COLORS.tobytes())
    palette.save(changed)
    (root / "predictions" / "confidence.csv").write_text(f"filename,mean\n{changed.name},0.875\n")
    write_trainings(root)
    write_measures(root)
    return root


@pytest.fixture
def copy(full, tmp_path):
    """The same to do harm to."""
    return Path(shutil.copytree(full, tmp_path / "root"))


def gathered(root, folder=None, **changes):
    """Return the page of what is in `root`, its parts by section and kind, and its reader."""
    names = ("data", "predictions", "captions", "feature_maps", "fidelity", "selection", "results")
    places = places_of(dict.fromkeys(names) | {"root": root, "runs": ()})
    reader = Reader()
    limits = Limits(**({"cards": 100, "points": 100, "thumbnail": 128, "point": 64, "seed": 0, "workers": 2} | changes))
    page = gather_page(places, limits, Store(folder), reader)
    json.dumps(as_json(page), allow_nan=False)
    return page, {part.id: {} | {one.kind: one for one in part.parts} for part in page.sections}, reader


def pixels_of(page, sprite):
    """Return the pixels of a sprite, from the sheet as a browser gets it."""
    content = base64.b64decode(page.sheets[sprite.sheet].src.partition(",")[2])
    with Image.open(io.BytesIO(content)) as sheet:
        box = (sprite.x, sprite.y, sprite.x + sprite.width, sprite.y + sprite.height)
        return np.asarray(sheet.convert("RGB").crop(box))


def section_of(page, name):
    return next(section for section in page.sections if section.id == name)


def test_a_folder_with_nothing_gives_a_page_that_tells_what_to_run(run, tmp_path):
    result = run(main, "--root", tmp_path)
    assert result.exit_code == 0, result.output
    text = html.unescape((tmp_path / "report.html").read_text())
    page, _, _ = gathered(tmp_path)
    assert [section.id for section in page.sections] == list(SECTIONS)
    for section in page.sections[1:]:
        assert section.missing
        assert section.missing in text
    for script in re.findall(r"[\w/]+\.py", " ".join(section.missing or "" for section in page.sections)):
        assert (ROOT / script).name in {path.name for path in [*ROOT.glob("*.py"), *ROOT.glob("stylegan3/*.py")]} | {
            "synthetic_metrics.py"
        }


def test_every_section_is_filled_and_the_page_needs_no_network(run, full, tmp_path):
    page, _, reader = gathered(full)
    assert reader.lines() == []
    assert [section.id for section in page.sections if section.missing] == []
    result = run(main, "--root", full, "--output", tmp_path / "new" / "page.html")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "new" / "page.html").read_text()
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert EVIL not in text
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [".page.html.lock", "page.html"]


def test_cards_show_the_pixels_that_are_on_disk(full):
    page, parts, _ = gathered(full)
    cards = parts["cards"]["cards"]
    assert [sum(card.split == name for card in cards.cards) for name in cards.splits] == [6, 2, 3, 6, 6]
    data = full / "ARAS400k"
    for card in cards.cards:
        folder = data / "train" if card.split == "generated" else data / card.split
        image = read_image(folder / ("generated" if card.split == "generated" else "images") / f"{card.name}.png")
        assert np.abs(pixels_of(page, card.image).astype(int) - image).mean() < 25  # noise, and lossy
        assert np.corrcoef(pixels_of(page, card.image).mean(axis=2).ravel(), image.mean(axis=2).ravel())[0, 1] > 0.8
        if card.split == "synth":
            assert card.mask is None
            continue
        labels = read_mask(folder / "masks" / f"{card.name}.png")
        assert (pixels_of(page, card.mask) == COLORS[labels]).all()
        counts = np.bincount(labels.ravel(), minlength=7) / labels.size
        assert card.shares == pytest.approx({CLASS_NAMES[c]: counts[c] for c in np.flatnonzero(counts)}, abs=1e-4)
        seen = [counts[CLASS_NAMES.index(name)] for name in card.classes]
        assert all(first >= second for first, second in pairwise(seen))
        assert set(card.classes) == {CLASS_NAMES[c] for c in np.flatnonzero(counts >= 0.03)}


def test_predictions_captions_and_confidences_come_to_their_cards(full):
    _, parts, _ = gathered(full)
    tested = [card for card in parts["cards"]["cards"].cards if card.split == "test"]
    assert [card.score for card in tested] == [0.75, 1, 1]
    assert [card.confidence for card in tested] == [0.875, None, None]
    assert [[(c.stream, c.text) for c in card.captions] for card in tested] == [[("evil", EVIL)], [], []]
    others = [card for card in parts["cards"]["cards"].cards if card.split != "test"]
    assert all(card.prediction is None and not card.captions for card in others)


def test_cards_of_which_most_is_known_come_first(full):
    _, parts, _ = gathered(full)
    cards = parts["cards"]["cards"].cards
    known = [(one.mask is not None) + (one.prediction is not None) + bool(one.captions) for one in cards]
    assert known == sorted(known, reverse=True)
    assert [card.split for card in cards[:4]] == ["test", "test", "test", "train"]
    assert cards[0].captions


def test_without_cards_nothing_is_said_to_be_missing(full):
    page, _, _ = gathered(full, cards=0)
    assert [section.id for section in page.sections] == [name for name in SECTIONS if name != "cards"]
    assert not any(section.missing for section in page.sections)


def test_the_page_does_not_tell_where_it_lies_on_the_machine(run, copy):
    (copy / "fidelity" / "spectra.png").write_bytes(b"no image")
    write_json(copy / "predictions" / "run.json", {"command": ["a.py"], "options": {"data": f"{copy}/ARAS400k"}})
    assert run(main, "--root", copy).exit_code == 1
    text = (copy / "report.html").read_text()
    assert str(copy) not in text
    assert f"{copy.name}/ARAS400k" in text
    assert "fidelity/spectra.png" in text


def test_the_map_has_each_patch_at_its_place_and_leads_to_its_card(full):
    _, parts, _ = gathered(full)
    found, cards = parts["map"]["footprints"], parts["cards"]["cards"].cards
    assert len(found.patches) == 11
    for patch in found.patches:
        row, col = (int(part) for part in patch.name.split("_")[1:])
        assert (patch.west, patch.north) == pytest.approx((31 + col * DEGREES, 42 - row * DEGREES), abs=1e-7)
        assert (cards[patch.card].split, cards[patch.card].name) == (patch.split, patch.name)
    assert found.mosaic is not None


def test_the_mosaic_has_each_image_at_its_place(full):
    _, parts, _ = gathered(full)
    found = parts["map"]["footprints"]
    content = base64.b64decode(found.mosaic.src.partition(",")[2])
    mosaic = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")).astype(int)
    west, _, _, north = found.bounds
    for patch in found.patches:
        left, top = round((patch.west - west) / DEGREES) * SIDE, round((north - patch.north) / DEGREES) * SIDE
        tessera = mosaic[top : top + SIDE, left : left + SIDE]
        image = read_image(full / "ARAS400k" / patch.split / "images" / f"{patch.name}.png")
        assert (tessera[..., 3] == 255).all()
        assert np.abs(tessera[..., :3].mean(axis=(0, 1)) - image.mean(axis=(0, 1))).max() < 8
    assert (mosaic[..., 3] > 0).sum() == 11 * SIDE**2


def test_too_many_patches_are_shown_as_squares_of_neighbours(full, monkeypatch):
    monkeypatch.setattr(mapping, "MOST_OUTLINES", 8)
    _, parts, _ = gathered(full)
    found = parts["map"]["footprints"]
    told = [patch.name for patch in found.patches]
    assert len(told) <= 8
    more = [int(part) for name in told for part in re.findall(r"and ([\d,]+) more", name)]
    assert len(told) + sum(more) == 11


@pytest.mark.parametrize("count", [10_000, 100_000, 10_000_000])
def test_squares_are_never_more_than_can_be_shown(count):
    columns, rows = 9 * int(count**0.5), 7 * int(count**0.5)
    side = Extent(count, (0.0, 0.0, float(columns), float(rows)), 1.0, 1.0).side(4000)
    assert 0 < -(-columns // side) * -(-rows // side) <= 4000


def test_a_published_dataset_without_a_list_of_patches_is_mapped_by_names(copy):
    (copy / "ARAS400k" / "patches.csv").unlink()
    _, parts, reader = gathered(copy)
    assert reader.lines() == []
    for patch in parts["map"]["footprints"].patches:
        row, col = (int(part) for part in patch.name.split("_")[1:])
        assert (patch.west, patch.north) == pytest.approx((31 + col * DEGREES, 42 - row * DEGREES), abs=1e-7)


def test_class_balance_and_drops_add_up(full):
    page, _, _ = gathered(full)
    balance, drops = section_of(page, "balance").parts
    assert balance.groups == ["train", "val", "test", "generated"]  # nothing tells the classes of synth
    for values in balance.values:
        assert sum(values) == pytest.approx(1, abs=1e-3)
    pixels = sum(
        np.bincount(read_mask(path).ravel(), minlength=7) for path in (full / "ARAS400k/train/masks").iterdir()
    )
    assert balance.values[0] == pytest.approx((pixels / pixels.sum()).tolist(), abs=1e-3)
    assert balance.values[3] == pytest.approx(balance.values[0], abs=1e-3)
    assert dict(zip(drops.parts, drops.values[0], strict=True)) == pytest.approx(
        {"train": 6 / 14, "val": 2 / 14, "test": 3 / 14, "a pixel without a label": 2 / 14, "too much water": 1 / 14},
        abs=1e-5,
    )


def test_curves_and_scores_are_those_of_the_logs(full):
    page, _, _ = gathered(full)
    parts = section_of(page, "training").parts
    curves = {part.title: part for part in parts if part.kind == "curve"}
    loss = curves["Segmenter: loss"].series
    assert [(line.name, line.x, line.y) for line in loss] == [
        ("train", [1, 2, 3], [1, 0.5, 0.333333]),
        ("validation", [1, 2, 3], [2, 1, 0.666667]),
    ]
    assert [line.name for line in curves["Segmenter: validation IoU of each class"].series] == ["Tree"]
    assert curves["Conditional GAN: Fréchet distance of drawn images"].series[0].y == [100, 50]
    assert curves["StyleGAN: losses"].series[0].y == [1, 0.5]
    assert curves["StyleGAN: fid50k_full of snapshots"].series[0].y == [9.5]
    scores, classes = (part for part in parts if part.kind == "table")
    assert scores.rows[0][1:4] == ["3", "50.00 [40.0, 62.5]", "25.00"]
    assert [row[:2] for row in classes.rows] == [["Tree", "75.00"], ["Barren", ""]]
    fakes, reals, samples = section_of(page, "generated").parts
    assert fakes.caption == "After 2 thousand images. stylegan/00000-stylegan2"
    assert reals.caption == "stylegan/00000-stylegan2"
    assert samples.caption.endswith("After 10 thousand images. spade")  # the newest, not the last by name


def test_feature_maps_have_the_images_of_their_points(full):
    page, _, _ = gathered(full)
    tsne, umap, table = section_of(page, "features").parts
    assert tsne.names == umap.names
    for x, y, name, sprite in zip(tsne.x, tsne.y, tsne.names, tsne.sprites, strict=True):
        assert y == -x - 0.5
        image = read_image(full / "ARAS400k" / "train" / "images" / f"{name}.png")
        assert np.corrcoef(pixels_of(page, sprite).mean(axis=2).ravel(), image.mean(axis=2).ravel())[0, 1] > 0.8
    assert [row[1:] for row in table.rows] == [["0.5000", ""], ["0.2500", "0.1250"]]
    page, _, _ = gathered(full, points=3)
    tsne, umap, _ = section_of(page, "features").parts
    assert len(tsne.names) == 3
    assert tsne.names == umap.names


def test_tables_have_the_measures_of_other_stages(full):
    page, _, _ = gathered(full)
    features, pixels, words = (part for part in section_of(page, "fidelity").parts if part.kind == "table")
    assert features.columns == ["measure", "floor: train", "synth", "generated", "noise"]
    assert features.rows == [
        ["Fréchet distance\xa0↓", "2.00", "12.0 [11.0, 13.0]", "10.0 [9.00, 11.0]", "1.00 [0.00, 2.00]"],
        ["Closer to training images than usual\xa0↓", "0.0500 (expected)", "", "0.500", ""],
    ]
    assert features.marks == [["", "floor", "", "best", ""], ["", "floor", "missing", "", "missing"]]
    assert (pixels.title, pixels.rows) == ("Pixels and masks", [["Agreement\xa0↑", "", "0.250", ""]])
    assert "– synth: Agreement: no masks." in pixels.notes
    assert (words.folded, words.rows[0][::2]) == (True, ["Fréchet distance", "Heusel et al. 2017"])
    assert all(row[1] for row in words.rows)
    results, waiting = section_of(page, "results").parts
    assert (results.title, results.folded) == ("Segmentation, runs/results.json", False)
    assert (waiting.folded, waiting.columns, waiting.rows) == (True, ["model", "IoU"], [["Unet", "not run"]])
    assert results.rows == [["Unet", "ours", "not run", "70.1 †"], ["Unet", "paper", "64.49", "76.37"]]
    assert results.marks == [["", "", "missing", ""], ["paper"] * 4]
    fates, mixes, limits = section_of(page, "selection").parts
    assert fates.title == "What became of the generated images"
    assert (fates.parts, fates.counts) == (["selected", "unsure"], [6, 3])
    assert fates.values[0] == pytest.approx([2 / 3, 1 / 3], abs=1e-5)
    assert "None for: budget." in fates.note
    assert mixes.values[0][CLASS_NAMES.index("Tree")] == 0.75
    assert limits.rows == [["unsure", "0.7500", "given"]]


def test_secrets_are_not_on_the_page(run, full, tmp_path):
    assert run(main, "--root", full, "--output", tmp_path / "page.html").exit_code == 0
    text = (tmp_path / "page.html").read_text()
    for secret in ("opensesame", TOKEN):
        assert secret not in text
    assert "max_new_tokens" in text
    assert "x y" in text
    assert not is_secret("max_new_tokens")
    assert list(shown_command(["a", "--token", "b", "--password=c", "--key", "--d"])) == [
        "a",
        "--token",
        "(hidden)",
        "--password=(hidden)",
        "--key",
        "--d",
    ]


HARMS = {
    "ARAS400k/test/images/N41E031_020_001.png": b"not an image",
    "ARAS400k/val/masks/N41E031_010_001.png": None,
    "ARAS400k/class_percentages/train.csv": "a torn\n",
    "ARAS400k/patches.csv": "b,train,N41E031,0,0,x,here,0,0,0\n",
    "segmentation/metrics.jsonl": '{"epoch": 4, "train_l',
    "segmentation/test_metrics.json": b'{"f1": 0.',
    "fidelity/fidelity.json": b'{"sets": [1, 2], "measures": {"a": null}}',
    "results/results.json": b"[]",
    "selection/selection.json": b'{"dropped": 7}',
    "captions/metrics/caption_metrics.json": b'{"streams": {"a": {"texts": 5}}}',
    "captions/test_evil.csv": '"torn, and never clo',
    "feature_maps/tsne.csv": "train,../../secret.png,1,2\n",
    "feature_maps/silhouette.json": b"\xff\xfe",
    "fidelity/neighbours.png": b"\x89PNG",
    "ARAS400k/skipped.csv": b"\xff\xff",
}
"""What each file becomes: other bytes, nothing, or itself with some text after it."""


def harm(root, name):
    path, what = root / name, HARMS[name]
    if what is None:
        path.unlink()
    elif isinstance(what, str):
        path.write_text(path.read_text() + what)
    else:
        path.write_bytes(what)


@pytest.mark.parametrize("name", HARMS)
def test_what_is_torn_is_named_and_the_rest_is_shown(copy, name):
    (copy / "captions/metrics/caption_metrics.json").write_text("{}")
    before, _, _ = gathered(copy)
    harm(copy, name)
    page, _, reader = gathered(copy)
    assert name in " ".join(page.notes)
    assert reader.count == len(page.notes) > 0
    filled = {section.id for section in before.sections if section.parts}
    lost = filled - {section.id for section in page.sections if section.parts}
    assert lost <= {name.split("/")[0]}
    assert len(section_of(page, "cards").parts[0].cards) == len(section_of(before, "cards").parts[0].cards)


def test_everything_torn_is_told_on_the_page_and_by_the_exit_code(run, copy):
    for name in HARMS:
        harm(copy, name)
    result = run(main, "--root", copy)
    assert result.exit_code == 1
    text = html.unescape((copy / "report.html").read_text())
    for name in HARMS:
        assert name in text
        assert name in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_notes_are_bounded():
    reader = Reader()
    for number in range(MOST_NOTES + 60):
        reader.note(f"file {number}")
        reader.note("file 0")
    assert len(reader.notes) == MOST_NOTES
    assert (reader.count, reader.lines()[-1]) == (MOST_NOTES + 60, "and 60 more")


def referenced(path):
    """Return the images that the page `path` names."""
    return set(re.findall(rf"{path.stem}_files/([0-9a-f]+\.webp)", path.read_text()))


def test_images_beside_the_page_are_its_own_and_no_earlier_ones(run, full, tmp_path):
    page, folder = tmp_path / "page.html", tmp_path / "page_files"
    arguments = ("--root", full, "--output", page)
    assert run(main, *arguments, "--images", "beside").exit_code == 0
    assert referenced(page) == {path.name for path in folder.iterdir()} != set()
    assert "data:image" not in page.read_text().replace("data:image/svg", "")
    first = referenced(page)
    (folder / "mine.txt").write_text("kept")
    assert run(main, *arguments, "--images", "beside", "--cards", 2, "--points", 0).exit_code == 0
    assert referenced(page) == {path.name for path in folder.iterdir()} - {"mine.txt"}
    assert referenced(page) != first
    (folder / "mine.txt").unlink()
    assert run(main, *arguments).exit_code == 0
    assert not folder.exists()


@pytest.mark.slow
def test_a_killed_run_leaves_the_old_page_whole_and_the_next_is_as_an_unbroken_one(full, tmp_path):
    page, folder = tmp_path / "page.html", tmp_path / "page_files"
    command = [sys.executable, ROOT / "report.py", "--root", full, "--output", page, "--images", "beside"]
    began = time.monotonic()
    subprocess.run([*command, "--cards", "3"], check=True, capture_output=True)
    took = time.monotonic() - began
    old = page.read_bytes()
    for share in (0.5, 0.7, 0.8, 0.85, 0.9, 0.95):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * took)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert referenced(page) <= {path.name for path in folder.iterdir()}
        assert page.read_bytes() == old or page.read_bytes().rstrip().endswith(b"</html>")
    subprocess.run(command, check=True, capture_output=True)
    assert referenced(page) == {path.name for path in folder.iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".page.html.lock", "page.html", "page_files"]


def test_a_folder_that_is_not_there_is_a_line_that_names_the_option(run, tmp_path):
    result = run(main, "--root", tmp_path, "--feature-maps", tmp_path / "gone")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {tmp_path}/gone is not a folder; check --feature-maps\n"


def test_a_draw_depends_on_names_and_seed_alone():
    names = [f"image {number}" for number in range(500)]

    def drawn(order, seed):
        draw = Draw(50, seed)
        for name in order:
            draw.add(name, np.zeros(2))  # which cannot be ordered
        return list(draw.items())

    first = drawn(names, 1)
    assert first == drawn(names[::-1], 1)
    assert len(set(first) & set(drawn(names, 2))) < 20
    times = np.zeros(500)
    for seed in range(50):
        times[[int(name.split()[1]) for name in drawn(names, seed)]] += 1
    assert times.mean() == 5
    assert times.max() < 16  # each is drawn about as often


def test_cards_are_dealt_out_evenly_and_all_given():
    assert dealt_out({"a": 100, "b": 3, "c": 50}, 40) == {"a": 19, "b": 3, "c": 18}
    assert dealt_out({"a": 1, "b": 2}, 40) == {"a": 1, "b": 2}
    assert dealt_out({}, 40) == {}


def test_memory_does_not_grow_with_the_dataset(tmp_path):
    def peak(count):
        path = tmp_path / f"{count}.csv"
        path.write_text(
            "filename," + ",".join(CLASS_NAMES) + "\n" + "".join(f"{n:07d}.png,100,0,0,0,0,0,0\n" for n in range(count))
        )
        tracemalloc.start()
        tally = tally_table(path, Reader(), 100, 0)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (tally.count, len(tally.drawn)) == (count, 100)
        return most

    assert peak(12_000) < 3 * peak(2000)  # held rows would make it thirty times as much


def test_text_of_any_kind_becomes_text_that_a_page_can_hold():
    assert plain_text("a\nb\x00c\u202ed") == "a b c d"
    assert plain_text("caf\udce9") == "caf?"
    assert plain_text("x" * 3000).endswith("x…")
    assert len(plain_text("x" * 3000)) <= 2001
