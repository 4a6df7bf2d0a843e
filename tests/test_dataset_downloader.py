"""Stage 1 against real servers on this machine: every file it writes is opened, every fault is injected on the wire."""

import csv
import gzip
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from email.utils import formatdate
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner, Result
from loopback import Catalogue, Fault, Keycloak, Loopback, Request, etag_of
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.transform import Affine

import dataset_downloader
from aras.downloading import raw_tiles, tile_plan
from aras.downloading.fetching import in_threads
from aras.downloading.web import Client
from aras.downloading.web_errors import Transient
from aras.files import sole_writer
from aras.legend import COLORS
from aras.tiles import tile_corner

SCRIPT = Path(dataset_downloader.__file__)
BOX = ("29.2", "40.2", "30.5", "41.5")  # images N40-41 x E029-030, maps N39E027, N39E030
IMAGES = ("N40E029", "N40E030", "N41E029", "N41E030")
MAPS = ("N39E027", "N39E030")
QUICK = ("--retry-wait", "0.01", "--tries", "6")
ACCOUNT = {"TERRASCOPE_USERNAME": "ada", "TERRASCOPE_PASSWORD": "s3cret&+%"}


@cache
def tile_bytes(tile: str, kind: str, per_degree: int = 96, seed: int = 0) -> bytes:
    """Return a small GeoTIFF of noise in the archive's form: 1 degree and four bands, or 3 degrees and one."""
    lat, lon = tile_corner(tile)
    degrees, bands, dtype = (1, 4, "uint16") if kind == "S2RGBNIR" else (3, 1, "uint8")
    size = degrees * per_degree
    rng = np.random.default_rng([lat + 90, lon + 180, seed])
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            crs="EPSG:4326",
            transform=Affine(1 / per_degree, 0, lon, 0, -1 / per_degree, lat + degrees),
            count=bands,
            height=size,
            width=size,
            dtype=dtype,
            tiled=True,
            blockxsize=64,
            blockysize=64,
            compress="deflate",
            interleave="pixel",
        ) as file:
            file.write(rng.integers(1, 100, (bands, size, size)).astype(dtype))
        return memory.read()


def path_of(tile: str, kind: str, year: int = 2021) -> str:
    """Return where the bucket has a tile."""
    version = {2021: "v200", 2020: "v100"}[year]
    name = f"ESA_WorldCover_10m_{year}_{version}_{tile}_{kind}.tif"
    return f"/rgbnir/{year}/{tile[:3]}/{name}" if kind == "S2RGBNIR" else f"/{version}/{year}/map/{name}"


def fill(site: Loopback, images: tuple[str, ...] = IMAGES, maps: tuple[str, ...] = MAPS, year: int = 2021) -> None:
    for tile in images:
        site.files[path_of(tile, "S2RGBNIR", year)] = tile_bytes(tile, "S2RGBNIR")
    for tile in maps:
        site.files[path_of(tile, "Map", year)] = tile_bytes(tile, "Map")


@pytest.fixture
def bucket():
    """A server that plays both buckets, with the six tiles of `BOX`."""
    with Loopback() as site:
        fill(site)
        yield site


def run(site: Loopback, outdir: Path, *more: object, box: tuple[str, ...] = BOX, env: dict | None = None) -> Result:
    """Run the script in this process, with `site` as every server."""
    area = ("--bbox", *box) if box else ()
    urls = ("--s2-url", site.url, "--map-url", site.url, "--stac-url", site.url, "--zenodo-url", site.url)
    arguments = [*area, *urls, "--token-url", f"{site.url}/token", "--outdir", outdir, *QUICK, *more]
    result = CliRunner().invoke(dataset_downloader.main, [str(a) for a in arguments], env=env)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


def tree(folder: Path) -> dict[str, str]:
    """Return {path: digest} of all files below `folder` but the locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def table(output: str) -> dict[str, list[int]]:
    """Return {group: [done, present, missing, failed]} of the table at the end, and unfinished where there are any."""
    found = {}
    for line in output.splitlines():
        words = line.split()
        if len(words) in (5, 6) and all(word.isdigit() for word in words[1:]):
            found[words[0]] = [int(word) for word in words[1:]]
    return found


def image(outdir: Path, tile: str, year: int = 2021) -> Path:
    return outdir / f"S2RGB_{year}" / Path(path_of(tile, "S2RGBNIR", year)).name


# What it fetches


def test_fetches_both_products_and_then_nothing(bucket, tmp_path):
    result = run(bucket, tmp_path)
    assert result.exit_code == 0, result.output
    assert table(result.output) == {"rgbnir": [4, 0, 0, 0], "map": [2, 0, 0, 0]}
    names = {path for path in tree(tmp_path)}
    assert len(names) == 6 and not any("part" in name for name in names)
    for path, content in bucket.files.items():
        folder = "S2RGB_2021" if "rgbnir" in path else "worldcover_2021"
        assert (tmp_path / folder / Path(path).name).read_bytes() == content
    with rasterio.open(image(tmp_path, "N41E030")) as file:
        assert file.count == 4 and file.bounds.left == 30

    bucket.requests.clear()
    again = run(bucket, tmp_path)
    assert again.exit_code == 0 and table(again.output) == {"rgbnir": [0, 4, 0, 0], "map": [0, 2, 0, 0]}
    assert bucket.requests == []


def test_2020_and_one_product(tmp_path):
    with Loopback() as site:
        fill(site, IMAGES[:1], (), 2020)
        result = run(site, tmp_path, "--year", 2020, "--products", "rgbnir", box=("29", "40", "30", "41"))
    assert result.exit_code == 0, result.output
    assert list(tree(tmp_path)) == ["S2RGB_2020/ESA_WorldCover_10m_2020_v100_N40E029_S2RGBNIR.tif"]


def test_bare_run_plans_the_papers_area(tmp_path):
    with Loopback() as site:
        result = run(site, tmp_path / "new", "--dry-run", box=())
        assert result.exit_code == 0, result.output
        assert "rgbnir: 160 files" in result.output and "map: 28 files" in result.output
        assert len(set(site.asked("HEAD"))) == 188 and site.asked("GET") == []
        assert path_of("N42E042", "Map") in site.asked("HEAD")
    assert not (tmp_path / "new").exists()


def test_dry_run_tells_sizes_presence_and_free_disk(bucket, tmp_path):
    run(bucket, tmp_path, "--products", "map")
    before = tree(tmp_path)
    bucket.files[path_of("N40E029", "S2RGBNIR")] = b"0" * 12_000_000
    result = run(bucket, tmp_path, "--dry-run")
    assert result.exit_code == 0
    assert "4 to fetch (0.012 GB)" in result.output and "2 present" in result.output and "GB free" in result.output
    assert tree(tmp_path) == before


def test_dry_run_without_network_estimates(tmp_path):
    with Loopback() as site:
        url = site.url
    result = run(site, tmp_path, "--dry-run")
    assert result.exit_code == 0 and f"cannot reach {url[7:16]}" in result.output
    assert "about 2.096 GB" in result.output  # 4 x 524 MB


@pytest.mark.parametrize(
    ("box", "images", "maps"),
    [
        (("-0.5", "-0.5", "0.5", "0.5"), {"S01W001", "S01E000", "N00W001", "N00E000"},
         {"S03W003", "S03E000", "N00W003", "N00E000"}),
        (("179.5", "-17", "-179.5", "-16"), {"S17E179", "S17W180"}, {"S18E177", "S18W180"}),
        (("29", "40", "30", "41"), {"N40E029"}, {"N39E027"}),
        (("-70.2", "-89.9", "-70.1", "-89.8"), {"S90W071"}, {"S90W072"}),
    ],
)  # fmt: skip
def test_tiles_of_all_hemispheres(tmp_path, box, images, maps):
    with Loopback() as site:
        run(site, tmp_path, "--dry-run", box=box)
        asked = site.asked("HEAD")
    assert {path for path in asked if "rgbnir" in path} == {path_of(tile, "S2RGBNIR") for tile in images}
    assert {path for path in asked if "/map/" in path} == {path_of(tile, "Map") for tile in maps}


# Areas


def square(west: float, south: float, east: float, north: float) -> dict:
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


@pytest.mark.parametrize(
    ("area", "images"),
    [
        (square(29, 40, 30, 41), {"N40E029"}),
        ({"type": "Feature", "properties": {}, "geometry": square(29.5, 40.5, 30.1, 40.6)}, {"N40E029", "N40E030"}),
        ({"type": "FeatureCollection", "features": [
            {"type": "Feature", "properties": None, "geometry": None},
            {"type": "Feature", "properties": None, "geometry": square(29.1, 40.1, 29.2, 40.2)},
            {"type": "Feature", "properties": None, "geometry": {"type": "Point", "coordinates": [5, 5]}},
            {"type": "Feature", "properties": None, "geometry": square(30.1, 41.1, 30.2, 41.2)}]},
         {"N40E029", "N41E030"}),
        ({"type": "MultiPolygon", "coordinates": [square(*b)["coordinates"] for b in ((-1, -1, 0, 0), (5, 5, 6, 6))]},
         {"S01W001", "N05E005"}),
        # an L that leaves the corner tile of its own box out, and a bow-tie
        ({"type": "Polygon", "coordinates": [[[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2], [0, 0]]]},
         {"N00E000", "N00E001", "N01E000"}),
        ({"type": "Polygon", "coordinates": [[[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.9], [0.1, 0.1]]]},
         {"N00E000"}),
        ({"type": "GeometryCollection", "geometries": [square(7, 7, 8, 8)]}, {"N07E007"}),
    ],
)  # fmt: skip
def test_tiles_of_a_geojson(tmp_path, area, images):
    (tmp_path / "a.geojson").write_text("\ufeff" + json.dumps(area), encoding="utf-8")
    with Loopback() as site:
        result = run(site, tmp_path, "--dry-run", "--products", "rgbnir", "--aoi", tmp_path / "a.geojson", box=())
        assert result.exit_code == 0, result.output
        assert set(site.asked("HEAD")) == {path_of(tile, "S2RGBNIR") for tile in images}


@pytest.mark.parametrize(
    "crs",
    [
        None,
        7,
        {"properties": None},
        {"properties": {"name": None}},
        *(
            {"type": "name", "properties": {"name": name}}
            for name in (
                "EPSG:4326",
                "epsg:4326",
                "urn:ogc:def:crs:EPSG::4326",
                "urn:ogc:def:crs:EPSG:9.9.1:4326",
                "http://www.opengis.net/def/crs/EPSG/0/4326",
                "http://www.opengis.net/gml/srs/epsg.xml#4326",
                "urn:ogc:def:crs:OGC:1.3:CRS84",
                "urn:ogc:def:crs:OGC::CRS84",
                "http://www.opengis.net/def/crs/OGC/1.3/CRS84",
                "https://www.opengis.net/def/crs/OGC/0/CRS84",
                "OGC:CRS84",
                "crs84",
                "CRS:84",
            )
        ),
    ],
)
def test_ways_to_say_degrees(bucket, tmp_path, crs):
    (tmp_path / "a.geojson").write_text(json.dumps({**square(29.1, 40.1, 29.2, 40.2), "crs": crs}))
    result = run(bucket, tmp_path, "--dry-run", "--aoi", tmp_path / "a.geojson", box=())
    assert result.exit_code == 0 and "rgbnir: 1 files" in result.output


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not readable GeoJSON"),
        ("[]", "neither a feature nor a geometry"),
        ('{"type": "FeatureCollection", "features": []}', "no polygon with an area"),
        ('{"type": "Point", "coordinates": [1, 2]}', "no polygon with an area"),
        ('{"type": "Polygon", "coordinates": []}', "no polygon with an area"),
        ('{"type": "Polygon", "coordinates": [[["a", 1]]]}', "cannot be read"),
        ('{"type": "Feature", "geometry": {"type": "Blob", "coordinates": []}}', "cannot be read"),
        (json.dumps(square(29, 40, 29, 41)), "no polygon with an area"),
        (json.dumps(square(500000, 4000000, 510000, 4010000)), "not in degrees"),
        (json.dumps({**square(1, 1, 2, 2), "crs": {"type": "name", "properties": {"name": "EPSG:3857"}}}), "EPSG:3857"),
        (json.dumps({**square(1, 1, 2, 2), "crs": {"properties": {"name": "EPSG::14326"}}}), "not in degrees"),
        (json.dumps(square(179, 1, -179, 2)), "split it at the 180th meridian"),
        (json.dumps({"type": "GeometryCollection", "geometries": [square(179, 1, -179, 2)]}), "180th meridian"),
    ],
)
def test_bad_areas_are_told_in_one_line(bucket, tmp_path, content, told):
    (tmp_path / "a.geojson").write_text(content)
    result = run(bucket, tmp_path, "--aoi", tmp_path / "a.geojson", box=())
    assert result.exit_code == 1 and told in result.output and "a.geojson" in result.output
    assert len(result.output.strip().splitlines()) == 1 and bucket.requests == []


@pytest.mark.parametrize(
    ("box", "told"),
    [
        (("30", "41", "31", "40"), "south must be less than north"),
        (("30", "40", "30", "41"), "no area"),
        (("180", "0", "-180", "1"), "no area"),
        (("30", "40", "300", "41"), "in degrees"),
        (("nan", "40", "31", "41"), "finite"),
        (("30", "40", "31"), "requires 4 arguments"),
    ],
)
def test_bad_boxes(bucket, tmp_path, box, told):
    result = CliRunner().invoke(dataset_downloader.main, ["--outdir", str(tmp_path), "--bbox", *box])
    assert result.exit_code != 0 and told in result.output and "--bbox" in result.output
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--bbox", "1", "1", "2", "2", "--aoi", __file__], "either --bbox or --aoi"),
        (["--products", "rgb"], "'rgb' is none of rgbnir, map"),
        (["--s2-url", "ftp://x"], "http"),
        (["--map-url", "https://ada:secret@example.org"], "without a password"),
        (["--map-url", "https://example.org/?sig=secret"], "or a query"),
        (["--published", "--year", "2020"], "leave out"),
        (["--aoi", "nowhere.geojson"], "nowhere.geojson"),
    ],
)
def test_usage_errors(arguments, told):
    result = CliRunner().invoke(dataset_downloader.main, arguments)
    assert result.exit_code == 2 and told in result.output and "secret" not in result.output


# Faults


def test_cut_connections_are_resumed(bucket, tmp_path):
    rng = random.Random(1)
    path = path_of("N40E029", "S2RGBNIR")
    size = len(bucket.files[path])
    for _ in range(4):
        bucket.faults[path].append(Fault(cut=rng.randrange(1, size // 5)))
    result = run(bucket, tmp_path)
    assert result.exit_code == 0, result.output
    assert image(tmp_path, "N40E029").read_bytes() == bucket.files[path]
    asked = [r for r in bucket.requests if r.path == path and r.method == "GET"]
    starts = [int(r.headers["Range"][6:-1]) for r in asked[1:] if "Range" in r.headers]
    assert starts and starts == sorted(starts)
    assert all(r.headers["If-Range"] == etag_of(bucket.files[path]) for r in asked if "Range" in r.headers)
    assert all(r.headers["Accept-Encoding"] == "identity" for r in asked)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=503, body=b"<Error><Code>SlowDown</Code></Error>"),
        Fault(status=429),
        Fault(claim=1000),
        Fault(cut=0),
        Fault(replace=tile_bytes("N40E029", "S2RGBNIR")[:-2000]),
        Fault(replace=b"this is no TIFF"),
        Fault(replace=tile_bytes("N41E029", "S2RGBNIR")),
        Fault(flip=20_000),
        Fault(status=429, headers={"Retry-After": "\u00b2"}),
    ],
    ids=["500", "503", "429", "wrong length", "cut", "truncated", "corrupt", "another tile", "flipped", "odd wait"],
)
def test_passing_faults_are_outlived(bucket, tmp_path, fault):
    path = path_of("N40E029", "S2RGBNIR")
    bucket.faults[path].append(fault)
    result = run(bucket, tmp_path)
    assert result.exit_code == 0, result.output
    assert image(tmp_path, "N40E029").read_bytes() == bucket.files[path]
    assert len(tree(tmp_path)) == 6


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(status=401), "HTTP 401"),
        (Fault(status=404, body=b"<Error><Code>NoSuchBucket</Code></Error>"), "NoSuchBucket"),
        (Fault(status=403, body=b"<Error><Code>AccessDenied</Code></Error>"), "HTTP 403 from 127.0.0.1: AccessDenied"),
        (Fault(status=400, body=b"<Code>No\x1b[2J\r\nway</Code>"), "127.0.0.1: No [2J way"),
        (Fault(status=500), "HTTP 500"),
        (Fault(status=429, headers={"Retry-After": "4000"}), "HTTP 429"),
        (Fault(claim=7), "was cut"),
        (Fault(replace=b"II*\0 this is no TIFF"), "no readable GeoTIFF"),
        (Fault(status=200, headers={"Content-Type": "text/html"}, body=b"<html>log in</html>"), "web page"),
    ],
    ids=[
        "401",
        "404 of the bucket",
        "403",
        "control characters",
        "500",
        "429",
        "wrong length",
        "corrupt",
        "login page",
    ],
)
def test_lasting_faults_fail_one_file_and_are_tried_again(bucket, tmp_path, fault, told):
    path = path_of("N40E029", "S2RGBNIR")
    bucket.faults[path].extend([fault] * 20)
    result = run(bucket, tmp_path)
    assert result.exit_code == 1
    assert table(result.output) == {"rgbnir": [3, 0, 0, 1], "map": [2, 0, 0, 0]}
    failures = rows(tmp_path / "S2RGB_2021" / "failures.csv")
    assert failures[0] == ["tile", "reason"] and failures[1][0] == "N40E029" and told in failures[1][1]
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("Error: 1 of 6 failed, such as N40E029") and told in last
    assert not image(tmp_path, "N40E029").exists()

    bucket.faults.clear()
    again = run(bucket, tmp_path)
    assert again.exit_code == 0 and table(again.output)["rgbnir"] == [1, 3, 0, 0]
    assert not (tmp_path / "S2RGB_2021" / "failures.csv").exists() and len(tree(tmp_path)) == 6


def test_a_body_that_is_compressed_all_the_same(bucket, tmp_path):
    path = path_of("N40E029", "S2RGBNIR")
    packed = gzip.compress(bucket.files[path])
    headers = {"Content-Encoding": "gzip", "ETag": '"packed"'}
    bucket.faults[path].append(Fault(status=200, headers=headers, body=packed))
    assert run(bucket, tmp_path, "--products", "rgbnir").exit_code == 0
    assert image(tmp_path, "N40E029").read_bytes() == bucket.files[path]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(bucket, tmp_path, form):
    path = path_of("N40E029", "S2RGBNIR")
    told = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)  # in whole seconds, so at least 1
    bucket.faults[path].append(Fault(status=429, headers={"Retry-After": told}))
    started = time.monotonic()
    assert run(bucket, tmp_path, "--products", "rgbnir").exit_code == 0
    assert time.monotonic() - started >= 0.9
    assert len([r for r in bucket.requests if r.path == path and r.method == "GET"]) == 2


def test_silent_server_counts_as_cut(bucket, tmp_path):
    path = path_of("N40E029", "S2RGBNIR")
    bucket.faults[path].append(Fault(cut=100, stall=3))
    assert run(bucket, tmp_path, "--silence", 0.5, "--products", "rgbnir").exit_code == 0
    assert image(tmp_path, "N40E029").read_bytes() == bucket.files[path]


def begin(bucket: Loopback, tmp_path: Path) -> str:
    """Leave a `.part` of one image behind, as a run does whose tries are used up."""
    path = path_of("N40E029", "S2RGBNIR")
    bucket.chunk = 1000
    bucket.faults[path].append(Fault(cut=30_000))
    result = run(bucket, tmp_path, "--products", "rgbnir", "--tries", 1)
    part = image(tmp_path, "N40E029").with_name(Path(path).name + ".part")
    assert result.exit_code == 1 and 0 < part.stat().st_size <= 30_000
    bucket.requests.clear()
    return path


def test_resumes_a_part(bucket, tmp_path):
    path = begin(bucket, tmp_path)
    assert run(bucket, tmp_path, "--products", "rgbnir").exit_code == 0
    request = next(r for r in bucket.requests if r.path == path and r.method == "GET")
    assert (
        request.headers["Range"].startswith("bytes=") and image(tmp_path, "N40E029").read_bytes() == bucket.files[path]
    )
    assert len(tree(tmp_path)) == 4


@pytest.mark.parametrize(
    "change", ["changed", "changed, If-Range ignored", "no ranges", "no validators", "shorter", "416"]
)
def test_a_part_of_another_version_is_started_anew(bucket, tmp_path, change):
    if change == "no validators":
        bucket.etags = False
    path = begin(bucket, tmp_path)
    if change == "shorter":
        bucket.files[path] = tile_bytes("N40E029", "S2RGBNIR", per_degree=48)
    elif change.startswith("changed"):
        bucket.files[path] = tile_bytes("N40E029", "S2RGBNIR", seed=1)
    if change == "changed, If-Range ignored":
        new = bucket.files[path]
        held = image(tmp_path, "N40E029").with_name(Path(path).name + ".part").stat().st_size
        headers = {"ETag": etag_of(new), "Content-Range": f"bytes {held}-{len(new) - 1}/{len(new)}"}
        bucket.faults[path].append(Fault(status=206, headers=headers, body=new[held:]))
    if change == "416":
        bucket.faults[path].append(Fault(status=416))
    bucket.ranges = change != "no ranges"
    result = run(bucket, tmp_path, "--products", "rgbnir")
    assert result.exit_code == 0, result.output
    assert image(tmp_path, "N40E029").read_bytes() == bucket.files[path]
    assert len(tree(tmp_path)) == 4


def test_open_sea_is_recorded_and_not_asked_again(bucket, tmp_path):
    path = path_of("N40E029", "S2RGBNIR")
    del bucket.files[path]
    result = run(bucket, tmp_path)
    assert result.exit_code == 0 and table(result.output)["rgbnir"] == [3, 0, 1, 0]
    assert rows(tmp_path / "S2RGB_2021" / "missing.csv") == [["tile", "address"], ["N40E029", bucket.url + path]]
    bucket.requests.clear()
    assert table(run(bucket, tmp_path).output)["rgbnir"] == [0, 3, 1, 0]
    assert bucket.requests == []

    (tmp_path / "S2RGB_2021" / "missing.csv").write_text("tile,address\nN40E029,https://another.example/x.tif\n")
    bucket.files[path] = tile_bytes("N40E029", "S2RGBNIR")
    assert table(run(bucket, tmp_path).output)["rgbnir"] == [1, 3, 0, 0]
    assert not (tmp_path / "S2RGB_2021" / "missing.csv").exists()


def test_forbidden_is_not_missing_and_a_wrong_address_is_told(tmp_path):
    with Loopback() as site:
        result = run(site, tmp_path, "--products", "map")
        assert result.exit_code == 1 and table(result.output)["map"] == [0, 0, 0, 2]
        assert "not one of these map tiles exists" in result.output and "--products" in result.output
        assert not (tmp_path / "worldcover_2021" / "missing.csv").exists()
        for tile in MAPS:
            site.faults[path_of(tile, "Map")].extend([Fault(status=403)] * 9)
        result = run(site, tmp_path, "--products", "map")
    assert result.exit_code == 1 and table(result.output)["map"] == [0, 0, 0, 2]


def test_a_mirror_that_has_nothing_is_no_success_and_is_asked_again(bucket, tmp_path):
    with Loopback() as empty:
        for _ in range(2):
            empty.requests.clear()
            result = run(empty, tmp_path, "--map-url", bucket.url)
            assert result.exit_code == 1 and "not one of these rgbnir tiles exists" in result.output
            assert table(result.output)["rgbnir"] == [0, 0, 0, 4] and sum(table(result.output)["map"]) == 2
            assert not list(tmp_path.rglob("missing.csv")) and len(empty.asked("GET")) == 4
        assert [row[0] for row in rows(tmp_path / "S2RGB_2021" / "failures.csv")[1:]] == list(IMAGES)


def test_what_is_taken_not_to_exist_is_told_each_time(bucket, tmp_path):
    del bucket.files[path_of("N40E029", "S2RGBNIR")]
    for more in ((), (), ("--dry-run",)):
        told = f"{tmp_path / 'S2RGB_2021'}: 1 known not to exist (missing.csv; delete it to ask again)"
        assert told in run(bucket, tmp_path, *more).output
    result = run(bucket, tmp_path, "--products", "rgbnir", box=("29", "40", "30", "41"))
    assert result.exit_code == 0 and table(result.output)["rgbnir"] == [0, 0, 1, 0]  # an earlier run saw the others


@pytest.mark.parametrize("fault", [Fault(405, method="HEAD"), Fault(200, method="HEAD"), None])
def test_servers_without_head_or_with_an_empty_one_or_without_lengths(bucket, tmp_path, fault):
    """The size comes from a request for the first byte, and nothing is planned as if it did not exist."""
    for path in bucket.files if fault else ():
        bucket.faults[path].append(fault)
    bucket.lengths = fault is not None
    sizes = sum(len(content) for path, content in bucket.files.items() if "rgbnir" in path)
    result = run(bucket, tmp_path, "--products", "rgbnir")
    assert result.exit_code == 0 and f"4 to fetch ({sizes / 1e9:.3f} GB)" in result.output
    assert len(tree(tmp_path)) == 4


@pytest.mark.parametrize("told", ["by no one", "by the first byte"])
def test_a_short_file_of_unknown_length_is_resumed(bucket, tmp_path, told):
    """Where no length is told, a connection that ends early looks like the end of the file."""
    path = path_of("N40E029", "S2RGBNIR")
    bucket.lengths = False
    nobody = 403 if told == "by no one" else None
    bucket.faults[path] += [Fault(nobody, method="HEAD"), Fault(nobody), Fault(cut=30_000, orderly=True)]
    result = run(bucket, tmp_path, "--products", "rgbnir", "--connections", 1, box=ONE)
    assert result.exit_code == 0, result.output
    assert image(tmp_path, "N40E029").read_bytes() == bucket.files[path]
    assert bucket.requests[-1].headers["Range"] == "bytes=30000-"


def test_present_but_damaged_file_is_replaced(bucket, tmp_path):
    run(bucket, tmp_path)
    good = tree(tmp_path)
    path = image(tmp_path, "N41E030")
    path.write_bytes(path.read_bytes()[:-500])
    result = run(bucket, tmp_path)
    assert result.exit_code == 0 and f"{path} does not count as present: the file is no" in result.output
    assert tree(tmp_path) == good


def test_no_network_is_one_line(tmp_path):
    with Loopback() as site:
        pass
    result = run(site, tmp_path)
    assert result.exit_code == 1
    assert result.output.strip().splitlines()[-1].startswith("Error: cannot reach 127.0.0.1; check the network")
    assert table(result.output) == {"rgbnir": [0, 0, 0, 0, 4], "map": [0, 0, 0, 0, 2]}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_login_is_asked_once(tmp_path, scheme):
    with Loopback() as proxy:
        path = path_of("N40E029", "S2RGBNIR")
        proxy.faults[path].extend([Fault(status=407, method="any")] * 99)
        address = proxy.url.replace("http://", "http://ada:secret@")
        names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
        env = {**dict.fromkeys(names, address), "no_proxy": None, "NO_PROXY": None, "all_proxy": None}
        more = ("--s2-url", f"{scheme}://bucket.example", "--products", "rgbnir", "--connections", 1)
        result = run(proxy, tmp_path, *more, box=ONE, env=env)
    assert result.exit_code == 1 and "HTTP 407" in result.output.splitlines()[-1] and "secret" not in result.output
    assert len(proxy.requests) == 1


def test_network_lost_in_the_middle(bucket, tmp_path):
    bucket.faults[path_of("N40E030", "S2RGBNIR")].append(Fault(unplug=True))
    result = run(bucket, tmp_path, "--connections", 1)
    assert result.exit_code == 1 and "Error: cannot reach 127.0.0.1" in result.output
    with Loopback() as other:
        fill(other)
        assert table(run(other, tmp_path).output)["rgbnir"] == [3, 1, 0, 0] and len(tree(tmp_path)) == 6


def test_tries_last_for_minutes_by_default():
    class Clock(threading.Event):
        passed = 0.0

        def wait(self, timeout=None):
            self.passed += timeout
            return False

    patience, clock = Client().patience(), Clock()
    patience.stop = clock
    with pytest.raises(Transient, match="silent"):
        while True:
            patience.wait(Transient("silent"))
    assert 300 < clock.passed < 900


def test_an_outage_is_outlived(tmp_path):
    with Loopback() as site:
        fill(site)
        site.faults[path_of("N40E030", "S2RGBNIR")].append(Fault(unplug=True))
        process = start(site, tmp_path, "--connections", "1", "--retry-wait", "0.2")
        wait_for(lambda: site.server.socket.fileno() == -1)
    time.sleep(1)
    with Loopback(port=int(site.url.rpartition(":")[2])) as again:
        fill(again)
        output = process.communicate(timeout=30)[0]
    assert process.returncode == 0 and table(output) == {"rgbnir": [4, 0, 0, 0], "map": [2, 0, 0, 0]}


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_a_dead_host_does_not_stop_the_files_of_another(bucket, tmp_path, when):
    with Loopback() as other:
        fill(other)
        other.faults[path_of("N40E030", "S2RGBNIR")].append(Fault(unplug=True))
        if when == "before":
            other.server.socket.close()
        result = run(bucket, tmp_path, "--s2-url", other.url, "--connections", 1)
    finished = {"before": 0, "in the middle": 1}[when]
    assert table(result.output) == {"rgbnir": [finished, 0, 0, 0, 4 - finished], "map": [2, 0, 0, 0, 0]}
    assert result.exit_code == 1 and result.output.splitlines()[-1].startswith("Error: cannot reach 127.0.0.1")


def test_a_host_that_fails_file_after_file_is_left_alone(bucket, tmp_path):
    with Loopback() as other:
        fill(other)
        for tile in (f"N{lat}E{lon:03d}" for lat in range(40, 44) for lon in range(29, 33)):
            other.faults[path_of(tile, "S2RGBNIR")].extend([Fault(503)] * 3)
        box, more = ("29", "40", "33", "44"), ("--tries", 2, "--connections", 1)
        result = run(bucket, tmp_path, "--s2-url", other.url, *more, box=box)
    assert result.exit_code == 1 and "HTTP 503" in result.output.splitlines()[-1]
    assert table(result.output) == {"rgbnir": [0, 0, 0, 8, 8], "map": [2, 0, 2, 0, 0]}


def test_each_disk_is_checked(bucket, tmp_path):
    """The folder of images is a link to another disk, which is smaller."""
    other = Path("/dev/shm")
    if not other.is_dir() or shutil.disk_usage(other).free + 10**10 > shutil.disk_usage(tmp_path).free:
        pytest.skip("needs a second disk that is smaller than the first")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        (tmp_path / "S2RGB_2021").symlink_to(folder)
        claim = shutil.disk_usage(other).free + 10**9
        bucket.faults[path_of("N40E029", "S2RGBNIR")].append(Fault(method="HEAD", claim=claim))
        result = run(bucket, tmp_path)
    assert result.exit_code == 1 and f"the disk of {tmp_path / 'S2RGB_2021'} has" in result.output
    assert bucket.asked("GET") == []


def test_too_small_a_disk_is_told_before_anything_is_fetched(bucket, tmp_path):
    path = path_of("N40E029", "S2RGBNIR")
    bucket.faults[path].append(Fault(method="HEAD", claim=10**15))
    result = run(bucket, tmp_path)
    assert (
        result.exit_code == 1 and "Error: the download needs 1,000,000" in result.output and "--outdir" in result.output
    )
    assert bucket.asked("GET") == []


def test_second_process_is_refused(bucket, tmp_path):
    with sole_writer(tmp_path / "S2RGB_2021"):
        result = run(bucket, tmp_path)
    assert result.exit_code == 1 and "another process is writing" in result.output and bucket.requests == []


# Redirects and logins


def test_redirect_to_another_host_loses_the_login(tmp_path):
    keycloak = Keycloak()
    with Loopback() as site, Loopback() as store:
        collection = terrascope(site, keycloak, ("N40E029",), ())
        path = collection["N40E029"]
        store.files["/signed.tif"] = site.files[path]
        other = store.url.replace("127.0.0.1", "localhost")
        site.faults[path] += [
            Fault(302, {"Location": f"{other}/signed.tif?signature=1"}, method=m) for m in ("HEAD", "GET")
        ]
        result = run(site, tmp_path, "--source", "terrascope", "--products", "rgbnir", box=ONE, env=ACCOUNT)
        assert result.exit_code == 0, result.output
        assert [r.method for r in store.requests] == ["HEAD", "GET"]
        assert not any("Authorization" in r.headers for r in store.requests)
        assert all("Authorization" in r.headers for r in site.requests if r.path == path)


def test_redirect_without_end_or_to_nowhere_fails(bucket, tmp_path):
    loop, nowhere = path_of("N40E029", "S2RGBNIR"), path_of("N40E030", "S2RGBNIR")
    bucket.faults[loop].extend([Fault(302, {"Location": loop}) for _ in range(30)])
    bucket.faults[nowhere].append(Fault(302, {"Location": "http://[::1"}))
    result = run(bucket, tmp_path, "--products", "rgbnir")
    reasons = dict(rows(tmp_path / "S2RGB_2021" / "failures.csv"))
    assert result.exit_code == 1
    assert "redirects without end" in reasons["N40E029"] and "no web address" in reasons["N40E030"]


ONE = ("29.1", "40.1", "29.9", "40.9")


def terrascope(
    site: Loopback, keycloak: Keycloak, images: tuple[str, ...] = IMAGES, maps: tuple[str, ...] = MAPS, **catalogue
) -> dict[str, str]:
    """Make `site` a Terrascope with these tiles; return where each file is."""
    site.answers["/token"] = keycloak.answer
    site.token_server = keycloak
    search = Catalogue(site, **catalogue)
    site.answers["/search"] = search.answer
    site.catalogue = search
    paths = {}
    for tiles, kind, folder, collection in (
        (images, "S2RGBNIR", "RGBNIR", "esa-worldcover-s2rgbnir-10m-2021-v2"),
        (maps, "Map", "MAP", "esa-worldcover-map-10m-2021-v2"),
    ):
        for tile in tiles:
            lat, lon = tile_corner(tile)
            width = 1 if kind == "S2RGBNIR" else 3
            name = f"ESA_WorldCover_10m_2021_v200_{tile}"
            base = f"/download/WORLDCOVER/{folder}/{name}"
            paths[tile] = f"{base}/{name}_{kind}.tif"
            site.files[paths[tile]] = tile_bytes(tile, kind)
            site.files[f"{base}/{name}_InputQuality.tif"] = b"not this one"
            hrefs = {
                "ESA_WORLDCOVER_10M_INPUTQUALITY": f"{site.url}{base}/{name}_InputQuality.tif",
                f"ESA_WORLDCOVER_10M_{folder}": f"{site.url}{paths[tile]}",
            }
            search.add(collection, f"{name.upper()}_{folder}", [lon, lat, lon + width, lat + width], hrefs)
    return paths


@pytest.mark.parametrize("posts", [True, False], ids=["POST", "GET"])
def test_terrascope(tmp_path, posts):
    keycloak = Keycloak()
    with Loopback() as site:
        terrascope(site, keycloak, posts=posts)
        site.catalogue.items += site.catalogue.items[:2]  # twice
        site.catalogue.add("esa-worldcover-s2rgbnir-10m-2021-v2", "ESA_N39E029_X", [29, 39, 30, 40], {})
        result = run(site, tmp_path, "--source", "terrascope", env=ACCOUNT)
        assert result.exit_code == 0, result.output
        searches = [r for r in site.requests if r.path.startswith("/search")]
        assert len(searches) >= 4 and not any("Authorization" in r.headers for r in searches)
    assert table(result.output) == {"rgbnir": [4, 0, 0, 0], "map": [2, 0, 0, 0]}
    assert keycloak.grants == ["password"] and not any("s3cret" in line for line in result.output.splitlines())
    with Loopback() as plain:
        fill(plain)
        run(plain, tmp_path / "aws")
    assert tree(tmp_path / "aws") == {n: d for n, d in tree(tmp_path).items() if not n.startswith("aws")}


def test_terrascope_newest_item_missing_item_and_item_without_file(tmp_path):
    with Loopback() as site:
        paths = terrascope(site, Keycloak(), ("N40E029", "N40E030"), ())
        old = site.catalogue.items[0]
        old["properties"]["updated"] = "2022-01-01T00:00:00Z"
        newer = json.loads(json.dumps(old).replace("/RGBNIR/", "/NEW/"))
        newer["properties"]["updated"] = "2023-01-01T00:00:00Z"
        site.catalogue.items.insert(0, newer)
        new = tile_bytes("N40E029", "S2RGBNIR", seed=5)
        site.files[paths["N40E029"].replace("/RGBNIR/", "/NEW/")] = new
        site.catalogue.items[2]["assets"] = {"preview": {"href": site.url + "/x.png", "type": "image/png"}}
        more = ("--source", "terrascope", "--products", "rgbnir")
        result = run(site, tmp_path, *more, env=ACCOUNT)
        assert table(result.output)["rgbnir"] == [1, 0, 2, 1] and "has no GeoTIFF" in result.output
        assert image(tmp_path, "N40E029").read_bytes() == new
        missing = rows(tmp_path / "S2RGB_2021" / "missing.csv")
        assert [row[0] for row in missing[1:]] == ["N41E029", "N41E030"]
        result = run(site, tmp_path, *more, "--image-collection", "wrong", env=ACCOUNT)
        assert result.exit_code == 1 and "check --image-collection" in result.output


def test_terrascope_with_only_sea_in_the_area_fetches_the_other_product(tmp_path):
    box = ("29.2", "40.2", "29.5", "40.5")
    with Loopback() as site:
        terrascope(site, Keycloak(), ("N41E030",), ("N39E027",))
        for collection in ("s2rgbnir", "map"):
            site.answers[f"/collections/esa-worldcover-{collection}-10m-2021-v2"] = lambda request: (200, {})
        result = run(site, tmp_path, "--source", "terrascope", box=box, env=ACCOUNT)
    assert table(result.output) == {"rgbnir": [0, 0, 0, 1], "map": [1, 0, 0, 0]}
    assert result.exit_code == 1 and "open sea" in result.output and not list(tmp_path.rglob("missing.csv"))


def test_a_file_that_the_catalogue_has_and_the_server_not_has_failed(tmp_path):
    with Loopback() as site:
        del site.files[terrascope(site, Keycloak(), ("N40E029",), ())["N40E029"]]
        result = run(site, tmp_path, "--source", "terrascope", "--products", "rgbnir", box=ONE, env=ACCOUNT)
    assert result.exit_code == 1 and table(result.output)["rgbnir"] == [0, 0, 0, 1] and "HTTP 404" in result.output


def test_tokens_are_renewed_before_they_lapse_and_once_on_a_401(tmp_path):
    keycloak = Keycloak(life=1.0)
    with Loopback() as site:
        terrascope(site, keycloak)
        site.chunk, site.pause = 8192, 0.03
        result = run(site, tmp_path, "--source", "terrascope", "--connections", 1, env=ACCOUNT)
        assert result.exit_code == 0, result.output
        assert keycloak.grants[0] == "password" and set(keycloak.grants[1:]) == {"refresh_token"}
        assert 401 not in site.statuses
    keycloak = Keycloak()
    with Loopback() as site:
        paths = terrascope(site, keycloak, ("N40E029",), ())
        site.faults[paths["N40E029"]].append(Fault(status=401))
        result = run(site, tmp_path / "b", "--source", "terrascope", "--products", "rgbnir", box=ONE, env=ACCOUNT)
        assert result.exit_code == 0 and keycloak.grants == ["password", "refresh_token"]


def test_lapsed_refresh_token_falls_back_to_the_password(tmp_path):
    keycloak = Keycloak(refresh_life=300)
    with Loopback() as site:
        paths = terrascope(site, keycloak, ("N40E029",), ())
        honest = keycloak.answer

        def forgetful(request: Request):
            keycloak.refreshes.clear()  # the session was ended on the server
            return honest(request)

        site.answers["/token"] = forgetful
        site.faults[paths["N40E029"]].append(Fault(status=401))
        result = run(site, tmp_path, "--source", "terrascope", "--products", "rgbnir", box=ONE, env=ACCOUNT)
    assert result.exit_code == 0 and keycloak.grants == ["password", "refresh_token", "password"]


def test_threads_share_one_renewal(tmp_path):
    keycloak = Keycloak()
    with Loopback() as site:
        terrascope(site, keycloak)
        run(site, tmp_path, "--source", "terrascope", "--connections", 6, env=ACCOUNT)
    assert keycloak.grants == ["password"]


@pytest.mark.parametrize("name", list(ACCOUNT))
def test_missing_account_is_a_usage_error(bucket, tmp_path, name):
    result = run(bucket, tmp_path, "--source", "terrascope", env={**ACCOUNT, name: None})
    assert result.exit_code == 2 and name in result.output and bucket.requests == [] and tree(tmp_path) == {}


def test_refused_account_stops_at_once(tmp_path):
    keycloak = Keycloak()
    with Loopback() as site:
        terrascope(site, keycloak)
        env = {**ACCOUNT, "TERRASCOPE_PASSWORD": "wr0ng-one"}
        result = run(site, tmp_path, "--source", "terrascope", "--connections", 1, env=env)
        assert result.exit_code == 1 and "Invalid user credentials" in result.output and "wr0ng" not in result.output
        assert keycloak.grants == ["password"] and "Error: TERRASCOPE_USERNAME or" in result.output.splitlines()[-1]
        assert table(result.output) == {"rgbnir": [0, 0, 0, 0, 4], "map": [0, 0, 0, 0, 2]}


@pytest.mark.parametrize("status", [401, 403])
def test_a_file_that_the_account_may_not_have_fails_alone(tmp_path, status):
    with Loopback() as site:
        path = terrascope(site, Keycloak())["N40E029"]
        site.faults[path].extend(Fault(status=status, method="any") for _ in range(9))
        result = run(site, tmp_path, "--source", "terrascope", env=ACCOUNT)
    assert result.exit_code == 1 and f"HTTP {status}" in result.output
    assert table(result.output) == {"rgbnir": [3, 0, 0, 1], "map": [2, 0, 0, 0]}


@pytest.mark.parametrize("token", ["abc\r\nX: secret", "secret\u20ac", "", 7, None])
def test_an_unusable_token_is_not_shown(tmp_path, token):
    with Loopback() as site:
        terrascope(site, Keycloak())
        site.answers["/token"] = lambda request: (200, {"access_token": token, "expires_in": 300})
        result = run(site, tmp_path, "--source", "terrascope", env=ACCOUNT)
    assert result.exit_code == 1 and "Error: --token-url" in result.output and "secret" not in result.output


def test_a_programming_error_names_the_file_and_hides_its_address(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)  # it would only draw the traceback
    product = raw_tiles.RGBNIR
    job = tile_plan.bucket_jobs(product, ["N40E029"], 2021, "https://h/?signature=secret", tmp_path)[0]
    with pytest.raises(RuntimeError, match="N40E029") as caught:
        in_threads(lambda job: 1 / 0, [job], 1, threading.Event())
    assert "secret" not in str(caught.value)


def test_password_never_travels_unencrypted(bucket, tmp_path):
    result = run(bucket, tmp_path, "--source", "terrascope", "--token-url", "http://sso.example.org/t", env=ACCOUNT)
    assert result.exit_code == 1 and "--token-url" in result.output and "unencrypted" in result.output


def test_netrc_is_not_consulted(bucket, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login eve password oops\n")
    run(bucket, tmp_path / "out", env={"NETRC": str(tmp_path / "netrc")})
    assert bucket.requests and not any("Authorization" in r.headers for r in bucket.requests)


def test_malformed_parts_of_a_catalogue_are_passed_over_and_relative_addresses_resolved(tmp_path):
    """A mirror of static pages: its addresses are relative to the item's own, or else to the page it came on."""
    with Loopback() as site:
        terrascope(site, Keycloak(), IMAGES[:2], ())
        first, second = site.catalogue.items
        text = json.dumps(first).replace(f"{site.url}/download/", "../../download/")
        first = {**json.loads(text), "links": ["self", {"rel": "self", "href": "/items/one/item.json"}]}
        text = json.dumps(second).replace(f"{site.url}/download/", "download/")
        second = {**json.loads(text), "links": "none", "properties": ["none"]}
        broken = [
            "item",
            {"id": "x", "bbox": ["29", "40", "30", "41"]},
            {"id": "x", "bbox": [float("nan"), 40, 30, 41], "assets": {}},
            {"id": "N41E029", "assets": ["list"], "links": [None]},
            {"id": "N41E030", "assets": {"a": "text", "b": {"href": 5, "roles": 5, "alternate": "x"}}},
        ]
        features = [*broken, first, second]
        site.answers["/search"] = lambda request: (200, {"features": features, "links": ["next", {"rel": 1}]})
        result = run(site, tmp_path, "--source", "terrascope", "--products", "rgbnir", env=ACCOUNT)
    assert table(result.output) == {"rgbnir": [2, 0, 0, 2]} and "has no GeoTIFF" in result.output


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda request: (500, {}), "HTTP 500"),
        (lambda request: (200, ["no", "catalogue"]), "as a STAC API does"),
        (lambda request: (200, {"features": [], "links": [{"rel": "next", "href": "/search?a=1"}]}), "again and again"),
    ],
)
def test_bad_catalogues(tmp_path, answer, told):
    with Loopback() as site:
        site.answers["/search"] = answer
        result = run(site, tmp_path, "--source", "terrascope", env=ACCOUNT)
    assert result.exit_code == 1 and told in result.output and "--stac-url" in result.output


# The published dataset


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def mask_of(*labels: int) -> np.ndarray:
    """Return an RGB mask (4, 4, 3) whose pixels are `labels`, each as often."""
    return COLORS[np.repeat(labels, 16 // len(labels)).reshape(4, 4)]


def zip_of(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


IMAGE = png(np.zeros((4, 4, 3), np.uint8))
ZIPS = {
    "train.zip": zip_of({"train/images/a.png": IMAGE, "train/masks/a.png": png(mask_of(0, 1, 2, 6)), "train/": b""}),
    "val.zip": zip_of({"ARAS400k/val/images/b.png": IMAGE, "ARAS400k/val/masks/b.png": png(mask_of(3, 3, 3, 4))}),
    "test.zip": zip_of({"images/c.png": IMAGE, "masks/c.png": png(mask_of(5)), "__MACOSX/images/._c.png": b"x"}),
    "synth.zip": zip_of(
        {
            "synth/images/d.png": IMAGE,
            "synth/masks/d.png": png(mask_of(1)),
            "synth/class_percentages/synth.csv": b"kept\n",
        }
    ),
}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def zenodo(site: Loopback, folder: Path, zips: dict[str, bytes], shape: str = "new") -> tuple[str, ...]:
    """Make `site` a Zenodo with these zips; return the options that go with it."""
    files = []
    for name, content in zips.items():
        path = f"/api/records/18890661/files/{name}/content"
        site.files[path] = content
        if shape == "new":
            links = {"self": site.url + path}
            files.append({"key": name, "size": len(content), "checksum": "md5:" + md5(content), "links": links})
        else:
            links = {"self": site.url + "/api/metadata", "download": site.url + path}
            files.append({"filename": name, "filesize": len(content), "checksum": md5(content), "links": links})
    record = {"entries": files} if shape == "entries" else {"id": 18890661, "files": files}
    site.answers["/api/records/18890661"] = lambda request: (200, record)
    sums = folder / "sums.md5"
    sums.write_text("".join(f"{md5(content)}  {name}\n" for name, content in zips.items()))
    return "--published", "--checksums", str(sums)


@pytest.mark.parametrize("shape", ["new", "old", "entries"])
def test_published(tmp_path, shape):
    out = tmp_path / "out"
    with Loopback() as site:
        options = zenodo(site, tmp_path, ZIPS, shape)
        result = run(site, out, *options, box=())
        assert result.exit_code == 0, result.output
        assert table(result.output) == {"zip": [4, 0, 0, 0]}
        data = out / "ARAS400k"
        patches = {"train": "a", "val": "b", "test": "c", "synth": "d"}
        assert {name for name in tree(data) if "/" in name} == {
            *(f"{split}/{room}/{name}.png" for split, name in patches.items() for room in ("images", "masks")),
            *(f"class_percentages/{split}.csv" for split in patches),
        }
        assert (data / "train/masks/a.png").read_bytes() == png(mask_of(0, 1, 2, 6))
        assert rows(data / "class_percentages/train.csv") == [
            ["filename", "Tree", "Shrub", "Grass", "Crop", "Built-up", "Barren", "Water"],
            ["a.png", "25.0", "25.0", "25.0", "0.0", "0.0", "0.0", "25.0"],
        ]
        assert rows(data / "class_percentages/val.csv")[1][4:6] == ["75.0", "25.0"]
        assert (data / "class_percentages/synth.csv").read_text() == "kept\n"

        before, times = tree(out), {p: p.stat().st_mtime_ns for p in data.rglob("*.png")}
        site.requests.clear()
        again = run(site, out, *options, box=())
        assert again.exit_code == 0 and table(again.output) == {"zip": [0, 4, 0, 0]}
        assert site.requests == [] and "MD5 of" not in again.output  # neither fetched nor hashed again
        assert tree(out) == before and times == {p: p.stat().st_mtime_ns for p in data.rglob("*.png")}

        (data / "val/masks/b.png").write_bytes(b"")
        (out / "train.zip").unlink()  # unpacked already: not fetched for nothing
        assert run(site, out, *options, box=()).exit_code == 0 and site.requests == []
        after = tree(out)
        assert after == {name: digest for name, digest in before.items() if name != "train.zip"}

    result = run(site, out, "--verify", *options[1:], box=())
    assert result.exit_code == 1 and "train.zip: missing" in result.output and "val.zip: OK" in result.output
    (out / "train.zip").write_bytes(ZIPS["train.zip"])
    assert run(site, out, "--verify", *options[1:], box=()).exit_code == 0
    (out / "val.zip").write_bytes(ZIPS["val.zip"][:-1] + b"?")
    result = run(site, out, "--verify", *options[1:], box=())
    assert result.exit_code == 1 and "val.zip: BAD" in result.output


def test_published_dry_run_writes_nothing(tmp_path):
    with Loopback() as site:
        result = run(site, tmp_path / "out", *zenodo(site, tmp_path, ZIPS), "--dry-run", box=())
    assert result.exit_code == 0 and "zip: 4 files" in result.output and not (tmp_path / "out").exists()


def test_percentages_are_computed_although_the_zip_was_deleted(tmp_path):
    with Loopback() as site:
        options = zenodo(site, tmp_path, ZIPS)
        run(site, tmp_path, *options, box=())
        before = tree(tmp_path / "ARAS400k/class_percentages")
        for name in ("train.zip", "ARAS400k/class_percentages/train.csv", "ARAS400k/class_percentages/val.csv"):
            (tmp_path / name).unlink()
        site.requests.clear()
        assert run(site, tmp_path, *options, box=()).exit_code == 0 and site.requests == []
    assert tree(tmp_path / "ARAS400k/class_percentages") == before


@pytest.mark.parametrize("zip_is_there", [True, False])
def test_a_lost_file_is_noticed_whatever_else_lies_there(tmp_path, zip_is_there):
    with Loopback() as site:
        options = zenodo(site, tmp_path, ZIPS)
        run(site, tmp_path, *options, box=())
        lost = tmp_path / "ARAS400k/train/images/a.png"
        lost.unlink()
        lost.with_name("x.txt").write_text("mine")
        if not zip_is_there:
            (tmp_path / "train.zip").unlink()
        result = run(site, tmp_path, *options, box=())
    assert result.exit_code == 0 and lost.read_bytes() == IMAGE and lost.with_name("x.txt").exists()
    assert ("train/images/a.png is lost" in result.output) is not zip_is_there


def test_dry_run_does_not_trust_a_zip_that_was_never_compared(tmp_path):
    with Loopback() as site:
        options = zenodo(site, tmp_path, ZIPS)
        run(site, tmp_path, *options, box=())
        (tmp_path / "val.zip").write_bytes(b"garbage")
        before = tree(tmp_path)
        result = run(site, tmp_path, *options, "--dry-run", box=())
    assert "3 present" in result.output and "1 to fetch" in result.output and tree(tmp_path) == before
    assert "val.zip does not count as present: its MD5 was not compared yet" in result.output


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("val/images/a.png", "is not of train"),
        ("ARAS400k/test/readme.txt", "is not of train"),
        ("train/images/a.png/b.png", "cannot be written"),
        (f"train/images/{'a' * 300}.png", "cannot be written"),
    ],
    ids=["another split", "another split below", "file and folder", "overlong"],
)
def test_an_entry_that_cannot_be_placed_fails_its_zip_only(tmp_path, name, told):
    zips = {"train.zip": zip_of({"train/images/a.png": IMAGE, name: IMAGE}), "val.zip": ZIPS["val.zip"]}
    with Loopback() as site:
        result = run(site, tmp_path, *zenodo(site, tmp_path, zips), box=())
    assert result.exit_code == 1 and table(result.output) == {"zip": [1, 0, 0, 1]}
    assert told in result.output.splitlines()[-1] and "train.zip" in result.output.splitlines()[-1]
    assert (tmp_path / "ARAS400k/val/images/b.png").exists() and not list(tmp_path.rglob("*.part"))


def test_bad_zip_on_disk_is_replaced_and_a_bad_one_on_the_server_fails(tmp_path):
    zips = {name: ZIPS[name] for name in ("train.zip", "val.zip")}
    out = tmp_path / "out"
    out.mkdir()
    (out / "train.zip").write_bytes(b"old")
    with Loopback() as site:
        options = zenodo(site, tmp_path, zips)
        path = "/api/records/18890661/files/val.zip/content"
        site.faults[path].extend([Fault(replace=ZIPS["val.zip"].replace(b"PNG", b"GIF"))] * 2)
        result = run(site, out, *options, box=())
        assert result.exit_code == 1 and table(result.output) == {"zip": [1, 0, 0, 1]}
        assert "train.zip does not count as present" in result.output and "MD5" in result.output
        assert (out / "train.zip").read_bytes() == zips["train.zip"] and not (out / "val.zip").exists()
        assert [row[0] for row in rows(out / "ARAS400k" / "failures.csv")] == ["file", "val.zip"]
        assert run(site, out, *options, box=()).exit_code == 0
        assert not (out / "ARAS400k" / "failures.csv").exists()


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "C:\\evil.png", "images/..\\..\\evil.png", "link"])
def test_entries_that_leave_the_folder_are_refused(tmp_path, name):
    info = zipfile.ZipInfo(name)
    if name == "link":
        info.create_system, info.external_attr = 3, 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train/images/a.png", IMAGE)
        archive.writestr(info, b"/etc/passwd")
    out = tmp_path / "deep" / "out"
    with Loopback() as site:
        result = run(site, out, *zenodo(site, tmp_path, {"train.zip": buffer.getvalue()}), box=())
    assert result.exit_code == 1 and "not to be trusted" in result.output and "train.zip" in result.output
    assert not list(tmp_path.rglob("*evil*")) and not list(tmp_path.rglob("*.png"))


def test_other_checksums_no_record_and_own_dataset_stop_before_any_work(tmp_path):
    with Loopback() as site:
        options = zenodo(site, tmp_path, ZIPS)
        (tmp_path / "sums.md5").write_text("0" * 32 + "  train.zip\n")
        result = run(site, tmp_path / "a", *options, box=())
        assert result.exit_code == 1 and "--checksums says 0000" in result.output
        (tmp_path / "sums.md5").write_text("nonsense\n")
        assert "line 1: not a line of md5sum" in run(site, tmp_path / "a", *options, box=()).output
        del site.answers["/api/records/18890661"]
        (tmp_path / "sums.md5").write_text("0" * 32 + "  train.zip\n")
        result = run(site, tmp_path / "a", *options, box=())
        assert result.exit_code == 1 and "--zenodo-url" in result.output and "HTTP 404" in result.output
        (tmp_path / "b" / "ARAS400k").mkdir(parents=True)
        (tmp_path / "b" / "ARAS400k" / "run.json").write_text("{}")
        result = run(site, tmp_path / "b", *options, box=())
        assert result.exit_code == 1 and "dataset_creator.py made" in result.output
        assert not any(path.endswith("content") for path in site.asked())


def test_unreadable_masks_have_no_row_and_are_tried_again(tmp_path):
    good = png(mask_of(2))
    zips = {"train.zip": zip_of({"train/masks/a.png": good, "train/masks/b.png": png(np.ones((4, 4, 3), np.uint8))})}
    with Loopback() as site:
        options = zenodo(site, tmp_path, zips)
        for _ in range(2):
            result = run(site, tmp_path / "out", *options, box=())
            assert result.exit_code == 1 and "1 masks of train cannot be read" in result.output
            data = tmp_path / "out" / "ARAS400k"
            assert [row[0] for row in rows(data / "class_percentages/train.csv")] == ["filename", "a.png"]
            assert "train/masks/b.png" in (data / "failures.csv").read_text()


def test_interrupted_unpacking_goes_on(tmp_path):
    with Loopback() as site:
        options = zenodo(site, tmp_path, ZIPS)
        run(site, tmp_path / "whole", *options, box=())
        run(site, tmp_path / "cut", *options, box=())
        data = tmp_path / "cut" / "ARAS400k"
        state = json.loads((data / "published.json").read_text())
        del state["train.zip"]["unpacked"]
        (data / "published.json").write_text(json.dumps(state))
        (data / "train/images/a.png").unlink()
        mask = (data / "train/masks/a.png").read_bytes()
        (data / "train/masks/a.png").write_bytes(mask[:-1] + b"?")  # right size, wrong content
        (data / "train/masks/a.png.part").write_bytes(b"half")
        run(site, tmp_path / "cut", *options, box=())
    whole, cut = tree(tmp_path / "whole"), tree(tmp_path / "cut")
    del whole["ARAS400k/published.json"], cut["ARAS400k/published.json"]  # times of change are in it
    assert whole == cut


# Processes


def start(site: Loopback, outdir: Path, *more: str, **options) -> subprocess.Popen:
    """Start the script as its users do."""
    urls = ("--s2-url", site.url, "--map-url", site.url, "--bbox", *BOX)
    command = [sys.executable, str(SCRIPT), *urls, "--outdir", str(outdir), *QUICK, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_run_is_resumed_to_identical_files(bucket, tmp_path):
    path = path_of("N41E030", "S2RGBNIR")
    bucket.chunk = 4096
    bucket.faults[path].append(Fault(cut=40_000, stall=30))
    process = start(bucket, tmp_path)
    part = image(tmp_path, "N41E030").with_name(Path(path).name + ".part")
    wait_for(lambda: part.exists() and part.stat().st_size > 20_000)
    process.kill()
    process.wait()
    assert run(bucket, tmp_path).exit_code == 0
    request = [r for r in bucket.requests if r.path == path and r.method == "GET"][-1]
    assert int(request.headers["Range"][6:-1]) > 20_000
    run(bucket, tmp_path / "other")
    assert tree(tmp_path / "other") == {n: d for n, d in tree(tmp_path).items() if not n.startswith("other")}


def test_ctrl_c_ends_promptly_and_keeps_the_part(bucket, tmp_path):
    path = path_of("N41E030", "S2RGBNIR")
    bucket.faults[path].append(Fault(cut=40_000, stall=60))
    process = start(bucket, tmp_path)
    part = image(tmp_path, "N41E030").with_name(Path(path).name + ".part")
    wait_for(lambda: part.exists() and part.stat().st_size == 40_000)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=15)[0]
    assert process.returncode == 1 and time.monotonic() - started < 5
    assert table(output)["rgbnir"][-1] >= 1
    assert "Aborted!" in output and "Traceback" not in output and part.stat().st_size == 40_000


def test_full_disk_is_one_line_and_keeps_what_is_there(bucket, tmp_path):
    limit = len(bucket.files[path_of("N40E029", "S2RGBNIR")]) // 2
    process = start(bucket, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 1 and "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("Error: ") and "File too large" in output
    assert len(table(output)["rgbnir"]) == 5  # some are unfinished
    assert run(bucket, tmp_path).exit_code == 0 and len(tree(tmp_path)) == 6


def test_help_is_quick_and_importing_does_nothing():
    code = (
        "import sys, dataset_downloader;"
        "print({'requests', 'rasterio', 'shapely', 'numpy', 'torch', 'tqdm', 'PIL'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


@pytest.mark.slow
def test_kill_campaign(tmp_path):
    """Kill the run at 25 random moments under random faults, until it ends well; the files are those of a quiet run."""
    rng = random.Random(7)
    with Loopback() as site:
        fill(site, (*IMAGES[:3],))  # N41E030 is open sea
        run(site, tmp_path / "quiet")
        site.chunk, site.pause = 2048, 0.01
        for _ in range(25):
            for path in site.files:
                site.faults[path].append(rng.choice([Fault(), Fault(cut=rng.randrange(60_000)), Fault(status=500)]))
            process = start(site, tmp_path / "killed", "--connections", "3")
            time.sleep(rng.uniform(0.3, 2.5))
            process.kill()
            process.wait()
        site.faults.clear()
        assert run(site, tmp_path / "killed").exit_code == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "quiet")


@pytest.mark.slow
def test_kill_campaign_of_the_published(tmp_path):
    rng = random.Random(8)
    noise = np.random.default_rng(0)
    entries = {}
    for number in range(1500):
        entries[f"images/{number:05d}.png"] = noise.bytes(2000)
        entries[f"masks/{number:05d}.png"] = png(mask_of(*noise.integers(0, 7, 4)))
    with Loopback() as site:
        options = zenodo(site, tmp_path, {"train.zip": zip_of(entries), "val.zip": ZIPS["val.zip"]})
        run(site, tmp_path / "quiet", *options, box=())
        site.chunk, site.pause = 65536, 0.02
        for _ in range(15):
            command = [
                sys.executable,
                str(SCRIPT),
                "--zenodo-url",
                site.url,
                "--outdir",
                str(tmp_path / "killed"),
                *options,
            ]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.3, 2.5))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert run(site, tmp_path / "killed", *options, box=()).exit_code == 0
    quiet, killed = tree(tmp_path / "quiet"), tree(tmp_path / "killed")
    del quiet["ARAS400k/published.json"], killed["ARAS400k/published.json"]
    assert quiet == killed
