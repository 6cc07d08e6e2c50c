"""Tables of wikitext as lines of text: a line per row, ` | ` between its cells; what is in the cells stays wikitext.

MediaWiki's rules: a table opens with `{|` and closes with `|}` at the beginning of a line; `|-` begins a row, `|` and
`!` cells, `||` and `!!` further ones on the same line; in front of a single `|` stand a cell's attributes.
"""

from __future__ import annotations

import re

_OPENS = re.compile(r"[ \t:*#]*\{\|")
_CLOSES = re.compile(r"[ \t]*\|\}(?!\})")
_NO_CONTENT = re.compile(r"\b(?:navbox|metadata|ambox|tmbox|noprint|toc|infobox|sidebar|sistersitebox)", re.IGNORECASE)
_ATTRIBUTES = re.compile(r"[^|\[\]{}\n]*\|(?!\|)")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TOKEN = re.compile(r"\[\[|\]\]|\{\{|\}\}|\|\||!!")


class _Table:
    """One table while its lines come in."""

    def __init__(self, attributes: str) -> None:
        self.dropped = _NO_CONTENT.search(attributes) is not None
        self.caption = ""
        self.rows: list[list[str]] = [[]]
        self._open = ""  # a row's line in which a template is open: the lines that follow belong to it, bars and all

    def feed(self, line: str) -> None:
        text = f"{self._open}\n{line}" if self._open else line.strip()
        if text[:1] in ("|", "!") and text.count("{{") > text.count("}}"):
            self._open = text
            return
        self._open = ""
        if text.startswith("|+"):
            self.caption = _without_attributes(text[2:])
        elif text.startswith("|-"):
            self.rows.append([])
        elif text[:1] in ("|", "!"):
            self.rows[-1] += [_without_attributes(cell) for cell in _split(text[1:], text[0] == "!")]
        elif text:
            self.extend(f" {text}")

    def extend(self, text: str) -> None:
        """More of the last cell; what comes before any cell is no content."""
        if self._open:
            self._open += text
        elif self.rows[-1]:
            self.rows[-1][-1] += text

    def lines(self) -> list[str]:
        if self._open:  # never closed
            self.rows[-1].append(self._open[1:])
            self._open = ""
        rows = [[" ".join(_BREAK.sub(" ", cell).split()) for cell in row] for row in self.rows]
        lines = [" | ".join(row) for row in rows if any(row)]
        return [] if self.dropped else [line for line in (self.caption.strip(), *lines) if line]


def tables_as_text(wikitext: str, *, keep: bool) -> str:
    """The wikitext with every table as lines (`keep`), or without them. A table in a cell becomes one line of it."""
    if "{|" not in wikitext:
        return wikitext
    out: list[str] = []
    open_tables: list[_Table] = []

    def close(rest: str) -> None:
        table = open_tables.pop()
        lines = table.lines() if keep else []
        if open_tables:
            open_tables[-1].extend(" " + "; ".join(line.replace(" | ", ", ") for line in lines) + rest)
        else:
            out.extend(["", *lines, rest])

    for line in wikitext.split("\n"):
        if opening := _OPENS.match(line):
            open_tables.append(_Table(line[opening.end() :]))
        elif open_tables and (closing := _CLOSES.match(line)):
            close(line[closing.end() :])
        elif open_tables:
            open_tables[-1].feed(line)
        else:
            out.append(line)
    while open_tables:  # never closed
        close("")
    return "\n".join(out)


def _split(text: str, is_header: bool) -> list[str]:
    """The cells of one line: at `||` (and `!!`) outside of links and templates."""
    if "[[" not in text and "{{" not in text:
        return re.split(r"\|\||!!", text) if is_header else text.split("||")
    cells, start, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        if token[0] in ("[[", "{{"):
            depth += 1
        elif token[0] in ("]]", "}}"):
            depth = max(0, depth - 1)
        elif depth == 0 and (token[0] == "||" or is_header):
            cells.append(text[start : token.start()])
            start = token.end()
    return [*cells, text[start:]]


def _without_attributes(cell: str) -> str:
    found = _ATTRIBUTES.match(cell)
    return cell[found.end() :] if found else cell
