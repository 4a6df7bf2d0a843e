import json
from pathlib import Path

import pytest

from aras.errors import UserError
from aras.runs import begin_run


def test_the_first_run_tells_its_story_and_the_next_leaves_it(tmp_path):
    path = tmp_path / "run.json"
    options = {"data": tmp_path, "fractions": (0.8, 0.1, 0.1), "seed": 3, "workers": 4}
    assert begin_run(path, options, ["numpy", "no-such-package"]) is False
    told = json.loads(path.read_text())
    assert told["options"] == {"data": str(tmp_path), "fractions": [0.8, 0.1, 0.1], "seed": 3, "workers": 4}
    assert told["seed"] == 3
    assert told["versions"]["no-such-package"] == "absent"
    assert set(told) == {"options", "command", "commit", "seed", "versions", "device", "started"}
    before = path.read_bytes()
    assert begin_run(path, options | {"workers": 9}, ["numpy"]) is True
    assert path.read_bytes() == before


def test_other_options_are_named_all_at_once(tmp_path):
    begin_run(tmp_path / "run.json", {"seed": 0, "lr": 0.1, "data": "a"})
    with pytest.raises(UserError, match=r"--lr was 0\.1, now 0\.2; --seed was 0, now 1"):
        begin_run(tmp_path / "run.json", {"seed": 1, "lr": 0.2, "data": "a"})


def test_a_path_is_the_same_however_it_is_spelt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin_run(tmp_path / "run.json", {"data": Path("here")})
    assert begin_run(tmp_path / "run.json", {"data": tmp_path / "here"}) is True
    with pytest.raises(UserError, match="--data was here, now there"):
        begin_run(tmp_path / "run.json", {"data": Path("there")})


@pytest.mark.parametrize("text", ["{", "[1]", '{"name": "of something else"}'])
def test_a_foreign_run_json_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json"):
        begin_run(tmp_path / "run.json", {"seed": 1})
