"""Tokenizers for tiny models, trained on a few sentences, and chat templates of their families.

The templates have the published ones' form.
"""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

WORDS = [
    "What is in the picture? A red circle and a blue box lie on the green table.",
    "How many birds are there? There are two birds, and one of them is small.",
    "Line ends come in groups:\n\n\nthree\n\n\nand three.",
    "Say it again: yes, no, left, right, above, below, the first and the second image.",
]
VOCABULARY = 400


def llama_tokenizer(*special: str) -> Any:
    """As LLaMA's: words begin with a mark, bytes are the last resort, ``<s>`` opens a text."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    byte = [f"<0x{number:02X}>" for number in range(256)]
    core.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<unk>", "<s>", "</s>", *byte],
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        additional_special_tokens=list(special),
    )


def byte_tokenizer(end: str, *special: str, **named: str) -> Any:
    """As GPT's: bytes and their merges, nothing before a text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|endoftext|>", end],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.add_special_tokens(list(special))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=end,
        pad_token="<|endoftext|>",
        extra_special_tokens=named or list(special),
    )


def _template(image: str, turn: str, opening: str, text: str = "{{ part.text }}") -> str:
    """A chat template: ``turn`` around BODY, which is a message's parts in order."""
    body = (
        "{% for part in message.content %}{% if part.type == 'image' %}"
        + image
        + "{% else %}"
        + text
        + "{% endif %}{% endfor %}"
    )
    loop = "{% for message in messages %}" + turn.replace("BODY", body) + "{% endfor %}"
    return loop + "{% if add_generation_prompt %}" + opening + "{% endif %}"


CHATML = ("<|im_start|>{{ message.role }}\nBODY<|im_end|>\n", "<|im_start|>assistant\n")
QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant."
    "<|im_end|>\n{% endif %}"
) + _template("<|vision_start|><|image_pad|><|vision_end|>", *CHATML)
GEMMA = _template(
    "<start_of_image>",
    "<start_of_turn>{{ message.role }}\nBODY<end_of_turn>\n",
    "<start_of_turn>assistant\n",
)
INTERN = _template("<IMG_CONTEXT>\n", *CHATML)
IDEFICS = _template(
    "<image>",
    "{% if loop.first %}<|im_start|>{% endif %}{{ message.role.capitalize() }}"
    "{% if message.content[0].type == 'image' %}:{% else %}: {% endif %}"
    "BODY<end_of_utterance>\n",
    "Assistant:",
)
MISTRAL = "{{ bos_token }}" + _template(
    "<image>\n",
    "{% if message.role == 'user' %}[INST] BODY [/INST]"
    "{% elif message.role == 'assistant' %} BODY</s>{% else %}BODY\n{% endif %}",
    "",
)
COMMAND = "{{ bos_token }}" + _template(
    "<|IMG_PATCH|>",
    "<|START_OF_TURN_TOKEN|>{% if message.role == 'user' %}<|USER_TOKEN|>"
    "{% elif message.role == 'assistant' %}<|CHATBOT_TOKEN|>{% else %}<|SYSTEM_TOKEN|>{% endif %}"
    "BODY<|END_OF_TURN_TOKEN|>",
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
)
