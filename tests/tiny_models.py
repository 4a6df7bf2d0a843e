"""Tiny random language models with the real classes, processors and chat templates, made by code in a second.

They write nonsense, in ASCII, and the same nonsense every time.
"""

from pathlib import Path

CORPUS = [
    "A satellite image showing dense forest, cropland, water bodies and urban areas with roads.",
    "The aerial view contains buildings in the north and barren land in the south.",
    "user assistant system describe this remote sensing image in one sentence",
] * 20
QWEN_TEXT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_VISION = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<start_of_image>{% elif c['type'] == 'text' %}{{ c['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def tokenizer_of(specials: list[str], **more):
    """Return a byte-level tokenizer of about 400 tokens whose words are those of `CORPUS`, all of them ASCII."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if 32 < ord(c) < 127 or c in "ĠĊ"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **more)


def sharpened(model, seed: int = 0):
    """Return `model` with clear preferences between tokens, drawn from `seed`: no two are near a draw."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "vision" not in name and "visual" not in name:
                scale = 0.1 if "embed_tokens" in name else 0.3  # larger ones would have a model repeat its last word
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def make_qwen3(folder: Path) -> Path:
    """Write a Qwen3 of two layers to `folder`, and return it."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = tokenizer_of(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = QWEN_TEXT
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    sharpened(Qwen3ForCausalLM(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_qwen3_vl(folder: Path) -> Path:
    """Write a Qwen3-VL of three layers, with a vision tower of two, to `folder`, and return it."""
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    vision = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = tokenizer_of(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *vision], eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = QWEN_VISION
    place = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 2048,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=place("<|image_pad|>"),
        video_token_id=place("<|video_pad|>"),
        vision_start_token_id=place("<|vision_start|>"),
        vision_end_token_id=place("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    model = sharpened(Qwen3VLForConditionalGeneration(config))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    patches = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
    size = {"shortest_edge": 1024, "longest_edge": 256 * 256}
    images = Qwen2VLImageProcessor(**patches, image_mean=[0.5] * 3, image_std=[0.5] * 3, size=size)
    Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(**patches), chat_template=QWEN_VISION).save_pretrained(
        folder
    )
    return folder


def make_gemma3(folder: Path) -> Path:
    """Write a multimodal Gemma 3 of three layers to `folder`, and return it."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    turns = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    tokenizer = tokenizer_of(
        ["<pad>", "<eos>", "<bos>", "<unk>", *turns],
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    tokenizer.chat_template = GEMMA
    place = tokenizer.convert_tokens_to_ids
    image_tokens = 16
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            "sliding_window": 64,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": place("<end_of_turn>"),
            "tie_word_embeddings": False,  # tied, so small a model repeats the line end before its answer
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 112,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=image_tokens,
        boi_token_index=place("<start_of_image>"),
        eoi_token_index=place("<end_of_image>"),
        image_token_index=place("<image_soft_token>"),
        eos_token_id=[tokenizer.eos_token_id, place("<end_of_turn>")],
        tie_word_embeddings=False,
    )
    sharpened(Gemma3ForConditionalGeneration(config)).save_pretrained(folder)
    images = Gemma3ImageProcessor(size={"height": 112, "width": 112}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    Gemma3Processor(images, tokenizer, chat_template=GEMMA, image_seq_length=image_tokens).save_pretrained(folder)
    return folder
