"""Chat templates, rendered as transformers renders them, without importing it.

A template is Jinja text that came with a model, so it runs in Jinja's immutable sandbox and sees plain JSON values only.
Ids made from this text equal those of `tokenizer.apply_chat_template` (tested on several templates).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from groundup.errors import UserError

Message = Mapping[str, Any]  # {"role": ..., "content": ..., perhaps "tool_calls"}; `train` and `weight` are ours

OUR_KEYS = {"train", "weight"}  # say what is trained; no template sees them

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def render(
    messages: Sequence[Message],
    chat_template: str,
    add_generation_prompt: bool = False,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The conversation as the text a model reads.

    `variables` are what else the template may ask for, first of all the tokenizer's `bos_token`, `eos_token`, ...
    Raises UserError where the template is not valid, or says itself (`raise_exception`) that it cannot take these
    messages.
    """
    compiled = _compile(chat_template)
    chat = [_plain({key: value for key, value in message.items() if key not in OUR_KEYS}) for message in messages]
    try:
        return compiled.render(
            messages=chat,
            tools=_plain(list(tools)) if tools is not None else None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **(variables or {}),
        )
    except (jinja2.TemplateError, TypeError) as error:
        roles = ", ".join(str(message.get("role")) for message in messages) or "none"
        raise UserError(
            f"the chat template cannot render this conversation: {error}",
            where=f"roles: {roles}",
            fix="change the order of roles to what the template takes, or give the tokenizer another chat_template.jinja",
        ) from error


class _Generation(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}` renders what stands inside: our masks need no markers."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 reads it as a plain class attribute)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=64)
def _compile(chat_template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    try:
        return environment.from_string(chat_template)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            f"the chat template is not valid Jinja: {error.message}",
            where=f"chat_template.jinja:{error.lineno}",
            fix="mend the template, or copy the one that came with the model again",
        ) from error


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML and non-ASCII characters; a model should see neither."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _plain(value: Any) -> Any:
    """JSON types only, copied: a template gets no object with methods of its own, and cannot change what it is given."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return f"<{type(value).__name__}>"
