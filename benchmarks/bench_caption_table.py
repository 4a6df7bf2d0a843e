"""The caption table against the published way, which rewrites the whole CSV for every batch, on the same captions.

    python benchmarks/bench_caption_table.py [--rows N]

Claims: a CSV of 400,000 rows opens in under 2 s; a batch costs the same at row 10 and at row 400,000, within 20 %.
"""

import csv
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from aras.captions.table import CaptionTable, open_table, sort_table

BATCH = 32
TEXT = "the image shows a dense forest in the north, cropland around a small town and a river that runs to the sea "


def captions(first: int, count: int) -> dict[str, str]:
    """Return `count` captions of 300 characters, by file name; every tenth has quotation marks."""
    found = {}
    for i in range(first, first + count):
        text = (TEXT * 4)[i % 97 : i % 97 + 300]
        found[f"{i:06d}.png"] = f'"{text}"' if i % 10 == 0 else text
    return found


def cost_of_batch(table: CaptionTable, first: int, batches: int) -> float:
    """Return the median milliseconds of appending a batch."""
    took = []
    for start in range(first, first + batches * BATCH, BATCH):
        rows = captions(start, BATCH)
        began = time.perf_counter()
        table.append(rows)
        took.append(time.perf_counter() - began)
    return 1e3 * median(took)


def rewrite_all(path: Path, rows: dict[str, str]) -> float:
    """Return the milliseconds of writing the whole table again."""
    began = time.perf_counter()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("filename", "caption"))
        writer.writerows(rows.items())
    return 1e3 * (time.perf_counter() - began)


@click.command()
@click.option("--rows", default=400_000, show_default=True)
@click.option("--batches", default=100, show_default=True, help="Batches that are timed at each size.")
def main(rows: int, batches: int) -> None:
    """Print the cost of a batch at both ends, of opening, and of the published way."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "test_text.csv"
        with open_table(path) as table:
            small = cost_of_batch(table, 0, batches)
            for start in range(batches * BATCH, rows, 20_000):
                table.append(captions(start, min(20_000, rows - start)))
        began, began_busy = time.perf_counter(), time.process_time()
        with open_table(path) as table:
            opened, busy = time.perf_counter() - began, time.process_time() - began_busy
            if len(table.names) != rows:
                raise SystemExit(f"{len(table.names)} rows instead of {rows}")
            large = cost_of_batch(table, rows, batches)
        began = time.perf_counter()
        sort_table(path)
        in_order = time.perf_counter() - began
        size = path.stat().st_size
        published = rewrite_all(Path(name) / "published.csv", captions(0, rows))
    print(f"{rows:,} rows, {size / 1e6:.0f} MB, batches of {BATCH}; every batch is on disk before the next")
    print(f"opening                       {opened:8.2f} s, {busy:.2f} s of them computing")
    print(f"finding that it is in order   {in_order:8.2f} s")
    print(f"a batch at row {BATCH:<14,} {small:8.2f} ms")
    print(f"a batch at row {rows:<14,} {large:8.2f} ms   {large / small:.2f} times that at the beginning")
    print(f"the published way, there      {published:8.2f} ms   {published / large:.0f}x ours, and not flushed to disk")


if __name__ == "__main__":
    main()
