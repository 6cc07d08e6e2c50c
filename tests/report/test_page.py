"""report.html is one well-formed file that asks nobody for anything, escapes what models say, and has every section."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from groundup.report.build import MOST_BYTES, build_report, render
from groundup.report.data import report_data

SECTIONS = [
    "verdict",
    "made",
    "use",
    "samples",
    "scores",
    "training",
    "data",
    "corpus",
    "audit",
    "plan",
    "lineage",
    "config",
]
SECTIONS += ["environment", "trouble"]
VOID = {"meta", "link", "br", "img", "input", "hr", "area", "base", "col", "embed", "source", "track", "wbr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects ids, text, tags and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        self.ids += [value or "" for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


KINDS_OF_RUN: dict[str, dict] = {
    "finished": {},
    "refused": {"released": False, "unreachable": True},
    "under way": {"upto": "chat"},
    "failed": {"failed": "judge"},
    "stopped": {"stopped": "base"},
}


@pytest.fixture(scope="module", params=KINDS_OF_RUN)
def any_page(request: pytest.FixtureRequest, synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = synthetic.write_run(tmp_path_factory.mktemp("run") / "demo", **KINDS_OF_RUN[request.param])
    return build_report(run).read_text(encoding="utf-8")


def test_tags_nest_and_ids_are_unique(any_page: str) -> None:
    page = Page(any_page)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_every_section_is_there(any_page: str) -> None:
    page = Page(any_page)
    assert [name for name in SECTIONS if name not in page.ids] == []
    links = {value for tag, key, value in page.attributes if tag == "a" and key == "href"}
    assert links == {f"#{name}" for name in SECTIONS}


def test_nothing_is_asked_of_the_outside(any_page: str) -> None:
    page = Page(any_page)
    sources = [
        value for _, key, value in page.attributes if key in ("src", "href", "action", "data", "poster", "srcset")
    ]
    assert [value for value in sources if not value.startswith(("#", "data:,"))] == []
    assert re.findall(r"""(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}""", any_page) == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", any_page.replace("url(#arrow)", ""))


def test_it_is_small(any_page: str) -> None:
    assert len(any_page.encode()) < MOST_BYTES


def test_every_figure_has_a_title_and_a_description(any_page: str) -> None:
    page = Page(any_page)
    assert page.tags.count("svg") >= 4
    assert page.tags.count("desc") == page.tags.count("svg")
    labels = [value for tag, key, value in page.attributes if tag == "svg" and key == "aria-labelledby"]
    assert all(name in page.ids for label in labels for name in label.split())


def test_no_value_is_left_to_python(any_page: str) -> None:
    text = " ".join(Page(any_page).text)
    assert not re.search(r"\bNone\b|\bnan\b(?!;)|\{\{|Undefined", text.replace("the loss is nan", ""))


# ---------------------------------------------------------------- hostile input


def test_what_a_model_says_is_text_and_nothing_else(finished_page: str, synthetic: ModuleType) -> None:
    assert synthetic.HOSTILE not in finished_page
    page = Page(finished_page)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert synthetic.HOSTILE in "".join(page.text)


def test_every_text_of_a_run_is_escaped(finished_run: Path) -> None:
    evil = "<script>x</script>\"'><b onmouseover=y>"

    def poison(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {name: poison(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [poison(inner, key) for inner in value]
        is_free_text = isinstance(value, str) and key not in {
            "kind",
            "word",
            "severity",
            "status",
            "name",
            "stage",
            "at",
        }
        return evil if is_free_text and key not in {"from", "to"} else value

    page = render(poison(report_data(finished_run)))  # type: ignore[arg-type]
    parsed = Page(page)
    assert parsed.tags.count("script") == 1
    assert not [row for row in parsed.attributes if row[1].startswith("on")]
    assert evil in "".join(parsed.text)


# ---------------------------------------------------------------- what it says


def text_of(page: str, section: str) -> str:
    body = page.split(f'<section id="{section}">')[1].split("</section>")[0]
    return " ".join(" ".join(Page(body).text).split())


def test_a_released_run_says_so_in_one_sentence(finished_page: str) -> None:
    assert "aligned is released: 2 of 2 criteria hold." in text_of(finished_page, "verdict")


def test_a_refused_run_names_what_does_not_hold(synthetic: ModuleType, tmp_path: Path) -> None:
    page = build_report(synthetic.write_run(tmp_path / "demo", released=False, unreachable=True)).read_text()
    verdict = text_of(page, "verdict")
    assert "aligned is not released (refused): 1 of 2 criteria hold. Open: no unrecovered divergence" in verdict
    assert "the package registry did not answer" in text_of(page, "trouble")


def test_a_failed_run_says_where_why_and_how_to_go_on(synthetic: ModuleType, tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "demo", failed="judge")
    page = build_report(run).read_text()
    assert f"The run failed in stage judge: {synthetic.ERROR}" in text_of(page, "verdict")
    assert "groundup run" in text_of(page, "use")
    assert synthetic.ERROR in text_of(page, "trouble")
    assert "Stage exam (waiting) will fill this." in text_of(page, "scores")


def test_it_tells_how_to_chat_with_the_released_model(finished_page: str, finished_run: Path) -> None:
    assert f"groundup chat {finished_run}/aligned" in text_of(finished_page, "use")


def test_the_audit_marks_exactly_what_is_trained(finished_page: str) -> None:
    marks = re.findall(r"<mark>(.*?)</mark>", finished_page, flags=re.S)
    assert marks and set(marks) == {"19&lt;|im_end|&gt;"}


def test_every_reason_of_the_funnel_has_its_count(finished_page: str) -> None:
    funnel = text_of(finished_page, "data")
    assert re.search(r"near duplicates near duplicate 355 14 36 76 30 136 63", funnel)
    assert "came in 10,720 420 1,100 2,300 900 4,100 1,900" in funnel


def test_a_resume_is_told_and_ordinary_starts_are_not(finished_page: str) -> None:
    trouble = text_of(finished_page, "trouble")
    assert "resumed at step 200" in trouble
    assert "started" not in trouble


def test_the_spike_is_marked_on_the_loss_curve(finished_page: str) -> None:
    assert re.search(r'class="symbol warning"[^>]*>▲<title>spike', finished_page)


def test_source_date_epoch_makes_two_reports_equal(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    data = report_data(finished_run)
    first, second = render(data), render(data)
    assert "2023-11-14 22:13 UTC" in first
    assert first == second


def test_each_bar_of_the_funnel_is_as_long_as_what_came_in(finished_run: Path) -> None:
    from groundup.report.data_view import data_view

    data = report_data(finished_run)
    rects = re.findall(r'<rect x="[\d.]+" y="([\d.]+)" width="([\d.]+)"', data_view(data)["funnel_chart"])
    whole: dict[str, float] = {}
    for y, width in rects:
        whole[y] = whole.get(y, 0.0) + float(width)
    came = [source["in"]["documents"] for source in data["funnel"]["sources"].values()]
    scale = max(whole.values()) / max(came)
    assert list(whole.values()) == pytest.approx([documents * scale for documents in came], abs=0.5)
