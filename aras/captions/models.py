"""Language models by transformers: chats in batches, padded on the left, with images or without."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aras.captions.batching import Asked, BatchSize, OutOfMemory, answers_in_batches
from aras.captions.loop import Answers, Generate
from aras.captions.prompts import Prompts
from aras.captions.sampling import NucleusSampler, draws_of
from aras.captions.sources import Source, fetched, first_sentence
from aras.captions.work import Item
from aras.errors import UserError
from aras.training import choose_device

if TYPE_CHECKING:
    import torch

PACKAGES = ("transformers", "torch", "tokenizers", "pillow", "numpy")
AUTO_BATCH = {"cpu": (4, 16), "cuda": (16, 128)}
"""`--batch-size auto`: what it begins with, and up to which it doubles."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen: greedily at temperature 0, else by nucleus sampling."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int


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
