"""Chat templates, rendered as transformers renders them, without importing it.

A template is Jinja text that came with a model, so it runs in Jinja's immutable sandbox and sees plain JSON values.
Ids made from this text equal those of `tokenizer.apply_chat_template` (tested on several templates).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from groundup.artifacts import read_json
from groundup.errors import UserError

Message = Mapping[str, Any]  # {"role": ..., "content": ..., perhaps "tool_calls"}; `train` and `weight` are ours

OUR_KEYS = {"train", "weight"}  # say what is trained; no template sees them


class ChatTokenizer(Protocol):
    """What conversations need of a tokenizer; `groundup.tokens.tokenizer.Tokenizer` is one."""

    @property
    def folder(self) -> Path: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...
    def decode(self, ids: list[int]) -> str: ...


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
            fix="change the order of roles to what the template takes, or use another chat_template.jinja",
        ) from error


def render_chat(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """`render` with a tokenizer's own template and special tokens."""
    if not tokenizer.chat_template:
        raise UserError(
            "this tokenizer has no chat template, so conversations cannot be turned into tokens",
            where=str(tokenizer.folder),
            fix="put a chat_template.jinja into this folder, for example that of the model you start from",
        )
    variables = special_tokens(tokenizer.folder)
    return render(messages, tokenizer.chat_template, add_generation_prompt, tools=tools, variables=variables)


def prompt_ids(
    tokenizer: ChatTokenizer, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None
) -> list[int]:
    """What a model is given to answer: the conversation and the opening of the assistant's turn."""
    return tokenizer.encode(render_chat(tokenizer, messages, add_generation_prompt=True, tools=tools))


def special_tokens(folder: Path) -> Mapping[str, str]:
    """`bos_token`, `eos_token`, ... as text, as a template may ask for them."""
    return _special_tokens(folder, _stamp(folder))


def control_tokens(folder: Path) -> Mapping[int, str]:
    """Ids and texts of the tokens that mean something to the model and are never part of what people write."""
    return _control_tokens(folder, _stamp(folder))


def _stamp(folder: Path) -> int:
    """Changes when the folder's tokenizer does: a cache must not outlive what it was read from."""
    files = (folder / "tokenizer.json", folder / "tokenizer_config.json")
    return sum(file.stat().st_mtime_ns for file in files if file.is_file())


@lru_cache(maxsize=64)
def _special_tokens(folder: Path, stamp: int) -> Mapping[str, str]:  # noqa: ARG001 (part of the cache's key)
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in (read_json(folder / name) if (folder / name).is_file() else {}).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
    return found


@lru_cache(maxsize=64)
def _control_tokens(folder: Path, stamp: int) -> Mapping[int, str]:
    added = read_json(folder / "tokenizer.json").get("added_tokens") or []
    ends = set(_special_tokens(folder, stamp).values())
    return {token["id"]: token["content"] for token in added if token.get("special") or token["content"] in ends}


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
    """JSON types only, copied: a template gets no object with methods of its own and changes nothing of ours."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return f"<{type(value).__name__}>"
