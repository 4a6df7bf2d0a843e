"""Which version of which file an answer or a `.part` is of, so that only what belongs together is joined."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aras.downloading.addresses import shown, whole_number
from aras.errors import UserError
from aras.files import part_path, read_json

if TYPE_CHECKING:
    from requests import Response

PARTIAL_CONTENT = 206


@dataclass(frozen=True)
class Origin:
    """Which version of which file a `.part` is the beginning of."""

    url: str
    validator: str | None  # strong ETag or Last-Modified; None: it cannot be resumed
    size: int | None
    md5: str | None = None  # in hexadecimal, where the server tells it

    @classmethod
    def of_response(cls, url: str, response: Response) -> Origin:
        """Return the origin of the whole file that `response` begins."""
        size = None if is_encoded(response) else whole_number(response.headers.get("Content-Length"))
        return cls(shown(url), validator(response), size, md5_by_s3(response))

    @classmethod
    def read(cls, path: Path) -> Origin | None:
        """Return what is known of the `.part` of `path`; None when nothing is."""
        try:
            return cls(**read_json(origin_path(path)))
        except (FileNotFoundError, UserError, TypeError):
            return None  # a .part of unknown origin is started anew, which is always right


def origin_path(path: Path) -> Path:
    """Return where the origin of the `.part` of `path` is kept."""
    return part_path(path.with_name(path.name + ".origin"))


def md5_by_s3(response: Response) -> str | None:
    """Return the MD5 that S3 gives as ETag of what was uploaded in one piece and is not encrypted by a key of its own.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    told = response.headers
    own_key = told.get("x-amz-server-side-encryption", "AES256") != "AES256"
    own_key |= "x-amz-server-side-encryption-customer-algorithm" in told
    if told.get("Server") != "AmazonS3" or own_key or is_encoded(response):
        return None
    found = re.fullmatch('"([0-9a-f]{32})"', told.get("ETag", ""))
    return found[1] if found else None


def range_total(response: Response) -> int | None:
    """Return the bytes of the whole file of which `response` is a range; None when it does not tell."""
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return None if is_encoded(response) else whole_number(total)


def continues(response: Response, held: int, known: Origin) -> bool:
    """Return whether `response` goes on at byte `held` of the version `known`."""
    if response.status_code != PARTIAL_CONTENT or is_encoded(response):
        return False
    if validator(response) not in (None, known.validator):
        return False
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    return span.startswith(f"{held}-") and (known.size is None or total in ("*", str(known.size)))


def validator(response: Response) -> str | None:
    """Return what an If-Range can name the version by: a strong ETag or else Last-Modified.

    There is none of a body that is compressed on its way: its ranges are not those of the file.
    """
    tag = response.headers.get("ETag", "")
    if is_encoded(response):
        return None
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def is_encoded(response: Response) -> bool:
    """Return whether the body is compressed on its way, although we ask for it as it is."""
    return response.headers.get("Content-Encoding", "identity") != "identity"
