"""gpt_captioner.py against a real HTTP server with files, batches, a ledger of what was paid, and faults."""

import csv
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from batch_server import KEY, BatchServer, Fate, Fault

import gpt_captioner
from aras.errors import UserError
from aras.legend import CLASS_NAMES
from aras.openai_batch.requests import Decoding, FileLimits, Question, names_in, write_requests

LONG = ("--system", "", "--prompt", "{percentages}" + "." * 300)  # about 80 tokens to the server, 95 to us
NAMES = [f"N41E031_000_{i:03d}.png" for i in range(12)]


def write_percentages(path: Path, names=NAMES) -> Path:
    """Write a table of percentages; every third image has a little water."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        (name, *((38.5, 0, 61.5, 0, 0, 0, 0) if i % 3 else (0, 0.4, 60, 0, 9.6, 0, 30))) for i, name in enumerate(names)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("filename", *CLASS_NAMES), *rows])
    return path


@pytest.fixture
def server(monkeypatch):
    with BatchServer() as site:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", site.url)
        yield site


@pytest.fixture
def caption(run, tmp_path):
    """Run the script on twelve images, five to a batch; more options may be given."""
    table = write_percentages(tmp_path / "data" / "class_percentages" / "test.csv")

    def invoke(*options):
        quick = ("--requests-per-batch", 5, "--poll", 0.01, "--settle", 0, "--tries", 2)
        return run(gpt_captioner.main, "--data", table.parent.parent, "--outdir", tmp_path, *quick, *options)

    return invoke


def captions_in(path: Path) -> dict[str, str]:
    """Return the captions by file name; each must stand once."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["filename", "caption"]
    assert len({row[0] for row in rows}) == len(rows)
    return dict(rows[1:])


def check_whole(folder: Path, server: BatchServer, paid=1) -> None:
    """Every image has a caption, in the order of names, and was run `paid` times."""
    captions = captions_in(folder / "test_gpt.csv")
    assert list(captions) == NAMES
    assert captions[NAMES[0]] == f'The caption of {NAMES[0]}, with a "quote", and.'
    assert server.paid == Counter(dict.fromkeys(NAMES, paid))
    assert not list(folder.glob("*.jsonl"))
    assert not list(folder.glob("*.part"))


def ledger_of(folder: Path) -> dict:
    return json.loads((folder / "test_gpt.csv.batches.json").read_text())


def test_a_bare_run_sends_waits_and_collects(server, caption, tmp_path):
    result = caption()
    assert result.exit_code == 0, result.output
    check_whole(tmp_path, server)
    assert len(server.batches) == 3
    request = json.loads(server.files["file-1"][2].splitlines()[1])
    assert request["custom_id"] == NAMES[1]
    assert request["body"]["model"] == "gpt-6-luna"
    assert request["body"]["max_completion_tokens"] == 100
    assert request["body"]["reasoning_effort"] == "none"
    assert "Grass: 62%, Tree: 38%" in request["body"]["messages"][-1]["content"]
    first = json.loads(server.files["file-1"][2].splitlines()[0])["body"]["messages"][-1]["content"]
    assert "Grass: 60%, Water: 30%, Built-up: 10%" in first
    assert "Shrub" not in first  # 0.4 % rounds to nothing
    record = json.loads((tmp_path / "test_gpt.csv.run.json").read_text())
    assert record["options"]["model"] == "gpt-6-luna"
    assert record["versions"]["openai"]
    assert {batch["step"] for batch in ledger_of(tmp_path)["batches"]} == {"collected"}
    assert sum(batch["tokens_in"] for batch in ledger_of(tmp_path)["batches"]) == 1200


def test_a_second_run_asks_the_server_nothing(server, caption, tmp_path):
    caption()
    before = (tmp_path / "test_gpt.csv").read_bytes(), len(server.asked)
    assert caption().exit_code == 0
    assert ((tmp_path / "test_gpt.csv").read_bytes(), len(server.asked)) == before


def test_send_now_and_collect_later(server, caption, tmp_path):
    result = caption("--no-wait")
    assert result.exit_code == 0
    assert "0 captions, 12 on their way" in result.output
    assert len(server.batches) == 3
    for _ in range(4):
        result = caption("collect")
    assert "12 captions, 0 on their way" in result.output
    check_whole(tmp_path, server)
    assert len(server.batches) == 3


def test_a_request_file_holds_what_it_may(tmp_path):
    decoding = Decoding("m", 9)
    questions = [Question(f"ä{i}.png", "", "x" * 35) for i in range(9)]
    size = len(decoding.line(questions[0]))
    path = tmp_path / "requests.jsonl"
    for limits, room, count in [
        (FileLimits(4), 1e9, 4),
        (FileLimits(size=3 * size), 1e9, 3),
        (FileLimits(size=3 * size - 1), 1e9, 2),
        (FileLimits(), 28, 2),  # each has 35 / 3.5 + 4 tokens
        (FileLimits(), 1e9, 9),
    ]:
        assert write_requests(path, iter(questions), decoding, limits, room) == (count, 14 * count)
        assert list(names_in(path)) == [question.name for question in questions[:count]]
        assert path.stat().st_size == count * size
    assert write_requests(path, questions, decoding, FileLimits(), 13) == (0, 0)
    assert not path.exists()
    with pytest.raises(UserError, match=r"ä0.png has \d+ bytes; shorten --prompt"):
        write_requests(path, questions, decoding, FileLimits(size=9), 1e9)


def test_status_tells_of_every_batch_and_changes_nothing(server, caption, tmp_path):
    caption("--no-wait")
    ledger = (tmp_path / "test_gpt.csv.batches.json").read_bytes()
    result = caption("status")
    assert result.exit_code == 0
    assert "3 batches, 3 of them not over" in result.output
    assert "finalizing" in result.output
    assert "batch_3" in result.output
    assert (tmp_path / "test_gpt.csv.batches.json").read_bytes() == ledger
    caption()
    assert "5 of 5 answered, 500 tokens in, 100 out, $0.00" in caption("status").output


def test_collect_sends_nothing(server, caption, tmp_path):
    result = caption("collect")
    assert result.exit_code == 0
    assert server.asked == []
    assert not (tmp_path / "test_gpt.csv").exists()


def test_cancel_keeps_what_was_run_and_the_next_run_does_the_rest(server, caption, tmp_path):
    caption("--no-wait")
    caption("collect")
    result = caption("cancel")
    assert result.exit_code == 0, result.output
    assert {batch["status"] for batch in server.batches.values()} == {"cancelled"}
    assert len(captions_in(tmp_path / "test_gpt.csv")) == 5  # half of 5, 5 and 2, rounded to even
    assert caption().exit_code == 0
    check_whole(tmp_path, server)


def test_dry_run_needs_no_key_and_leaves_no_trace(server, caption, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    result = caption("--dry-run")
    assert result.exit_code == 0, result.output
    assert "12 requests to send" in result.output
    assert "at most 1,200 out" in result.output
    assert "gpt-6-luna" in result.output
    assert server.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert "unknown price" in caption("--dry-run", "--model", "some-model").output
    dear = caption("--dry-run", "--model", "some-model", "--price-in", 0, "--price-out", 1_000_000).output
    assert "up to $1,200.00" in dear


def test_dry_run_leaves_out_what_is_on_its_way(server, caption):
    caption("--no-wait", "--limit", 5)
    result = caption("--dry-run")
    assert "7 requests to send" in result.output
    assert "sent before" in result.output


def test_too_dear_is_refused_before_anything_is_sent(server, caption, tmp_path):
    result = caption("--max-cost", 0.0001)
    assert result.exit_code == 1
    assert "--max-cost 0.0001" in result.output
    assert server.asked == []
    assert not (tmp_path / "test_gpt.csv").exists()


def test_what_was_paid_before_counts(server, caption):
    prices = ("--price-in", 0, "--price-out", 10_000)  # a dollar for the 100 tokens that a caption may have
    assert caption(*prices, "--max-cost", 5, "--limit", 5).exit_code == 0  # 20 tokens each in truth: 1 dollar paid
    result = caption(*prices, "--max-cost", 7.9)
    assert result.exit_code == 1
    assert "up to $8.00 ($1.00 for what was sent before)" in result.output
    assert caption(*prices, "--max-cost", 8).exit_code == 0


def test_a_limit_of_cost_needs_prices(server, caption):
    result = caption("--max-cost", 1, "--model", "some-model")
    assert result.exit_code == 2
    assert "--price-in" in result.output


def test_no_key_is_a_usage_error_before_any_work(server, caption, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    for verb in ("run", "status", "collect", "cancel"):
        result = caption(verb)
        assert result.exit_code == 2
        assert "OPENAI_API_KEY" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("key", ["sk-secret\n", "sk-secret x", "sk-sécret"])
def test_a_key_that_cannot_be_sent_is_a_usage_error_and_not_told(server, caption, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    result = caption()
    assert result.exit_code == 2
    assert "OPENAI_API_KEY has line ends" in result.output
    assert "cret" not in result.output


def test_what_waits_for_its_upload_is_still_to_be_sent(server, caption):
    server.faults["POST /files"].append(Fault(403))
    one_line(caption())
    told = caption("--dry-run").output
    assert "12 requests to send" in told
    assert "at most 1,200 out" in told
    assert "sent before" not in told


def one_line(result) -> str:
    """Return the error of a run that failed, which is one line and does not tell the key."""
    assert result.exit_code == 1, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.output
    assert KEY not in result.output
    return errors[0]


def test_a_wrong_key_is_named_but_not_told(server, caption, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-secret")
    told = one_line(caption())
    assert "OPENAI_API_KEY (401)" in told
    assert "sk-wrong" not in told


def test_no_server_is_one_line(caption, monkeypatch):
    with BatchServer() as site:
        pass  # its port is free now
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", site.url)
    assert f"no answer from {site.url}" in one_line(caption())


@pytest.mark.parametrize(("call", "text"), [("POST /files", "<html>"), ("GET /batches/*", "<html>")])
def test_what_is_not_the_api_is_one_line(server, caption, call, text):
    server.faults[call].append(Fault(text=text))
    assert "does not answer as OpenAI's API does" in one_line(caption())


@pytest.mark.parametrize("status", [429, 500])
def test_a_passing_error_of_any_call_passes(server, caption, tmp_path, status):
    for call in ("POST /files", "POST /batches", "GET /batches/*", "GET /files/*/content"):
        server.faults[call].append(Fault(status, headers={"Retry-After": "0.01"}))
    assert caption().exit_code == 0
    check_whole(tmp_path, server)
    assert len(server.batches) == 3


@pytest.mark.parametrize(
    ("call", "status"),
    [("POST /files", 403), ("POST /batches", 400), ("GET /batches/*", 404), ("GET /files/*/content", 404)],
)
def test_a_lasting_error_of_any_call_is_one_line_and_loses_nothing(server, caption, tmp_path, call, status):
    server.faults[call].append(Fault(status, message="not for you"))
    assert f"{status}: not for you" in one_line(caption())
    assert caption().exit_code == 0
    check_whole(tmp_path, server)


def test_an_account_without_credit_is_not_waited_for(server, caption):
    server.faults["POST /batches"].append(Fault(429, "insufficient_quota", "You exceeded your current quota"))
    assert "You exceeded your current quota; wait, or see to your account" in one_line(caption())


def test_the_server_is_waited_for_as_long_as_it_asks(server, caption, tmp_path):
    server.faults["POST /batches"].append(Fault(429, "rate_limit_exceeded", "slow", headers={"Retry-After": "0.5"}))
    result = caption()
    assert result.exit_code == 0
    assert "the server is busy (slow)" in result.output
    times = [at for at, (_, path, _) in zip(server.times, server.asked, strict=True) if path == "/batches"]
    assert times[1] - times[0] >= 0.5
    check_whole(tmp_path, server)


@pytest.mark.parametrize("fault", [Fault(lose=True), Fault(cut=0.5), Fault(text="<html>")])
def test_a_batch_whose_creation_got_no_answer_is_found_by_its_metadata(server, caption, tmp_path, fault):
    server.faults["POST /batches"] += [Fault(), fault]
    server.faults["GET /batches"].append(Fault(500))
    result = caption()
    assert result.exit_code == 0, result.output
    assert "looking for it on the server" in result.output
    check_whole(tmp_path, server)
    assert len(server.batches) == 3


def test_a_server_that_keeps_no_metadata_knows_the_batch_by_its_file(server, caption, tmp_path):
    server.keeps_metadata = False
    server.faults["POST /batches"].append(Fault(lose=True))
    assert caption().exit_code == 0
    check_whole(tmp_path, server)
    assert len(server.batches) == 3


def test_an_unclear_batch_is_found_to_be_cancelled(server, caption, tmp_path):
    server.faults["POST /batches"] += [Fault(lose=True), Fault(404)]
    one_line(caption())
    assert [batch["step"] for batch in ledger_of(tmp_path)["batches"]] == ["creating", "written"]
    server.lag = 2
    assert "12 not sent yet" in caption("cancel", "--settle", 5).output
    assert [batch["status"] for batch in server.batches.values()] == ["cancelled"]


def test_a_batch_that_shows_late_is_waited_for(server, caption, tmp_path):
    server.lag = 3  # lists that do not show it
    server.faults["POST /batches"].append(Fault(lose=True))
    assert caption("--settle", 5).exit_code == 0
    check_whole(tmp_path, server)
    assert len(server.batches) == 3


def test_a_batch_that_was_never_created_is_asked_for_again(server, caption, tmp_path):
    server.faults["POST /batches"].append(Fault(500))
    assert caption().exit_code == 0
    assert server.calls("GET", "/batches") == 1
    check_whole(tmp_path, server)
    assert len(server.batches) == 3


def test_a_cut_download_is_fetched_again(server, caption, tmp_path):
    server.faults["GET /files/*/content"].append(Fault(cut=0.4))
    assert caption().exit_code == 0
    check_whole(tmp_path, server)


def test_an_expired_batch_keeps_its_answers_and_only_the_rest_is_sent_again(server, caption, tmp_path):
    server.fates += [Fate("expired", share=0.4), Fate("expired", share=0)]
    assert caption().exit_code == 0
    check_whole(tmp_path, server)
    assert [len(requests) for requests in server.requests.values()] == [5, 5, 2, 5, 3]


def test_a_batch_that_fails_on_the_way_keeps_its_answers(server, caption, tmp_path):
    server.fates += [Fate("failed late", share=0.6)]
    assert caption().exit_code == 0
    check_whole(tmp_path, server)


def test_a_batch_that_fails_on_the_way_and_loses_its_answers_is_not_paid_again_unasked(server, caption, tmp_path):
    server.fates += [Fate("failed late", share=0.6, output=False)]
    assert "3 images have no caption" in one_line(caption())
    assert "is failed without an output file" in (tmp_path / "test_gpt.csv.failures.csv").read_text()
    assert server.paid == Counter(dict.fromkeys(NAMES, 1))
    assert list(captions_in(tmp_path / "test_gpt.csv")) == NAMES[3:]


def test_of_two_twins_the_one_that_runs_is_the_batch(server, caption, tmp_path):
    server.lag = 1  # the first list does not show the first batch, which is therefore asked for again
    server.faults["POST /batches"] += [Fault(lose=True)] * 2

    def fail_the_first() -> None:
        if "batch_2" in server.batches:
            server.batches["batch_1"]["status"], server.lag = "failed", 0

    server.hook = fail_the_first
    assert caption("--requests-per-batch", 12).exit_code == 0
    check_whole(tmp_path, server)


def test_what_always_expires_is_given_up(server, caption, tmp_path):
    server.fates += [Fate("expired", share=0)] * 9
    told = one_line(caption())
    assert "12 images have no caption" in told
    assert len(server.batches) == 9  # three tries of three batches
    with (tmp_path / "test_gpt.csv.failures.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["filename", "reason"]
    assert rows[1] == [NAMES[0], "batch_expired: was not executed"]
    assert caption().exit_code == 0
    check_whole(tmp_path, server)
    assert not (tmp_path / "test_gpt.csv.failures.csv").exists()


def test_a_batch_that_fails_validation_is_told_and_sent_anew_by_the_next_run(server, caption, tmp_path):
    server.fates += [Fate(), Fate("failed")]
    told = one_line(caption())
    assert "refused batch 2" in told
    assert "invalid_json_line: This line is not parseable as valid JSON. (line 1)" in told
    assert caption().exit_code == 0
    check_whole(tmp_path, server)


def test_a_full_queue_seen_on_retrieve_is_waited_for_with_smaller_batches(server, caption, tmp_path):
    server.queue_limit = 220
    result = caption(*LONG)
    assert result.exit_code == 0, result.output
    assert "the server is busy (Enqueued token limit reached" in result.output
    check_whole(tmp_path, server)
    sizes = [len(requests) for number, requests in server.requests.items() if number not in refused(server)]
    assert max(sizes) == 2
    assert sum(sizes) == 12


def refused(server: BatchServer) -> set[str]:
    return {number for number, batch in server.batches.items() if batch["status"] == "failed"}


def test_a_full_queue_told_on_create_is_waited_for(server, caption, tmp_path):
    message = "Enqueued token limit reached. Limit: 300 enqueued tokens."
    server.faults["POST /batches"].append(Fault(429, "token_limit_exceeded", message))
    assert caption(*LONG).exit_code == 0
    check_whole(tmp_path, server)
    assert len(server.requests["batch_1"]) == 2


def test_no_more_is_on_its_way_than_allowed(server, caption, tmp_path):
    server.queue_limit = 500
    assert caption(*LONG, "--max-enqueued-tokens", 400).exit_code == 0
    check_whole(tmp_path, server)
    assert refused(server) == set()
    assert "--max-enqueued-tokens" in one_line(caption("--max-enqueued-tokens", 3, "--outdir", tmp_path / "other"))


def test_a_completed_batch_without_an_output_file_is_not_paid_again_unasked(server, caption, tmp_path):
    server.fates += [Fate(output=False)]
    told = one_line(caption())
    assert "5 images have no caption" in told
    assert "batch_1 is completed without an output file" in (tmp_path / "test_gpt.csv.failures.csv").read_text()
    assert server.paid == Counter(dict.fromkeys(NAMES, 1))
    assert caption().exit_code == 0  # asked for by the user
    assert list(captions_in(tmp_path / "test_gpt.csv")) == NAMES


def test_a_batch_of_nothing_but_errors_has_no_output_file(server, caption, tmp_path):
    server.fates += [Fate(errors=dict.fromkeys(NAMES, 500), output=False)]
    assert caption().exit_code == 0
    check_whole(tmp_path, server)


def test_odd_lines_are_told_and_only_what_has_no_answer_is_sent_again(server, caption, tmp_path):
    odd = [frozenset([name]) for name in NAMES[:3]]
    server.fates += [Fate(malformed=odd[0], doubled=odd[1], missing=odd[2], strange=frozenset(["other.png"]))]
    result = caption()
    assert result.exit_code == 0, result.output
    assert "1 malformed, 1 answered twice, 1 never asked for" in result.output
    assert list(captions_in(tmp_path / "test_gpt.csv")) == NAMES
    assert {name for name, times in server.paid.items() if times > 1} == {NAMES[0], NAMES[2]}
    assert server.calls("GET", "/files/file-4/content") == 3  # looked at again before it was believed


def test_errors_that_may_pass_are_tried_again_and_others_are_not(server, caption, tmp_path):
    server.fates += [Fate(errors={NAMES[0]: 400, NAMES[1]: 500}, empty=frozenset([NAMES[2]]))]
    told = one_line(caption())
    assert "2 images have no caption" in told
    reasons = dict(csv.reader((tmp_path / "test_gpt.csv.failures.csv").open()))
    assert reasons[NAMES[0]] == "400 error 400"
    assert reasons[NAMES[2]].startswith("no caption but ''")
    assert server.paid[NAMES[1]] == server.paid[NAMES[2]] == 1
    assert list(captions_in(tmp_path / "test_gpt.csv")) == [NAMES[1], *NAMES[3:]]
    assert caption().exit_code == 0
    assert list(captions_in(tmp_path / "test_gpt.csv")) == NAMES


def test_an_error_message_is_no_caption(server, caption, tmp_path):
    server.fates += [Fate(captions={NAMES[0]: "ERROR: I cannot"})]
    assert "1 images have no caption" in one_line(caption())
    assert NAMES[0] not in captions_in(tmp_path / "test_gpt.csv")


def test_captions_with_numbers_are_asked_for_once_more_when_none_are_wanted(server, caption, tmp_path):
    plain = dict.fromkeys(NAMES, "Mostly grass.")
    server.fates += [Fate(captions=plain | {NAMES[0]: "62% grass.", NAMES[1]: "Half of it, 50, is grass."})]
    server.fates += [Fate(captions=plain)] * 2 + [Fate(captions=plain | {NAMES[1]: "Grass: 50."})]
    told = one_line(caption("--no-numbers"))
    assert "1 images have no caption" in told
    assert captions_in(tmp_path / "test_gpt.csv")[NAMES[0]] == "Mostly grass."
    again = server.requests["batch_4"]
    assert [request["custom_id"] for request in again] == NAMES[:2]
    assert "thrown away" in again[0]["body"]["messages"][-1]["content"]
    assert "thrown away" not in server.requests["batch_1"][0]["body"]["messages"][-1]["content"]


@pytest.mark.parametrize("change", [("--model", "gpt-4o-mini"), ("--prompt", "Of {percentages}?"), ("--max-tokens", 9)])
def test_another_model_or_prompt_on_resume_is_an_error(server, caption, change):
    caption("--limit", 5)
    asked = len(server.asked)
    told = one_line(caption(*change))
    assert change[0].lstrip("-").replace("-", "_") in told.replace("-", "_")
    assert len(server.asked) == asked


def test_a_known_model_that_does_not_reason_is_not_told_how_much(server, caption):
    assert caption("--model", "gpt-4o-mini", "--system", "", "--max-tokens", 60).exit_code == 0
    body = json.loads(server.files["file-1"][2].splitlines()[0])["body"]
    assert "reasoning_effort" not in body
    assert body["max_completion_tokens"] == 60
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_reasoning_effort_goes_into_the_requests(server, caption):
    assert caption("--model", "some-model", "--reasoning-effort", "low").exit_code == 0
    assert json.loads(server.files["file-1"][2].splitlines()[0])["body"]["reasoning_effort"] == "low"


def test_a_second_process_stops_with_one_line(server, caption, tmp_path):
    from aras.files import sole_writer

    with sole_writer(tmp_path / "test_gpt.csv", is_file=True):
        assert "another process" in one_line(caption())
        assert caption("status").exit_code == 0
    assert server.asked == []


def test_the_key_does_not_follow_a_redirect(server, caption, tmp_path):
    with BatchServer() as other:
        there = {"Location": f"{other.url}/files"}
        server.faults["POST /files"].append(Fault(307, headers=there))
        assert f"redirects to {other.url}/files (307)" in one_line(caption())
        server.faults["GET /batches/*"].append(Fault(302, headers=there))
        assert "OPENAI_BASE_URL" in one_line(caption())
        assert other.asked == []


def test_another_server_is_refused_while_batches_are_on_their_way(server, caption, tmp_path, monkeypatch):
    caption("--no-wait")
    with BatchServer() as other:
        monkeypatch.setenv("OPENAI_BASE_URL", other.url)
        assert f"sent to {server.url}, not to {other.url}" in one_line(caption())
        assert other.asked == []


def test_what_was_not_sent_yet_may_go_to_another_server(server, caption, tmp_path, monkeypatch):
    server.faults["POST /batches"].append(Fault(404))
    one_line(caption())
    with BatchServer() as other:
        monkeypatch.setenv("OPENAI_BASE_URL", other.url)
        assert caption().exit_code == 0
        check_whole(tmp_path, other)


def test_a_damaged_ledger_is_not_ignored(server, caption, tmp_path):
    caption("--no-wait")
    asked = len(server.asked)
    for damage in ("", '{"run": "1"}', '{"batches": [{"x": 1}], "failed": {}}'):
        (tmp_path / "test_gpt.csv.batches.json").write_text(damage)
        assert "test_gpt.csv.batches.json" in one_line(caption())
    assert len(server.asked) == asked


def test_a_lost_request_file_comes_back_from_the_server(server, caption, tmp_path):
    caption("--no-wait")
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    assert caption().exit_code == 0
    check_whole(tmp_path, server)


def test_a_damaged_request_file_is_named(server, caption, tmp_path):
    caption("--no-wait")
    (tmp_path / "test_gpt.csv.batches.0002.jsonl").write_text("{")
    assert "test_gpt.csv.batches.0002.jsonl is damaged" in one_line(caption())


def test_a_limit_can_be_raised_while_batches_are_on_their_way(server, caption, tmp_path):
    caption("--no-wait", "--limit", 3)
    assert caption().exit_code == 0
    check_whole(tmp_path, server)
    assert sorted(len(requests) for requests in server.requests.values()) == [3, 4, 5]


def test_every_split_that_is_there_is_captioned(server, caption, tmp_path):
    write_percentages(tmp_path / "data" / "class_percentages" / "val.csv", ["a.png", "b.png"])
    result = caption()
    assert result.exit_code == 0
    assert list(captions_in(tmp_path / "val_gpt.csv")) == ["a.png", "b.png"]
    assert len(captions_in(tmp_path / "test_gpt.csv")) == 12
    assert caption("--split", "val").exit_code == 0
    assert "no column" not in result.output


def test_a_set_of_ones_own_goes_on_from_a_table_that_has_rows(server, run, tmp_path):
    table = write_percentages(tmp_path / "own.csv", ["b.png", "a.png", "c.png"])
    output = tmp_path / "mine.csv"
    output.write_text('filename,caption\nc.png,"It is, in short, grass."\nb.png,tor')
    quick = ("--percentages", table, "--output", output, "--poll", 0.01)
    assert run(gpt_captioner.main, *quick).exit_code == 0
    assert list(captions_in(output)) == ["a.png", "b.png", "c.png"]
    assert server.paid == Counter(["a.png", "b.png"])


def test_parts_on_their_way_are_not_sent_again_as_a_whole(server, caption, tmp_path):
    caption("--no-wait", "--shard", "1/2")
    assert "on their way for" in one_line(caption())
    assert caption("--shard", "1/2").exit_code == 0
    assert caption().exit_code == 0
    check_whole(tmp_path, server)


def test_layout_facts_come_from_the_masks(server, run, tmp_path):
    from tiny_dataset import make_dataset

    data = make_dataset(tmp_path / "data", test=3)
    names = sorted(path.name for path in (data / "test" / "images").iterdir())
    write_percentages(data / "class_percentages" / "test.csv", names)
    quick = ("--data", data, "--outdir", tmp_path, "--poll", 0.01)
    assert run(gpt_captioner.main, "--layout", *quick).exit_code == 0
    text = json.loads(server.files["file-1"][2].splitlines()[0])["body"]["messages"][-1]["content"]
    assert "The largest single area is" in text


@pytest.mark.slow
def test_a_server_that_others_wrote(run, tmp_path, monkeypatch):
    """llmock has files and batches of its own; it answers the same to every request."""
    pytest.importorskip("llmock", reason="llmock is in requirements-dev.txt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("llmock")), "serve", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
        wait_for(port)
        own = ("--percentages", write_percentages(tmp_path / "own.csv"), "--output", tmp_path / "own_gpt.csv")
        quick = (*own, "--requests-per-batch", 5, "--poll", 0.2)
        assert "12 on their way" in run(gpt_captioner.main, *quick, "--no-wait").output
        assert "3 of them not over" in run(gpt_captioner.main, *quick, "status").output
        assert run(gpt_captioner.main, *quick).exit_code == 0
    finally:
        process.kill()
        process.wait()
    captions = captions_in(tmp_path / "own_gpt.csv")
    assert list(captions) == NAMES
    assert "gpt-6-luna" in captions[NAMES[0]]


def wait_for(port: int) -> None:
    """Wait until something listens on `port`."""
    for _ in range(300):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not start")


class Killed(BaseException):
    """Stands for kill -9: nothing in the process catches it, and nothing it does afterwards has an effect."""


class Killer:
    """Raises `Killed` at the n-th step that leaves a trace on the disk or at the server, and at all that follow."""

    def __init__(self, monkeypatch):
        import httpx2

        self.left = -1
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (httpx2.Client, "send")):
            monkeypatch.setattr(owner, name, self.deadly(getattr(owner, name)))

    def deadly(self, step):
        def wrapped(*arguments, **options):
            self.count()
            answer = step(*arguments, **options)
            self.count()
            return answer

        return wrapped

    def count(self):
        if self.left == 0:
            raise Killed
        self.left -= 1


def trouble(rng: random.Random) -> list[Fate]:
    """Return fates in which no request has to be run twice."""
    some = frozenset(rng.sample(NAMES, 2))
    kinds = [
        Fate(),
        Fate("expired", share=rng.random()),
        Fate(errors=dict.fromkeys(some, 500)),
        Fate(doubled=some, strange=frozenset(["other.png"])),
    ]
    return rng.choices(kinds, k=3)


def run_until_done(arguments: list, killer: Killer, rng: random.Random, steps: int) -> int:
    """Run the script again and again, killed at random steps, until it ends well; return how often it was killed."""
    for kills in range(1000):
        killer.left = rng.randrange(steps)
        try:
            gpt_captioner.main.main([str(a) for a in arguments], standalone_mode=False)
            return kills
        except Killed:
            continue
        finally:
            killer.left = -1
    raise AssertionError("it never ends")


@pytest.mark.slow
def test_two_hundred_kills_and_no_request_is_paid_twice(tmp_path, monkeypatch):
    table = write_percentages(tmp_path / "percentages.csv")
    killer, kills, seed = Killer(monkeypatch), 0, 0
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    while kills < 200:
        rng = random.Random(seed)
        with BatchServer() as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            server.fates += trouble(rng)
            for call in rng.choices(["POST /batches", "POST /files", "GET /batches/*", "GET /files/*/content"], k=2):
                server.faults[call].append(rng.choice([Fault(500), Fault(429), Fault(cut=0.5), Fault(lose=True)]))
            folder = tmp_path / str(seed)
            options = ["--percentages", table, "--output", folder / "test_gpt.csv", "--requests-per-batch", 5]
            kills += run_until_done([*options, "--poll", 0.001, "--settle", 0], killer, rng, 120)
            check_whole(folder, server)
        seed += 1
    assert seed > 20


@pytest.mark.slow
def test_real_kills_when_the_server_has_heard_and_when_it_has_answered(tmp_path, monkeypatch):
    table = write_percentages(tmp_path / "percentages.csv")
    kills = 0
    for seed in range(4):
        rng = random.Random(seed)
        with BatchServer() as server:
            server.fates += trouble(rng)
            folder = tmp_path / str(seed)
            command = [sys.executable, gpt_captioner.__file__, "--percentages", table, "--requests-per-batch", "5"]
            command += ["--output", folder / "test_gpt.csv", "--poll", "0.001", "--settle", "0"]
            environment = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}
            for when in [*(rng.randrange(1, 20) for _ in range(5)), 0]:
                kills += killed_at(server, when, command, environment)
            check_whole(folder, server)
    assert kills >= 12


def killed_at(server: BatchServer, when: int, command: list, environment: dict) -> bool:
    """Run `command`; kill it when the server's hook is called for the `when`-th time (0: never); return if it was."""
    called = itertools.count(1)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    server.hook = lambda: process.kill() if next(called) == when else None
    output, _ = process.communicate(timeout=60)
    server.hook = lambda: None
    assert process.returncode in (0, -9), output
    return process.returncode == -9
