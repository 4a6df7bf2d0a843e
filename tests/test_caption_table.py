"""The caption table: whole rows, one per image, whatever killed the run or wrote the file."""

import csv
import random

import pytest

from aras.captions.table import HEADER, mend, names_in, open_table, read_captions, sort_table
from aras.errors import UserError


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def captions(path):
    return dict(read_captions(path))


def test_rows_are_appended_and_found_again(tmp_path):
    path = tmp_path / "new" / "test_text.csv"
    with open_table(path) as table:
        table.append({"b.png": 'A lake, "blue".', "a.png": "Two\nlines  and\ttabs"})
    with open_table(path) as table:
        assert table.names == {"a.png", "b.png"}
        assert not table.mended
        table.append({"b.png": "again", "c.png": "Yes"})
    assert rows(path) == [
        ["filename", "caption"],
        ["b.png", 'A lake, "blue".'],
        ["a.png", "Two lines and tabs"],
        ["c.png", "Yes"],
    ]


def test_a_row_is_on_disk_when_append_returns(tmp_path):
    with open_table(tmp_path / "t.csv") as table:
        table.append({"a.png": "A lake"})
        assert captions(tmp_path / "t.csv") == {"a.png": "A lake"}


@pytest.mark.parametrize("caption", ["", " \n ", "ERROR: timed out"])
def test_an_empty_caption_or_an_error_is_never_written(tmp_path, caption):
    with open_table(tmp_path / "t.csv") as table, pytest.raises(ValueError, match=r"no caption of a\.png"):
        table.append({"b.png": "Fine", "a.png": caption})
    assert captions(tmp_path / "t.csv") == {}


def test_characters_that_no_csv_holds_become_others(tmp_path):
    with open_table(tmp_path / "t.csv") as table:
        table.append({"a.png": "x\0y\ud800z\u2028w"})
    assert captions(tmp_path / "t.csv") == {"a.png": "x y?z w"}


def test_cut_anywhere_it_goes_on_to_the_same_rows(tmp_path):
    told = {f"{i}.png": random.Random(i).choice(['say "x", y', "plain", "comma, comma", "ä ö ü"]) for i in range(6)}
    whole = tmp_path / "whole.csv"
    with open_table(whole) as table:
        table.append(told)
    content = whole.read_bytes()
    for end in range(len(content) + 1):
        path = tmp_path / "cut.csv"
        path.write_bytes(content[:end])
        with open_table(path) as table:
            table.append(told)
        assert path.read_bytes() == content, end


FOREIGN = {
    "headers": (b"filename,caption\na.png,One\nfilename,caption\nb.png,Two\n", "repeated header"),
    "headers at once": (b"filename,caption\nfilename,caption\na.png,One\nb.png,Two\n", "repeated header"),
    "empty lines": (b"filename,caption\n\na.png,One\nb.png,Two\n\n", "empty line"),
    "windows": (b"filename,caption\r\na.png,One\r\nb.png,Two\r\n", "line end"),
    "mark": (b"\xef\xbb\xbffilename,caption\na.png,One\nb.png,Two\n", "byte order mark"),
    "doubled": (b"filename,caption\na.png,One\na.png,Other\nb.png,Two\n", "repeated row"),
    "lines": (b'filename,caption\na.png,"One\n"\nb.png,Two\n', "line end"),
    "errors": (b"filename,caption\na.png,One\nb.png,Two\nc.png,ERROR: 500\nd.png,\n", "empty caption or error message"),
    "torn": (b"filename,caption\na.png,One\nb.png,Two\nc.png,Th", "torn last row"),
    "torn in lines": (b'filename,caption\na.png,One\nb.png,Two\nc.png,"Trees, grass\nand a, say, la', "torn last row"),
    "quoted": (b'"filename","caption"\n"a.png","One"\n"b.png","Two"\n', "line end"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_tables_of_other_programs_are_put_right_once(tmp_path, kind):
    content, fault = FOREIGN[kind]
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert names_in(path) == {"a.png", "b.png"}
    names, mended = mend(path)
    assert names == {"a.png", "b.png"}
    assert mended[fault]
    assert path.read_bytes().replace(b'"', b"") == b"filename,caption\na.png,One\nb.png,Two\n"
    before = path.read_bytes()
    assert not mend(path)[1]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"name,text\na,b\n",
        b"hello",
        b"filename,caption\na.png,b,c\n",
        b"filename,caption\na.png\n",
        b"filename,caption\na.png,\xff\n",
        b'filename,caption\na.png,"never closed\nb.png,Two\nc.png,Three\n',
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_what_is_no_caption_table_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.csv"), open_table(path):
        raise AssertionError
    assert path.read_bytes() == content


def test_sorting_orders_by_name_and_leaves_sorted_tables_alone(tmp_path):
    path = tmp_path / "t.csv"
    with open_table(path) as table:
        table.append({"b.png": 'with "quotes", and commas', "a.png": "First"})
    sort_table(path)
    assert [row[0] for row in rows(path)] == ["filename", "a.png", "b.png"]
    assert captions(path)["b.png"] == 'with "quotes", and commas'
    inode = path.stat().st_ino
    sort_table(path)
    assert path.stat().st_ino == inode


def test_a_table_without_rows_is_its_header(tmp_path):
    with open_table(tmp_path / "t.csv"):
        pass
    sort_table(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == HEADER
