"""The paper's figures, read from published.toml, the one place where they are kept."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

DEFAULT_MODEL = {"text": "qwen", "vision": "gemma", "hybrid": "qwen"}

FILE = Path(__file__).with_name("published.toml")


@cache
def published() -> dict[str, Any]:
    """Return the paper's figures: `segmentation`, `fidelity`, `captions`; percent where nothing else is said."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def paper_stream(stream: str) -> dict[str, Any] | None:
    """Return the paper's figures for a caption stream of this name, None when it has none of its kind.

    They are `redundancy` in percent and `clip`, CLIPScore. A stream that names no model, such as `text`, is that of the
    captioner's default model.
    """
    name = stream.lower()
    found = re.match(r"vision_language|hybrid|vision|text|language", name)
    if not found:
        return None
    kind = {"vision_language": "hybrid", "language": "text"}.get(found[0], found[0])
    model = next((model for model in ("gemma", "qwen") if model in name), None)
    is_plain = name == found[0]
    return stream_of(kind, model or DEFAULT_MODEL[kind]) if model or is_plain else None


def stream_of(kind: str | None, model: str) -> dict[str, Any] | None:
    """Return the paper's figures for captions of `kind` (text, vision, hybrid) by `model`, None when it has none."""
    streams = published()["captions"]["streams"]
    return next((one for one in streams if one["kind"] == kind and one["model"] in model.lower()), None)
