"""The Ollama captioner against a server that speaks Ollama's protocol: what is asked, what is kept, what fails."""

import base64
import csv
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from loopback import Fault
from ollama_server import CAN, OllamaServer, answer, caption_of
from tiny_dataset import make_dataset

import ollama_captioner
from aras.captions import ollama_server
from aras.captions.prompts import SYSTEM, VISION

SCRIPT = Path(ollama_captioner.__file__)
HEADER = "filename,Tree,Shrub,Grass,Crop,Built-up,Barren,Water\n"
TABLE = HEADER + "N41E031_000_001,0,0,0,100,0,0,0\nN41E031_000_000.png,61.5,0,38.5,0,0,0,0\n"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(ollama_server, "FIRST_PAUSE", 0.01)
    with OllamaServer() as running:
        monkeypatch.setenv("OLLAMA_HOST", running.url)
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of two splits, and percentages of one."""
    folder = make_dataset(tmp_path_factory.mktemp("data"), size=(16, 16), val=2, test=6)
    (folder / "class_percentages").mkdir()
    (folder / "class_percentages" / "val.csv").write_text(TABLE)
    return folder


@pytest.fixture
def caption(run, data, tmp_path):
    """Run the script on the data, into `captions` of the test's own folder."""

    def invoke(*arguments):
        return run(ollama_captioner.main, "--data", data, "--outdir", tmp_path / "captions", *arguments)

    return invoke


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_bare_it_captions_the_images_of_every_split(caption, server, data, tmp_path):
    result = caption()
    assert result.exit_code == 0, result.output
    for split, count in (("val", 2), ("test", 6)):
        found = rows(tmp_path / "captions" / f"{split}_ollama.csv")
        assert found[0] == ["filename", "caption"]
        assert [row[0] for row in found[1:]] == sorted(path.name for path in (data / split / "images").iterdir())
        assert len({row[1] for row in found[1:]}) == count
    assert len(server.chats) == 8
    images = {path.read_bytes() for path in data.glob("*/images/*.png")}
    assert {base64.b64decode(chat["messages"][1]["images"][0]) for chat in server.chats} == images
    first = server.chats[0]
    assert first["model"] == "moondream"
    assert first["messages"][0] == {"role": "system", "content": SYSTEM}
    assert first["messages"][1]["content"] == VISION
    assert first["keep_alive"] == "10m"
    assert not first["think"] and not first["stream"]
    assert set(first["options"]) == {"num_predict", "seed"}
    assert first["options"]["num_predict"] == 100
    assert len({chat["options"]["seed"] for chat in server.chats}) == 6  # a seed a name, in both splits

    record = json.loads((tmp_path / "captions" / "test_ollama.csv.run.json").read_text())
    told = {"model": "moondream", "revision": "a" * 64, "from": "images", "seed": 0, "max_new_tokens": 100}
    assert told.items() <= record["options"].items()
    assert record["options"]["temperature"] is None
    assert record["versions"]["ollama"] == "0.6.3"

    again = caption()
    assert again.exit_code == 0
    assert "0 to caption" in again.output
    assert len(server.chats) == 8


def test_percentages_of_the_splits(caption, server, tmp_path):
    result = caption(
        "--from", "percentages", "--temperature", 0, "--max-new-tokens", 40, "--keep-alive", -1, "--seed", 5
    )
    assert result.exit_code == 0, result.output
    assert [row[0] for row in rows(tmp_path / "captions" / "val_ollama.csv")[1:]] == [
        "N41E031_000_000.png",
        "N41E031_000_001.png",
    ]
    assert not list((tmp_path / "captions").glob("test*.csv"))
    asked = {chat["messages"][1]["content"] for chat in server.chats}
    assert any("Tree: 61.50%, Grass: 38.50%" in text for text in asked)
    for chat in server.chats:
        assert chat["model"] == "gemma3:4b-it-qat"
        assert "images" not in chat["messages"][1]
        assert chat["keep_alive"] == -1
        assert chat["options"]["temperature"] == 0
        assert chat["options"]["num_predict"] == 40
    assert caption("--split", "val").exit_code == 1  # the same table from images


@pytest.mark.parametrize("form", ["path", "option"])
def test_a_set_of_ones_own(run, server, data, tmp_path, form):
    table = tmp_path / "percentages.csv"
    table.write_text(TABLE)
    for name, thing, count in (("images", data / "test" / "images", 6), ("percentages", table, 2)):
        named = [thing] if form == "path" else [f"--{name}", thing]
        result = run(ollama_captioner.main, *named, "--output", tmp_path / f"captions_{name}.csv")
        assert result.exit_code == 0, result.output
        assert len(rows(tmp_path / f"captions_{name}.csv")) == 1 + count
    assert {chat["model"] for chat in server.chats} == {"moondream", "gemma3:4b-it-qat"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["somewhere", "--images", "elsewhere", "--output", "o.csv"], "name one thing to caption"),
        (["--images", "a", "--percentages", "b.csv", "--output", "o.csv"], "name one thing to caption"),
        (["somewhere", "--from", "images", "--output", "o.csv"], "name one thing to caption"),
        (["--keep-alive", "a while"], "a while is no duration"),
        (["--keep-alive", "nan"], "nan is no duration"),
        (["somewhere"], "needs --output"),
        (["somewhere", "--output", "o.csv"], "somewhere is not a folder"),
        (["some.csv", "--output", "o.csv"], "some.csv is missing"),
        (["--from", "percentages", "--prompt", "Hello"], "no {percentages}"),
        (["--prompt", "{percentages}"], "which this captioner does not have"),
    ],
)
def test_options_that_do_not_go_together(caption, server, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    result = caption(*arguments)
    assert result.exit_code in (1, 2)
    assert told in result.output
    assert server.chats == []
    assert not list(tmp_path.rglob("*.csv"))


def one_line(result):
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert len(lines) == 1
    return lines[0]


def test_no_server(caption, monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free.getsockname()[1]}")
        assert re.search(r"no Ollama server at 127\.0\.0\.1:\d+; start it by `ollama serve`", one_line(caption()))
    assert not list(tmp_path.rglob("*.csv*"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda server: server.answers.clear(), "is no Ollama server (<?xml"),
        (lambda server: server.answers.update({"/api/tags": lambda request: (200, [1])}), "is no Ollama server"),
        (lambda server: server.answers.update({"/api/tags": lambda request: (500, "down")}), "is no Ollama server"),
    ],
)
def test_something_else_than_ollama(caption, server, change, told):
    change(server)
    assert told in one_line(caption())


def test_an_address_that_is_none(caption, server, monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:port")
    assert "check OLLAMA_HOST" in one_line(caption())
    monkeypatch.setenv("OLLAMA_HOST", "http://exa mple\x01")
    assert "check OLLAMA_HOST" in one_line(caption())


def test_a_server_that_keeps_silent(caption, monkeypatch):
    monkeypatch.setattr(ollama_captioner, "ANSWERS_WITHIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{silent.getsockname()[1]}")
        assert "does not answer (ReadTimeout" in one_line(caption())


def test_a_model_that_is_not_there(caption, server, tmp_path):
    line = one_line(caption("--model", "llava"))
    assert "llava is not on the server" in line
    assert "add --pull, or run `ollama pull llava`" in line
    assert not list(tmp_path.rglob("*.csv*"))


def test_pull(caption, server, monkeypatch):
    server.pulled["llava:latest"] = "d" * 64
    monkeypatch.setitem(CAN, "llava:latest", ["vision"])
    result = caption("--model", "llava", "--pull")
    assert result.exit_code == 0, result.output
    assert "Pulls llava" in result.output
    assert server.asked("POST").count("/api/pull") == 1
    assert {chat["model"] for chat in server.chats} == {"llava"}
    server.files["/api/pull"] = b'{"status":"pulling manifest"}\n{"error":"pull model manifest: file does not exist"}\n'
    assert "cannot pull lava (pull model manifest: file does not exist)" in one_line(
        caption("--model", "lava", "--pull")
    )


def test_a_model_without_eyes_gets_no_images(caption, server, tmp_path):
    server.models["words:latest"] = "e" * 64
    assert "--model words cannot see images; name one that can, such as moondream" in one_line(
        caption("--model", "words")
    )
    assert not list(tmp_path.rglob("*.csv*"))
    assert caption("--model", "words", "--from", "percentages").exit_code == 0
    server.answers["/api/show"] = lambda request: (404, {"error": "not found"})  # a server that does not tell
    assert caption("--split", "test").exit_code == 0


def test_several_requests_are_in_flight_and_no_more_than_asked_for(caption, server):
    server.delay = 0.05
    assert caption("--split", "test", "--concurrency", 3).exit_code == 0
    assert server.most == 3
    assert len(server.chats) == 6


def test_failing_requests_are_repeated_and_then_listed(caption, server, data, tmp_path):
    """Each image has a fault of its own; the last three cannot be cured."""
    images = {base64.b64encode(path.read_bytes()).decode(): path.stem for path in (data / "test/images").iterdir()}
    faults = {
        "N41E031_000_000": [(503, {"error": "server busy"}), (429, {"error": "slow down"})],
        "N41E031_000_001": [(200, "what?"), (200, {"done": True})],
        "N41E031_000_002": [(500, {"error": "runner has terminated"})],
        "N41E031_000_003": [(400, {"error": "image: unknown format"})] * 9,
        "N41E031_000_004": [(200, answer(" \n"))] * 9,
        "N41E031_000_005": [(500, {"error": "CUDA error"})] * 9,
    }
    asked = []

    def instead(chat, place):
        name = images[chat["messages"][1]["images"][0]]
        asked.append(name)
        return faults[name].pop(0) if faults[name] else None

    server.instead = instead
    result = caption("--split", "test", "--retries", 2)
    table, failures = (tmp_path / "captions" / f"test_ollama.csv{ending}" for ending in ("", ".failures.csv"))
    assert str(failures) in one_line(result)
    assert [row[0] for row in rows(table)[1:]] == [f"N41E031_000_00{i}.png" for i in range(3)]
    assert {name: reason for name, reason in rows(failures)[1:]} == {
        "N41E031_000_003.png": "the server says: image: unknown format (status code: 400)",
        "N41E031_000_004.png": "no caption: ''",
        "N41E031_000_005.png": "the server says: CUDA error (status code: 500)",
    }
    assert {name[-1]: asked.count(name) for name in faults} == {"0": 3, "1": 3, "2": 2, "3": 1, "4": 1, "5": 3}

    server.instead = lambda chat, place: None
    assert caption("--split", "test").exit_code == 0
    assert len(rows(table)) == 7
    assert not failures.exists()


def test_an_answer_that_takes_too_long(caption, server, tmp_path):
    server.delay = 0.5
    result = caption("--split", "val", "--timeout", 0.1, "--retries", 0)
    assert "2 items have no caption" in one_line(result)
    assert rows(tmp_path / "captions" / "val_ollama.csv.failures.csv")[1][1] == "no answer within 0.1 s"


def test_a_broken_image_is_no_ones_request(run, server, data, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes((data / "test/images/N41E031_000_000.png").read_bytes())
    (images / "b.png").write_bytes((images / "a.png").read_bytes()[:-100])
    result = run(ollama_captioner.main, "--images", images, "--output", tmp_path / "o.csv")
    assert "1 items have no caption" in one_line(result)
    assert [row[0] for row in rows(tmp_path / "o.csv")[1:]] == ["a.png"]
    assert f"{images / 'b.png'} cannot be read" in rows(tmp_path / "o.csv.failures.csv")[1][1]
    assert len(server.chats) == 1


@pytest.mark.parametrize("status", [None, 401, 404])
def test_when_the_server_goes_away_the_captions_stay(caption, server, data, tmp_path, status):
    gone = Fault(unplug=True, method="POST") if status is None else Fault(status=status, method="POST", body=b"gone")
    server.faults["/api/chat"].extend([*[Fault(method="POST")] * 3, gone])
    line = one_line(caption("--split", "test", "--concurrency", 1, "--retries", 5))
    assert ("has gone away; start it again" if status is None else "refuses --model moondream") in line
    table = tmp_path / "captions" / "test_ollama.csv"
    assert len(rows(table)) == 1 + 3
    assert not (tmp_path / "captions" / "test_ollama.csv.failures.csv").exists()


def test_continued_it_is_the_same_and_other_options_are_refused(caption, server, tmp_path):
    assert caption("--split", "test", "--limit", 2).exit_code == 0
    table = tmp_path / "captions" / "test_ollama.csv"
    for other in (["--temperature", 1], ["--prompt", "What is it?"], ["--model", "gemma3:4b-it-qat"], ["--seed", 3]):
        assert "is of a run with other options" in one_line(caption("--split", "test", *other))
    digest, server.models["moondream:latest"] = server.models["moondream:latest"], "f" * 64
    assert "--revision was aaaa" in one_line(caption("--split", "test"))
    server.models["moondream:latest"] = digest
    assert len(rows(table)) == 1 + 2
    assert caption("--split", "test", "--concurrency", 2, "--timeout", 60).exit_code == 0
    whole = tmp_path / "whole.csv"
    assert caption("--split", "test", "--output", whole).exit_code == 0
    assert table.read_bytes() == whole.read_bytes()


def test_shards_join(caption, server, tmp_path):
    for shard in ("1/2", "2/2"):
        assert caption("--split", "test", "--shard", shard).exit_code == 0
    joined = caption("--split", "test")
    assert "Joined 2 shards" in joined.output
    assert len(rows(tmp_path / "captions" / "test_ollama.csv")) == 1 + 6
    assert len(server.chats) == 6


def test_layout_facts_are_told_and_numbers_are_refused(caption, server, tmp_path):
    def instead(chat, place):
        told = caption_of(chat)
        return 200, answer(re.sub(r"\d", "", told) if "thrown away" in chat["messages"][-1]["content"] else told)

    server.instead = instead
    result = caption("--split", "test", "--layout", "--no-numbers", "--system", "", "--prompt", "Facts: {layout}")
    assert result.exit_code == 0, result.output
    assert len(server.chats) == 12  # each again, more sternly
    assert all(len(chat["messages"]) == 1 for chat in server.chats)
    assert all(re.match(r"Facts: [A-Z]", chat["messages"][0]["content"]) for chat in server.chats)
    assert not any(re.search(r"\d", row[1]) for row in rows(tmp_path / "captions" / "test_ollama.csv")[1:])


@pytest.fixture
def started(server, data, tmp_path):
    """Start the script in a process of its own, on the splits of the data; it is killed in the end."""
    processes = []

    def start(*arguments):
        command = [sys.executable, str(SCRIPT), "--data", str(data), *map(str, arguments)]
        processes.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def wait_for(condition, process, seconds=60):
    """Return True once `condition` holds, False when `process` has ended before."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end
        time.sleep(0.005)
    return True


@pytest.mark.slow
def test_killed_anywhere_it_ends_like_an_unbroken_run(run, server, data, started, tmp_path):
    make_dataset(tmp_path / "many", size=(16, 16), test=60)
    images = tmp_path / "many" / "test" / "images"
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    assert run(ollama_captioner.main, images, "--output", whole).exit_code == 0
    server.delay = 0.03
    rng = random.Random(7)
    kills = 0
    while True:
        process = started(images, "--output", broken)
        goal = len(server.chats) + rng.randrange(1, 14)
        if not wait_for(lambda goal=goal: len(server.chats) >= goal, process):
            break
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.wait()
        kills += 1
    assert process.returncode == 0, process.stderr.read()
    assert kills >= 5
    assert broken.read_bytes() == whole.read_bytes()
    assert not broken.with_name("broken.csv.failures.csv").exists()
    assert len(server.chats) <= 120 + kills * 4  # what was in flight is asked again, and nothing else


@pytest.mark.slow
def test_a_second_process_is_told_and_an_interrupt_does_not_wait(server, data, started):
    server.delay = 30
    first = started("--split", "test")
    assert wait_for(lambda: server.chats, first)
    second = started("--split", "test")
    assert second.wait(30) == 1
    assert b"another process is writing to captions/test_ollama.csv" in second.stderr.read()
    began = time.monotonic()
    first.send_signal(signal.SIGINT)
    assert first.wait(20) == 1
    assert time.monotonic() - began < 10
    assert b"Traceback" not in first.stderr.read()
