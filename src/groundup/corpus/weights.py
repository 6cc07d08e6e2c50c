"""Which weights of a mixture fit its sources, and how the languages of routed sources are called. Light."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from groundup.corpus.source_settings import SourceSettings

OTHER = "other"  # the part of what is too rare for one of its own, or has no language that can be told
LANGUAGES = frozenset(
    """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de
diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie
ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr
mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah
sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu
xal xmf yi yo yue zh
""".split()  # noqa: SIM905
)  # what the detector tells apart (lid.176)
_OTHER_WORDS = {  # what people write instead of a code -> the code
    "english": "en", "eng": "en", "german": "de", "deu": "de", "ger": "de", "french": "fr", "fra": "fr", "fre": "fr",
    "spanish": "es", "spa": "es", "italian": "it", "portuguese": "pt", "dutch": "nl", "polish": "pl", "russian": "ru",
    "chinese": "zh", "cn": "zh", "japanese": "ja", "jp": "ja", "korean": "ko", "kr": "ko", "arabic": "ar",
    "hindi": "hi", "turkish": "tr", "ukrainian": "uk", "cz": "cs", "gr": "el", "dk": "da", "se": "sv",
}  # fmt: skip
_CODE = re.compile(r"([a-z]{2,3})(?:[-_][a-z0-9_-]+)?")


def language_part(said: str) -> str:
    """The language that a document is routed by: of `en`, `en-GB` and `EN_us`, `en`; `other` for what is no code."""
    match = _CODE.fullmatch(said.strip().lower())
    return match[1] if match and match[1] != "und" else OTHER  # und: undetermined (ISO 639-2)


def is_language_part(name: str) -> bool:
    """Whether a part could have this name: a language's code, as the detector or a row may say it, or `other`."""
    return name == OTHER or language_part(name) == name


def language_mistakes(languages: Sequence[str], sources: Mapping[str, SourceSettings]) -> list[str]:
    """What is wrong with the languages to keep: a code that no document can have would drop them all."""
    if any(getattr(one, "language_field", None) for one in sources.values()):
        return []  # rows say their languages themselves, by whatever codes
    found = []
    for code in languages:
        if code not in LANGUAGES:
            meant = _OTHER_WORDS.get(code.lower()) or language_part(code)
            hint = f"did you mean '{meant}'?" if meant in LANGUAGES else "codes are as `en`, `de`, `zh`"
            found.append(f"languages: {code!r} is no code of a language that can be told: {hint}")
    return found


def check_weights(
    weights: Mapping[str, float], sources: Mapping[str, SourceSettings], languages: Sequence[str]
) -> None:
    """ValueError where weights name what is not there, or leave out what is. `languages`: those that are kept."""
    routed = [name for name, one in sources.items() if one.by_language]
    groups = {name: one.group or name for name, one in sources.items() if name not in routed}
    for name in (name for name in groups if routed and name in {OTHER, *LANGUAGES, *languages}):
        raise ValueError(
            f"source name {name!r} would also be the name of a language's part, as {routed[0]!r} is by_language: call "
            f"the source otherwise; `group: {name}` counts it to that language"
        )
    known = dict.fromkeys([*groups, *groups.values()])
    for name in weights:
        if name in routed:
            raise ValueError(f"mixture names {name!r}, which is by_language: give weights to its languages instead")
        if name not in known and not (routed and is_language_part(name)):
            there = ", ".join([*known, *(["languages (en, fi ...)", OTHER] if routed else [])])
            raise ValueError(f"mixture names {name!r}, which is not a source or a group; there are: {there}")
    absent = [name for name, group in groups.items() if not {name, group} & weights.keys()]
    if routed:
        absent += [one for one in languages or [OTHER] if one not in weights]
    if weights and absent:
        rest = absent[-1] == OTHER
        what = ", ".join(absent) + (" (all other languages)" if rest else "")
        fix = "or keep these `languages` only" if rest else "or leave out the source"
        raise ValueError(f"mixture gives no weight to: {what}; give one, {fix}")


def language_parts(sizes: Mapping[str, int], least: float, named: Collection[str]) -> list[str]:
    """Which languages, of these bytes each, are parts of their own: those that are `named`, and those with at least
    the share `least`. In the order of their names, `other` last, where anything is left for it."""
    total = sum(sizes.values())
    own = sorted(name for name, size in sizes.items() if name != OTHER and (name in named or size >= least * total))
    return own if len(own) == len(sizes) else [*own, OTHER]
