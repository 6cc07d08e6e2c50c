"""LaTeX -> readable text: words as they would be printed, formulas as TeX between dollars, structure as Markdown."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from groundup.corpus.sources.latex_source import (
    argument,
    environment,
    expand_macros,
    formula,
    group_end,
    items,
    main_file,
    math_end,
    take_macros,
    whole_source,
    without_options,
)
from groundup.corpus.sources.latex_words import (
    ACCENTS,
    CODE,
    DROPPED,
    FIRST_OF_TWO_DROPPED,
    FLOATS,
    KNOWN,
    LISTS,
    MATH,
    PLAIN,
    SECTIONS,
    SILENT,
    SYMBOLS,
    TABULAR,
    THEOREMS,
)


class LatexError(ValueError):
    """Why a source cannot be read as a paper; the message is the reason of its drop."""


@dataclass(frozen=True)
class Paper:
    title: str
    authors: list[str]
    text: str


def read_latex(files: Mapping[str, str], notes: Counter[str], keep_references: bool = False) -> Paper:
    """The paper that a project's files (path -> text) make up. Raises LatexError where they are none."""
    if any("%auto-ignore" in text[:500] for text in files.values()) and sum(map(len, files.values())) < 5_000:
        raise LatexError("withdrawn paper (%auto-ignore)")
    main = main_file(files)
    if main is None:
        raise LatexError("no LaTeX main file")
    if others := sum("\\begin{document}" in text for name, text in files.items() if name != main):
        notes["further main files of LaTeX sources, which were not read"] += others
    source, macros = take_macros(whole_source(files, main))
    head, _, body = source.partition("\\begin{document}")
    if not body:  # plain TeX, or a style from before LaTeX 2e
        head, body = "", source
    body = expand_macros(body.partition("\\end{document}")[0], macros)
    if keep_references and "thebibliography" not in body:
        body += "".join(files[name] for name in sorted(files) if name.endswith(".bbl"))
    head = expand_macros(head, macros)
    reader = _Reader(keep_references)
    try:
        title = reader.inline(_argument_of("title", body) or _argument_of("title", head))
        authors = [reader.inline(one) for one in re.split(r"\\and\b|\\AND\b", _author(head) or _author(body))]
        abstract = _argument_of("abstract", head)
        text = reader.text(body if not abstract else f"\\begin{{abstract}}{abstract}\\end{{abstract}}{body}")
    except RecursionError as error:
        raise LatexError("LaTeX nested too deeply") from error
    if reader.unknown:
        notes["LaTeX commands that were not known"] += sum(reader.unknown.values())
    title = " ".join(title.split())
    text = f"# {title}\n\n{text}" if title else text
    if len(text.split()) < 20:
        raise LatexError("LaTeX without text")
    return Paper(title, [one for one in (" ".join(name.split()).strip(" ,") for name in authors) if one][:50], text)


def _argument_of(command: str, source: str) -> str:
    found = re.search(rf"\\{command}\s*(?:\[[^\]]*\]\s*)?(?=\{{)", source)
    return source[found.end() + 1 : group_end(source, found.end()) - 1] if found else ""


def _author(source: str) -> str:
    many = [match.end() for match in re.finditer(r"\\author\s*(?:\[[^\]]*\]\s*)?(?=\{)", source)]
    names = [source[place + 1 : group_end(source, place) - 1] for place in many]
    # what stands under a name (institute, address) is not the name
    names = [re.split(r"\\\\|\\(?:thanks|inst|affiliation|email|footnotemark|href)\b", name)[0] for name in names]
    # marks of institutes; commas stand among them
    return re.sub(r"\$[^$]*\$", lambda mark: "," if mark[0].endswith(",$") else "", r"\and ".join(names))


_TOKEN = re.compile(
    r"\\begin\s*\{(?P<begin>[^{}]+)\}|\\end\s*\{[^{}]*\}|\\(?P<word>[A-Za-z@]+)\*?[ \t]*|\\(?P<sign>.)|"
    r"\$\$|\$|[{}~]|---?|``|''|&",
    re.S,
)
_CITES = re.compile(r"(?:no)?[cC]ite\w*|parencite|textcite|autocite|footcite|supercite|shortcite")
_REFS = {"ref", "eqref", "autoref", "cref", "Cref", "pageref", "vref", "nameref", "secref", "figref"}


@dataclass
class _Reader:
    """One document on its way to text: what was cited and counted so far."""

    keep_references: bool
    cited: dict[str, int] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    current: str = ""  # the number that a \label here gets
    unknown: Counter[str] = field(default_factory=Counter)

    def text(self, source: str) -> str:
        """Paragraphs of a document's body, references resolved to their numbers."""
        text = self._convert(source)
        text = re.sub(r"\x01([^\x01]*)\x01", lambda found: self.labels.get(found[1], "?"), text)
        blocks = re.split(r"(\x02.*?\x03)", text, flags=re.S)  # code keeps its own lines
        out = []
        for block in blocks:
            if block.startswith("\x02"):
                out.append(block[1:-1])
                continue
            for paragraph in re.split(r"\n\s*\n", block):
                lines = [" ".join(line.split()) for line in paragraph.split("\n")]
                if joined := _rejoined([line for line in lines if line]):
                    out.append(joined)
        return "\n\n".join(out)

    def inline(self, source: str) -> str:
        text = re.sub(r"[\x01-\x03]", "", self._convert(source))
        return " ".join(text.split())

    def _convert(self, source: str) -> str:
        out: list[str] = []
        place = 0
        while found := _TOKEN.search(source, place):
            out.append(source[place : found.start()])
            token = found[0]
            if found["begin"] is not None:
                place = self._environment(source, found, out)
            elif found["word"] is not None:
                place = self._command(source, found, out)
            elif found["sign"] is not None:
                place = self._sign(source, found, out)
            elif token in ("$", "$$"):
                end = math_end(source, found.end(), token)
                out.append(formula(source[found.end() : end], token))
                place = end + len(token)
            else:
                out.append(PLAIN.get(token, ""))
                place = found.end()
        out.append(source[place:])
        return "".join(out)

    def _sign(self, source: str, found: re.Match[str], out: list[str]) -> int:
        sign = found["sign"]
        if sign in "([":
            close = ")" if sign == "(" else "]"
            end = source.find(f"\\{close}", found.end())
            end = len(source) if end < 0 else end
            out.append(formula(source[found.end() : end], "$" if sign == "(" else "$$"))
            return end + 2
        if sign in ACCENTS:
            return self._accent(source, found.end(), sign, out)
        if sign == "\\":
            optional = re.compile(r"\*?\s*(?:\[[^\]]*\])?").match(source, found.end())
            out.append("\n")
            return optional.end() if optional else found.end()
        out.append(
            {" ": " ", ",": " ", ";": " ", ":": " ", "!": "", "/": "", "-": "", "@": "", "\n": " "}.get(sign, sign)
        )
        return found.end()

    def _accent(self, source: str, place: int, accent: str, out: list[str]) -> int:
        letter = re.compile(r"\s*(?:\{\s*(\\?[A-Za-z]?)\s*\}|(\\[ij])(?![A-Za-z])\s?|([A-Za-z]))").match(source, place)
        if not letter:
            return place
        base = (letter[1] or letter[2] or letter[3] or "").removeprefix("\\")
        out.append(unicodedata.normalize("NFC", base + ACCENTS[accent]) if base else "")
        return letter.end()

    def _command(self, source: str, found: re.Match[str], out: list[str]) -> int:
        name, place = found["word"], found.end()
        if name in SECTIONS:
            title, place = argument(source, place)
            starred = found[0].rstrip().endswith("*")
            number = "" if starred or SECTIONS[name] > 4 else self._number_section(SECTIONS[name])
            self.current = number or self.current
            heading = " ".join(self.inline(title).split())
            out.append(f"\n\n\x02{'#' * SECTIONS[name]} {f'{number} ' if number else ''}{heading}\x03\n\n")
        elif name in ACCENTS and re.compile(r"\s*(?:\{|[A-Za-z])").match(source, place):
            return self._accent(source, place, name, out)
        elif name == "label":
            key, place = argument(source, place)
            self.labels.setdefault(key.strip(), self.current)
        elif _CITES.fullmatch(name):
            keys, place = argument(source, place)
            if not name.startswith("no") and keys.strip():
                numbers = [self.cited.setdefault(key.strip(), len(self.cited) + 1) for key in keys.split(",")]
                out.append(f"[{', '.join(map(str, numbers))}]")
        elif name in _REFS:
            key, place = argument(source, place)
            out.append(f"(\x01{key.strip()}\x01)" if name == "eqref" else f"\x01{key.strip()}\x01")
        elif name in ("footnote", "footnotetext"):
            note, place = argument(source, place)
            out.append(f" ({self.inline(note)})")
        elif name in ("verb", "lstinline"):
            end = source.find(source[place : place + 1], place + 1)
            out.append(f"`{source[place + 1 : end]}`" if end > 0 else "")
            place = end + 1 if end > 0 else place
        elif name in ("url", "path", "nolinkurl"):
            address, place = argument(source, place)
            out.append(address)
        elif name == "caption":
            said, place = argument(source, place)
            out.append(f"\n\n{self._caption()}{self.inline(said)}\n\n")
        elif name in SYMBOLS:
            out.append(SYMBOLS[name])
            place += 2 if source.startswith("{}", place) else 0
            if found[0][-1] in " \t" and SYMBOLS[name][-1:].isalpha() and len(SYMBOLS[name]) > 2:
                out.append(" ")
        elif name in FIRST_OF_TWO_DROPPED:
            _, place = argument(source, place)
            if name in ("multicolumn", "multirow"):
                _, place = argument(source, place)
        elif name in SILENT:
            before = -1
            while place > before and re.compile(r"\s*[\[{]").match(source, place):
                before = place
                _, place = argument(source, place)
        else:
            optional = re.compile(r"\[[^\]\n]*\]").match(source, place)
            place = optional.end() if optional and name not in KNOWN else place
            if name not in KNOWN:
                self.unknown[name] += 1
        return place

    def _number_section(self, level: int) -> str:
        self.counters[f"level {level}"] += 1
        for deeper in range(level + 1, 7):
            self.counters[f"level {deeper}"] = 0
        return ".".join(str(self.counters[f"level {one}"]) for one in range(2, level + 1))

    def _caption(self) -> str:
        kind = "Table" if self.counters["in table"] else "Figure" if self.counters["in figure"] else ""
        if not kind:
            return ""
        self.counters[kind] += 1
        self.current = str(self.counters[kind])
        return f"{kind} {self.current}: "

    def _environment(self, source: str, found: re.Match[str], out: list[str]) -> int:
        name = found["begin"].strip()
        plain = name.rstrip("*")
        inside, place = environment(source, found.end(), name)
        if plain in MATH:
            if not name.endswith("*") and plain not in ("displaymath", "math"):
                self.counters["equation"] += 1
                self.current = str(self.counters["equation"])
            for key in re.findall(r"\\label\s*\{([^{}]*)\}", inside):
                self.labels.setdefault(key.strip(), self.current)
            rows = plain not in ("equation", "displaymath", "math", "dmath")
            shown = (
                f"\\begin{{{plain}}}{inside}\\end{{{plain}}}"
                if rows and ("\\\\" in inside or "&" in inside)
                else inside
            )
            out.append(formula(shown, "$" if plain == "math" else "$$"))
        elif plain in CODE:
            code = re.sub(r"\A(?:\[[^\]]*\])?(?:\{[^{}\n]*\})?[ \t]*\n", "", inside).rstrip()
            out.append(f"\n\n\x02```\n{code}\n```\x03\n\n")
        elif plain in DROPPED or (plain == "thebibliography" and not self.keep_references):
            pass
        elif plain == "thebibliography":
            entries = re.split(r"\\bibitem\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}", inside)[1:]
            lines = [f"- {self.inline(entry)}" for entry in entries]
            out.append("\n\n\x02## References\x03\n\n\x02" + "\n".join(lines) + "\x03\n\n")
        elif plain in LISTS:
            out.append(self._list(inside, plain))
        elif plain in TABULAR:
            out.append(self._table(inside))
        elif plain in FLOATS or plain in ("table", "wraptable", "sidewaystable"):
            kind = "in table" if "table" in plain else "in figure"
            self.counters[kind] += 1
            out.append(f"\n\n{self._convert(without_options(inside))}\n\n")
            self.counters[kind] -= 1
        elif plain == "abstract":
            out.append(f"\n\n\x02## Abstract\x03\n\n{self._convert(inside)}\n\n")
        elif plain in ("quote", "quotation", "displayquote"):
            said = self.inline(inside)
            out.append(f"\n\n> {said}\n\n")
        elif plain in THEOREMS:
            out.append(self._theorem(inside, plain, name))
        else:
            out.append(f"\n\n{self._convert(without_options(inside))}\n\n")
        return place

    def _theorem(self, inside: str, plain: str, name: str) -> str:
        title = re.compile(r"\s*\[([^\]]*)\]").match(inside)
        said = f" ({self.inline(title[1])})" if title else ""
        number = ""
        if plain != "proof" and not name.endswith("*"):
            self.counters["theorem"] += 1
            self.current = str(self.counters["theorem"])
            number = f" {self.current}"
        body = self._convert(inside[title.end() if title else 0 :]).strip()
        return f"\n\n{THEOREMS[plain]}{number}{said}. {body}\n\n"

    def _list(self, inside: str, kind: str) -> str:
        """Items with their marks; a list inside an item stands indented."""
        lines = []
        for place, item in enumerate(items(inside), 1):
            named = re.compile(r"\s*\[((?:[^\[\]]|\[[^\]]*\])*)\]").match(item)
            body = (
                self.text(item[named.end() if named else 0 :])
                if "\\begin" in item
                else self.inline(item[named.end() if named else 0 :])
            )
            label = self.inline(named[1]) if named else ""
            mark = f"{place}. " if "enum" in kind and not label else "- "
            text = f"{label}: {body}" if label and kind == "description" else f"{label} {body}".strip()
            lines.append(mark + text.replace("\n\n", "\n").replace("\n", "\n  "))
        return "\n\n\x02" + "\n".join(lines) + "\x03\n\n" if lines else ""

    def _table(self, inside: str) -> str:
        inside = re.sub(r"\A\s*(?:\[[^\]]*\])?", "", inside)
        while inside.startswith("{"):  # width, then columns
            inside = inside[group_end(inside, 0) :].lstrip()
        rows = []
        for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\tabularnewline", inside):
            cells = [self.inline(cell) for cell in re.split(r"(?<!\\)&", row)]
            if any(cells):
                rows.append(" | ".join(cells).strip())
        return "\n\n\x02" + "\n".join(rows) + "\x03\n\n" if rows else ""


def _rejoined(lines: list[str]) -> str:
    """The lines of a paragraph as one; where a list's mark or a row begins, a line of its own."""
    out: list[str] = []
    for line in lines:
        if out and not line.startswith(("- ", "> ")):
            out[-1] += f" {line}"
        else:
            out.append(line)
    return "\n".join(out)
