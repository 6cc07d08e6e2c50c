"""Each cleaning step against known truth."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import string
import time
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from groundup.corpus.dedup.exact import cut_seen_paragraphs, exact_duplicates, text_key
from groundup.corpus.dedup.near import find_near_duplicates, jaccard, shingles_of
from groundup.corpus.document import Document, Drop, words_of
from groundup.corpus.exams.index import ExamIndex, ExamItem, exam_items
from groundup.corpus.exams.ngrams import hash_words, ngram_hashes
from groundup.corpus.heldout import choose_held_out
from groundup.corpus.licences import families_of, is_permitted, licence_of_file
from groundup.corpus.mixture import mix
from groundup.corpus.phases.plan import extract_tasks, filter_tasks
from groundup.corpus.pii import find, luhn, scrub
from groundup.corpus.quality.language import detect
from groundup.corpus.quality.rules import failures
from groundup.corpus.quality.signals import cut_boilerplate, signals_of
from groundup.corpus.settings import PII_TYPES, CorpusSettings, ExamFiles, ExamTasks, HeldOut, QualityRules
from groundup.corpus.shards import RAW, ShardWriter, document_of, document_row, read_rows
from groundup.corpus.tasks import Done, done_from, make_task, run_task
from groundup.errors import UserError

RULES = QualityRules()


def jsonl(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# ---------------------------------------------------------------- language


def test_languages_are_told_apart_on_parallel_sentences(shared_data: Path) -> None:
    told, right, all_rows = Counter(), Counter(), Counter()
    for row in jsonl(shared_data / "languages/pud-parallel-9.jsonl.gz")[::5]:
        code, _ = detect(row["text"])
        all_rows[row["lang"]] += 1
        told[row["lang"]] += bool(code)
        right[row["lang"]] += code == row["lang"]
    for language in all_rows:
        assert right[language] / told[language] >= 0.97, language
        assert told[language] / all_rows[language] >= 0.85, language


def test_a_text_too_short_to_tell_is_not_guessed() -> None:
    assert detect("Hi there") == ("", 0.0)
    assert detect("12345 67890 " * 50) == ("", 0.0)
    assert detect("")[0] == ""


def test_a_foreign_menu_does_not_decide_for_a_long_page() -> None:
    english = "The quick brown fox jumps over the lazy dog while the farmer is looking for his other hat. " * 100
    assert detect("Startseite Produkte Impressum Datenschutz Kontakt Anmelden\n" * 15 + english)[0] == "en"


# ---------------------------------------------------------------- quality

GOOD = """The committee met on Tuesday to talk about the plan for the new bridge. Most of the members agreed that it
should be built with local stone, and that the work has to begin before the winter. A report from the engineers, which
was read aloud, says that the river bed is firm. Nobody spoke against the idea, but the treasurer asked what it would
cost to keep the old ferry running until the day the bridge is open.""".replace("\n", " ")


def why(text: str, media: str = "prose", rules: QualityRules = RULES) -> list[str]:
    return [failed.rule for failed in failures(signals_of(text, media, "en"), media, "en", rules)]  # type: ignore[arg-type]


def test_good_prose_breaks_no_rule() -> None:
    for media in ("prose", "html", "docs", "dialogue"):
        assert why(GOOD, media) == []


@pytest.mark.parametrize(
    ("text", "media", "reason"),
    [
        ("The end of it.", "prose", "too few words"),
        (" ".join(["a", "b", "I", "to", "of"] * 20), "prose", "words too short on average"),
        ("Rindfleischetikettierungsüberwachungsaufgaben " * 60, "prose", "words too long on average"),
        (GOOD + " # # #" * 30, "prose", "too many symbols"),
        ("\n".join(f"- {line} and the rest" for line in GOOD.split(". ")) * 2, "prose", "almost only bullet points"),
        ("\n".join(f"{sentence} ..." for sentence in GOOD.split(",")), "prose", "too many lines end in an ellipsis"),
        ("\n".join([GOOD] * 5), "prose", "repeated lines"),
        (("buy cheap watches now " * 60) + GOOD, "prose", "one phrase makes up too much of the text"),
        (" ".join(f"{n * 7919} {n * 104729}" for n in range(100)) + " the of", "prose", "too few words with letters"),
        ("Katzen schlafen gern auf warmen Fensterbänken, während Regen fällt. " * 9, "prose", "too few stop words"),
        (GOOD + " Lorem ipsum dolor sit amet.", "html", "lorem ipsum"),
        (GOOD.replace(". ", "\n").replace(".", ""), "html", "too few lines end in punctuation"),
        ("\n".join(GOOD.split(" ")) + "\n" + GOOD, "html", "too many short lines"),
    ],
)  # fmt: skip
def test_each_prose_rule_names_what_it_was_made_for(text: str, media: str, reason: str) -> None:
    assert reason in why(text, media)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", "fewer than three lines of code"),
        ("a = 1\nb = 2\nc = '" + "xy z" * 400 + "'\n", "minified or data: a line is too long"),
        ("\n".join("value = some_function(argument) + " * 6 for _ in range(9)),
         "minified or data: lines are too long on average"),
        ("x = [\n" + "    1, 2, 3, 4, 5, 6, 7, 8, 9, 10,\n" * 50 + "]\n", "a table of numbers"),
        ("# ~~~~\n" * 3 + "{}[]()<>+-*/%!&|^~;:.,  \n" * 20, "too few letters and digits"),
        ("a = 1\nb = 2\nBLOB = b'" + "\\x89" * 80 + "'\n", "holds encoded binary data"),
    ],
)  # fmt: skip
def test_each_code_rule_names_what_it_was_made_for(text: str, reason: str) -> None:
    assert reason in why(text, "code")


def test_a_rule_set_to_null_is_off() -> None:
    assert "too few words" not in why("The end of it.", rules=QualityRules(min_words=None))
    long_line = "x = 1\ny = 2\n" + "z = (a + b) * c " * 100
    assert why(long_line, "code") != []
    assert why(long_line, "code", QualityRules(max_code_line_chars=None, max_code_mean_line_chars=None)) == []


def test_prose_rules_do_not_apply_to_code_and_plays() -> None:
    code = Path(hashlib.__file__).read_text()
    assert why(code, "code") == []
    play = "\n\n".join(
        f"{who}.\n{line}" for who, line in zip(("HAMLET", "HORATIO") * 9, GOOD.split(" ") * 3, strict=False)
    )
    assert "too many short lines" not in why(play + GOOD, "prose")


def test_clean_web_text_survives_and_junk_does_not(shared_data: Path, tmp_path: Path) -> None:
    c4 = [row["text"] for row in jsonl(shared_data / "web/c4-300.jsonl.gz")]
    kept = sum(not why(text, "html") for text in c4)
    assert kept / len(c4) >= 0.75, f"{kept} of {len(c4)} already clean pages kept"
    from groundup.corpus.settings import WarcSource
    from groundup.corpus.sources import read_source

    source = WarcSource(type="warc", path=str(shared_data / "web/commoncrawl-junk.warc.gz"))
    junk = [one for one in read_source(source, Path("/nowhere"), None, Counter()) if isinstance(one, Document)]
    kept, _ = cleaned(junk, tmp_path, extract="best", languages=["en"])
    assert len(kept) <= 2


def test_boilerplate_lines_go_and_the_page_stays() -> None:
    page = "A good sentence.\nPlease enable JavaScript to continue.\nThis site uses cookies\nAnother one."
    assert cut_boilerplate(page) == "A good sentence.\nAnother one."
    long = "A long paragraph about how browsers enable JavaScript " + "and more words " * 20
    assert cut_boilerplate(long) == long


# ---------------------------------------------------------------- extract, then filter: the tasks of one shard


def document(text: str, media: str = "prose", **fields: str) -> Document:
    return Document(id="d", url="u", license="MIT", text=text, media=media, **fields)  # type: ignore[arg-type]


def cleaned(documents: list[Document], root: Path, **settings: object) -> tuple[list[Document], list[Drop]]:
    """What the extract and filter tasks make of documents: those that are kept, and the drops."""
    given = CorpusSettings(sources={"s": {"type": "text", "path": "x"}}, workers=0, **settings)  # type: ignore[arg-type]
    (root / "raw").mkdir(parents=True, exist_ok=True)
    with ShardWriter(root / "raw" / "raw-00000.parquet", RAW) as writer:
        for one in documents:
            writer.write(document_row(one))
    raw = make_task("read", "s 0", "groundup.corpus.phases.documents:read", root, hints={"source": "s"})
    shard = {"file": "raw-00000.parquet", "documents": len(documents), "bytes": 1}
    read = Done(
        replace(raw, step="raw"), {shard["file"]: {"sha256": str(time.time_ns())}}, {"shards": [shard]}, 0, 0, 0
    )
    (extract_task,) = extract_tasks(given, [read], root)
    extract_task = replace(extract_task, inputs=(("raw/raw-00000.parquet", extract_task.inputs[0][1]),))
    extracted = done_from(extract_task, run_task(extract_task))
    (filter_task,) = filter_tasks(given, [extracted])
    filtered = done_from(filter_task, run_task(filter_task))
    drops = [Drop(**row) for done in (extracted, filtered) for row in read_rows(done.path("drops.parquet"))]
    return [document_of(row) for row in read_rows(filtered.path("kept.parquet"))], drops


def test_cascade_and_best_agree_on_what_is_kept(tmp_path: Path) -> None:
    page = (
        "<html><body><nav>Menu</nav><article>"
        + f"<p>{GOOD}</p>" * 1
        + "<p>More of it here.</p></article></body></html>"
    )
    german = (
        "<html><body><article><p>"
        + "Der Ausschuss traf sich am Dienstag, um über den Plan zu sprechen. " * 20
        + "</p></article></body></html>"
    )
    for method in ("fast", "cascade", "best"):
        pages = [document(page, "html"), document(german, "html")]
        (kept,), (dropped,) = cleaned(pages, tmp_path, extract=method, languages=["en"])
        assert GOOD[:60] in kept.text
        assert kept.language == "en"
        assert (dropped.step, dropped.reason) == ("language", "language: de")


def test_code_is_not_asked_for_its_language_nor_held_to_prose_rules(tmp_path: Path) -> None:
    code = "def f(x):\n    return x + 1\n\n\ndef g(x):\n    return f(x) * 2\n"
    (kept,), _ = cleaned([document(code, "code")], tmp_path, extract="best", languages=["en"])
    assert kept.text == code.strip("\n")


def test_a_drop_by_a_threshold_says_what_was_measured(tmp_path: Path) -> None:
    _, (dropped,) = cleaned([document("Just these five words here.")], tmp_path)
    assert (dropped.reason, dropped.value, dropped.threshold) == ("too few words", 5, 50)


def test_every_document_leaves_as_a_document_or_a_drop(tmp_path: Path) -> None:
    rng = random.Random(7)
    noise = [
        document("".join(rng.choice(string.printable + "äß你\x00\ud800<>/") for _ in range(rng.randint(0, 400))), media)
        for _ in range(200)
        for media in ("html", "prose", "docs", "code", "dialogue")
    ]
    kept, drops = cleaned(noise, tmp_path, extract="fast", languages=["en"])
    assert len(kept) + len(drops) == len(noise)


# ---------------------------------------------------------------- n-grams


def test_ngram_hashes_are_equal_exactly_where_the_words_are() -> None:
    rng = random.Random(3)
    words = [rng.choice("abcd") for _ in range(300)]
    for n in (1, 2, 5, 13):
        keys = ngram_hashes(hash_words(words), n)
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        assert len(keys) == len(grams)
        assert len(set(keys.tolist())) == len(set(grams))
        hashes: dict[tuple[str, ...], int] = {}
        assert all(hashes.setdefault(gram, key) == key for gram, key in zip(grams, keys.tolist(), strict=True))
    assert len(ngram_hashes(hash_words(["a"]), 5)) == 0


def test_scripts_without_spaces_are_split_into_characters() -> None:
    assert words_of("柏林是Germany的首都, Größe_1!") == ["柏", "林", "是", "germany", "的", "首", "都", "größe_1"]


# ---------------------------------------------------------------- exact duplicates


def test_exact_duplicates_look_through_case_punctuation_and_spacing() -> None:
    texts = ["The cat sat.", "the  CAT\nsat", "The cat sat here.", "ﬁne", "fine"]
    assert exact_duplicates(text_key(text) for text in texts) == [None, 0, None, None, 3]


def test_in_code_punctuation_is_meaning() -> None:
    assert text_key("a+b", is_code=True) != text_key("a-b", is_code=True)
    assert text_key("a + b\n", is_code=True) == text_key("a +  b", is_code=True)
    assert text_key("...") != text_key("!!!")


def test_long_paragraphs_seen_before_are_cut() -> None:
    seen: set[int] = set()
    long = "This is the notice that every page of this site carries at its end, and nobody ever reads it at all. " * 2
    assert cut_seen_paragraphs(f"First.\n\n{long}\n\nLast.", seen) == (f"First.\n\n{long}\n\nLast.", 0)
    assert cut_seen_paragraphs(f"Second.\n\n{long}\n\nFirst.", seen) == ("Second.\n\nFirst.", 1)


# ---------------------------------------------------------------- near-duplicates


def pairs_of(clusters) -> set[tuple[int, int]]:
    members = defaultdict(list)
    for place, cluster in enumerate(clusters):
        members[cluster].append(place)
    return {pair for group in members.values() for pair in combinations(group, 2)}


def test_all_330_pairs_of_the_novel_s_editions_and_no_other(shared_data: Path) -> None:
    rows = jsonl(shared_data / "neardup/pride-editions.jsonl.gz")
    found = find_near_duplicates([row["text"] for row in rows], 0.7)
    truth, ours = pairs_of([row["cluster"] for row in rows]), pairs_of(found.cluster.tolist())
    assert len(truth) == 330
    assert ours == truth
    assert len(set(found.cluster.tolist())) == 61
    assert all(cluster <= place for place, cluster in enumerate(found.cluster)), "the earliest stands for a cluster"


def test_clusters_are_those_of_an_exact_comparison_of_all_pairs() -> None:
    rng = random.Random(11)
    vocabulary = [f"w{n}" for n in range(400)]
    texts = []
    for _ in range(12):
        base = [rng.choice(vocabulary) for _ in range(rng.randint(60, 200))]
        for edits in (0.0, 0.01, 0.03, 0.05, 0.1, 0.3):
            texts.append(" ".join(rng.choice(vocabulary) if rng.random() < edits else word for word in base))
    rng.shuffle(texts)
    for threshold in (0.7, 0.8, 0.9):
        edges = [(a, b) for a, b in combinations(range(len(texts)), 2) if true_jaccard(texts[a], texts[b]) >= threshold]
        expected = list(range(len(texts)))
        for _ in texts:  # smallest label spreads along the edges: an independent, slow connected-components
            for a, b in edges:
                expected[a] = expected[b] = min(expected[a], expected[b])
        assert pairs_of(find_near_duplicates(texts, threshold).cluster.tolist()) == pairs_of(expected)


def true_jaccard(a: str, b: str) -> float:
    left, right = ({tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (a.split(), b.split()))
    return len(left & right) / len(left | right)


def test_jaccard_and_short_texts() -> None:
    assert jaccard(shingles_of("a b c d e f"), shingles_of("a b c d e g")) == pytest.approx(1 / 3)
    assert jaccard(shingles_of("hi"), shingles_of("Hi!")) == 1.0
    assert jaccard(shingles_of(""), shingles_of("")) == 0.0
    found = find_near_duplicates(["", "", "!!", "one two", "one two"], 0.8)
    assert found.cluster.tolist() == [0, 1, 2, 3, 3]


def test_a_thousand_copies_are_one_cluster_and_cost_no_square() -> None:
    found = find_near_duplicates(["the same licence text over and over again in every file"] * 1000, 0.8)
    assert set(found.cluster.tolist()) == {0}
    assert found.candidates == 999


# ---------------------------------------------------------------- personal data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+news@mail.company.co.uk today.", "Write to <EMAIL> today."),
        ("Call +49 (0)30 1234 5678 or (212) 664-7665.", "Call <PHONE> or <PHONE>."),
        ("Tel.: 030/12345678", "Tel.: <PHONE>"),
        ("from 93.184.216.34 and 2a00:1450:4001:81b::200e", "from <IP> and <IP>"),
        ("IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN <IBAN>, thanks"),
        ("GB29NWBK60161331926819 is it", "<IBAN> is it"),
        ("card 4111 1111 1111 1111 exp 12/29", "card <CARD> exp 12/29"),
        ("5500-0000-0000-0004", "<CARD>"),
        ("SSN 078-05-1120.", "SSN <SSN>."),
    ],
)
def test_personal_data_becomes_placeholders(text: str, expected: str) -> None:
    assert scrub(text, PII_TYPES)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "Version 172.217.16.142 of x==93.184.216.34, build 10.2.14.7 and v172.217.16.142",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "on 2024-01-31, 31/12/1999, 12.05.2020 and 2020-01-02 03:04:05",
        "user@example.com, admin@localhost, me@host.example.org, git@github.com:owner/name.git",
        "127.0.0.1, 192.168.0.1, 10.0.0.254, 203.0.113.9, 0.0.0.0, 255.255.255.0 and 2001:db8::1, fe80::1, ::1",
        "@decorator and a@b and logo@2x.png and pip install x@1.2.3",
        "pi is 3.14159265358979 and 1234567890123456 is no card, 4111 1111 1111 1112 neither",
        "ISBN 978-3-16-148410-0, pages 123-456-78, 000-12-3456, 666-12-3456, 900-12-3456",
        "DE89 3704 0044 0532 0130 01 has wrong check digits",
        "std::vector<a::b> at 12:30:45, mac 00:1b:44:11:3a:b7",
        "100 200 300 400 500 and 1,000,000 and 2019 2020 2021 2022",
        "$ 1 234 567 89 and 45.67 % and 1990-1995, RFC 2822, x = 0.123456789",
    ],
)
def test_what_only_looks_like_personal_data_is_left_alone(text: str) -> None:
    assert scrub(text, PII_TYPES) == (text, {})


def test_structured_types_of_the_labelled_set_are_found(shared_data: Path) -> None:
    names = {"EMAIL": "email", "PHONE_NUMBER": "phone", "IP_ADDRESS": "ip", "IBAN_CODE": "iban", "CREDIT_CARD": "card",
             "EMAIL_ADDRESS": "email", "US_SSN": "ssn"}  # fmt: skip
    hits = misses = false = 0
    for row in json.loads((shared_data / "pii/presidio-synth-v2.json").read_text()):
        truth = [s for s in row["spans"] if s["entity_type"] in names]
        found = find(row["full_text"], PII_TYPES)
        matched = set()
        for span in truth:
            mine = [f for f in found if f.start < span["end_position"] and span["start_position"] < f.end]
            matched |= set(mine)
            hits, misses = hits + bool(mine), misses + (not mine)
        false += len([f for f in found if f not in matched])
    assert hits + misses == 328
    f1 = 2 * hits / (2 * hits + misses + false)
    assert f1 >= 0.95, f"{hits} found, {misses} missed, {false} false"


def test_generated_cards_and_ibans_are_all_found_and_their_corruptions_are_not() -> None:
    rng = random.Random(5)
    for _ in range(300):
        head, size = rng.choice((("4", 16), ("51", 16), ("34", 15), ("6011", 16)))
        body = head + "".join(rng.choice(string.digits) for _ in range(size - len(head) - 1))
        card = next(body + digit for digit in string.digits if luhn(body + digit))
        if len(set(card)) <= 2:
            continue
        assert scrub(f"pay with {card} now", PII_TYPES)[0] == "pay with <CARD> now"
        wrong = card[:-1] + str((int(card[-1]) + 1) % 10)
        assert "<CARD>" not in scrub(f"pay with {wrong} now", PII_TYPES)[0]
        account = "".join(rng.choice(string.digits) for _ in range(18))
        check = 98 - int(account + "131400") % 97  # D=13, E=14
        assert scrub(f"to DE{check:02d}{account} please", PII_TYPES)[0] == "to <IBAN> please"
        assert "<IBAN>" not in scrub(f"to DE{(check + 1) % 97:02d}{account} please", PII_TYPES)[0]


def test_only_the_types_asked_for_are_replaced_and_counted() -> None:
    text = "a@b.de, 8.8.8.8, c@d.de"
    assert scrub(text, ("email",)) == ("<EMAIL>, 8.8.8.8, <EMAIL>", {"EMAIL": 2})


# ---------------------------------------------------------------- decontamination


def item(text: str, name: str = "1") -> ExamItem:
    return ExamItem("exam", name, text)


QUESTION = "A train leaves the station at noon and travels sixty miles an hour towards the coast for three hours"


def test_thirteen_shared_words_are_a_hit_and_twelve_are_not() -> None:
    index = ExamIndex([item(QUESTION, "trains")])
    words = QUESTION.split()
    hit = index.hit("He said: " + " ".join(words[3:16]).upper() + "!")
    assert hit is not None
    assert hit.item == "trains"
    assert index.hit("He said: " + " ".join(words[3:15]) + " but then") is None


def test_short_items_count_when_they_occur_whole() -> None:
    index = ExamIndex(
        [item("What is 12 + 34?"), item("Name the largest planet of the solar system please"), item("Why?")]
    )
    assert (index.items, index.skipped) == (2, 1)
    assert index.hit("Q: what is 12 + 34? A: 46") is not None
    assert index.hit("Q: what is 12 - 34? A: -22") is None
    assert index.hit("name the LARGEST planet, of the solar system - please") is not None
    assert index.hit("name the largest planet of the milky way please") is None


def test_runs_of_numbers_are_no_evidence() -> None:
    index = ExamIndex([item("Consider the grid 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16")])
    assert index.hit("counting 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17") is None


def test_every_leaked_humaneval_item_is_found_and_clean_code_is_not(shared_data: Path) -> None:
    exam = ExamFiles(path=str(shared_data / "eval/HumanEval.jsonl.gz"), fields=("prompt", "canonical_solution"))
    items = list(exam_items([exam], 1, Path("/nowhere"), None))
    index = ExamIndex(items)
    prompts = [one for one in items if one.text.lstrip().startswith(("def ", "from ", "import "))]
    assert len({one.name for one in items}) == 164
    for one in prompts:
        assert index.hit(f"# copied\n\n{one.text}\n    pass\n") is not None, one.name
    clean_rows = jsonl(shared_data / "web/c4-300.jsonl.gz")
    assert [row for row in clean_rows if index.hit(row["text"])] == []


def test_held_out_tasks_are_exam_items() -> None:
    items = list(exam_items([ExamTasks(tasks=("addition",), rows=50)], 7, Path("/nowhere"), None))
    assert len(items) == 50
    index = ExamIndex(items)
    assert all(index.hit(f"Homework. {one.text} I do not know.") for one in items)


def test_an_exam_without_items_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"number": 5}\n')
    with pytest.raises(UserError, match="no exam items were found here"):
        list(exam_items([ExamFiles(path=str(tmp_path))], 1, tmp_path, None))
    (tmp_path / "a.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match="not valid JSONL"):
        list(exam_items([ExamFiles(path=str(tmp_path))], 1, tmp_path, None))


# ---------------------------------------------------------------- mixture


def test_weights_become_shares_and_small_sources_are_repeated_up_to_the_cap() -> None:
    report = mix({"a": 1000, "b": 1000, "c": 10}, {"a": 1, "b": 2, "c": 1}, max_repetition=4)
    a, b, c = (report["sources"][name] for name in "abc")
    assert c["pass_bytes"] == 40
    assert c["capped"]
    assert c["epochs"] == 4
    assert b["realised_share"] == pytest.approx(2 * a["realised_share"]), "the others keep their proportion"
    assert sum(one["realised_share"] for one in (a, b, c)) == pytest.approx(1)
    assert report["pass_bytes"] == pytest.approx(2010, abs=1)


def test_without_weights_every_source_is_seen_once() -> None:
    report = mix({"a": 300, "b": 100, "none": 0}, {}, 4)
    assert [one["epochs"] for one in report["sources"].values()] == [1, 1, 0]
    assert report["sources"]["a"]["realised_share"] == 0.75


def test_where_every_source_is_capped_the_pass_is_shorter() -> None:
    report = mix({"a": 100, "b": 100}, {"a": 1, "b": 1}, max_repetition=0.5)
    assert report["pass_bytes"] == 100
    assert all(one["capped"] for one in report["sources"].values())


# ---------------------------------------------------------------- held out


def test_held_out_documents_stay_within_share_and_bytes_and_clusters_stay_together() -> None:
    ids = [f"d{n}" for n in range(1000)]
    sizes = [100 + n % 7 for n in range(1000)]
    clusters = [f"c{n // 3}" for n in range(1000)]
    chosen = choose_held_out(ids, sizes, clusters, HeldOut(share=0.05, max_bytes=10_000))
    taken = sum(size for size, is_chosen in zip(sizes, chosen, strict=True) if is_chosen)
    assert 0.04 * sum(sizes) < taken <= 0.05 * sum(sizes)
    for cluster in set(clusters):
        assert len({is_chosen for own, is_chosen in zip(clusters, chosen, strict=True) if own == cluster}) == 1
    few = choose_held_out(ids, sizes, clusters, HeldOut(share=0.5, max_bytes=1_000))
    assert sum(size for size, is_chosen in zip(sizes, few, strict=True) if is_chosen) <= 1_000


def test_a_small_source_gives_one_document_if_it_can_spare_it() -> None:
    chosen = choose_held_out([str(n) for n in range(16)], [100] * 16, [str(n) for n in range(16)], HeldOut(share=0.03))
    assert sum(chosen) == 1
    assert sum(choose_held_out(["a", "b"], [100, 100], ["a", "b"], HeldOut(share=0.03))) == 0


# ---------------------------------------------------------------- licences


@pytest.mark.parametrize(
    ("expression", "families"),
    [
        ("MIT", "MIT"),
        ("Apache-2.0 OR BSD-2-Clause", "Apache OR BSD"),
        ("Apache-2.0 WITH LLVM-exception AND (MIT)", "Apache AND MIT"),
        ("LGPL-2.1-or-later", "LGPL"),
        ("GNU General Public License v3 (GPLv3)", "GPL"),
        ("BSD-3-Clause AND BSD-2-Clause", "BSD"),
        ("Python Software Foundation License", "PSF"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "MPL"),
        ("Something else", "unknown"),
    ],
)
def test_licence_expressions_are_read_as_families(expression: str, families: str) -> None:
    assert families_of(expression) == families


def test_either_of_two_licences_may_be_enough_and_both_may_be_needed() -> None:
    assert is_permitted("Apache OR GPL", ["apache"])
    assert not is_permitted("Apache AND GPL", ["Apache"])
    assert not is_permitted("unknown", ["MIT"])
    assert is_permitted("unknown", [])


def test_a_file_s_own_header_wins_over_its_distribution() -> None:
    assert licence_of_file("# SPDX-License-Identifier: GPL-3.0-only\nx = 1\n", "MIT") == "GPL"
    assert licence_of_file("# under the GNU Lesser General Public License, version 2\n", "MIT") == "LGPL"
    assert licence_of_file('text = "About the GNU General Public License."\n', "MIT") == "MIT"
    # a docstring may be the header; a file too few is better than a licence passed over
    assert licence_of_file('"""Under the GNU General Public License."""\n', "MIT") == "GPL"


def test_only_permissive_rows_of_the_stack_sample_are_permitted(shared_data: Path) -> None:
    for row in jsonl(shared_data / "code/stack-sample.jsonl.gz"):
        families = families_of(row["license"])
        assert is_permitted(families, ["MIT", "BSD", "Apache"]) == ("GPL" not in row["license"].upper()), row["license"]
    assert np.unique([families_of(r["license"]) for r in jsonl(shared_data / "code/stack-sample.jsonl.gz")]).size >= 3
