"""What a file in a source tree is: whose language, and whether a person wrote it. By name first, then by content."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from groundup.corpus.sources.code_licences import is_licence_file


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_LANGUAGES = """
Python py pyi pyx pxd | JavaScript js mjs cjs jsx | TypeScript ts tsx mts cts | Java java | C c h | C++ cc cpp cxx
hpp hh hxx ipp inl | C# cs csx | Go go | Rust rs | Ruby rb rake | PHP php phtml | Swift swift | Kotlin kt kts |
Scala scala sbt | Objective-C m mm | Shell sh bash zsh ksh fish | PowerShell ps1 psm1 psd1 | Batch bat cmd | Perl pl
pm | Lua lua | R r | Julia jl | Haskell hs lhs | OCaml ml mli | F# fs fsi fsx | Elixir ex exs | Erlang erl hrl |
Clojure clj cljs cljc edn | Common-Lisp lisp lsp cl | Emacs-Lisp el | Scheme scm ss | Racket rkt | Dart dart | Zig
zig | Nim nim | D d | Crystal cr | Fortran f f90 f95 f03 f08 for | Ada adb ads | Pascal pas dpr | Cobol cob cbl |
VHDL vhd vhdl | Verilog v vh sv svh | Assembly asm s | CUDA cu cuh | OpenCL cl | GLSL glsl vert frag | SQL sql |
HTML html htm xhtml | CSS css | SCSS scss sass less | Vue vue | Svelte svelte | Groovy groovy gradle | TeX tex sty
cls bib | Makefile mk mak | CMake cmake | Dockerfile dockerfile | YAML yaml yml | TOML toml | INI ini cfg conf |
Protobuf proto | Thrift thrift | GraphQL graphql gql | Terraform tf hcl | Nix nix | Solidity sol | Coq coq | Lean
lean | Agda agda | Prolog pro | Tcl tcl | Vim vim | Awk awk | Jinja j2 jinja | Jupyter ipynb | Markdown md markdown
mdx | reStructuredText rst | Text txt | AsciiDoc adoc asciidoc | Org org | Starlark bzl bazel | Meson meson |
Visual-Basic vb bas | WebAssembly wat | Haxe hx | Puppet pp | Smalltalk st | Stan stan | Idris idr | PureScript purs
| Elm elm | Reason re rei | Wgsl wgsl
"""
LANGUAGE_OF = {
    suffix: language.replace("-", " ") if language in ("Common-Lisp", "Emacs-Lisp", "Visual-Basic") else language
    for entry in _LANGUAGES.replace("\n", " ").split("|")
    for language, *suffixes in [entry.split()]
    for suffix in suffixes
}
_BY_NAME = {
    "makefile": "Makefile", "gnumakefile": "Makefile", "dockerfile": "Dockerfile", "containerfile": "Dockerfile",
    "cmakelists.txt": "CMake", "rakefile": "Ruby", "gemfile": "Ruby", "vagrantfile": "Ruby", "jenkinsfile": "Groovy",
    "build": "Starlark", "build.bazel": "Starlark", "workspace": "Starlark", "meson.build": "Meson", "readme": "Text",
    "configure.ac": "Shell", "justfile": "Makefile", ".bashrc": "Shell", ".profile": "Shell", ".vimrc": "Vim",
}  # fmt: skip
_SHEBANG = (
    ("python", "Python"), ("node", "JavaScript"), ("ruby", "Ruby"), ("perl", "Perl"), ("bash", "Shell"),
    ("zsh", "Shell"), ("sh", "Shell"), ("Rscript", "R"), ("lua", "Lua"), ("php", "PHP"), ("awk", "Awk"),
)  # fmt: skip
DOCUMENTATION = frozenset(("Markdown", "reStructuredText", "Text", "AsciiDoc", "Org", "Jupyter"))

_DATA = _set("""
    json jsonl ndjson geojson csv tsv xml xsd xsl xslt plist svg dat data log out sum po pot mo srt vtt ics vcf
    rtf pbxproj resx xib storyboard map snap lock tmx fasta fa fna pdb gcode stl obj ply mtl eps ps fig drawio kml
    gpx diff patch approved golden ttl rdf owl nt sgf ipynb_checkpoints bdf afm sfd
""")
_BINARY = _set("""
    png jpg jpeg gif bmp ico webp tif tiff psd pdf zip gz bz2 xz zst 7z rar tar tgz jar war ear class pyc pyo o a
    so dylib dll exe bin wasm ttf otf woff woff2 eot mp3 mp4 wav ogg flac avi mov webm mkv sqlite db parquet npy
    npz pkl pickle h5 hdf5 onnx pt pth safetensors gguf doc docx xls xlsx ppt pptx odt ods whl egg deb rpm apk dmg
    iso keystore jks p12 pfx der nib swf blend fbx glb mdb pack idx
""")
_LOCK_FILES = _set("""
    package-lock.json yarn.lock pnpm-lock.yaml npm-shrinkwrap.json composer.lock poetry.lock pipfile.lock
    cargo.lock gemfile.lock go.sum uv.lock pdm.lock flake.lock mix.lock pubspec.lock packages.lock.json bun.lockb
""")
_VENDORED = _set("""
    vendor vendored _vendor _vendored node_modules bower_components third_party thirdparty third-party externals
    extern _external external pods site-packages dist-packages jspm_packages deps godeps __pypackages__
""")
_TEST_PARTS = _set("""
    test tests testing spec specs __tests__ testdata fixtures idle_test _tests e2e
""")
_TEST_NAME = re.compile(r"(?:test_.*|.*[_.-](?:tests?|spec)|conftest)\.\w+|.*Tests?\.(?:java|cs|kt|swift|scala)")
_GENERATED_NAME = re.compile(
    r".*(?:_pb2(?:_grpc)?\.pyi?|\.pb\.(?:go|cc|h|swift|dart)|_pb\.(?:js|ts|d\.ts|rb)|\.pb\.gw\.go|_grpc\.pb\.go|"
    r"\.(?:g|freezed|designer|generated|gen)\.\w+|_generated\.\w+|zz_generated.*\.go|_parsetab\.py|bindata\.go|"
    r"-(?:lock|bundle)\.js|\.bundle\.js|\.js\.flow|\.tab\.[ch]|lex\.yy\.c|_sysconfigdata.*\.py|mocks?_gen\.go)|"
    r"_version\.py|versioneer\.py|ltmain\.sh|aclocal\.m4|config\.(?:guess|sub)|install-sh|configure|makefile\.in",
    re.I,
)
_MINIFIED_NAME = re.compile(r".*[.-]min\.(?:js|css|mjs|cjs)", re.I)
_COMMENT_LINE = re.compile(r"\s*(?:#|//|/\*|\*|--|;|%|<!--|\"\"\"|'''|!|\(\*|\{-|@rem\b|rem\b)", re.I)
_GENERATED_HEAD = re.compile(
    r"@generated\b|do not (?:edit|modify)\b|auto[- ]?generated|automatically generated|machine[- ]generated|"
    r"(?:^|this (?:file|code|source|module) (?:is|was|has been) |code |file )"
    r"generated (?:by|from|using|with|automatically)",
    re.I,
)
# Possessive, and never begun inside a run: a file of one long line costs no more than any other.
_DATA_RUN = re.compile(
    r"(?<![\w.])(?:(?:0x[0-9a-fA-F]{1,16}+|-?\d++(?:\.\d++)?+(?:e[-+]?\d++)?+)[uUlLfF]*+\s*+[,;]\s*+){8,}+"
)
_BASE64_RUN = re.compile(r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/=_-]{400,}+|(?:\\x[0-9a-fA-F]{2}){64,}+")
MOST_LINE_CHARS, MOST_MEAN_LINE_CHARS = 5_000, 200
DATA_SHARE = 0.5


def language_of(path: str, head: str = "") -> str:
    """The language by the file's name, else by its `#!` line; empty where neither says."""
    name = PurePosixPath(path).name.lower()
    if name in _BY_NAME:
        return _BY_NAME[name]
    suffix = name.rpartition(".")[2] if "." in name else ""
    if suffix in LANGUAGE_OF:
        # Objective-C shares its suffix with Matlab, which no Objective-C file is without these signs of
        is_matlab = suffix == "m" and head and not re.search(r"^\s*(?:#import|@\w+|//|/\*|#include)", head, re.M)
        return "Matlab" if is_matlab else LANGUAGE_OF[suffix]
    if head.startswith("#!"):
        line = head.split("\n", 1)[0]
        return next((language for word, language in _SHEBANG if re.search(rf"\b{word}[\d.]*\b", line)), "")
    return ""


def reason_by_name(path: str) -> str:
    """Why a file is not source code that a person wrote here, from its path alone; empty where it may be."""
    pure = PurePosixPath(path)
    name = pure.name.lower()
    parts = {part.lower() for part in pure.parts[:-1]}
    suffix = name.rpartition(".")[2] if "." in name else ""
    if parts & _VENDORED:
        return "vendored copy"
    if name in _LOCK_FILES:
        return "lock file"
    if is_licence_file(path):
        return "licence text"
    if _MINIFIED_NAME.fullmatch(name):
        return "minified file"
    if _GENERATED_NAME.fullmatch(name):
        return "generated file"
    if suffix in _BINARY:
        return "binary file"
    if suffix in _DATA:
        return "data file"
    return ""


def is_test(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool({part.lower() for part in pure.parts[:-1]} & _TEST_PARTS or _TEST_NAME.fullmatch(pure.name))


def is_binary(data: bytes) -> bool:
    """A NUL in the first 8,000 bytes, as git tells it; UTF-16 and UTF-32 with their mark are text."""
    return b"\0" in data[:8000] and not data.startswith((b"\xff\xfe", b"\xfe\xff"))


def reason_by_content(text: str, language: str) -> tuple[str, float | None, float | None]:
    """(why the text is not source that a person wrote or empty, what was measured, its bound)."""
    if not text.strip():
        return "empty file", None, None
    if text.startswith("version https://git-lfs.github.com/spec/"):
        return "Git LFS pointer instead of the file", None, None
    head = [line for line in text[:4_000].split("\n")[:20] if _COMMENT_LINE.match(line)]
    if any(_GENERATED_HEAD.search(line.strip("#/*-;%<!\"' \t")) for line in head[:10]):
        return "generated file", None, None
    if language in DOCUMENTATION:
        return "", None, None
    lines = text.split("\n")
    longest, mean = float(max(map(len, lines))), len(text) / len(lines)
    data = 0
    if sum(map(text.count, ",;")) > len(text) / 40:
        data += sum(len(match[0]) for match in _DATA_RUN.finditer(text))
    if longest > 250:
        data += sum(len(match[0]) for match in _BASE64_RUN.finditer(text))
    if data > DATA_SHARE * len(text):
        return "data in the form of code", data / len(text), DATA_SHARE
    if longest > MOST_LINE_CHARS:
        return "minified file", longest, float(MOST_LINE_CHARS)
    if mean > MOST_MEAN_LINE_CHARS:
        return "minified file", mean, float(MOST_MEAN_LINE_CHARS)
    return "", None, None
