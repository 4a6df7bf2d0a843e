"""Captions a second of a vision-language model of real size with drawn weights, on a GPU, by batch size.

The shape is that of Qwen3-VL-8B-Instruct in bfloat16; an image of 256 x 256 is 64 tokens, the prompt 100, the caption
100. Every generated token reads all the language model's weights once, so the share of the memory's bandwidth tells how
far small batches are from the limit.

    python benchmarks/bench_captioning_gpu.py [--bandwidth GB/s] [--tiny]
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

SIZES = (1, 8, 32, 64)
IMAGE, PROMPT, CAPTION = 64, 100, 100  # tokens
H100_BANDWIDTH = 3350.0
"""GB/s of an H100 SXM with HBM3, from its data sheet."""


def config_of(tiny: bool) -> Any:
    """Return the configuration of Qwen3-VL-8B, or of a tiny model of the same kind."""
    from transformers import Qwen3VLConfig

    shape = (64, 128, 2, 4, 2, 16, 1000) if tiny else (4096, 12288, 36, 32, 8, 128, 151936)
    names = "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"
    text: dict[str, Any] = dict(zip((*names, "head_dim", "vocab_size"), shape, strict=True))
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
    text |= {"rope_parameters": rope | {"mrope_section": [4, 2, 2] if tiny else [24, 20, 20]}, "eos_token_id": None}
    vision: dict[str, Any] = (
        {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2} if tiny else {"depth": 27}
    )
    vision |= {"out_hidden_size": text["hidden_size"], "deepstack_visual_indexes": [0, 1] if tiny else [8, 16, 24]}
    special = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens = {name: text["vocab_size"] - 1 - place for place, name in enumerate(special)}
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **tokens)


def inputs_of(config: Any, batch: int, device: Any) -> dict[str, Any]:
    """Return a batch of drawn images with prompts around them."""
    import torch

    ids = torch.randint(0, config.text_config.vocab_size - 10, (batch, PROMPT + IMAGE), device=device)
    ids[:, 9] = config.vision_start_token_id
    ids[:, 10 : 10 + IMAGE] = config.image_token_id
    ids[:, 10 + IMAGE] = config.vision_end_token_id
    vision = config.vision_config
    patches = IMAGE * vision.spatial_merge_size**2
    values = 3 * vision.temporal_patch_size * vision.patch_size**2
    side = int(patches**0.5)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).int(),
        "pixel_values": torch.randn(batch * patches, values, device=device),
        "image_grid_thw": torch.tensor([[1, side, side]] * batch, device=device),
    }


@click.command()
@click.option("--bandwidth", default=H100_BANDWIDTH, show_default=True, help="Of the GPU's memory, GB/s.")
@click.option("--tiny", is_flag=True, help="A tiny model, to see that this runs.")
def main(bandwidth: float, tiny: bool) -> None:
    """Print captions a second, generated tokens a second, and the share of the bandwidth."""
    import torch
    from transformers import GenerationConfig, Qwen3VLForConditionalGeneration

    if not (torch.cuda.is_available() or tiny):
        raise SystemExit("this needs a CUDA GPU; --tiny runs anywhere")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = config_of(tiny)
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model: Any = Qwen3VLForConditionalGeneration(config).eval()
    weights = sum(p.numel() for n, p in model.named_parameters() if "visual" not in n and "embed_tokens" not in n)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} billion parameters in bfloat16 on {where}")
    generation = GenerationConfig(max_new_tokens=CAPTION, min_new_tokens=CAPTION, do_sample=False, pad_token_id=0)
    for batch in SIZES:
        took = []
        for _ in range(2):  # the first warms up
            inputs = inputs_of(config, batch, device)
            began = time.perf_counter()
            with torch.inference_mode():
                model.generate(**inputs, generation_config=generation)
            if device.type == "cuda":
                torch.cuda.synchronize()
            took.append(time.perf_counter() - began)
        share = 2 * weights * CAPTION / took[-1] / (1e9 * bandwidth)
        rates = f"{batch / took[-1]:8.2f} captions/s  {batch * CAPTION / took[-1]:8.0f} tokens/s"
        print(f"batch {batch:3}: {rates}  {100 * share:5.1f} % of {bandwidth:.0f} GB/s", flush=True)


if __name__ == "__main__":
    main()
