"""Every script: its help teaches, answers at once, and importing it does nothing."""

import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STYLEGAN = ROOT / "stylegan3"
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
SCRIPTS += sorted(f"stylegan3/{path.name}" for path in STYLEGAN.glob("*.py") if not path.name.startswith("stylegan"))
SLOW_IMPORTS = {
    "torch",
    "transformers",
    "segmentation_models_pytorch",
    "albumentations",
    "sklearn",
    "matplotlib",
    "wandb",
    "umap",
    "openTSNE",
    "numba",
    "openai",
    "ollama",
    "distributed",
    "ray",
}


def help_of(script):
    """Return the help text, the seconds it took (best of two: the first may find cold files), and what it imported."""
    took = []
    for _ in range(2):
        start = time.perf_counter()
        command = [sys.executable, "-X", "importtime", script, "--help"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        took.append(time.perf_counter() - start)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines()}
    return result.stdout, min(took), imported


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches_and_needs_no_torch(script):
    text, _, imported = help_of(script)
    for word in ("Reads", "Writes", "Example", "To resume, run the same command again."):
        assert word in " ".join(text.split()), f"{script} --help lacks {word}"
    assert not imported & SLOW_IMPORTS
    assert "default: None" not in text
    assert "\\b" not in text


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_in_under_a_second(script):
    assert help_of(script)[1] < 1.0


@pytest.mark.parametrize("script", SCRIPTS)
def test_importing_a_script_writes_and_prints_nothing(script, tmp_path):
    path = ROOT / script
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(path.parent)!r}); import {path.stem}"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_checksums_are_what_md5sum_reads(tmp_path):
    """md5sum -c beside the zips works: shown with files of our own, since the real ones are 100 GB."""
    lines = (ROOT / "checksums.md5").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["train.zip", "val.zip", "test.zip", "synth.zip"]
    assert all(re.fullmatch(r"[0-9a-f]{32}  \w+\.zip", line) for line in lines)
    (tmp_path / "checksums.md5").write_text("\n".join(lines) + "\n")
    for line in lines:
        (tmp_path / line.split("  ")[1]).write_bytes(b"not the published zip")
    bad = subprocess.run(["md5sum", "-c", "checksums.md5"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert bad.stdout.count(": FAILED") == 4
    assert "improperly formatted" not in bad.stderr
    digest = hashlib.md5(b"not the published zip", usedforsecurity=False).hexdigest()
    (tmp_path / "checksums.md5").write_text("".join(f"{digest}{line[32:]}\n" for line in lines))
    subprocess.run(["md5sum", "-c", "checksums.md5"], cwd=tmp_path, capture_output=True, check=True)


def test_every_package_that_the_code_imports_is_pinned():
    import ast

    distribution = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "umap": "umap-learn"}
    distribution |= {"segmentation_models_pytorch": "segmentation-models-pytorch"}
    lists = [(ROOT / name).read_text() for name in ("requirements.txt", "requirements-cluster.txt")]
    pinned = set(re.findall(r"^([\w-]+)==", "\n".join(lists), re.M))
    local = {path.stem for folder in (ROOT, STYLEGAN) for path in folder.glob("*.py")}
    local |= {"aras", "runs", "benchmarks", "fake_world"}
    local.add("triton")  # comes with torch where there is one, and is done without elsewhere
    wanted = set()
    scripts = [path for folder in (ROOT, STYLEGAN, ROOT / "runs") for path in folder.glob("*.py")]
    for path in [*scripts, *(ROOT / "aras").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                wanted.add(node.module.split(".")[0])
    third_party = {distribution.get(name, name) for name in wanted - set(sys.stdlib_module_names) - local}
    assert third_party - pinned == set()
