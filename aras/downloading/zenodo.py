"""The published zips: the Zenodo record that lists them, their checksums, and what is known of those on disk.

What is known (that a zip had its MD5, that it is unpacked) is kept in `published.json` in the dataset's folder, so that
a hundred gigabytes are hashed once and not on every run. https://developers.zenodo.org
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aras.downloading.addresses import joined, printable, shown
from aras.downloading.download import Damaged, md5_of
from aras.downloading.jobs import Job
from aras.downloading.web import Client
from aras.downloading.web_errors import SURVEY_TRIES, FetchError
from aras.errors import UserError
from aras.files import read_json, write_json

STATE = "published.json"
CHECKSUM_LINE = re.compile(r"([0-9a-fA-F]{32}) [ *](\S.*)")


@dataclass(kw_only=True)
class ZipJob(Job):
    """A published zip to have."""

    md5: str  # in hexadecimal

    def check(self, path: Path) -> None:
        """Raise `Damaged` unless the file at `path` has the published MD5."""
        found = md5_of(path)
        if found != self.md5:
            raise Damaged(f"{self.name} has the MD5 {found} instead of the published {self.md5}")


def read_checksums(path: Path) -> dict[str, str]:
    """Return {file name: MD5} from `path`, in md5sum's format.

    Raises:
        UserError: a line is something else, or there is none.
    """
    sums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = CHECKSUM_LINE.fullmatch(line.strip())
        if line.strip() and (not found or "/" in found[2]):
            raise UserError(f"{path}, line {number}: not a line of md5sum; restore the file from the repository")
        if found:
            sums[found[2]] = found[1].lower()
    if not sums:
        raise UserError(f"{path} names no file; restore it from the repository")
    return sums


def zip_jobs(sums: dict[str, str], outdir: Path) -> list[ZipJob]:
    """Return the jobs of the zips with these `sums`, {file name: MD5}."""
    return [ZipJob(name=name, group="zip", path=outdir / name, md5=md5) for name, md5 in sums.items()]


def locate(client: Client, url: str, jobs: list[ZipJob]) -> None:
    """Set the address and size of `jobs` from the Zenodo record at `url`, the API's JSON in its new or older shape.

    Raises:
        UserError: it is no record, or its checksums are not ours.
    """
    try:
        files = files_of_record(client.json("GET", url, SURVEY_TRIES))
    except FetchError as error:
        raise UserError(f"--zenodo-url: no record at {shown(url)}: {error}") from None
    for job in jobs:
        entry = files.get(job.name)
        if entry is None:
            job.fail(f"the record at {shown(url)} has no such file")
            continue
        links = entry.get("links")
        links = links if isinstance(links, dict) else {}
        job.url = joined(url, links.get("content") or links.get("download") or links.get("self"))
        if not job.url:
            job.fail(f"the record at {shown(url)} gives no address for it")
        size = entry.get("size", entry.get("filesize"))
        job.size = job.promised = size if isinstance(size, int) else None
        md5 = str(entry.get("checksum") or job.md5).split(":")[-1].lower()
        if md5 != job.md5:
            raise UserError(
                f"--checksums says {job.md5} for {job.name}, the record {printable(md5)}; get the repository's newest"
            )


def files_of_record(record: Any) -> dict[str, dict[str, Any]]:
    """Return the file entries, by name, of a Zenodo `record` or of its list of files.

    Raises:
        FetchError: it has none.
    """
    listed = record.get("files", record.get("entries")) if isinstance(record, dict) else None
    if isinstance(listed, dict):
        listed = listed.get("entries")
    if not isinstance(listed, list):
        raise FetchError("the answer is no record with files")
    return {str(entry.get("key") or entry.get("filename")): entry for entry in listed if isinstance(entry, dict)}


class State:
    """What earlier runs found out about the zips of the dataset at `data`."""

    def __init__(self, data: Path):
        self.path = data / STATE
        self.zips: dict[str, dict[str, Any]] = read_json(self.path) if self.path.exists() else {}
        if not isinstance(self.zips, dict) or not all(isinstance(known, dict) for known in self.zips.values()):
            raise UserError(f"{self.path} is not what an earlier run left; delete it, and the zips are checked anew")

    def verified(self, archive: Path, md5: str) -> bool:
        """Return whether `archive` is the file that had this `md5`, by its size and time of change."""
        known = self.zips.get(archive.name, {})
        return known.get("md5") == md5 and known.get("file") == _identity(archive)

    def set_verified(self, archive: Path, md5: str) -> None:
        """Remember that `archive` has this `md5`."""
        same = self.zips.get(archive.name, {}).get("md5") == md5
        known = self.zips[archive.name] if same else {}  # of another version, nothing that we knew holds
        self.zips[archive.name] = {**known, "md5": md5, "file": _identity(archive)}
        write_json(self.path, self.zips)

    def unpacked(self, name: str, md5: str) -> bool:
        """Return whether all that the zip `name` with this `md5` holds was put in place."""
        known = self.zips.get(name, {})
        return known.get("md5") == md5 and known.get("unpacked") is True

    def set_unpacked(self, name: str) -> None:
        """Remember that all that the zip `name` holds is in place."""
        self.zips[name]["unpacked"] = True
        write_json(self.path, self.zips)


def _identity(path: Path) -> list[int] | None:
    """Return what changes when `path` does: size and time of change in nanoseconds; None when it is absent."""
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else None
