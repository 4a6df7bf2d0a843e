"""Captions from an OpenAI-compatible server: what is sent, what is retried, what stops."""

import base64
import csv
import json
import time

import pytest
from chat_server import MODEL, Chat, serving, text_of
from percentages import write_percentages
from tiny_dataset import make_dataset

import text_captioner
import vision_language_captioner
from aras.captions.prompts import SYSTEM


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset; read-only."""
    return write_percentages(make_dataset(tmp_path_factory.mktemp("data") / "ARAS400k", test=12))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses between repeated requests take no time, and there is no key."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def caption(run, data, tmp_path):
    """Run a script on the test split against `chat`; return click's result."""

    def invoke(chat, *options, script=text_captioner):
        own = ("--data", data, "--split", "test", "--output", tmp_path / "o.csv", "--endpoint", chat.url)
        return run(script.main, *own, "--model", MODEL, *options)

    return invoke


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def failure(result):
    assert result.exit_code == 1
    return result.output.splitlines()[-1]


def test_prompts_and_decoding_are_sent_and_answers_kept_in_order(caption, data, tmp_path):
    with serving(Chat(answer=lambda body: "  Seen: " + text_of(body))) as chat:
        result = caption(chat)
    assert result.exit_code == 0, result.output
    table = rows(tmp_path / "o.csv")[1:]
    assert [row[0] for row in table] == sorted(path.name for path in (data / "test" / "images").iterdir())
    assert all("this land cover" in row[1] for row in table)
    assert len(chat.bodies) == 12
    body = chat.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == (MODEL, 100, 0.7, 0.8)
    assert body["messages"][0] == {"role": "system", "content": SYSTEM}
    assert len({body["seed"] for body in chat.bodies}) == 12
    options = json.loads((tmp_path / "o.csv.run.json").read_text())["options"]
    assert (options["model"], options["revision"]) == (MODEL, "of the server")


def test_images_are_sent_as_they_are(caption, data):
    with serving(Chat()) as chat:
        assert caption(chat, script=vision_language_captioner).exit_code == 0
    sent = {body["messages"][-1]["content"][0]["image_url"]["url"] for body in chat.bodies}
    images = [path.read_bytes() for path in (data / "test" / "images").iterdir()]
    assert sent == {f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in images}


def test_many_requests_are_under_way_and_no_more_than_asked_for(caption, tmp_path):
    with serving(Chat(seconds=0.1)) as chat:
        assert caption(chat, "--concurrency", 5).exit_code == 0
    assert 3 <= chat.most <= 5


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"Retry-After": "0.05"}, {"error": {"message": "slow down"}}),
        (500, {}, {"error": {"message": "oops"}}),
        (503, {}, b"<html>no JSON</html>"),
        "cut",
    ],
)
def test_what_passes_is_asked_again(caption, tmp_path, fault):
    with serving(Chat(faults=lambda body, times: fault if times < 2 else None)) as chat:
        result = caption(chat)
    assert result.exit_code == 0, result.output
    assert len(rows(tmp_path / "o.csv")) == 1 + 12
    assert len(chat.bodies) == 3 * 12


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ((429, {}, {"error": {"message": "slow down"}}), "HTTP 429"),
        (
            (400, {}, {"error": {"message": "too long"}}),
            "HTTP 400: too long",
        ),
        ("cut", "the connection was cut"),
        ((200, {}, {"choices": []}), "not as the protocol has it"),
        ((200, {}, b"{no JSON"), "not as the protocol has it"),
        ((200, {}, {"choices": [{"message": {"content": None}}]}), "no caption"),
        ((200, {}, {"choices": [{"message": {"content": "<think>Hm"}}]}), "still thinking"),
    ],
)
def test_one_bad_item_is_a_failure_and_the_rest_is_captioned(caption, tmp_path, fault, told):
    def faults(body, times):
        return fault if body["seed"] == unlucky[0] else None

    unlucky: list[int] = []
    with serving(Chat()) as chat:
        assert caption(chat, "--limit", 3).exit_code == 0
    (tmp_path / "o.csv").unlink()
    unlucky.append(chat.bodies[1]["seed"])
    with serving(Chat(faults=faults)) as chat:
        assert "1 items have no caption" in failure(caption(chat))
    ((_, reason),) = rows(tmp_path / "o.csv.failures.csv")[1:]
    assert told in reason
    assert len(rows(tmp_path / "o.csv")) == 1 + 11
    with serving(Chat()) as chat:
        assert caption(chat).exit_code == 0
    assert len(chat.bodies) == 1


def test_a_server_that_hangs_fails_its_item(caption, tmp_path, monkeypatch):
    monkeypatch.setattr("aras.captions.endpoint.RETRIES", 1)
    with serving(Chat(seconds=1.5)) as chat:
        assert "2 items" in failure(caption(chat, "--timeout", 0.2, "--limit", 2))
    assert "no answer within 0.2 s" in rows(tmp_path / "o.csv.failures.csv")[1][1]


def test_a_server_that_goes_away_stops_the_run_and_keeps_what_was_had(caption, data, tmp_path):
    def leave(body):
        chat.gone = len(chat.bodies) > 5
        return "A lake."

    with serving(Chat(answer=leave)) as chat:
        result = caption(chat, "--concurrency", 1)
    assert "does not answer" in failure(result)
    kept = rows(tmp_path / "o.csv")
    assert 5 <= len(kept) - 1 < 12
    with serving(Chat()) as chat:
        assert caption(chat).exit_code == 0
    assert len(chat.bodies) == 12 - (len(kept) - 1)
    assert len(rows(tmp_path / "o.csv")) == 1 + 12


def test_what_has_been_answered_does_not_wait_for_a_slower_request(caption, tmp_path):
    """What the slowest item of all finds on disk when it is answered at last are all the others."""
    found: list[int] = []

    def answer(body):
        if body["seed"] == first[0]:
            deadline = time.monotonic() + 20
            while len(rows(tmp_path / "o.csv")) < 12 and time.monotonic() < deadline:
                time.sleep(0.01)
            found.append(len(rows(tmp_path / "o.csv")))
        return "A lake."

    with serving(Chat()) as chat:
        assert caption(chat, "--limit", 1).exit_code == 0
    (tmp_path / "o.csv").unlink()
    first = [chat.bodies[0]["seed"]]
    with serving(Chat(answer=answer)) as chat:
        assert caption(chat).exit_code == 0
    assert found == [1 + 11]


def test_a_server_without_the_model_or_the_key_is_told_before_anything_is_written(caption, tmp_path):
    with serving(Chat(models=["other", "third"])) as chat:
        assert "it has other, third: use --model" in failure(caption(chat))
    assert not (tmp_path / "o.csv").exists()
    with serving(Chat(faults=lambda body, times: (401, {}, {"error": {"message": "who?"}}))) as chat:
        line = failure(caption(chat))
    assert "HTTP 401" in line
    assert "OPENAI_API_KEY" in line
    chat.port = 9
    assert "does not answer" in failure(caption(chat))


def test_a_server_that_lists_no_models_is_asked_all_the_same(caption):
    with serving(Chat(models=None)) as chat:
        assert caption(chat).exit_code == 0


def test_the_key_is_sent_to_the_server_and_to_no_other(caption, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(Chat()) as other:
        target = {"Location": other.url.replace("127.0.0.1", "localhost") + "/chat/completions"}
        with serving(Chat(faults=lambda body, times: (307, target, b""))) as chat:
            result = caption(chat)
    assert result.exit_code == 0, result.output
    assert set(chat.keys) == {"Bearer sk-secret"}
    assert len(other.bodies) == 12
    assert set(other.keys) == {None}
    for path in tmp_path.iterdir():
        assert "sk-secret" not in path.read_text()
    assert "sk-secret" not in result.output


def test_captions_with_numbers_are_asked_for_again(caption, tmp_path):
    def answer(body):
        return "Words alone." if "IMPORTANT" in text_of(body) else "Grass 40 %."

    with serving(Chat(answer=answer)) as chat:
        assert caption(chat, "--no-numbers").exit_code == 0
    assert {row[1] for row in rows(tmp_path / "o.csv")[1:]} == {"Words alone."}
    assert len(chat.bodies) == 24


def test_the_address_may_change_and_the_model_may_not(caption, tmp_path):
    with serving(Chat()) as chat:
        assert caption(chat, "--limit", 2).exit_code == 0
    with serving(Chat(models=[MODEL, "other"])) as chat:
        assert caption(chat).exit_code == 0
        assert "--model was tiny, now other" in failure(caption(chat, "--model", "other"))
