"""A recipe: the stages a person wants, from YAML to validated settings and the graph of what reads what.

What other rooms need is named here; nothing heavier than pydantic and ruamel.yaml is imported.
"""

from groundup.recipe.file import did_you_mean, one_of
from groundup.recipe.kinds import KINDS, CheckReport, Kind
from groundup.recipe.loading import Recipe, Stage, find_recipe, load_recipe, shipped_recipes
from groundup.recipe.references import settings_data, with_found_paths, with_paths_of_run
from groundup.recipe.settings import (
    CorpusRef,
    FileRef,
    MayChange,
    MistakesError,
    ModelRef,
    PairsRef,
    Presentation,
    Reads,
    RewardRef,
    ScoresRef,
    Settings,
    StageSettings,
    TokenizerRef,
    TokensRef,
)

__all__ = [
    "KINDS",
    "CheckReport",
    "CorpusRef",
    "FileRef",
    "Kind",
    "MayChange",
    "MistakesError",
    "ModelRef",
    "PairsRef",
    "Presentation",
    "Reads",
    "Recipe",
    "RewardRef",
    "ScoresRef",
    "Settings",
    "Stage",
    "StageSettings",
    "TokenizerRef",
    "TokensRef",
    "did_you_mean",
    "find_recipe",
    "load_recipe",
    "one_of",
    "settings_data",
    "shipped_recipes",
    "with_found_paths",
    "with_paths_of_run",
]
