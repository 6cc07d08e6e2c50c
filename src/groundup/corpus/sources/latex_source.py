"""A LaTeX project as one source text: comments gone, inputs put in, the author's own macros expanded."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOST_CHARS = 20_000_000
_MOST_EXPANSIONS = 200_000
_VERBATIM = re.compile(
    r"\\begin\{(verbatim\*?|lstlisting|minted|alltt|Verbatim)\}.*?\\end\{\1\}|\\verb\*?([^\sA-Za-z*]).*?\2|\\lstinline([|!+@]).*?\3",
    re.S,
)
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*(?:\n[ \t]*|$)")
_COMMENT_PARTS = re.compile(r"\\begin\{comment\}.*?\\end\{comment\}|\\iffalse\b.*?\\fi\b", re.S)
_INPUT = re.compile(
    r"\\(?:(?:input|include|subfile)(?![A-Za-z])|import\s*\{([^{}]*)\}|subimport\s*\{([^{}]*)\})\s*(?:\{([^{}]+)\}|([\w./-]+))"
)
_MAIN = re.compile(r"\\document(?:class|style)\b|\\begin\{document\}")
_PLAIN_TEX = re.compile(r"\\(?:magnification|input\s+amstex|documentstyle|bye\b|hsize|nopagenumbers)")


def main_file(files: Mapping[str, str]) -> str | None:
    """The file that is the paper: with \\documentclass and \\begin{document}; of several the nearest to the root."""

    def rank(name: str) -> tuple[bool, bool, int, int]:
        text = files[name]
        return "\\begin{document}" in text, bool(_MAIN.search(text)), -name.count("/"), len(text)

    names = [
        name for name in sorted(files) if name.lower().endswith((".tex", ".ltx")) or "." not in posixpath.basename(name)
    ]
    candidates = [name for name in names if _MAIN.search(files[name]) or _PLAIN_TEX.search(files[name])]
    return max(candidates, key=rank, default=None)


def whole_source(files: Mapping[str, str], main: str) -> str:
    """The main file without comments, with everything in it that it reads in. What is not there is left out."""

    def expanded(name: str, above: tuple[str, ...]) -> str:
        folder = posixpath.dirname(main)

        def replaced(found: re.Match[str]) -> str:
            path = (found[1] or found[2] or "") + (found[3] or found[4]).strip()
            for base in (folder, posixpath.dirname(name), ""):
                joined = posixpath.normpath(posixpath.join(base, path))
                for candidate in (joined, f"{joined}.tex", f"{joined}.ltx"):
                    if candidate in files and candidate not in above and len(above) < 12:
                        return expanded(candidate, (*above, candidate))
            return ""

        return _INPUT.sub(replaced, without_comments(files[name]))

    return expanded(main, (main,))[:_MOST_CHARS]


def without_comments(text: str) -> str:
    """The source without `%` comments; a `%` in verbatim text, or written \\%, is none."""
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\x00{len(kept) - 1}\x00"

    text = _VERBATIM.sub(keep, text.replace("\x00", ""))
    text = _COMMENT_PARTS.sub("", text)
    # a comment eats its line's end; two of them with an empty line between still make a paragraph
    text = _COMMENT.sub(lambda found: found[1], text)
    return re.sub(r"\x00(\d+)\x00", lambda found: kept[int(found[1])], text)


# ---------------------------------------------------------------- macros

_DEFINITION = re.compile(
    r"\\(?:(?:re|provide)?newcommand|DeclareRobustCommand|providecommand|renewcommand)\*?\s*(?:\{\s*\\([A-Za-z@]+|.)\s*\}|\\([A-Za-z@]+|.))"
    r"\s*(?:\[(\d)\])?\s*(?:\[([^\]]*)\])?\s*(?=\{)"
)
_DEF = re.compile(r"\\(?:long\s*|global\s*)*(?:def|gdef|edef)\s*\\([A-Za-z@]+)\s*((?:#\d)*)\s*(?=\{)")
_OPERATOR = re.compile(r"\\DeclareMathOperator(\*?)\s*(?:\{\s*\\([A-Za-z@]+)\s*\}|\\([A-Za-z@]+))\s*(?=\{)")
# What our own reading of the text depends on is never taken as a macro.
_RESERVED = words("""
    begin end section subsection subsubsection chapter paragraph title author date item footnote caption label ref
    cite emph textbf documentclass maketitle frac sqrt left right
""")
_COMMAND = re.compile(r"\\([A-Za-z@]+)")

Macro = tuple[int, str | None, str]  # arguments, default of the first, body


def group_end(text: str, start: int) -> int:
    """The place behind the `}` that closes the `{` at `start`; the text's end where none does."""
    depth = 0
    place = start
    while place < len(text):
        char = text[place]
        if char == "\\":
            place += 2
            continue
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if not depth:
                return place + 1
        place += 1
    return len(text)


def take_macros(text: str) -> tuple[str, dict[str, Macro]]:
    """(the text without definitions, what they define)."""
    macros: dict[str, Macro] = {}
    out: list[str] = []
    place = 0
    pattern = re.compile(f"{_DEFINITION.pattern}|{_DEF.pattern}|{_OPERATOR.pattern}")
    while found := pattern.search(text, place):
        out.append(text[place : found.start()])
        place = group_end(text, found.end())
        body = text[found.end() + 1 : place - 1]
        name = found[1] or found[2]
        macro: Macro
        if found[9] or found[8]:
            name, macro = found[8] or found[9], (0, None, f"\\operatorname{found[7]}{{{body}}}")
        elif found[5]:
            name, macro = found[5], (found[6].count("#"), None, body)
        else:
            macro = (int(found[3] or 0), found[4], body)
        if name not in _RESERVED and f"\\{name}" not in body:
            macros[name] = macro
    out.append(text[place:])
    return "".join(out), macros


def expand_macros(text: str, macros: Mapping[str, Macro]) -> str:
    """Every use of a macro replaced by its body, until none is left; bounded, as they may run in circles."""
    if not macros:
        return text
    budget = _MOST_EXPANSIONS
    most = 4 * len(text) + 100_000
    for _ in range(8):
        out: list[str] = []
        place, changed, produced = 0, False, 0
        for found in _COMMAND.finditer(text):
            if found.start() < place or found[1] not in macros or budget <= 0 or produced > most:
                continue
            out.append(text[place : found.start()])
            replaced, place = _use(text, found.end(), macros[found[1]])
            out.append(replaced)
            budget, changed, produced = budget - 1, True, produced + len(replaced)
        text = "".join(out) + text[place:]
        if not changed or len(text) > most:
            break
    return text


def _use(text: str, place: int, macro: Macro) -> tuple[str, int]:
    count, default, body = macro
    arguments: list[str] = []
    if not count:
        gap = re.compile(r"\s*\{\}").match(text, place)
        place = gap.end() if gap else place
        # `\name word`: TeX swallows the space; before a letter the body may need one
        return (f"{{{body}}}" if re.search(r"\\[A-Za-z]+$", body) else body), place
    if default is not None:
        optional = re.compile(r"\s*\[([^\]]*)\]").match(text, place)
        arguments.append(optional[1] if optional else default)
        place = optional.end() if optional else place
    while len(arguments) < count:
        gap = re.compile(r"\s*").match(text, place)
        place = gap.end() if gap else place
        if place < len(text) and text[place] == "{":
            end = group_end(text, place)
            arguments.append(text[place + 1 : end - 1])
            place = end
        elif one := re.compile(r"\\[A-Za-z]+|\\.|[^}]").match(text, place):
            arguments.append(one[0])
            place = one.end()
        else:
            break
    arguments += [""] * (count - len(arguments))
    return re.sub(r"#(\d)", lambda found: arguments[int(found[1]) - 1] if int(found[1]) <= count else "", body), place


# ---------------------------------------------------------------- parts of the text


def argument(source: str, place: int) -> tuple[str, int]:
    """The next argument in braces, after optional ones in brackets; one sign where there are no braces."""
    while optional := re.compile(r"\s*\[[^\]]*\]").match(source, place):
        place = optional.end()
        if not re.compile(r"\s*[\[{]").match(source, place):
            return "", place
    gap = re.compile(r"[ \t]*\n?[ \t]*").match(source, place)
    start = gap.end() if gap else place
    if source[start : start + 1] != "{":
        return "", place
    end = group_end(source, start)
    return source[start + 1 : end - 1], end


def environment(source: str, place: int, name: str) -> tuple[str, int]:
    """What stands in an environment that begins at `place`, and where it ends; nested ones of its name are counted."""
    depth = 1
    for found in re.compile(rf"\\(begin|end)\s*\{{\s*{re.escape(name)}\s*\}}").finditer(source, place):
        depth += 1 if found[1] == "begin" else -1
        if not depth:
            return source[place : found.start()], found.end()
    return source[place:], len(source)


def items(inside: str) -> list[str]:
    """The items of a list, those of lists inside them apart."""
    places, depth = [], 0
    for found in re.finditer(r"\\(begin|end)\s*\{[^{}]*\}|\\item(?![A-Za-z])", inside):
        if found[1]:
            depth += 1 if found[1] == "begin" else -1
        elif depth == 0:
            places.append((found.start(), found.end()))
    ends = [start for start, _ in places[1:]] + [len(inside)]
    return [inside[start:end] for (_, start), end in zip(places, ends, strict=False)]


def without_options(inside: str) -> str:
    return re.sub(r"\A\s*\[[^\]\n]*\]", "", inside)


def math_end(source: str, place: int, mark: str) -> int:
    while True:
        end = source.find(mark, place)
        if end < 0:
            return len(source)
        backslashes = len(source[:end]) - len(source[:end].rstrip("\\"))
        if backslashes % 2 == 0:
            return end
        place = end + 1


_NO_MATH = re.compile(
    r"\\(?:label|nonumber|notag|tag|vspace|hspace\*?|mbox\{\}|displaystyle|textstyle)\s*(?:\{[^{}]*\})?"
)


def formula(math: str, mark: str) -> str:
    """TeX as it stands, on one line, without what only places or numbers it."""
    body = " ".join(_NO_MATH.sub(" ", math).split())
    if not body:
        return ""
    return f"${body}$" if mark == "$" else f"\n\n$${body}$$\n\n"
