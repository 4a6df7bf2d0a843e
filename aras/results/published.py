"""The paper's figures, read from published.toml, the one place where they are kept."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("published.toml")


@cache
def published() -> dict[str, Any]:
    """Return the paper's figures: `segmentation`, `fidelity`, `captions`; percent where nothing else is said."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))
