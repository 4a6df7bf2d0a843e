"""What an offline run of Weights & Biases left on disk, read back from its log.

The log is LevelDB's: blocks of 32 KiB with pieces of records, behind a header of 7 bytes.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER = 7  # of the file, and of each piece: checksum, length, kind
WHOLE, LAST = 1, 4  # kinds of pieces with which a record ends


@dataclass
class LoggedRun:
    """The project, the config, and a dict for each call of `log`; media among them are dicts that name `files`."""

    files: Path
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    x_axis: str = ""


def read_run(folder: Path) -> LoggedRun:
    """Return the only offline run below `folder`."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = LoggedRun(path.parent / "files")
    for record in records(path):
        found.project = found.project or record.run.project
        for update in (*record.run.config.update, *record.config.update):
            put(found.config, update)
        if record.WhichOneof("record_type") == "history":
            found.history.append({})
            for item in record.history.item:
                put(found.history[-1], item)
        found.x_axis = found.x_axis or record.metric.step_metric
    return found


def records(path: Path) -> Iterator[Any]:
    """Yield the records of the log at `path`."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole = path.read_bytes(), HEADER, b""
    assert content[:4] == b":W&B"
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block that holds no header is left empty
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (WHOLE, LAST):
            yield Record.FromString(whole)
            whole = b""


def put(into: dict[str, Any], item: Any) -> None:
    """Set the item's value, under one key or one below the other."""
    *above, last = item.nested_key or [item.key]
    for key in above:
        into = into.setdefault(key, {})
    into[last] = json.loads(item.value_json)
