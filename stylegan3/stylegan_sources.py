"""Where images lie: a folder or a zip, both a sorted list of names and the bytes behind each."""

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from stylegan_errors import StyleganError

LABELS = "dataset.json"  # at the root of a folder or zip

LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip's member: signature, lengths of its name and of what is extra
ENCRYPTED = 0x1  # flag of a zip's member


@cache
def suffixes() -> frozenset[str]:
    """Return the file name extensions, lower case, of the formats that Pillow reads."""
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def is_image(name: str) -> bool:
    """Return whether `name` is that of an image and not hidden, as the twins that macOS puts into zips are."""
    path = PurePosixPath(name)
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in suffixes() and not hidden


def sorted_names(names: Iterable[str]) -> np.ndarray:
    """Return the images among `names` in order, as one array: workers that are forked need no copy of it."""
    return np.array(sorted(name for name in names if is_image(name)), dtype=np.str_)


def stamp_of(parts: Iterable[object]) -> str:
    """Return a hexadecimal digest of `parts`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


class FolderSource:
    """The images below a folder, by their paths from it with forward slashes."""

    def __init__(self, path: Path):
        self.path = path
        here = ((Path(folder).relative_to(path), files) for folder, _, files in os.walk(path))
        self.names = sorted_names((folder / file).as_posix() for folder, files in here for file in files)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`, or raise `StyleganError`."""
        try:
            return (self.path / self.names[index]).read_bytes()
        except OSError as error:
            raise StyleganError(f"{self.where(index)} cannot be read ({error.strerror})") from None

    def where(self, index: int) -> str:
        """Return the path of image `index` for people to read."""
        return str(self.path / self.names[index])

    def labels(self) -> bytes | None:
        """Return dataset.json, if there is one."""
        path = self.path / LABELS
        return path.read_bytes() if path.is_file() else None

    def stamp(self) -> str:
        """Return what changes when an image is added, removed or written again."""
        found = ((self.path / name).stat() for name in self.names)
        told = ((name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(self.names.tolist(), found, strict=True))
        return stamp_of(told)


class ListSource(FolderSource):
    """The images that a text file names, one path a line from the file's own folder, in the order given."""

    def __init__(self, path: Path):
        self.path = path.parent
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise StyleganError(f"{path} is not a readable list of images ({error})") from None
        self.names = np.array([line for line in lines if line], dtype=np.str_)
        if not len(self.names):
            raise StyleganError(f"{path} names no images; write one path a line")


class ZipSource:
    """The images in a zip whose members are stored or deflated, read in place and never extracted.

    The table of contents is kept as arrays, and members are read by position: many processes may share one open file,
    and none of them holds a table of its own.
    """

    def __init__(self, path: Path):
        self.path = path
        self.file: int | None = None
        try:
            with zipfile.ZipFile(path) as archive:
                members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
        except (zipfile.BadZipFile, OSError) as error:
            raise StyleganError(f"{path} is not a readable zip ({error})") from None
        self.names = sorted_names(members)
        used = [members[name] for name in self.names.tolist()]
        self.table = members.get(LABELS)
        for member in [*used, self.table] if self.table else used:
            refuse_member(member, path)
        self.offsets = np.array([member.header_offset for member in used], np.int64)
        self.sizes = np.array([(member.compress_size, member.file_size) for member in used], np.int64).reshape(-1, 2)
        self.sums = np.array([member.CRC for member in used], np.int64)
        self.deflated = np.array([member.compress_type == zipfile.ZIP_DEFLATED for member in used], bool)

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, object]:
        """Leave the open file behind: another process opens its own."""
        return self.__dict__ | {"file": None}

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`, or raise `StyleganError`."""
        packed, size = self.sizes[index].tolist()
        place = int(self.offsets[index]), packed, size, int(self.sums[index]), bool(self.deflated[index])
        return self.member(self.where(index), *place)

    def where(self, index: int) -> str:
        """Return the path of image `index` for people to read."""
        return f"{self.path}/{self.names[index]}"

    def labels(self) -> bytes | None:
        """Return dataset.json, if there is one."""
        if self.table is None:
            return None
        place = self.table.header_offset, self.table.compress_size, self.table.file_size, self.table.CRC
        return self.member(f"{self.path}/{LABELS}", *place, self.table.compress_type == zipfile.ZIP_DEFLATED)

    def stamp(self) -> str:
        """Return what changes when the zip does."""
        stat = self.path.stat()
        return stamp_of([(stat.st_size, stat.st_mtime_ns)])

    def member(self, where: str, offset: int, packed: int, size: int, checksum: int, deflated: bool) -> bytes:
        """Return the `size` bytes that lie at `offset` in `packed` bytes, or raise `StyleganError` naming `where`."""
        if self.file is None:
            self.file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            signature, name, extra = LOCAL_HEADER.unpack(os.pread(self.file, LOCAL_HEADER.size, offset))
            content = os.pread(self.file, packed, offset + LOCAL_HEADER.size + name + extra)
            if deflated:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, max(size, 1))  # 0 would be no limit
        except (OSError, struct.error, zlib.error) as error:
            raise StyleganError(f"{where} is damaged ({error})") from None
        if signature != b"PK\x03\x04" or len(content) != size or zlib.crc32(content) != checksum:
            raise StyleganError(f"{where} is damaged: its bytes are not those that the zip tells of")
        return content


def refuse_member(member: zipfile.ZipInfo, path: Path) -> None:
    """Raise `StyleganError` if `member` of the zip `path` cannot be read, or points outside it."""
    name = PurePosixPath(member.filename)
    if name.is_absolute() or ".." in name.parts:
        raise StyleganError(f"{path} has a member {member.filename!r} that points outside it; make the zip again")
    if member.flag_bits & ENCRYPTED:
        raise StyleganError(f"{path}/{member.filename} is encrypted; make the zip without a password")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise StyleganError(f"{path}/{member.filename} is neither stored nor deflated; make the zip with one of them")


Source = FolderSource | ZipSource


def open_source(path: Path, option: str = "--data") -> Source:
    """Return the images of the folder or zip `path`.

    Raises:
        StyleganError: it is neither, is not readable, or has no images; `option` is the one that named it.
    """
    if path.is_dir():
        source: Source = FolderSource(path)
    elif path.suffix.lower() == ".zip" and path.is_file():
        source = ZipSource(path)
    else:
        told = "" if path.exists() else f", and {path} does not exist"
        raise StyleganError(f"{option}: Path must point to a directory or zip{told or f', not {path}'}")
    if not len(source):
        raise StyleganError(f"{option}: No image files found in the specified path {path}")
    return source
