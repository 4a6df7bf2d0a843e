"""What is captioned: splits of a dataset, a folder, a table; limits and shards."""

import numpy as np
import pytest
from percentages import write_percentages
from tiny_dataset import make_dataset

from aras.captions.percentages import read_percentages
from aras.captions.work import (
    own_work,
    parse_shard,
    shard_path,
    shards_of,
    split_work,
    splits_present,
)
from aras.errors import UserError
from aras.legend import CLASS_NAMES, class_percentages, read_mask
from aras.patches import class_counts

HEADER = ",".join(["filename", *CLASS_NAMES])


@pytest.fixture
def data(tmp_path):
    """A dataset with its percentages, in falling order of names."""
    return write_percentages(make_dataset(tmp_path / "ARAS400k", test=5, val=2))


def test_a_split_is_its_images_with_their_percentages_in_the_order_of_names(data, tmp_path):
    assert splits_present(data, image=True) == splits_present(data, image=False) == ["val", "test"]
    work = split_work(data, "test", tmp_path / "out.csv", image=True, percentages=True, mask=True)
    names = sorted(path.name for path in (data / "test" / "images").iterdir())
    items = list(work.items(without={names[1]}))
    assert [item.name for item in items] == [names[0], *names[2:]]
    for item in items:
        assert item.image == data / "test" / "images" / item.name
        assert item.mask == data / "test" / "masks" / item.name
        assert item.percentages == pytest.approx(class_percentages(class_counts(read_mask(item.mask))))


def test_percentages_alone_are_enough(data, tmp_path):
    work = split_work(data, "test", tmp_path / "out.csv", image=False, percentages=True, mask=False)
    item = work.item(0)
    assert (len(work), item.image, item.mask) == (5, None, None)
    assert work.names.tolist() == sorted(work.names.tolist())
    assert sum(item.percentages) == pytest.approx(100, abs=0.1)


def test_shards_part_the_work_and_have_csvs_of_their_own(data, tmp_path):
    work = split_work(data, "test", tmp_path / "test_text.csv", image=True, percentages=True, mask=False).first(4)
    parts = [work.shard((i, 3)) for i in (1, 2, 3)]
    assert sorted(np.concatenate([part.names for part in parts]).tolist()) == work.names.tolist()
    assert [len(part) for part in parts] == [2, 1, 1]
    assert parts[1].output == tmp_path / "test_text_shard_2_of_3.csv"
    assert parts[1].table == work.output == tmp_path / "test_text.csv"
    assert parts[1].item(0).percentages == work.item(1).percentages
    assert work.shard(None) is work


def test_shards_beside_a_table_are_found(tmp_path):
    table = tmp_path / "a.b.csv"
    assert shards_of(tmp_path / "none" / "x.csv") == []
    wanted = [shard_path(table, 1, 2), shard_path(table, 10, 16)]
    for path in [*wanted, tmp_path / "a.b_shard_1_of_2.csv.run.json", tmp_path / "aXb_shard_1_of_2.csv", table]:
        path.touch()
    assert shards_of(table) == sorted(wanted)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "-1/2", "1/0", ""])
def test_a_wrong_shard_is_told(text):
    assert parse_shard("2/4") == (2, 4)
    with pytest.raises(UserError, match="--shard"):
        parse_shard(text)


def test_published_tables_read_as_well(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(
        "filename,split,Water,Tree,Shrub,Grass,Crop,Built-up,Barren,text_qwen3-4b\n"
        'N36E028_005_025,train,1,38,0,61,0,0,0,"Grass, trees"\n',
        encoding="utf-8-sig",
    )
    names, values = read_percentages(path)
    assert names == ["N36E028_005_025.png"]
    assert values.tolist() == [[38, 0, 61, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no column filename"),
        (HEADER + "\n", "no rows"),
        ("filename,Tree\na,1\n", "no column Shrub"),
        (HEADER + "\na.png,x,0,0,0,0,0,0\n", "could not convert"),
        (HEADER + "\na.png,50,0\n", "out of range"),
        (HEADER + "\na.png,0.5,0,0.5,0,0,0,0\n", "add up to 1, not 100"),
        (HEADER + "\na.png,nan,0,100,0,0,0,0\n", "add up to nan"),
        (HEADER + "\na.png,-50,0,150,0,0,0,0\n", "add up to"),
        (HEADER + "\na.png,0,0,100,0,0,0,0\na.png,0,0,100,0,0,0,0\n", "twice"),
        (HEADER + "\n../a.png,0,0,100,0,0,0,0\n", "no file name"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_in_one_line(tmp_path, text, told):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as error:
        read_percentages(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named(data, tmp_path):
    with pytest.raises(UserError, match=r"class_percentages.*dataset_creator"):
        splits_present(tmp_path / "nowhere", image=False)
    with pytest.raises(UserError, match=r"train\.csv is missing"):
        split_work(data, "train", tmp_path / "o.csv", image=False, percentages=True, mask=False)
    with pytest.raises(UserError, match="--images"):
        own_work(tmp_path / "o.csv", None, None, None)
    (data / "test" / "masks" / "N41E031_000_001.png").unlink()
    with pytest.raises(UserError, match=r"masks lacks N41E031_000_001\.png \(1 that"):
        split_work(data, "test", tmp_path / "o.csv", image=True, percentages=False, mask=True)
    table = data / "class_percentages" / "test.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(UserError, match=r"test\.csv lacks N41E031_000_000\.png \(2 that"):
        split_work(data, "test", tmp_path / "o.csv", image=True, percentages=True, mask=False)
