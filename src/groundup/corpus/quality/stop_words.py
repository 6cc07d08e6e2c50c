"""Words that any running text in a language has: what Gopher asks of English, asked of thirty languages.

English has Gopher's eight. The others were written down here: frequent articles, prepositions, conjunctions, particles.
A list is right when two of its words stand in practically every paragraph of real text (tests/corpus/test_quality.py
holds it to that on the Universal Declaration of Human Rights). Chinese and Japanese have characters instead of words.
"""

from __future__ import annotations

from functools import cache
from unicodedata import normalize

from groundup.corpus.words import Hashes, hashes_of

STOP_WORDS: dict[str, str] = {
    "en": "the be to of and that have with",
    "ar": "في من على أن إلى عن أو كل ما لا و التي الذي هذا مع أي دون عند بين",
    "bg": "и на да в се за от по с или не е като че към",
    "bn": "এবং এই বা করা করে হবে না তার থেকে কোন জন্য এর সে ও যে নিজ প্রতি হয়",
    "ca": "de i a la el en que per amb una les dels o és",
    "cs": "a v na je se má nebo k o s i být pro že do",
    "da": "og i at en til er af det som for med eller den på",
    "de": "der die und das in von zu den mit auf ist ein oder hat nicht auch",
    "el": "και το να του της η με για την από που σε είναι ή",
    "es": "de la que el en y a los se por con una o su del",
    "et": "ja on ei et see või ka mis oma kui igal tema",
    "fa": "و در به از که این را با است یا هر بر برای آن",
    "fi": "ja on ei että se hän tai joka kuin myös ovat oli mutta",
    "fr": "de la le et les des en à une du que pour dans est ou",
    "he": "של את על כל או זה לא עם גם הוא היא אל כי",
    "hi": "के में और को का की है या से पर किसी भी यह",
    "hr": "i u na je za se da ili od s ima koji kao o",
    "hu": "a az és van nem hogy vagy minden meg egy ez is",
    "id": "dan yang di dengan untuk dari atau dalam tidak ini pada itu oleh",
    "it": "di e la il che in per un a della ogni o con del ha",
    "ja": "の に は を た が で て と し な い る す",
    "ko": "이 그 및 또는 수 있다 등 한 것 의 가 는 있는 이러한 모든 그리고 대한 있어 위하여 하는 또한",
    "lt": "ir į kad yra su arba iš o ar ne bet jo kaip turi",
    "lv": "un ir ar uz no vai ka par nav to kas tā bez",
    "nl": "de en van het een in te dat op voor is met of heeft zijn",
    "no": "og i til har en av å er for på som det eller rett med",
    "pl": "i w na z do się nie jest lub o ma że oraz od",
    "pt": "de a e o que do da em para com uma os ou à tem",
    "ro": "și în la de a care sau cu pe o din pentru este nu să",
    "ru": "и в на не с что по или для от к как это из его",
    "sk": "a v na je sa má alebo k o s byť pre že do",
    "sl": "in v na je za se da ali do ima pri so ki o",
    "sr": "и у на је за се да или од i u na je za se da ili od",
    "sv": "och i att en till är av det som för med eller har på",
    "tr": "ve bir bu da de için ile her veya olan ya en çok",
    "uk": "і в на не з що та або до від у як це за",
    "vi": "và của có được là cho trong các mọi không với hay những một",
    "zh": "的 是 不 了 在 有 一 人 和 这 為 中 为 之",
}


@cache
def stop_word_hashes(language: str) -> Hashes | None:
    """(words,) hashes of a language's stop words; None where there is no list."""
    found = STOP_WORDS.get(language)
    return hashes_of(tuple(dict.fromkeys(normalize("NFC", found).split()))) if found else None
