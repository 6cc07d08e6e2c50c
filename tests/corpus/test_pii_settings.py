"""Personal data as a recipe's settings: names, private networks, and the sample of what was replaced."""

from __future__ import annotations

import gzip
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts import fingerprint_folder
from groundup.cli.corpora import show_why
from groundup.corpus.check import check
from groundup.corpus.pii.audit import is_sampled, read_audit, restore
from groundup.corpus.report.trial import sample_of, to_be_trained, trial
from groundup.corpus.report.why import why
from groundup.corpus.settings import CorpusSettings
from groundup.errors import UserError
from groundup.recipe import load_recipe

from .conftest import Built, context_in

PLACES = ("harbour", "market", "valley", "bridge", "orchard", "tower", "garden", "mill", "chapel", "quarry")
PEOPLE = ("Maria", "Peter", "Helen", "Ahmed", "Lucia", "Thomas", "Sara", "David")


def page(number: int, more: str = "") -> str:
    """Prose of about eighty words that shares little with other numbers' pages."""
    place, other = PLACES[number % 10], PLACES[number // 10 % 10]
    lines = [
        f"The old {place} of town {number} was built in the year {1400 + number} and has been mended many times.",
        f"From the {other} a path with {number + 3} steps leads down to the water, where boats {number} wait.",
        f"People of street {number} tell that a fire came over the {place} and that {number + 7} houses were lost.",
        f"Since then the {other} is looked after by a council of {number % 5 + 3} members who meet at number {number}.",
    ]
    return "\n".join(lines) + f"\n{more}"


def rows(path: Path, texts: list[str]) -> dict[str, str]:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"type": "jsonl", "path": str(path)}


def labelled(path: Path) -> str:
    """Sentences in which the word after `met` is a person and the capitalised one after `in` is not."""
    lines = []
    for number in range(400):
        person, place = PEOPLE[number % 8], ("Paris", "Ghent", "Turin", "Leeds")[number % 4]
        words = [("They", "O"), ("met", "O"), (person, "B-PER"), ("in", "O"), (place, "B-LOC"), (".", "O")]
        for sentence in (words, [(word, "O") for word in page(number).split()[:24]]):
            lines += [f"{at}\t{word}\t{tag}" for at, (word, tag) in enumerate(sentence, 1)] + [""]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def source(tmp_path: Path) -> dict[str, str]:
    mails = [page(n, f"Write to clerk{n}@town-of-arden.org or look at 192.168.3.{n}.") for n in range(40)]
    return rows(tmp_path / "rows.jsonl", mails)


SETTINGS: dict[str, Any] = {"held_out": None, "near_duplicate_threshold": None, "quality": None}


def texts(built: Built) -> dict[str, str]:
    return {row["id"]: row["text"] for row in built.rows("documents", "rows")}


def test_private_networks_are_replaced_where_the_recipe_says_so(
    build: Callable[..., Built], source: dict[str, str]
) -> None:
    kept = texts(build(sources={"rows": source}, **SETTINGS))
    assert all("192.168.3." in text and "<EMAIL>" in text for text in kept.values())
    gone = build(name="gone", sources={"rows": source}, pii_private_ips=True, **SETTINGS)
    assert not any("192.168.3." in text for text in texts(gone).values())
    (step,) = [one for one in gone.json("funnel.json")["total"]["steps"] if one["step"] == "personal data"]
    assert step["notes"] == {"<EMAIL>": 40, "<IP>": 40}


def test_the_audit_gives_back_what_was_replaced_in_the_kept_documents_of_the_sample(
    build: Callable[..., Built],
    source: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"sources": {"rows": {**source, "max_bytes": 9_000}}, "shard_bytes": 10_000, **SETTINGS}
    built = build(pii_audit_share=0.5, workers=0, **settings)
    path = built.folder / "private" / "pii-audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    kept, audit = texts(built), {row["id"]: row for row in read_audit(path)}
    assert set(audit) == {id for id in kept if is_sampled(id, 0.5)}
    assert 0 < len(audit) < len(kept) < 40, "some are beyond max_bytes, and not in the audit"
    originals = set(Path(source["path"]).read_text().splitlines())
    assert all(json.dumps({"text": restore(kept[id], row)}) in originals for id, row in audit.items())
    assert built.counts["audited_documents"] == len(audit)
    again = build(name="again", pii_audit_share=0.5, workers=2, **settings)
    assert (again.folder / "private" / "pii-audit.jsonl").read_bytes() == path.read_bytes()

    def told(id: str) -> dict[str, Any]:
        recorded = CorpusSettings(**settings, pii_audit_share=0.5).model_dump(mode="json")
        return why(built.folder, id, recorded, tmp_path / "cache")

    sampled, other = next(iter(audit)), next(id for id in kept if id not in audit)
    show_why(sampled, str(built.folder), home=tmp_path, stage_name=None, read_source=False, as_json=False)
    said = capsys.readouterr().out
    assert "personal data" in said and "@town-of-arden.org" in said and "<EMAIL>" in said
    (mail,) = told(sampled)["replaced"]
    assert mail["type"] == "email" and mail["original"].endswith("@town-of-arden.org")
    assert told(other)["replaced"] is None


def test_the_audit_is_no_part_of_the_corpus(build: Callable[..., Built], source: dict[str, str]) -> None:
    plain = build(sources={"rows": source}, **SETTINGS)
    assert not (plain.folder / "private").exists()
    audited = build(name="audited", sources={"rows": source}, pii_audit_share=1.0, **SETTINGS)
    assert (audited.folder / ".gitignore").read_text() == "private/\n"
    plain_card, audited_card = ((one.folder / "README.md").read_text() for one in (plain, audited))
    assert "private/" in plain_card and "clerk" not in audited_card
    for one in (plain, audited):
        (one.folder / "README.md").write_text(one.folder.name)  # the title is the folder's name
        (one.folder / "README.md").write_text("")
    assert fingerprint_folder(plain.folder) == fingerprint_folder(audited.folder)
    back = build(name="audited", sources={"rows": source}, **SETTINGS)
    assert not (back.folder / "private").exists(), "what is not asked for any more does not stay"


def test_a_recipe_trains_a_tagger_or_takes_a_trained_one(build: Callable[..., Built], tmp_path: Path) -> None:
    said = [page(n, f"They met {PEOPLE[n % 8]} in Ghent.") for n in range(8)]
    german = "Das alte Haus am Fluss wurde vor langer Zeit gebaut, und es steht noch heute. " * 6
    source = rows(tmp_path / "rows.jsonl", [*said, german + "They met Peter in Ghent."])
    settings = {"sources": {"rows": source}, "pii": ["name"], **SETTINGS}
    built = build(pii_names={"rows": labelled(tmp_path / "people.iob2"), "precision": 0.99}, **settings)
    found = texts(built)
    assert sum("They met <NAME> in Ghent." in text for text in found.values()) == 8
    assert sum("They met Peter in Ghent." in text for text in found.values()) == 1, "in English documents only"
    (trained,) = (tmp_path / "runs" / ".shards" / "corpus" / "train").iterdir()
    taken = build(name="taken", pii_names={"model": str(trained)}, **settings)
    assert texts(taken) == found
    everywhere = build(name="all", pii_names={"model": str(trained), "language": None}, **settings)
    assert not any("Peter" in text for text in texts(everywhere).values())


def test_a_trial_looks_for_no_names_before_the_tagger_is_trained(tmp_path: Path) -> None:
    source = rows(tmp_path / "rows.jsonl", [page(1, "They met Maria in Ghent. Write to clerk@town-of-arden.org.")])
    people = labelled(tmp_path / "people.iob2")
    given = {"sources": {"rows": source}, "pii": ["name", "email"], "pii_names": {"rows": people}, **SETTINGS}
    settings = CorpusSettings(**given)
    sample = sample_of(settings.sources["rows"], tmp_path, 10)
    (found,) = trial(settings, {"rows": sample.documents}, tmp_path / "trial", seed=0, cache=tmp_path)
    assert "They met Maria in Ghent. Write to <EMAIL>." in found.text
    assert to_be_trained(settings) == ["pii_names"]


def test_names_are_asked_for_and_given_together() -> None:
    sources = {"rows": {"type": "jsonl", "path": "rows.jsonl"}}
    with pytest.raises(ValueError, match="`name` needs a trained tagger: add `pii_names"):
        CorpusSettings(sources=sources, pii=("name",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="add `name` to `pii`"):
        CorpusSettings(sources=sources, pii_names={"rows": "people.iob2"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="either `model`"):
        CorpusSettings(sources=sources, pii=("name",), pii_names={})  # type: ignore[arg-type]


def test_labelled_sentences_that_are_not_there_are_refused_before_anything_runs(tmp_path: Path) -> None:
    rows(tmp_path / "rows.jsonl", ["x"])
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "name: mine\nstages:\n  corpus:\n    stage: corpus\n    sources: {rows: {type: jsonl, path: rows.jsonl}}\n"
        "    pii: [name]\n    pii_names: {rows: nobody.iob2}\n"
    )
    with pytest.raises(UserError, match=r"nobody\.iob2"):
        load_recipe(str(recipe))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1\tMaria\tB-PER\n", "1 words of people's names in 1 sentences"),
        (b"1 Maria\n", "has no tag"),
        (b"\xff\xfe", "cannot read labelled sentences"),
        (gzip.compress(b"1\tMaria\tB-PER\n" * 100)[:-9], "cannot read labelled sentences"),
    ],
)
def test_sentences_that_teach_nothing_are_told_by_check(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / ("people.iob2.gz" if content[:2] == b"\x1f\x8b" else "people.iob2")
    path.write_bytes(content)
    sources = {"rows": rows(tmp_path / "rows.jsonl", ["x"])}
    settings = CorpusSettings(sources=sources, pii=("name",), pii_names={"rows": str(path)})  # type: ignore[arg-type]
    (problem,) = check(settings, context_in(tmp_path / "runs" / "corpus")).problems
    assert message in problem.what


def test_a_folder_without_a_tagger_is_told_by_check(tmp_path: Path) -> None:
    sources = {"rows": rows(tmp_path / "rows.jsonl", ["x"])}
    given: Any = {"sources": sources, "pii": ["name"], "pii_names": {"model": str(tmp_path)}}
    (problem,) = check(CorpusSettings(**given), context_in(tmp_path / "runs" / "corpus")).problems
    assert "no name tagger" in problem.what
