"""What a wrong corpus recipe is told: every mistake at once, each at its own line, before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundup.corpus.weights import LANGUAGES
from groundup.errors import UserError
from groundup.recipe import load_recipe


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("A note.")


def told(text: str) -> list[str]:
    """`line: what is wrong` of every problem that the recipe has."""
    Path("recipe.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_recipe("recipe.yaml", [])
    return [f"{problem.where.split(':')[1]}: {problem.what}" for problem in error.value.problems]


def test_what_does_not_fit_together_is_told_all_at_once_each_at_its_line() -> None:
    assert told("""\
stage: corpus
sources:
  my notes: {type: text, path: notes.txt}
mixture: {zz: 1}
mixture_temperature: 2
duplicate_spans: 50
duplicate_paragraphs: true
mixture_tokens: 4
mixture_bytes: 4
""") == [
        "3: sources.my notes: source name 'my notes': use letters, digits, '_', '-' and '.', as it names files",
        "4: mixture names 'zz', which is not a source or a group; there are: my notes",
        "5: mixture_temperature evens out sizes, mixture gives weights: use one of the two",
        "6: duplicate_spans cuts repeated paragraphs too: leave out duplicate_paragraphs",
        "8: mixture_tokens and mixture_bytes say the same in two units: use one of the two",
    ]


def test_a_language_that_no_document_can_have_is_told_before_all_are_dropped() -> None:
    """`languages: [english]` would read everything and keep nothing."""
    text = "stage: corpus\nsources: {notes: {type: text, path: notes.txt}}\nlanguages: [english, EN, de, xx]\n"
    assert told(text) == [
        "3: languages: 'english' is no code of a language that can be told: did you mean 'en'?",
        "3: languages: 'EN' is no code of a language that can be told: did you mean 'en'?",
        "3: languages: 'xx' is no code of a language that can be told: codes are as `en`, `de`, `zh`",
    ]


def test_rows_that_say_their_language_may_say_it_by_any_code() -> None:
    Path("rows.jsonl").write_text('{"text": "Something.", "lang": "x-klingon"}\n')
    Path("recipe.yaml").write_text(
        "stage: corpus\nsources: {rows: {type: jsonl, path: rows.jsonl, language_field: lang}}\n"
        "languages: [x-klingon]\n"
    )
    assert load_recipe("recipe.yaml", []).stages


def test_the_known_codes_are_those_of_the_model() -> None:
    from groundup.corpus.quality.language import _model

    labels, _ = _model().predict("any text", k=1000, threshold=-1)
    assert {label.removeprefix("__label__") for label in labels} == LANGUAGES


def test_paths_may_start_beside_the_recipe_as_the_manual_says(tmp_path: Path) -> None:
    """A recipe and its data in one folder work from every folder, and make the same files."""
    from groundup.cli import app

    place = tmp_path / "elsewhere"
    place.mkdir()
    words = "The sheep of this valley are counted in spring, and the shepherd who owns them is paid for each of them. "
    (place / "rows.jsonl").write_text(
        "".join(f'{{"text": "{words * 3}This is farm {number}."}}\n' for number in range(3))
    )
    (place / "exam.txt").write_text("What is the answer to the first of all the questions?\n")
    recipe = (
        "name: valley\nstages:\n  corpus:\n    stage: corpus\n    workers: 0\n"
        "    near_duplicate_threshold: null\n    quality: null\n"
        "    sources: {rows: {type: jsonl, path: rows.jsonl}}\n    decontaminate: [{path: exam.txt}]\n"
    )
    (place / "mine.yaml").write_text(recipe)
    assert app._main(["check", "elsewhere/mine.yaml"]) == 0
    assert app._main(["data", "preview", "elsewhere/mine.yaml"]) == 0
    assert app._main(["run", "elsewhere/mine.yaml", "--quiet"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert app._main(["run", "mine.yaml", "--quiet"]) == 0
    for name in ("sources.json", "README.md", "documents/rows-00000.parquet"):
        assert (Path("runs/valley/corpus") / name).read_bytes() == (place / "runs/valley/corpus" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "where", "what"),
    [
        ("t.csv", "id,tweet,class\n0,Hello there,1\n", "t.csv: row 1", "this one has 'id', 'tweet', 'class'"),
        ("t.csv", "text,toxic\nHello,1\nThere,perhaps\n", "t.csv: row 2", "toxic is 'perhaps'"),
        ("t.jsonl", '{"text": "a", "toxic": 1}\n{"text": "b\n', "t.jsonl", "row 2 is no JSON"),
        ("t.jsonl", '["a", 1]\n', "t.jsonl", "row 1 is no JSON object"),
        ("t.jsonl", '{"text": "a", "toxic": 1}\n', "t.jsonl", "toxic: 1 rows are labelled 1 and 0 are labelled 0"),
        ("t.parquet", "PAR1", "t.parquet", "labelled rows are read from .jsonl and .csv"),
        ("t.csv.gz", "no gzip", "t.csv.gz", "no row has a label"),
    ],
)  # fmt: skip
def test_labelled_rows_are_looked_at_before_anything_is_built(
    name: str, content: str, where: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file without the field `text` was told after all sources had been read, as `invalid literal for int()`."""
    from groundup.cli import app

    Path(name).write_text(content)
    Path("mine.yaml").write_text(
        f"stage: corpus\nsources: {{notes: {{type: text, path: notes.txt}}}}\ntoxicity: {{rows: {name}}}\n"
    )
    assert app._main(["check", "mine.yaml"]) == 2
    told = capsys.readouterr().err
    assert where in told and what in told and "int()" not in told


def test_labels_may_be_written_as_spreadsheets_and_json_write_them() -> None:
    from groundup.corpus.quality.labelled import categories_of, labelled_rows

    rows = "".join(f'"Text, number {n}",{("1", "TRUE", "1.0")[n % 3]},\nOther {n},0,1\n' for n in range(12))
    Path("t.csv").write_text("text,toxic,hate\n" + rows + "".join(f"More {n},false,0\n" for n in range(10)))
    found = labelled_rows(Path("t.csv"))
    assert found[0] == {"text": "Text, number 0", "toxic": 1, "hate": None}
    assert categories_of(found) == ("hate", "toxic")
    Path("t.jsonl").write_text('{"text": "a line\u2028and another", "toxic": true}\n')
    assert labelled_rows(Path("t.jsonl")) == [{"text": "a line\u2028and another", "toxic": True}]


def test_a_folder_without_a_file_of_its_kind_is_told_before_anything_is_built(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`no file there is one of rows` was told when all other sources had been read."""
    from groundup.cli import app

    for folder, names in (("rows", ("a.txt", "b.txt")), ("dump", ("Users.xml", "Votes.xml")), ("split", ("x.jsonl",))):
        Path(folder).mkdir()
        for name in names:
            (Path(folder) / name).write_text("something\n")
    Path("mine.yaml").write_text(
        "stage: corpus\nsources:\n  notes: {type: text, path: notes.txt}\n  rows: {type: jsonl, path: rows}\n"
        "  forum: {type: stackexchange, path: dump}\n  train: {type: jsonl, path: split, split: train}\n"
    )
    assert app._main(["check", "mine.yaml"]) == 2
    told = capsys.readouterr().err
    assert "mine.yaml:4:29: rows: source 'rows': no file there is one of rows" in told
    assert "dump: source 'forum': no file there is one that `type: stackexchange` reads" in told
    assert "split: source 'train': no file's name says it is of the split 'train'" in told
