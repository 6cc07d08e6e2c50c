"""Rendering is transformers' own, character for character; a template that cannot render says so in one sentence."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from groundup.chat.template import prompt_ids, render, render_chat
from groundup.errors import UserError
from groundup.tokens.tokenizer import Tokenizer

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hello"}],
    [{"role": "system", "content": " be brief \n"}, {"role": "user", "content": "  hello\n"}],
    [
        {"role": "user", "content": "Grüße 漢字 🙂 <b>&amp;</b>"},
        {"role": "assistant", "content": "\n\nyes"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "no"},
    ],
]
USES_EVERYTHING = (
    "{{ bos_token }}\n"
    "{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}\n"
    "    {%- for m in messages %}\n"
    "        {%- if m.role == 'system' %}{% continue %}{% endif %}\n"
    "        {%- if loop.index > 3 %}{% break %}{% endif %}\n"
    "[{{ m.role }}]{{ m | tojson }}\n"
    "    {% generation %}{{ m['content'] | trim }}{% endgeneration %}\n"
    "    {% set ns = namespace(x=1) %}{% set ns.x = ns.x + 1 %}{{ ns.x }}\n"
    "    {%- endfor %}{{ strftime_now('%Y') }}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NAMES = ["chatml", "default_system", "llama3", "trailing_newline", "stripping", "ends_with_eos", "thinking"]


@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_transformers(tokenizers_by_template: dict[str, Tokenizer], name: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tokenizers_by_template[name]
    theirs = transformers.AutoTokenizer.from_pretrained(ours.folder)
    for messages in CONVERSATIONS:
        for add_generation_prompt in (False, True):
            expected = theirs.apply_chat_template(
                messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
            )
            assert ours.encode(render_chat(ours, messages, add_generation_prompt)) == list(expected)
    assert prompt_ids(ours, CONVERSATIONS[0]) == list(
        theirs.apply_chat_template(CONVERSATIONS[0], add_generation_prompt=True, tokenize=True, return_dict=False)
    )


def test_text_equals_transformers_with_every_extension() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    tools = [{"type": "function", "function": {"name": "größe", "parameters": {"a": [1, None, True]}}}]
    for messages in CONVERSATIONS:
        for chosen_tools in (None, tools):
            (expected,), _ = utils.render_jinja_template(
                [messages], chosen_tools, chat_template=USES_EVERYTHING, add_generation_prompt=True, bos_token="<s>"
            )
            assert (
                render(messages, USES_EVERYTHING, True, tools=chosen_tools, variables={"bos_token": "<s>"}) == expected
            )


def test_our_own_keys_are_not_rendered() -> None:
    shown = render([{"role": "assistant", "content": "a", "train": False, "weight": 0}], "{{ messages | tojson }}")
    assert shown == '[{"role": "assistant", "content": "a"}]'


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "cannot render this conversation: roles must alternate"),
        ("{{ messages[0]['content'].nothing.more }}", "cannot render this conversation: .*has no attribute 'nothing'"),
        ("a\n{% for %}", "not valid Jinja"),
    ],
)
def test_template_that_cannot_render_says_so(template: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        render([{"role": "user", "content": "hi"}], template)


def test_template_cannot_reach_out_of_its_sandbox() -> None:
    for attack in (
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
    ):
        with pytest.raises(UserError, match="cannot render"):
            render([{"role": "user", "content": "hi"}], attack)


def test_no_template_is_one_clear_error(tokenizers_by_template: dict[str, Tokenizer]) -> None:
    with pytest.raises(UserError, match="has no chat template") as caught:
        render_chat(tokenizers_by_template["none"], CONVERSATIONS[0])
    assert "chat_template.jinja" in caught.value.problems[0].fix


def test_rendering_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, groundup.chat.audit; assert not {'torch', 'transformers'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
