"""A decoder's trunk with one number per token: the reward model and the critic.

On disk it is what transformers loads as `LlamaForSequenceClassification` (Mistral, Qwen2, Qwen3, SmolLM3 likewise) with
`num_labels=1`: the trunk under `model.`, and `score.weight`. A reward is the value at a sequence's last real token; a
critic uses the value at every token.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.artifacts import read_json
from groundup.errors import UserError
from groundup.model.config import ARCHITECTURES, ModelConfig
from groundup.model.decoder import Decoder, Trunk
from groundup.model.deferred import defer, source_of
from groundup.model.files import config_dtype, fill_from_folder, load_config, write_config, write_weights
from groundup.model.init import normal
from groundup.model.sharded_files import writes_here


class ScalarModel(nn.Module):
    """`.model` (the trunk) and `.score` (Linear(C, 1) without bias)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, document_ids: Tensor | None = None
    ) -> Tensor:
        """One fp32 value per token, `B, T`; `position_ids` and `document_ids` as for `Decoder`."""
        hidden = self.model(input_ids, position_ids=position_ids, document_ids=document_ids)
        return scalar_values(hidden, self.score.weight)

    @classmethod
    def from_decoder(cls, decoder: Decoder, seed: int, init_std: float | None = None) -> ScalarModel:
        """A scalar model on a copy of the decoder's trunk, with a fresh head.

        `init_std` None: 1 / sqrt(C + 1), as in Stiennon et al. 2020 (arXiv:2009.01325); 0 starts at value 0 everywhere.
        """
        std = 1 / math.sqrt(decoder.config.hidden_size + 1) if init_std is None else init_std
        source = source_of(decoder)
        if source is not None:  # the decoder has no numbers yet, nor has what is made of it
            shape = torch.Size((1, decoder.config.hidden_size))
            return defer(
                lambda: cls(decoder.config),
                lambda name, part: (
                    normal(shape, std, seed, name)[part] if name == "score.weight" else source(name, part)
                ),
            )
        with torch.device("meta"):
            result = cls(decoder.config)
        result.model = copy.deepcopy(decoder.model)
        weight = normal(result.score.weight.shape, std, seed, "score.weight")
        result.score.weight = nn.Parameter(weight.to(decoder.head_weight))
        return result


def scalar_values(hidden: Tensor, weight: Tensor) -> Tensor:
    """`B, T, C` and the head's `1, C` -> `B, T`."""
    with torch.autocast(hidden.device.type, enabled=False):  # values are compared and subtracted: fp32
        return F.linear(hidden.float(), weight.float()).squeeze(-1)


def save_scalar_model(
    model: ScalarModel, folder: Path | str, *, max_shard_bytes: float = 5e9, dtype: torch.dtype | None = None
) -> None:
    """Write the folder that `AutoModelForSequenceClassification.from_pretrained` reads."""
    folder, config = Path(folder), model.config
    write_weights(folder, model, max_shard_bytes, dtype)
    if not writes_here(model):
        return
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "num_labels": 1}
    architectures = [f"{ARCHITECTURES[config.model_type]}ForSequenceClassification"]
    write_config(folder, {**config.to_hf(), "architectures": architectures, **labels}, dtype or config_dtype(model))


def load_scalar_model(folder: Path | str, dtype: torch.dtype = torch.float32) -> ScalarModel:
    """The scalar model in a folder; refuses causal language models and classifiers of more than one label by name."""
    folder = Path(folder)
    config = load_config(folder)
    raw = read_json(folder / "config.json")
    name = ", ".join(raw.get("architectures") or ["unknown"])
    if not name.endswith("ForSequenceClassification"):
        raise UserError(
            f"this is not a reward model (its architecture is {name})",
            where=str(folder),
            fix="name a folder that a `reward` stage wrote, or any ...ForSequenceClassification with num_labels 1",
        )
    labels = raw.get("num_labels", len(raw.get("id2label") or {}) or 2)
    if labels != 1:
        raise UserError(
            f"this classifier has {labels} labels; a reward model gives one number",
            where=str(folder),
            fix="train or name one with num_labels 1",
        )
    with torch.device("meta"):
        model = ScalarModel(config)
    fill_from_folder(model, folder, dtype)
    return model.eval()
