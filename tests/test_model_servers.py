"""The captioners against real servers: llama.cpp's, an Ollama proxy in front of it, and a mock of Ollama."""

import csv
import json
import re

import pytest
from model_servers import aimock, fit_for_llama_cpp, gguf_of, llama_server, ollama_proxy
from tiny_dataset import make_dataset

import ollama_captioner
import text_captioner
import vision_captioner
import vision_language_captioner

pytestmark = pytest.mark.slow

MODEL = "tiny-gemma3"
HEADER = "filename,Tree,Shrub,Grass,Crop,Built-up,Barren,Water\n"


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def llama(tmp_path_factory, packages):
    """The URL of a llama.cpp server with a tiny random Gemma 3 that sees images."""
    from tiny_models import make_gemma3

    folder = make_gemma3(tmp_path_factory.mktemp("models") / MODEL)
    fit_for_llama_cpp(folder)
    with llama_server(*gguf_of(folder, packages, vision=True), MODEL, packages) as url:
        yield url


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = make_dataset(tmp_path_factory.mktemp("data"), size=(64, 64), test=8)
    (folder / "class_percentages").mkdir()
    rows = [f"N41E031_000_{i:03d}.png,{100 - 10 * i},0,{10 * i},0,0,0,0\n" for i in range(8)]
    (folder / "class_percentages" / "test.csv").write_text(HEADER + "".join(rows))
    return folder


def captions(path):
    with path.open(newline="", encoding="utf-8") as file:
        return {row["filename"]: row["caption"] for row in csv.DictReader(file)}


def test_ollamas_protocol_in_front_of_llama_cpp(llama, packages, data, run, tmp_path, monkeypatch):
    """Images arrive: the same question about other images has other answers, and the same about the same image."""
    with ollama_proxy(llama, packages) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        told = {}
        for source, concurrency in (("images", 1), ("images", 4), ("percentages", 4)):
            outdir = tmp_path / f"{source}_{concurrency}"
            arguments = ["--data", data, "--outdir", outdir, "--from", source, "--concurrency", concurrency]
            result = run(ollama_captioner.main, *arguments, "--model", MODEL, "--temperature", 0)
            assert result.exit_code == 0, result.output
            told[source, concurrency] = captions(outdir / "test_ollama.csv")
            assert len(told[source, concurrency]) == 8
        assert told["images", 1] == told["images", 4]
        assert len(set(told["images", 1].values())) > 4
        assert len(set(told["percentages", 4].values())) > 4
        absent = run(ollama_captioner.main, "--data", data, "--outdir", tmp_path / "none", "--model", "absent")
        assert absent.exit_code == 1
        assert f"absent is not on the server at {url}" in absent.output


def test_a_mock_of_ollama(packages, data, run, tmp_path, monkeypatch):
    """It lists the models of its fixtures, and answers by what an image is asked; it cannot tell what a model sees."""
    fixtures = tmp_path / "fixtures"
    fixtures.mkdir()
    match = {"model": "moondream", "userMessage": "land cover in this satellite image"}
    answers = {"fixtures": [{"match": match, "response": {"content": "A lake\nbetween trees."}}]}
    (fixtures / "ollama.json").write_text(json.dumps(answers))
    with aimock(fixtures, packages) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        result = run(ollama_captioner.main, "--data", data, "--outdir", tmp_path / "captions")
        assert result.exit_code == 0, result.output
        assert set(captions(tmp_path / "captions" / "test_ollama.csv").values()) == {"A lake between trees."}
        other = run(
            ollama_captioner.main, data / "test" / "images", "--output", tmp_path / "other.csv", "--prompt", "?"
        )
        assert other.exit_code == 1
        assert re.search("refuses --model moondream.*No fixture matched", other.output)
        assert captions(tmp_path / "other.csv") == {}
        pulled = run(ollama_captioner.main, "--data", data, "--model", "absent", "--pull")
        assert pulled.exit_code == 1
        assert "the server cannot pull absent" in pulled.output


@pytest.mark.parametrize("script", [text_captioner, vision_captioner, vision_language_captioner])
def test_endpoint_of_llama_cpp(script, llama, data, run, tmp_path):
    arguments = ["--data", data, "--outdir", tmp_path, "--endpoint", f"{llama}/v1", "--model", MODEL]
    result = run(script.main, *arguments, "--temperature", 0, "--max-new-tokens", 20)
    assert result.exit_code == 0, result.output
    (table,) = tmp_path.glob("*.csv")
    found = captions(table)
    assert sorted(found) == [f"N41E031_000_{i:03d}.png" for i in range(8)]
    assert len(set(found.values())) > 1
    record = json.loads((tmp_path / f"{table.name}.run.json").read_text())
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", record["options"]["endpoint"])
