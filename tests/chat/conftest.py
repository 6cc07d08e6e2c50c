"""A tiny byte-level BPE tokenizer, and the shapes of chat template that are out there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from groundup.tokens.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (  # SmolLM2
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}\n{%- for message in messages %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}"
)
TRAILING_NEWLINE = (
    "{% for message in messages %}\n{% generation %}\n### {{ message['role'] }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n\n\n{% endgeneration %}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
STRIPPING = (
    "{%- for message in messages -%}{%- if message.role == 'system' -%}{{ message.content.strip() + '\n' }}"
    "{%- elif message.role == 'user' -%}{{ '[INST] ' + message.content.strip() + ' [/INST]' }}"
    "{%- else -%}{{ message.content.strip() + eos_token }}{%- endif -%}{%- endfor -%}"
)
ENDS_WITH_EOS = (  # Phi-3: the end of the conversation has a token of its own
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}"
)
FORGETS_THOUGHTS = (  # Qwen3, DeepSeek: the reasoning of earlier turns is taken out
    "{% for message in messages %}{% set text = message['content'] %}"
    "{% if message['role'] == 'assistant' and not loop.last and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + text + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "default_system": DEFAULT_SYSTEM,
    "llama3": LLAMA3,
    "trailing_newline": TRAILING_NEWLINE,
    "stripping": STRIPPING,
    "ends_with_eos": ENDS_WITH_EOS,
}
CORPUS = [
    "the quick brown fox jumps over the lazy dog. the answer is four.\n\n\nwhat is two plus two? it is four!",
    "### user:\nhello there\n\n### assistant:\nhello! how are you? I am well, thank you.\n",
    "def main():\n\n    return 12345\n\n\n" * 3,
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
LLAMA_SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def write_tokenizer(folder: Path, template: str | None) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL + LLAMA_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 4, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="session")
def tokenizers_by_template(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """One tokenizer folder for each template of TEMPLATES, and one (`thinking`) whose template forgets thoughts."""
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        name: write_tokenizer(folder / name, template)
        for name, template in {**TEMPLATES, "thinking": FORGETS_THOUGHTS, "none": None}.items()
    }


@pytest.fixture(scope="session")
def tokenizer(tokenizers_by_template: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers_by_template["chatml"]
