"""Blocks of neighbouring patches, from patches.csv or from names."""

import csv

import numpy as np
import pytest

from aras.blocks import blocks_of
from aras.errors import UserError


def write_patches(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "split", "block"))
        writer.writerows((name, "test", block) for name, block in rows)


def test_names_alone_give_blocks_of_eight_by_eight(tmp_path):
    names = np.array(["N41E031_000_000", "N41E031_007_007", "N41E031_008_000", "N42E031_000_000", "N41E031_000_001"])
    blocks = blocks_of(tmp_path, names)
    assert blocks.names == ["N41E031_0_0", "N41E031_1_0", "N42E031_0_0"]
    assert blocks.tiles == ["N41E031", "N41E031", "N42E031"]
    assert blocks.index.tolist() == [0, 0, 1, 2, 0]
    assert (len(blocks), blocks.source) == (3, "names")


def test_patches_csv_goes_before_names_and_other_images_stand_alone(tmp_path):
    write_patches(tmp_path / "patches.csv", [("N41E031_000_000", "a"), ("N41E031_000_009", "a")])
    names = np.array(["000000", "000001", "N41E031_000_000", "N41E031_000_009", "N41E031_000_010"])
    blocks = blocks_of(tmp_path, names)
    assert blocks.source == "images and names and patches.csv"
    groups = blocks.index.tolist()
    assert groups[2] == groups[3]
    assert len(set(groups)) == len(blocks) == 4
    assert blocks.tiles[groups[0]] == ""


def test_what_the_creator_writes_is_read_back(world, tmp_path, run):
    from dataset_creator import main

    options = ("--patch-size", 32, "--block-size", 4, "--output", tmp_path / "out", "--workers", 1)
    folders = ("--s2", world / "S2RGB_2021", "--worldcover", world / "worldcover_2021")
    assert run(main, *folders, *options).exit_code == 0
    names = np.array(sorted(path.stem for path in (tmp_path / "out" / "test" / "images").iterdir()))
    blocks = blocks_of(tmp_path / "out", names)
    assert blocks.source == "patches.csv"
    (tmp_path / "out" / "patches.csv").unlink()
    assert len(blocks_of(tmp_path / "out", names)) < len(blocks)
    for name, block in zip(names, np.array(blocks.names)[blocks.index], strict=True):
        tile, row, col = name.split("_")
        assert block == f"{tile}_{int(row) // 4}_{int(col) // 4}"


def test_a_patches_csv_of_before_has_no_blocks_and_a_broken_one_is_named(tmp_path):
    (tmp_path / "patches.csv").write_text("name,split\nN41E031_000_000,test\n")
    assert blocks_of(tmp_path, np.array(["N41E031_000_000"])).source == "names"
    (tmp_path / "patches.csv").write_bytes(b"name,block\n\xff\xfe,a\n")
    with pytest.raises(UserError, match=r"patches\.csv is not a table"):
        blocks_of(tmp_path, np.array(["N41E031_000_000"]))
