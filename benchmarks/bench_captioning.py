"""Captioning against the published way, in the same run: text batches, the loop's own cost, requests to a server.

Published: one image at a time goes through the model, and the whole CSV is written again.

    python benchmarks/bench_captioning.py [--model FOLDER] [--items N]

Claims: text batches on a CPU at least 3x the published way; the loop under 1 % of the time of generating; 32 requests
in flight to a server that takes 100 ms at least 25x one after the other.
"""

import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import click
import numpy as np

from aras.captions.endpoint import Endpoint, load_endpoint
from aras.captions.loop import Answers, caption_all
from aras.captions.models import Decoding, load_model
from aras.captions.prompts import SYSTEM, TEXT, Prompts
from aras.captions.sources import Source
from aras.captions.work import Item, Work
from aras.training import share_cores

PROMPTS = Prompts(TEXT)
BATCH = 32


def work_of(folder: Path, count: int) -> Work:
    """Return `count` rows of drawn percentages."""
    shares = np.random.default_rng(0).dirichlet(np.full(7, 0.5), count)
    names = np.array([f"{i:06d}.png" for i in range(count)])
    return Work(folder / "ours.csv", names, percentages=np.round(100 * shares, 2))


def published_text(work: Work, source: Source, tokens: int) -> float:
    """Caption `work` one item at a time and write the CSV anew each time; return the seconds, loading left out."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(**source.arguments)
    model = AutoModelForCausalLM.from_pretrained(**source.arguments, dtype=torch.float32).eval()
    rows: list[tuple[str, str]] = []
    began = time.perf_counter()
    for item in work.items(set()):
        chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPTS.of(item).user}]
        inputs: Any = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=tokens, do_sample=True, temperature=0.7, top_p=0.8)
        text: Any = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        rows.append((item.name, text))
        with (work.table.with_name("published.csv")).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("filename", "caption"), *rows])
    return time.perf_counter() - began


def our_text(work: Work, source: Source, tokens: int) -> float:
    """Caption `work` by the text captioner; return the seconds, loading left out."""
    generate = load_model(source, False, "cpu", Decoding(tokens, 0.7, 0.8, 0), BATCH, print)
    began = time.perf_counter()
    if caption_all(work, generate, PROMPTS):
        raise SystemExit("items failed")
    return time.perf_counter() - began


def cost_of_loop(folder: Path, count: int) -> float:
    """Return the seconds that the loop takes for an item when the captions are there at once."""

    def at_once(items: Iterable[Item], prompts: Prompts) -> Iterator[Answers]:
        items = iter(items)
        while batch := list(islice(items, BATCH)):
            yield {item.name: prompts.of(item).user for item in batch}

    began = time.perf_counter()
    caption_all(work_of(folder, count), at_once, PROMPTS)
    return (time.perf_counter() - began) / count


SERVER = """
import asyncio
ANSWER = b'{"id":"c","object":"chat.completion","created":0,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
ANSWER += b'"message":{"role":"assistant","content":"A lake in a forest."}}]}'
HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(ANSWER)

async def serve(reader, writer):
    while head := await reader.readuntil(b"\\r\\n\\r\\n"):
        length = next(int(l.split(b":")[1]) for l in head.split(b"\\r\\n") if l.lower().startswith(b"content-length"))
        await reader.readexactly(length)
        await asyncio.sleep(0.1)
        writer.write(HEAD + ANSWER)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def requests_a_second(folder: Path, count: int, concurrency: int, port: int) -> float:
    """Return the captions a second from the server at `port`."""
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "m", False, Decoding(100, 0, 1, 0), concurrency, 30)
    work = work_of(folder, count)
    work.table.unlink(missing_ok=True)
    generate: Any = load_endpoint(endpoint)
    list(generate([work.item(0)], PROMPTS))  # the first request imports what the client needs
    began = time.perf_counter()
    caption_all(work, generate, PROMPTS)
    return count / (time.perf_counter() - began)


@click.command()
@click.option("--model", help="A text model's folder or .gguf file.  [default: the demo's SmolLM2, else a tiny one]")
@click.option("--items", default=32, show_default=True, help="Captions of the text comparison.")
@click.option("--tokens", default=50, show_default=True, help="Longest caption there.")
def main(model: str | None, items: int, tokens: int) -> None:
    """Print the three comparisons."""
    share_cores()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            port = int(server.stdout.readline())  # type: ignore[union-attr]
            rate = partial(requests_a_second, folder, port=port)
            one, many = rate(30, 1), rate(1500, 32)
        finally:
            server.kill()
            server.wait()
        print(
            f"server of 100 ms: one after the other {one:.1f}/s, 32 in flight {many:.1f}/s: {many / one:.1f}x",
            flush=True,
        )

        (folder / "loop").mkdir()
        loop = cost_of_loop(folder / "loop", 20_000)
        found = ROOT / "demo" / "language_model" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        if model is None and not found.is_file():
            from tiny_models import make_qwen3

            found = make_qwen3(folder / "qwen3")
        source = Source(model or str(found), None)
        work = work_of(folder / "text", items)
        work.table.parent.mkdir()
        ours, published = our_text(work, source, tokens), published_text(work, source, tokens)
        print(f"{items} text captions of up to {tokens} tokens by {Path(source.model).name}, float32 on the CPU:")
        print(f"published {items / published:.2f}/s, ours {items / ours:.2f}/s: {published / ours:.1f}x")
        print(f"the loop: {1e3 * loop:.3f} ms a caption, {100 * loop * items / ours:.2f} % of generating one")


if __name__ == "__main__":
    main()
