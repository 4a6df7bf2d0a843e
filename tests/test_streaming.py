"""dataset_creator.py reads windows of remote tiles: few bytes, same patches as from files."""

import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from fake_world import codes_of_degree, image_of_codes, image_path, map_path, write_tile

import dataset_creator

PER_DEGREE = 2048
BOX = (31.30, 40.30, 31.36, 40.36)


class Bucket(BaseHTTPRequestHandler):
    """S3's way of serving files: HEAD, single Range, 404 as XML; counts the bytes it sends."""

    protocol_version = "HTTP/1.1"

    def __init__(self, counts, root, *arguments):
        self.counts, self.root = counts, root
        super().__init__(*arguments)

    def do_HEAD(self):
        self.do_GET(send=False)

    def do_GET(self, send=True):
        path = self.root / self.path.lstrip("/")
        if not path.is_file():
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"}, send)
        content, headers = path.read_bytes(), {"Accept-Ranges": "bytes", "ETag": '"1"'}
        if "Range" not in self.headers:
            return self.answer(200, content, headers, send)
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1 if last else None]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        return self.answer(206, part, headers, send)

    def answer(self, status, content, headers, send):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            self.wfile.write(content)
            self.counts[self.path] = self.counts.get(self.path, 0) + len(content)

    def log_message(self, *arguments):
        """Keep the test's output clean."""


def tiled_like_the_bucket(folder: Path) -> None:
    """Write an image and a map tile as cloud-optimised GeoTIFFs, at the bucket's addresses."""
    rng = np.random.default_rng(0)
    codes = codes_of_degree(rng, PER_DEGREE)
    lower = np.full((3 * PER_DEGREE, 3 * PER_DEGREE), 80, dtype=np.uint8)
    lower[PER_DEGREE : 2 * PER_DEGREE, PER_DEGREE : 2 * PER_DEGREE] = codes
    write_tile(image_path(folder, "N40E031"), image_of_codes(rng, codes), 41, 31, PER_DEGREE)
    write_tile(map_path(folder, "N39E030"), lower[None], 42, 30, PER_DEGREE)
    (folder / "rgbnir" / "2021" / "N40").mkdir(parents=True)
    (folder / "v200" / "2021" / "map").mkdir(parents=True)
    to = folder / "rgbnir" / "2021" / "N40" / image_path(folder, "N40E031").name
    to.write_bytes(image_path(folder, "N40E031").read_bytes())
    to = folder / "v200" / "2021" / "map" / map_path(folder, "N39E030").name
    to.write_bytes(map_path(folder, "N39E030").read_bytes())


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    folder, counts = tmp_path_factory.mktemp("bucket"), {}
    tiled_like_the_bucket(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Bucket, counts, folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, counts
    server.shutdown()


def test_a_box_of_remote_tiles_costs_few_bytes_and_gives_the_same_patches(bucket, run, tmp_path):
    url, folder, counts = bucket
    options = ("--bbox", *BOX, "--patch-size", 64, "--split", "random", "--workers", 1)
    remote = ("--s2", f"{url}/rgbnir/2021", "--worldcover", f"{url}/v200/2021/map", "--output", tmp_path / "remote")
    result = run(dataset_creator.main, *remote, *options)
    assert result.exit_code == 0, result.output
    local = ("--s2", folder / "S2RGB_2021", "--worldcover", folder / "worldcover_2021", "--output", tmp_path / "local")
    assert run(dataset_creator.main, *local, *options).exit_code == 0
    names = sorted(p.relative_to(tmp_path / "local") for p in (tmp_path / "local").rglob("*.png"))
    assert len(names) >= 8
    for name in names:
        assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    image = next(path for path in counts if "S2RGBNIR" in path)
    assert counts[image] < image_path(folder, "N40E031").stat().st_size / 8
    assert sum(counts.values()) > 100_000  # the server did serve the pixels


def test_a_url_needs_a_box(bucket, run, tmp_path):
    result = run(dataset_creator.main, "--s2", f"{bucket[0]}/rgbnir/2021", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "--bbox" in result.output


def test_no_tile_at_the_url_and_no_server_are_one_line(bucket, run, tmp_path):
    box = ("--bbox", 100, 10, 100.1, 10.1, "--output", tmp_path / "out")
    absent = run(dataset_creator.main, "--s2", f"{bucket[0]}/rgbnir/2021", *box)
    assert absent.exit_code == 1
    assert "has no tile of --bbox" in absent.output
    silent = run(dataset_creator.main, "--s2", "http://127.0.0.1:9/rgbnir/2021", *box)
    assert silent.exit_code == 1
    assert "cannot be reached" in silent.output
    assert silent.output.count("\n") == 1


def test_a_tile_cut_short_on_the_server_is_named(bucket, run, tmp_path):
    url, folder, _ = bucket
    whole = folder / "rgbnir" / "2021" / "N40" / image_path(folder, "N40E031").name
    cut = folder / "cut" / "N40" / whole.name
    cut.parent.mkdir(parents=True)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 4])
    where = ("--s2", f"{url}/cut", "--worldcover", folder / "worldcover_2021", "--output", tmp_path / "out")
    result = run(dataset_creator.main, *where, "--bbox", 31.9, 40.0, 31.99, 40.05, "--patch-size", 64, "--workers", 1)
    assert result.exit_code == 1
    assert f"{url}/cut" in result.output
    with rasterio.open(whole) as file:
        assert file.width == PER_DEGREE  # the whole one was left alone
