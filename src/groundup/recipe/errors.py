"""What is wrong with a stage's settings, in plain words: from pydantic's errors to `Problem`s with a place.

No word of the validator reaches the person: an unknown key names the key that was probably meant (also when it is
another tool's spelling), a wrong type says what was expected and what is there, and the variants of a setting that
may be several things become one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from groundup.errors import Problem
from groundup.recipe.file import KeyPath, RecipeFile, any_of, did_you_mean, nearest, one_of, value_at
from groundup.recipe.settings import MistakesError

# Keys as LLaMA-Factory, TRL, litgpt, torchtune and others spell them -> as they are spelled here
OTHER_SPELLINGS = {
    "model_name_or_path": "base_model", "checkpoint_dir": "base_model", "model_name": "base_model",
    "pretrained_model_name_or_path": "base_model", "sft_model_path": "base_model", "checkpoint": "base_model",
    "dataset": "datasets", "dataset_name": "datasets", "data": "datasets", "train_file": "datasets",
    "cutoff_len": "sequence_len", "max_length": "sequence_len", "max_seq_length": "sequence_len",
    "max_seq_len": "sequence_len", "seq_len": "sequence_len",
    "block_size": "sequence_len", "context_length": "sequence_len",
    "per_device_train_batch_size": "micro_batch_size", "batch_size": "micro_batch_size",
    "device_batch_size": "micro_batch_size", "train_batch_size": "micro_batch_size",
    "gradient_accumulation": "gradient_accumulation_steps", "grad_accum_steps": "gradient_accumulation_steps",
    "num_train_epochs": "num_epochs", "epochs": "num_epochs", "max_epochs": "num_epochs",
    "num_steps": "max_steps", "num_iterations": "max_steps", "max_iters": "max_steps", "steps": "max_steps",
    "lr": "learning_rate", "lr_scheduler_type": "lr_scheduler", "scheduler": "lr_scheduler",
    "lr_warmup_steps": "warmup_steps", "optim": "optimizer", "optimiser": "optimizer", "wd": "weight_decay",
    "grad_clip": "max_grad_norm", "gradient_clipping": "max_grad_norm", "clip_grad_norm": "max_grad_norm",
    "finetuning_type": "adapter", "lora_rank": "lora_r", "lora_target": "lora_target_modules",
    "packing": "sample_packing", "neat_packing": "sample_packing", "packed": "sample_packing",
    "train_on_prompt": "train_on_inputs", "train_on_input": "train_on_inputs", "mask_prompt": "train_on_inputs",
    "assistant_only_loss": "train_on_inputs", "completion_only_loss": "train_on_inputs",
    "template": "chat_template", "chat_template_path": "chat_template", "prompt_style": "chat_template",
    "val_size": "val_set_size", "save_interval": "save_steps", "save_every": "save_steps",
    "logging_interval": "logging_steps", "log_interval": "logging_steps", "log_every": "logging_steps",
    "dtype": "bf16", "precision": "bf16", "enable_activation_checkpointing": "gradient_checkpointing",
    "pref_beta": "beta", "dpo_beta": "beta", "pref_loss": "loss_type", "init_kl_coef": "kl_coef",
    "ppo_epochs": "num_ppo_epochs", "clip_range": "cliprange", "clip_eps": "cliprange", "gae_lambda": "lam",
    "reward_model": "reward", "reward_model_path": "reward", "random_seed": "seed", "type": "stage", "kind": "stage",
    "tokenizer_name_or_path": "tokenizer", "tokenizer_name": "tokenizer", "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads", "n_embd": "hidden_size", "d_model": "hidden_size", "dim": "hidden_size",
    "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads",
    "vocabulary_size": "vocab_size", "max_new_token": "max_new_tokens", "max_tokens": "max_new_tokens",
    "eval_tasks": "tasks", "license": "licenses", "licences": "licenses", "licence": "license",
    "licence_field": "license_field",
}  # fmt: skip

# Keys that need a sentence rather than a name
NO_SUCH_SETTING = {
    "output_dir": "a run's folder is runs/NAME; `--runs FOLDER` chooses another place",
    "out_dir": "a run's folder is runs/NAME; `--runs FOLDER` chooses another place",
    "overwrite_output_dir": "the same command goes on; `--fresh` starts anew",
    "resume_from_checkpoint": "nothing to set: the same command goes on from the newest checkpoint",
    "resume": "nothing to set: the same command goes on from the newest checkpoint",
    "report_to": "nothing to set: metrics are in metrics.jsonl and in report.html; nothing is sent anywhere",
    "do_train": "nothing to set: running the recipe trains",
}

TYPE_WORDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "a text", "list": "a list",
    "tuple": "a list", "set": "a list", "dict": "a mapping (`key: value` lines)",
    "model": "a mapping (`key: value` lines)",
    "dataclass": "a mapping (`key: value` lines)", "none": "null", "path": "a path",
}  # fmt: skip


def settings_problems(
    error: ValidationError, model: type[BaseModel], data: Mapping[str, Any], prefix: KeyPath, file: RecipeFile
) -> list[Problem]:
    """Every error of one stage as a Problem; `prefix` is where the stage's mapping lies in the file."""
    found = [_Located.of(dict(detail), data) for detail in error.errors(include_url=False, include_context=True)]
    groups = _one_group_for_each_union(found)
    return [problem for group in groups for problem in _problems(group, model, data, prefix, file)]


class _Located:
    """One pydantic error with its place in the data, and the variant of a union that it speaks for (or '')."""

    def __init__(self, detail: dict[str, Any], path: KeyPath, union_at: KeyPath | None, variant: str) -> None:
        self.detail, self.path, self.union_at, self.variant = detail, path, union_at, variant
        self.type: str = detail["type"]

    @classmethod
    def of(cls, detail: dict[str, Any], data: Any) -> _Located:
        # `loc` mixes keys of the data with names of union variants and validators; only the keys are in the data
        path: list[str | int] = []
        union_at: KeyPath | None = None
        variant = ""
        at: Any = data
        location = detail["loc"]
        for index, part in enumerate(location):
            is_last = index == len(location) - 1
            if isinstance(at, dict) and (part in at or (is_last and detail["type"] == "missing")):
                path.append(part)
                at = at.get(part)
            elif isinstance(at, list) and isinstance(part, int) and part < len(at):
                path.append(part)
                at = at[part]
            elif union_at is None and part != "[key]":
                union_at, variant = tuple(path), str(part)
        return cls(detail, tuple(path), union_at, variant)


def _one_group_for_each_union(found: list[_Located]) -> Iterator[list[_Located]]:
    """Errors of the variants of one union come together; where one variant nearly fits, only its errors count."""
    groups: dict[KeyPath, list[_Located]] = {}
    for error in found:
        if error.union_at is None:
            yield [error]
        else:
            groups.setdefault(error.union_at, []).append(error)
    for at, errors in groups.items():
        deeper = {error.variant for error in errors if len(error.path) > len(at)}
        if deeper:  # the value has the shape of these variants: tell what is wrong inside the best of them
            size = {variant: sum(error.variant == variant for error in errors) for variant in deeper}
            best = min(deeper, key=lambda variant: (size[variant], variant))
            for error in errors:
                if error.variant == best:
                    yield [error]
        else:
            yield errors


def _problems(
    group: list[_Located], model: type[BaseModel], data: Any, prefix: KeyPath, file: RecipeFile
) -> Iterator[Problem]:
    found = group[0].detail.get("ctx", {}).get("error")
    if not isinstance(found, MistakesError):
        yield _problem(group, model, data, prefix, file)
        return
    for keys, what in found.found:
        path = (*group[0].path, *keys)
        text = what if keys and what.startswith(keys[-1]) else f"{_dotted(path)}: {what}"
        yield Problem(text, file.where((*prefix, *path), of_key=True))


def _problem(group: list[_Located], model: type[BaseModel], data: Any, prefix: KeyPath, file: RecipeFile) -> Problem:
    error = group[0]
    path = (*prefix, *error.path)
    name = _dotted(error.path)
    context = error.detail.get("ctx", {})
    if error.type == "missing":
        return Problem(
            f"{_owner(prefix)}'{name}' is missing",
            file.where(path),
            f"add `{error.path[-1]}: ...`{_help(model, error.path)}",
        )
    if error.type == "extra_forbidden":
        return _unknown_key(error, model, data, prefix, file)
    if error.type == "union_tag_not_found":
        tag = str(context["discriminator"]).strip("'")
        return Problem(f"'{_dotted((*error.path, tag))}' is missing", file.where(path), f"add `{tag}: ...`")
    if error.type == "union_tag_invalid":
        tag = str(context["discriminator"]).strip("'")
        known = [word.strip(" '") for word in str(context["expected_tags"]).split(",")]
        return Problem(
            f"{_dotted((*error.path, tag))}: unknown '{context['tag']}'{did_you_mean(str(context['tag']), known)}",
            file.where((*path, tag)),
            f"one of {', '.join(known)}",
        )
    if error.type in ("value_error", "assertion_error"):
        what = str(context.get("error", error.detail["msg"]))
        return Problem(f"{name}: {what}" if name else _owner(prefix) + what, file.where(path, of_key=not name))
    value = error.detail.get("input")
    expected = any_of(phrase for one in group for phrase in _expected(one))
    choices = [word.strip("'") for one in group for word in _choices(one)]
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    fix = "put it in quotes" if error.type == "string_type" and isinstance(value, int | float) else ""
    return Problem(f"{name}: expected {expected}, got {_shown(value)}{hint}", file.where(path), fix)


def _expected(error: _Located) -> list[str]:
    """What would have been right, as noun phrases."""
    if error.type in ("literal_error", "enum"):
        return _choices(error)
    return [_expected_phrase(error)]


def _expected_phrase(error: _Located) -> str:
    context = error.detail.get("ctx", {})
    limits = {"greater_than": ("more than", "gt"), "greater_than_equal": ("at least", "ge"),
              "less_than": ("less than", "lt"), "less_than_equal": ("at most", "le")}  # fmt: skip
    if error.type in limits:
        words, key = limits[error.type]
        return f"{words} {context[key]}"
    if error.type in ("too_short", "string_too_short"):
        unit = "characters" if error.type.startswith("string") else "items"
        return f"at least {context['min_length']} {unit if context['min_length'] != 1 else unit[:-1]}"
    if error.type in ("too_long", "string_too_long"):
        unit = "characters" if error.type.startswith("string") else "items"
        return f"at most {context['max_length']} {unit}"
    if error.type == "string_pattern_mismatch":
        return f"a text like {context['pattern']}"
    if error.type == "finite_number":
        return "a finite number"
    return TYPE_WORDS.get(error.type.partition("_")[0]) or error.detail["msg"].removeprefix("Input should be ")


def _choices(error: _Located) -> list[str]:
    """The words that a choice allows, as YAML writes them: texts in quotes, `true` and numbers bare."""
    if error.type not in ("literal_error", "enum"):
        return []
    said = str(error.detail.get("ctx", {}).get("expected", ""))
    words = [word.strip() for word in said.replace(" or ", ",").split(",") if word.strip()]
    return [{"True": "true", "False": "false", "None": "null"}.get(word, word) for word in words]


def _unknown_key(error: _Located, model: type[BaseModel], data: Any, prefix: KeyPath, file: RecipeFile) -> Problem:
    key = str(error.path[-1])
    where = file.where((*prefix, *error.path), of_key=True)
    inside = model_at(model, error.path[:-1], data)
    known = list(inside.model_fields) if inside else []
    name = _dotted(error.path)
    ours = OTHER_SPELLINGS.get(key.lower())
    if key in NO_SUCH_SETTING:
        return Problem(f"unknown key '{name}'", where, NO_SUCH_SETTING[key])
    if ours in known:
        return Problem(f"unknown key '{name}': here it is called '{ours}'", where)
    if near := nearest(key, known):
        return Problem(f"unknown key '{name}'. Did you mean '{near}'?", where)
    return Problem(f"unknown key '{name}'", where, one_of("keys here", known, at_most=30) if known else "")


def model_at(model: type[BaseModel], path: KeyPath, data: Any) -> type[BaseModel] | None:
    """The settings class that the mapping at `path` is read into; None where it is no such class."""
    current: type[BaseModel] | None = model
    at = data
    candidates: list[type[BaseModel]] = [model]
    for part in path:
        at = value_at(at, (part,)) if isinstance(at, dict | list) else None
        if isinstance(part, str) and current is not None and part in current.model_fields:
            candidates = list(_models_in(current.model_fields[part].annotation))
        # else: an item of a list or a value of a mapping, whose class was already found in the annotation around it
        current = _best_match(candidates, at)
    return current


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _best_match(candidates: list[type[BaseModel]], data: Any) -> type[BaseModel] | None:
    if not candidates:
        return None
    if not isinstance(data, dict):
        return candidates[0]

    def fit(candidate: type[BaseModel]) -> tuple[bool, int]:
        tag_fits = any(
            data.get(name) in get_args(info.annotation)
            for name, info in candidate.model_fields.items()
            if name in ("type", "stage", "kind") and isinstance(data.get(name), str)
        )
        return tag_fits, len(set(data) & set(candidate.model_fields))

    return max(candidates, key=fit)


def _owner(prefix: KeyPath) -> str:
    return f"stage '{prefix[-1]}': " if prefix else ""


def _help(model: type[BaseModel], path: KeyPath) -> str:
    text = help_of(model, str(path[0])) if len(path) == 1 else ""
    return f"  ({first_sentence(text)})" if text else ""


def help_of(model: type[BaseModel], name: str) -> str:
    """The docstring of a setting; where a kind only changes the default, that of the class it comes from."""
    for one in model.__mro__:
        if issubclass(one, BaseModel) and name in one.model_fields and (text := one.model_fields[name].description):
            return " ".join(text.split())
    return ""


def first_sentence(text: str) -> str:
    return re.split(r"(?<!\.)\. ", " ".join(text.split()), maxsplit=1)[0].rstrip(".")  # `...` ends none


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def _shown(value: Any) -> str:
    if value is None:
        return "null (nothing)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 60 else value[:57] + '...'}'"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    return str(value)
