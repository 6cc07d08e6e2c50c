"""Papers: PDF, JATS and LaTeX as text that can be read, with title, authors, date and licence."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus.licences import licence_of_url
from groundup.corpus.source_settings import PapersSource
from groundup.corpus.sources import pieces
from groundup.corpus.sources.latex import LatexError, read_latex
from groundup.corpus.sources.latex_source import expand_macros, take_macros, without_comments
from groundup.corpus.sources.pdf import PdfError, read_pdf, without_references


def papers(path: Path, **settings: object) -> PapersSource:
    return PapersSource(type="papers", path=str(path), **settings)  # type: ignore[arg-type]


def reasons(drops: list) -> dict[str, int]:
    return dict(Counter(drop.reason for drop in drops))


# ---------------------------------------------------------------- PDF


@pytest.fixture
def pdfium() -> None:
    pytest.importorskip("pypdfium2", reason="pypdfium2 (the extra `pdf`) is not installed")


def pdf_of(pages: list[list[tuple[float, float, str]]], size: float = 10, info: str = "") -> bytes:
    """A PDF of 612 x 792 points: each page a list of (x, y, text) in Helvetica, in this order."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for page in pages:
        draw = b"".join(
            b"BT /F1 %g Tf %g %g Td (%s) Tj ET\n"
            % (size, x, y, text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)").encode("cp1252"))
            for x, y, text in page
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(draw), draw))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(kids))
    objects.append(f"<< {info} >>".encode())
    out, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return out + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF"
        % (len(objects) + 1, table, len(objects) + 1, len(objects), len(out))
    )


LEFT = [f"left column line {n} goes on and on here" for n in range(20)]
RIGHT = [f"right column line {n} goes on and on too" for n in range(20)]


def column(x: float, lines: list[str], top: float = 680) -> list[tuple[float, float, str]]:
    return [(x, top - 12 * place, line) for place, line in enumerate(lines)]


@pytest.mark.usefixtures("pdfium")
@pytest.mark.parametrize("order", ["as it is read", "line by line"])
def test_two_columns_are_read_one_after_the_other(order: str) -> None:
    left, right = column(60, LEFT), column(330, RIGHT)
    if order == "as it is read":
        page = left + right
    else:
        page = [one for pair in zip(left, right, strict=True) for one in pair]
    title = [(200.0, 730.0, "A Title Over Both Of The Columns, Quite Long")]
    text = read_pdf(pdf_of([title + page]), Counter()).text
    words = " ".join(text.split())
    assert words.startswith("A Title Over Both Of The Columns")
    assert words.endswith(" ".join(LEFT + RIGHT)), "nothing is lost and nothing jumps"


@pytest.mark.usefixtures("pdfium")
def test_paragraphs_headings_hyphens_and_frames() -> None:
    def page(number: int, lines: list[str]) -> list[tuple[float, float, str]]:
        head = [(60.0, 760.0, f"Journal of Tests, vol. {number}"), (300.0, 30.0, str(number))]
        return head + column(60, lines)

    first = [
        "1 Introduction",
        "This is the first paragraph of the paper and it is a well-known one, as every-",
        "body knows: it goes over three lines, and the second has a word that is well-",
        "known, and then it ends here.",
    ]
    indented = [
        (75.0, 620.0, "This is the second paragraph, which is indented and goes on over the end of the page to")
    ]
    second = [
        "the next page, where it ends.",
        "It has another sentence that fills the whole line of the page up to its end,",
    ]
    third = ["and one more line of words.", "References", "[1] A. Uthor. Some work. 1999.", "[2] B. Other. More. 2001."]
    pdf = read_pdf(pdf_of([page(1, first) + indented, page(2, second), page(3, third)]), notes := Counter())
    assert pdf.text.split("\n\n") == [
        "1 Introduction",
        "This is the first paragraph of the paper and it is a well-known one, as everybody knows: it goes over three "
        "lines, and the second has a word that is well-known, and then it ends here.",
        "This is the second paragraph, which is indented and goes on over the end of the page to the next page, where "
        "it ends.",
        "It has another sentence that fills the whole line of the page up to its end, and one more line of words.",
    ]
    assert notes["lists of references cut off"] == 1
    assert "B. Other" in read_pdf(pdf_of([page(1, first), page(2, second), page(3, third)]), Counter(), True).text


@pytest.mark.usefixtures("pdfium")
def test_a_pdf_document_carries_what_it_says_about_itself(read, tmp_path: Path) -> None:
    info = "/Title (A Fine Paper) /Author (A. Writer) /CreationDate (D:20190304120000Z)"
    (tmp_path / "a.pdf").write_bytes(pdf_of([column(60, LEFT)], info=info))
    stamp = [(20.0, 400.0, "arXiv:2301.04567v2 [cs.CL] 1 Jan 2023")]
    (tmp_path / "b.pdf").write_bytes(pdf_of([stamp + column(120, LEFT)]))
    a, b = read(papers(tmp_path, license="CC-BY-4.0"))[0]
    assert a.metadata == {"format": "pdf", "title": "A Fine Paper", "authors": ["A. Writer"], "pages": 1}
    assert (a.date, a.license, a.media) == ("2019-03-04", "CC-BY-4.0", "docs")
    assert (b.url, b.metadata["arxiv"]) == ("https://arxiv.org/abs/2301.04567", "2301.04567")
    assert "arXiv:" not in b.text


@pytest.mark.usefixtures("pdfium")
def test_why_a_pdf_cannot_be_read(read, tmp_path: Path) -> None:
    whole = pdf_of([column(60, LEFT)])
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 and then nothing")
    (tmp_path / "b.pdf").write_bytes(pdf_of([[], []]))
    (tmp_path / "c.pdf").write_bytes(pdf_of([column(60, ["\x01\x02\x03" * 12] * 9)]))
    (tmp_path / "d.pdf").write_bytes(whole.replace(b"startxref\n", b"startxref\n9"))  # its table is found again
    documents, drops, _ = read(papers(tmp_path))
    assert [one.id for one in documents] == ["d.pdf"]
    assert {drop.id: drop.reason for drop in drops} == {
        "a.pdf": "not a readable PDF",
        "b.pdf": "PDF without a text layer (scanned pages)",
        "c.pdf": "PDF whose text layer is not readable (fonts without Unicode)",
    }


@pytest.mark.usefixtures("pdfium")
@given(st.binary(min_size=1, max_size=60), st.integers(0, 3_000))
def test_a_damaged_pdf_is_a_reason_never_an_error(noise: bytes, at: int) -> None:
    whole = pdf_of([column(60, LEFT)])
    place = at % len(whole)
    try:
        assert read_pdf(whole[:place] + noise + whole[place + len(noise) :], Counter()).pages
    except PdfError as error:
        assert str(error)


def test_references_end_at_an_appendix() -> None:
    paragraphs = ["a", "b", "c", "References", "[1] X", "Appendix", "More text."]
    assert without_references(paragraphs, Counter()) == ["a", "b", "c", "Appendix", "More text."]
    early = ["References are things.", "b", "c", "d"]
    assert without_references(early, Counter()) == early


# ---------------------------------------------------------------- JATS

JATS = """<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS//EN" "JATS-archivearticle1.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink" xml:lang="en"><front>
<journal-meta><journal-title-group><journal-title>J. Tests</journal-title></journal-title-group></journal-meta>
<article-meta><article-id pub-id-type="pmc">PMC123</article-id><article-id pub-id-type="doi">10.1/x</article-id>
<title-group><article-title>On <italic>E. coli</italic> and CO<sub>2</sub></article-title></title-group>
<contrib-group>
<contrib contrib-type="author"><name><surname>Writer</surname><given-names>Ann</given-names></name></contrib>
<contrib contrib-type="editor"><name><surname>Editor</surname></name></contrib></contrib-group>
<pub-date pub-type="epub"><day>4</day><month>3</month><year>2019</year></pub-date>
<pub-date pub-type="collection"><year>2020</year></pub-date>
<permissions><license xlink:href="https://creativecommons.org/licenses/by-nc/4.0/"><license-p>Open.</license-p></license>
</permissions><abstract><title>Abstract</title><p>We did it.</p></abstract></article-meta></front>
<body><sec><label>1</label><title>Results</title><p>As shown<sup><xref ref-type="bibr" rid="b1">1</xref></sup> in
<xref ref-type="fig" rid="f1">Figure 1</xref>, 10<sup>6</sup> cells [<xref ref-type="bibr" rid="b2">2</xref>] with
<inline-formula><alternatives><tex-math>\\documentclass{minimal}\\begin{document}$x^2$\\end{document}</tex-math>
<math><mi>x</mi></math></alternatives></inline-formula> &amp; more.</p>
<sec><title>Sub</title><list list-type="order"><list-item><p>one</p></list-item><list-item><p>two</p></list-item></list>
<disp-formula><label>(1)</label><math><mfrac><mi>a</mi><mi>b</mi></mfrac><mo>=</mo><msup><mi>c</mi><mn>2</mn></msup></math>
</disp-formula></sec>
<fig><label>Figure 1</label><caption><p>A caption.</p></caption><graphic xlink:href="x.png"/></fig>
<table-wrap><label>Table 1</label><caption><title>Counts</title></caption><table><tr><th>a</th><th>b</th></tr>
<tr><td>1</td><td>2</td></tr></table></table-wrap></sec></body>
<back><ack><title>Acknowledgements</title><p>Thanks.</p></ack>
<ref-list><title>References</title><ref id="b1"><mixed-citation>A. Uthor. 1999.</mixed-citation></ref></ref-list></back>
</article>"""
JATS_TEXT = """# On E. coli and CO_2

## Abstract

We did it.

## 1 Results

As shown [1] in Figure 1, 10^6 cells [2] with $x^2$ & more.

### Sub

1. one
2. two

$$a/b = c^2$$

Figure 1 A caption.

Table 1 Counts

a | b
1 | 2

## Acknowledgements

Thanks."""


def test_a_jats_article_becomes_text_with_its_provenance(read, tmp_path: Path) -> None:
    (tmp_path / "a.nxml").write_text(JATS)
    [article], drops, _ = read(papers(tmp_path))
    assert article.text == JATS_TEXT
    assert drops == []
    assert (article.license, article.date, article.language) == ("CC-BY-NC-4.0", "2019-03-04", "en")
    assert article.url == "https://pmc.ncbi.nlm.nih.gov/articles/PMC123/"
    assert article.metadata == {
        "format": "jats", "title": "On E. coli and CO_2", "authors": ["Ann Writer"], "journal": "J. Tests",
        "doi": "10.1/x", "pmc": "123",
    }  # fmt: skip
    [whole], _, _ = read(papers(tmp_path, references=True))
    assert whole.text == JATS_TEXT + "\n\n## References\n\n- A. Uthor. 1999."


def test_sets_of_articles_stream_and_a_cut_off_one_keeps_what_came_before(read, tmp_path: Path) -> None:
    one = JATS[JATS.index("<article ") :]
    empty = "<article><front><article-meta/></front></article>"
    (tmp_path / "a.xml").write_text(f"<pmc-articleset>{one}{empty}{one}</pmc-articleset>")
    (tmp_path / "b.xml.gz").write_bytes(gzip.compress(f"<pmc-articleset>{one * 50}".encode())[:-30])
    (tmp_path / "c.xml").write_text("<html><p>No article</p></html>")
    documents, drops, _ = read(papers(tmp_path))
    assert [one.id for one in documents if one.id.startswith("a")] == ["a.xml", "a.xml#3"]
    assert {drop.id.partition("#")[0]: drop.reason for drop in drops} == {
        "a.xml": "article without abstract or text",
        "b.xml.gz": "damaged file: the rest of it could not be read",
        "c.xml": "not a paper (neither PDF, JATS nor LaTeX)",
    }
    assert sum(one.id.startswith("b.xml.gz") for one in documents) > 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://creativecommons.org/licenses/by/3.0/", "CC-BY-3.0"),
        ("see https://creativecommons.org/licenses/by-nc-nd/4.0/ for", "CC-BY-NC-ND-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://example.org/licenses/by/3.0", ""),
    ],
)
def test_creative_commons_addresses_are_licences(text: str, expected: str) -> None:
    assert licence_of_url(text) == expected


# ---------------------------------------------------------------- LaTeX

MAIN = r"""% a comment
\documentclass{article}
\newcommand{\E}[1]{\mathbb{E}\left[#1\right]}
\newcommand{\R}{\mathbb{R}}
\def\eps{\varepsilon}
\DeclareMathOperator*{\argmin}{arg\,min}
\newcommand{\opt}[2][x]{#1^{#2}}
\title{On {\em Sm\"uth} Things\thanks{Money}}
\author{J. Garc\'{\i}a \and K. \O stberg\\ Dept.}
\begin{document}
\maketitle
\begin{abstract}We show 5\% of \emph{nothing}~\cite{a,b}. % hidden
It has two lines.\end{abstract}
\section{Introduction}\label{sec:intro}
``Quoted'' text --- as in Section~\ref{sec:method}. See \cite{b}, \citep[p.~3]{c}.
Let $x \in \R$ and $\E{x} < \eps$.\footnote{A note.}
\begin{equation}\label{eq:one}
  \argmin_x \opt{2} + \opt[y]{3}
\end{equation}
By \eqref{eq:one} we are done. Na\"{\i}ve \'etude, \v{c}, \ss.

\begin{itemize}
\item One \textbf{bold}
\item Two
  \begin{enumerate}\item in \item ner\end{enumerate}
\end{itemize}
\iffalse gone \fi
\subsection*{Unnumbered}
\begin{theorem}[Main]\label{thm:m} All $x$ are $y$. \end{theorem}
\begin{proof} Trivial. \end{proof}
\input{sections/method}
\begin{thebibliography}{9}\bibitem{a} A. Uthor. \emph{Work}. \end{thebibliography}
\end{document}
"""
METHOD = r"""\section{Method}\label{sec:method}
\begin{figure}[t]\centering\includegraphics[width=1in]{x.png}\caption{A \textit{figure}.}\label{fig:f}\end{figure}
\begin{table}\caption{Numbers}\begin{tabular}{l|r}\hline a & 1 \\ b & 2 \\ \hline\end{tabular}\end{table}
\begin{align} a &= b \label{eq:a} \\ c &= d \end{align}
As Figure~\ref{fig:f} and Theorem~\ref{thm:m} show: \verb|x % y| and \url{http://a.b/c_d}. \foo{kept}
\href{http://x}{link}.
\begin{lstlisting}[language=Python]
if x % 2:
    pass
\end{lstlisting}
\[ z = 1 \]
"""
LATEX_TEXT = r"""# On Smüth Things

## Abstract

We show 5% of nothing [1, 2]. It has two lines.

## 1 Introduction

“Quoted” text — as in Section 2. See [2], [3]. Let $x \in \mathbb{R}$ and $\mathbb{E}\left[x\right] < {\varepsilon}$. (A note.)

$$\operatorname*{arg\,min}_x x^{2} + y^{3}$$

By (1) we are done. Naïve étude, č, ß.

- One bold
- Two
  1. in
  2. ner

### Unnumbered

Theorem 1 (Main). All $x$ are $y$.

Proof. Trivial.

## 2 Method

Figure 1: A figure.

Table 1: Numbers

a | 1
b | 2

$$\begin{align} a &= b \\ c &= d \end{align}$$

As Figure 1 and Theorem 1 show: `x % y` and http://a.b/c_d. kept link.

```
if x % 2:
    pass
```

$$z = 1$$"""  # noqa: E501
PROJECT = {"main.tex": MAIN, "sections/method.tex": METHOD, "sections/unused.tex": "Unused.", "x.png": "\x89PNG"}


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def project_tar() -> bytes:
    return gzip.compress(tar_of({name: text.encode("latin-1", "replace") for name, text in PROJECT.items()}))


def test_a_latex_project_becomes_text_with_its_formulas() -> None:
    notes: Counter[str] = Counter()
    paper = read_latex(PROJECT, notes)
    assert paper.text == LATEX_TEXT
    assert (paper.title, paper.authors) == ("On Smüth Things", ["J. García", "K. Østberg"])
    assert notes == {"LaTeX commands that were not known": 1}
    assert read_latex(PROJECT, notes, keep_references=True).text.endswith("## References\n\n- A. Uthor. Work.")


def test_sources_as_arxiv_gives_them(read, tmp_path: Path) -> None:
    single = MAIN.replace(r"\input{sections/method}", "").encode()
    (tmp_path / "2301.04567v2.tar.gz").write_bytes(project_tar())
    (tmp_path / "math0309136.gz").write_bytes(gzip.compress(single))
    bundle = {
        "0704/0704.0001.gz": project_tar(),
        "0704/0704.0002.gz": gzip.compress(single),
        "0704/0704.0003.gz": gzip.compress(b"%auto-ignore\nThis paper has been withdrawn."),
        "0704/0704.0004.gz": gzip.compress(b"no paper at all"),
        "0704/0704.0005.gz": project_tar()[:-40],
    }
    (tmp_path / "arXiv_src_0704_001.tar").write_bytes(tar_of(bundle))
    documents, drops, _ = read(papers(tmp_path))
    found = {one.url.removeprefix("https://arxiv.org/abs/"): (one.date, one.metadata["title"]) for one in documents}
    assert found == {
        id: (date, "On Smüth Things")
        for id, date in {
            "2301.04567v2": "2023-01", "math/0309136": "2003-09", "0704.0001": "2007-04", "0704.0002": "2007-04",
        }.items()
    }  # fmt: skip
    assert {drop.id.rpartition("/")[2].partition("#")[0]: drop.reason for drop in drops} == {
        "0704.0003.gz": "withdrawn paper (%auto-ignore)",
        "0704.0004.gz": "no LaTeX main file",
        "0704.0005.gz": "unreadable file",
    }


def test_a_folder_of_latex_is_one_paper_and_pmc_packages_give_their_article(read, tmp_path: Path) -> None:
    for name, text in PROJECT.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    package = {"PMC123/a.nxml": JATS.encode(), "PMC123/a.pdf": b"%PDF-1.4", "PMC123/f.jpg": b"\xff"}
    (tmp_path / "PMC123.tar.gz").write_bytes(gzip.compress(tar_of(package)))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("x/paper.xml", JATS)
    source = papers(tmp_path)
    assert [piece.name for piece in pieces(source, tmp_path)] == ["PMC123.tar.gz", "b.zip", "mine"]
    documents, drops, notes = read(source)
    assert {one.id: one.text for one in documents} == {
        "PMC123.tar.gz/PMC123/a.nxml": JATS_TEXT,
        "b.zip/x/paper.xml": JATS_TEXT,
        "mine": LATEX_TEXT,
    }
    assert drops == []
    assert notes["files beside an article"] == 2


def test_the_recipes_own_folder_is_one_paper_where_one_file_of_it_begins_it(read, tmp_path: Path) -> None:
    (tmp_path / "main.tex").write_text(MAIN.replace("sections/method", "method"))
    (tmp_path / "method.tex").write_text(METHOD)
    [paper], _, _ = read(papers(tmp_path))
    assert (paper.id, paper.text) == (".", LATEX_TEXT)
    (tmp_path / "other.tex").write_text(MAIN)
    documents, drops, _ = read(papers(tmp_path))
    assert [one.id for one in documents] == ["main.tex", "other.tex"]
    assert reasons(drops) == {"no LaTeX main file": 1}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a % b\nc", "a c"),
        (r"5\% of", r"5\% of"),
        ("a\n% whole line\nb", "a\nb"),
        (r"\\% c", r"\\"),
        (r"\verb|%| x % y", r"\verb|%| x "),
        ("\\begin{verbatim}\n% kept\n\\end{verbatim}", "\\begin{verbatim}\n% kept\n\\end{verbatim}"),
        (r"a \iffalse b \fi c", "a  c"),
    ],
)
def test_comments(source: str, text: str) -> None:
    assert without_comments(source) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"\newcommand{\a}{A}\a{} \a b", r"A A b"),
        (r"\newcommand\pair[2]{(#1,#2)}$\pair{x}{\pair yz}$", r"$(x,(y,z))$"),
        (r"\def\b#1{[#1]}\b{c}\bx", r"[c]\bx"),
        (r"\newcommand{\bb}{\aa}\newcommand{\aa}{\mathbf{a}}\bb", r"\mathbf{a}"),
        (r"\newcommand{\x}{\x}\x", r"\x"),
    ],
)
def test_macros(source: str, text: str) -> None:
    body, macros = take_macros(source)
    expanded = expand_macros(body, macros)
    assert expanded.replace("{\\mathbf{a}}", "\\mathbf{a}") == text


def test_macros_that_run_in_circles_end() -> None:
    body, macros = take_macros(r"\newcommand{\p}{\q\q}\newcommand{\q}{\p\p} \p")
    assert len(expand_macros(body, macros)) < 10_000_000
    body, macros = take_macros(r"\newcommand{\p}{" + "x" * 10_000 + "}" + r"\p " * 10_000)
    assert len(expand_macros(body, macros)) < 10_000_000, "nor may a long one make gigabytes"


def test_brackets_that_never_close_end() -> None:
    for broken in (r"\vspace[", r"\vspace" + "\n\n{1cm}", r"\label[x", r"\title{", r"\cite[", r"\footnote[1]["):
        source = "\\documentclass{a}\\begin{document}" + "word " * 25 + broken + " more"
        assert "word" in read_latex({"main.tex": source}, Counter()).text


def test_a_source_that_is_no_paper_is_a_reason() -> None:
    for files in ({}, {"a.txt": "x"}, {"main.tex": r"\documentclass{a}\begin{document}Short.\end{document}"}):
        with pytest.raises(LatexError):
            read_latex(files, Counter())
    with pytest.raises(LatexError, match="nested too deeply"):
        read_latex({"main.tex": r"\documentclass{a}\begin{document}" + r"\footnote{" * 3000 + "x"}, Counter())


TEX = [
    "\\", "{", "}", "$", "$$", "\\begin{equation}", "\\end{equation}", "\\begin{itemize}", "\\item", "\\section", "%",
    "\\verb|", "\\'", "\\cite{", "[", "]", "\\def\\a", "#1", "word ", "\n\n", "&", "\\\\", "\\begin{tabular}", "\\ref{",
    "\\vspace", "\\label", "\\usepackage[",
]  # fmt: skip


@given(st.lists(st.sampled_from(TEX), max_size=40))
def test_no_latex_however_broken_is_more_than_a_reason(parts: list[str]) -> None:
    source = "\\documentclass{a}\\begin{document}" + "word " * 25 + "".join(parts)
    try:
        assert "word" in read_latex({"main.tex": source}, Counter()).text
    except LatexError as error:
        assert str(error)
