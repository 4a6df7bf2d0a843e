"""A segmenter small enough to draw in a test: weights on disk, beside a run.json that tells what they are."""

import json
from pathlib import Path

ENCODER = "tu-test_efficientnet"


def save_tiny_model(folder: Path, arch: str = "Unet", seed: int = 3, **options) -> Path:
    """Write best.pt and run.json, with more `options` if wanted, into `folder`; return best.pt."""
    import torch

    from aras.checkpoints import save_tensors
    from aras.segmenter import build_model

    torch.manual_seed(seed)
    save_tensors(folder / "best.pt", build_model(arch, ENCODER, "none").state_dict())
    (folder / "run.json").write_text(json.dumps({"options": {"arch": arch, "encoder": ENCODER} | options}))
    return folder / "best.pt"
