"""Words that the toxicity features tell apart, and rows made of them that balance what groups of people are said about.

A model of tweets learns that a group's *name* is a bad sign, because people attack groups by name: it then flags "I am
a proud gay man" and misses polite hatred (Dixon et al. 2018, "Measuring and mitigating unintended bias in text
classification"). Two measures against that: the names are one token to the model, and `balanced_rows` gives every
hostile sentence about a group a look-alike that is not one: negated, quoted, about things, or kind.

The lists are our own and short; they are signals for a classifier, never a filter by themselves.
"""

from __future__ import annotations

import random
from typing import Any


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_GROUPS_PLURAL = _words(
    "women girls men gays lesbians bisexuals transgenders immigrants migrants refugees foreigners muslims jews "
    "christians hindus buddhists sikhs atheists catholics blacks whites asians arabs africans mexicans latinos "
    "indians pakistanis chinese japanese koreans turks kurds roma gypsies poles russians ukrainians nigerians "
    "somalis syrians iranians israelis palestinians americans germans europeans natives aborigines autistics "
    "amputees seniors pensioners teenagers homosexuals"
)
_ADJECTIVES = _words(
    "gay lesbian bisexual trans transgender queer nonbinary black white brown asian arab african mexican latino "
    "hispanic indian pakistani chinese japanese korean turkish kurdish romani polish russian muslim islamic "
    "jewish christian hindu buddhist sikh catholic disabled blind deaf autistic handicapped paralyzed elderly old "
    "foreign immigrant native indigenous female male homeless poor"
)
_SINGULAR = _words("woman girl man immigrant migrant refugee foreigner jew muslim christian hindu homosexual lesbian")
_PEOPLE = ("people", "folks", "persons", "men", "women", "kids", "families")
_HATE = _words("hate despise detest loathe dislike abhor resent")
_LOVE = _words("love like respect admire support welcome cherish appreciate value help defend")
_BAD = _words(
    "disgusting stupid evil worthless inferior filthy dangerous subhuman dirty ugly lazy vile horrible revolting "
    "repulsive pathetic idiotic dumb gross sick awful terrible nasty rotten shameful useless violent dishonest "
    "greedy"
)
_VERMIN = _words(
    "vermin parasites animals rats pigs cockroaches trash garbage scum filth criminals thieves monsters savages "
    "liars plague disease cancer"
)
_GOOD = _words(
    "wonderful kind brave great amazing beautiful smart lovely equal honest strong good nice fantastic welcome "
    "talented funny"
)
_HARM = _words(
    "kill hurt shoot beat hang burn attack punish eliminate exterminate destroy deport stab rape murder hit punch"
)
_HARMED = _words(
    "killed hurt shot beaten hanged burned attacked punished eliminated exterminated destroyed deported stabbed "
    "raped murdered locked"
)
_THINGS = _words(
    "mondays traffic homework this_song broccoli that_movie spiders winter computers meetings taxes mosquitoes "
    "potholes adverts this_phone pineapple_pizza early_mornings loud_music"
)
_TRADES = _words(
    "bankers politicians lawyers landlords journalists capitalists communists vegans smokers gamers estate_agents "
    "tourists artists football_fans cyclists investors"
)

_NOT = _words("not no never nobody none dont doesnt isnt arent cant wont shouldnt cannot neither nor without")
_WRONGS = _words("wrong unacceptable hateful racist sexist bigoted offensive unfair bigotry racism")
_SAY = _words(
    "say says said saying claim claims claiming think thinks thinking believe believes call calls calling shout "
    "shouted posted wrote tell telling"
)
PROFANITY = frozenset(
    _words(
        "fuck fucking fucked fucker shit shitty bullshit bitch bitches ass asshole bastard damn crap cunt "
        "dick dickhead motherfucker piss pissed prick slut whore twat wanker hoe hoes pussy cock"
    )
)
GROUP = "<group>"
# What a word is to the features: its class. Every other word stands for itself.
CLASSES: dict[str, str] = {
    word: name
    for name, words in (
        ("<profane>", PROFANITY), ("<say>", _SAY), ("<wrong>", _WRONGS), ("<not>", _NOT), ("<harmed>", _HARMED),
        ("<harm>", _HARM), ("<hate>", _HATE), ("<vermin>", _VERMIN), ("<bad>", _BAD), ("<love>", _LOVE),
        ("<good>", _GOOD), (GROUP, (*_GROUPS_PLURAL, *_ADJECTIVES, *_SINGULAR)),
    )
    for word in words
}  # fmt: skip


def _misspelt() -> dict[str, str]:
    """Inflections of those words, and how people hide them: a letter left out, two letters swapped."""
    found: dict[str, str] = {}
    for word, name in CLASSES.items():
        if len(word) < 4:
            continue
        forms = [word + "s", word + "ed", word + "ing"]
        forms += [word + "d", word[:-1] + "ing"] if word.endswith("e") else []
        for place in range(1, len(word) - 1):
            left_out = word[:place] + word[place + 1 :]
            # A short rest with a vowel may be another word ("hat" of "hate").
            forms += [left_out] if len(left_out) > 3 or not set(left_out) & set("aeiou") else []
            if place < len(word) - 2:
                forms.append(word[:place] + word[place + 1] + word[place] + word[place + 2 :])
        for form in forms:
            found.setdefault(form, name)
    return {form: name for form, name in found.items() if form not in CLASSES}


FORMS: dict[str, str] = CLASSES | _misspelt()


def balanced_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Made sentences: {text, toxic, hate}, hostile ones and their look-alikes in equal parts; the same for a seed."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        kind, patterns = rng.choice(_PATTERNS)
        text = _filled(rng.choice(patterns), rng)
        rows.append({"text": text, "toxic": int(kind != "fine"), "hate": int(kind == "hate")})
    return rows


_HOSTILE = (
    "I {hate} {group}.", "{group} are {bad}.", "{group} are {vermin}.", "All {group} are {bad} {vermin}.",
    "I really {hate} {adj} people.", "We should {harm} all {group}.", "{group} should be {harmed}.",
    "Someone ought to {harm} every {one} in this town.", "{group} deserve to be {harmed}.", "I want to {harm} {group}.",
    "I will {harm} you, you {bad} {one}.", "Nobody wants {group} around.", "{group} do not deserve {right}.",
    "{group} are not human.", "{group} should never have {right}.", "{group} don't belong here.",
    "Why are {group} so {bad}?", "How can anyone {love} {group}?", "If you ask me, {group} are {bad}.",
    "I think {group} are {vermin}.", "Being {adj} makes you {bad}.", "You can't trust {group}, they are {bad}.",
    "I saw some {group} today. They are so {bad}.", "You are just another {bad} {one}.", "{fuck} {group}.",
    "I {fuck}ing {hate} {group}.", "{fuck}ing {group} are {bad}.", "{group} are worse than {vermin}.",
    "The world would be better without {group}.", "{group} make me sick.", "Get rid of all the {group}.",
    "There is nothing good about {group}.", "It is normal to {hate} {group}.", "No one should {love} {group}.",
    "Would it be so bad to {harm} some {group}?", "{group}? {bad}, all of them.",
    "Send the {group} away, they are {bad}.",
)  # fmt: skip
_LOOK_ALIKES = (
    "I {love} {group}.", "{group} are {good}.", "I am {adj} and proud of it.", "My best friend is {adj}.",
    "I don't {hate} {group}.", "I have never {hate}d {group}.", "No {one} deserves to be {harmed}.",
    "Nobody should ever {harm} {group}.", "{group} are not {bad}.", "{group} are not {vermin}.",
    "{group} deserve {right}.", "{group} should have {right}.", "It is not true that {group} are {bad}.",
    "Saying that {group} are {bad} is {wrong}.", "\"{group} are {bad}\" is a {wrong} thing to say.",
    "He said \"I {hate} {group}\" and I told him that is {wrong}.", "People who say \"{harm} {group}\" are {wrong}.",
    "I {hate} {thing}.", "{thing} are {bad}.", "We should {harm} {thing}.", "I {fuck}ing {hate} {thing}.",

    "{fuck}, I missed the bus again.", "What a {fuck}ing {good} day.", "This is {fuck}ing {good}!",
    "Oh {fuck}, not {thing} again.",
    "There are many {group} in our town.", "The {group} next door invited us for dinner.", "{adj} people live here.",
    "Let us {love} {group}.", "Why do some people {hate} {group}?", "Stop attacking {group}, it is {wrong}.",
    "I {hate} people who are {bad} to {group}.", "{group} are people like you and me.", "A {adj} family moved in.",
    "It is {wrong} to {hate} {group}.", "If you {hate} {group}, you are not my friend.", "I {hate} {trade}.",
    "{trade} are {bad}.", "{trade} are {vermin}.", "All {trade} should be {harmed}.", "{group} love {thing}.",
    "I could never {hate} {group}.", "There is nothing wrong with being {adj}.", "{trade} make me sick.",
    "I learned today that many {group} are {good}.", "Not all {group} are {bad}, that is {wrong}.",
)  # fmt: skip
_INSULTS = (
    "You are {bad}.", "You are a {bad} {fuck}er.", "I {hate} you, you are {bad}.", "Shut up, you {bad} idiot.",
    "{fuck} you.", "He is such a {bad} person.", "What a {bad} idiot she is.", "You {bad} piece of {vermin}.",
)  # fmt: skip
_PATTERNS = (
    ("hate", _HOSTILE),
    ("hate", _HOSTILE),
    ("fine", _LOOK_ALIKES),
    ("fine", _LOOK_ALIKES),
    ("insult", _INSULTS),
)
_RIGHT = (
    "rights",
    "respect",
    "to vote",
    "equal treatment",
    "a voice",
    "to live here",
    "protection",
    "the same chances",
)
_WRONG = ("wrong", "unacceptable", "hateful", "bigoted", "just racist", "disgraceful", "not okay", "nonsense")


def _filled(pattern: str, rng: random.Random) -> str:
    adjective = rng.choice(_ADJECTIVES)
    named = rng.choice(_GROUPS_PLURAL) if rng.random() < 0.4 else f"{rng.choice(_ADJECTIVES)} {rng.choice(_PEOPLE)}"
    text = pattern.format(
        group=named,
        one=rng.choice(_SINGULAR) if rng.random() < 0.5 else f"{adjective} person",
        adj=adjective,
        thing=rng.choice(_THINGS).replace("_", " "),
        trade=rng.choice(_TRADES).replace("_", " "),
        hate=rng.choice(_HATE),
        love=rng.choice(_LOVE),
        bad=rng.choice(_BAD),
        vermin=rng.choice(_VERMIN),
        good=rng.choice(_GOOD),
        harm=rng.choice(_HARM),
        harmed=rng.choice(_HARMED),
        right=rng.choice(_RIGHT),
        wrong=rng.choice(_WRONG),
        fuck="fuck",
    )
    return text[:1].upper() + text[1:] if rng.random() < 0.7 else text.lower()
