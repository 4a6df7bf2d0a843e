"""Language models by transformers: from the hub, from a folder, or from a .gguf file.

No code of a model's repository is run. A token for the hub is taken from HF_TOKEN, and sent only when the hub refuses
without one.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aras.captions.batching import Asked, BatchSize, OutOfMemory, answers_in_batches
from aras.captions.loop import Answers, Generate
from aras.captions.prompts import Prompts
from aras.captions.sampling import NucleusSampler, draws_of
from aras.captions.work import Item
from aras.errors import UserError
from aras.training import choose_device, reachable

if TYPE_CHECKING:
    import torch

PACKAGES = ("transformers", "torch", "tokenizers", "pillow", "numpy")
WEIGHTS = {".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt"}
HUB = "https://huggingface.co"
SAMPLES, SAMPLE_BYTES = 64, 1 << 16
AUTO_BATCH = {"cpu": (4, 16), "cuda": (16, 128)}
"""`--batch-size auto`: what it begins with, and up to which it doubles."""

T = TypeVar("T")


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen: greedily at temperature 0, else by nucleus sampling."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        model: the hub's id, a folder, or a .gguf file.
        revision: of the hub; None for its default branch.
    """

    model: str
    revision: str | None

    @property
    def arguments(self) -> dict[str, Any]:
        """What transformers' `from_pretrained` takes."""
        path = Path(self.model)
        if path.suffix == ".gguf":
            return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        if path.is_dir():
            return {"pretrained_model_name_or_path": str(path)}
        return {"pretrained_model_name_or_path": self.model, "revision": self.revision}


def describe_model(source: Source) -> str:
    """Return the revision of the model: the hub's commit, or a digest of the files of a folder.

    Raises:
        UserError: it is not to be had.
    """
    path = Path(source.model)
    if path.exists():
        return digest_of_files([path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in WEIGHTS))
    if path.suffix == ".gguf" or path.is_absolute() or source.model.startswith((".", "~")):
        raise UserError(f"--model {source.model} is missing; check the path")
    if not reachable(os.environ.get("HF_ENDPOINT", HUB)):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # what is cached, at once, instead of half a minute of retries
    from transformers import AutoConfig

    config = fetched(source, AutoConfig.from_pretrained)
    return str(getattr(config, "_commit_hash", None) or source.revision or "unknown")


def digest_of_files(paths: list[Path]) -> str:
    """Return a digest of the names and sizes of `paths` and of samples of what is in them.

    Sixty-four places of 64 KiB a file tell any training from any other, in a second for a model of 16 GB.
    """
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for i in range(SAMPLES):
                file.seek(i * max(size - SAMPLE_BYTES, 0) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
                if size <= SAMPLE_BYTES:
                    break
    return digest.hexdigest()[:16]


def fetched(source: Source, from_pretrained: Callable[..., T], **more: Any) -> T:
    """Return what `from_pretrained` gives for `source`: first without a token, then with that of HF_TOKEN.

    Raises:
        UserError: the model is not to be had.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are no news: what fails is told below
    token = os.environ.get("HF_TOKEN")
    for attempt in (False, token) if token else (False,):
        try:
            return from_pretrained(**source.arguments, **more, token=attempt, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError, json.JSONDecodeError) as error:
            problem = error
            if cut_off(error):
                break
    told = "the hub cannot be reached, and it is not in the cache" if cut_off(problem) else in_short(problem)
    raise UserError(f"--model {source.model} cannot be loaded ({told}); {remedy(source)}") from None


def cut_off(error: BaseException) -> bool:
    """Return whether transformers tells by `error` that it had no answer from the hub."""
    return "couldn't connect" in str(error)


def remedy(source: Source) -> str:
    """Return what one can do about a model that cannot be loaded."""
    if Path(source.model).exists():
        return "it must be a folder with config.json, weights, tokenizer and chat template, or a .gguf file"
    return (
        "check its name and the network, accept its licence at the hub and set HF_TOKEN if it is gated, or name a"
        " folder that has it: --model FOLDER"
    )


def in_short(error: BaseException, most: int = 200) -> str:
    """Return what `error` says on one line of at most `most` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 3] + "..."


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of what `error` says."""
    return in_short(error).split(". ")[0]


class LanguageModel:
    """A chat model, with or without eyes.

    Attributes:
        model: the network, on its device.
        processor: tokenizer, or processor with tokenizer and image processor.
        eyes: whether it is given images.
    """

    def __init__(self, source: Source, eyes: bool, device: "torch.device", decoding: Decoding) -> None:
        """Load the model of `source`; bfloat16 on a GPU, float32 on a CPU.

        Raises:
            UserError: it cannot be loaded, or is of another kind.
        """
        import torch
        import transformers as hf

        hf.utils.logging.set_verbosity_error()
        hf.utils.logging.disable_progress_bar()
        self.eyes, self.decoding = eyes, decoding
        auto: Any = hf.AutoModelForImageTextToText if eyes else hf.AutoModelForCausalLM
        self.processor: Any = fetched(
            source, hf.AutoProcessor.from_pretrained if eyes else hf.AutoTokenizer.from_pretrained
        )
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if not (getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template):
            raise UserError(
                f"--model {source.model} has no chat template; take a model that was trained to follow instructions"
            )
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        with redirect_stderr(io.StringIO()) if "gguf_file" in source.arguments else nullcontext():  # a bar of its own
            self.model: Any = fetched(source, auto.from_pretrained, dtype=dtype, attn_implementation=attention(device))
        try:
            self.model = self.model.eval().to(device)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"--model {source.model} does not fit into the GPU's memory ({first_sentence(error)}); end what else"
                " runs there, take a smaller --model, or serve it on several GPUs and name that by --endpoint"
            ) from None

    def answer(self, batch: list[Asked]) -> list[str]:
        """Return the model's texts for `batch`.

        Raises:
            OutOfMemory: the batch is too large.
        """
        import torch

        try:
            with torch.inference_mode():
                inputs = self.inputs(batch).to(self.model.device)
                length = inputs["input_ids"].shape[1]
                tokens = self.model.generate(**inputs, **self.choosing(batch, length))
        except torch.OutOfMemoryError as error:
            told = first_sentence(error)
        else:
            return self.tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)
        torch.cuda.empty_cache()  # after the except clause, which holds on to the tensors
        raise OutOfMemory(told)

    def inputs(self, batch: list[Asked]) -> Any:
        """Return the prompts of `batch` as padded tensors, images included."""
        from PIL import Image

        chats = [self.messages(asked) for asked in batch]
        options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        if not self.eyes:
            return self.tokenizer.apply_chat_template(
                chats, **options, padding=True, return_tensors="pt", enable_thinking=False
            )
        for chat, asked in zip(chats, batch, strict=True):
            pixels: Any = asked.image
            image = {"type": "image", "image": Image.fromarray(pixels)}
            chat[-1]["content"] = [image, {"type": "text", "text": chat[-1]["content"]}]
        return self.processor.apply_chat_template(
            chats, **options, return_tensors="pt", processor_kwargs={"padding": True}
        )

    def messages(self, asked: Asked) -> list[dict[str, Any]]:
        """Return the chat that asks for a caption."""
        user = {"role": "user", "content": asked.prompt.user}
        if not asked.prompt.system:
            return [user]
        system: Any = asked.prompt.system
        return [{"role": "system", "content": [{"type": "text", "text": system}] if self.eyes else system}, user]

    def choosing(self, batch: list[Asked], length: int) -> dict[str, Any]:
        """Return how `generate` chooses tokens: as `decoding` says, whatever the model's own settings are."""
        from transformers import GenerationConfig, LogitsProcessorList

        own = self.model.generation_config
        config = GenerationConfig(
            max_new_tokens=self.decoding.max_new_tokens,
            do_sample=False,
            eos_token_id=own.eos_token_id if own.eos_token_id is not None else self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=own.bos_token_id,
        )
        if not self.decoding.temperature:
            return {"generation_config": config}
        draws = draws_of(self.decoding.seed, [asked.name for asked in batch], self.decoding.max_new_tokens)
        sampler: Any = NucleusSampler(draws, length, self.decoding.temperature, self.decoding.top_p)
        return {"generation_config": config, "logits_processor": LogitsProcessorList([sampler])}


def attention(device: "torch.device") -> str:
    """Return the best way to compute attention here: flash attention where it is installed, else PyTorch's own."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


def load_model(
    source: Source, eyes: bool, device: str, decoding: Decoding, batch_size: int | None, tell: Callable[[str], None]
) -> Generate:
    """Return a captioner that runs the model of `source`.

    Args:
        source: the model.
        eyes: whether it looks at images.
        device: auto, cuda or cpu.
        decoding: how tokens are chosen.
        batch_size: items at once; None to find out.
        tell: takes one line for the user.

    Raises:
        UserError: it cannot be loaded.
    """
    chosen = choose_device(device)
    model = LanguageModel(source, eyes, chosen, decoding)
    first, most = AUTO_BATCH[chosen.type] if batch_size is None else (batch_size, batch_size)
    batch = BatchSize(first, most)

    def generate(items: Iterable[Item], prompts: Prompts) -> Iterator[Answers]:
        return answers_in_batches(items, prompts, eyes, model.answer, batch, tell)

    return generate
