"""Secrets in code and text: vendors' keys by their prefixes, private key blocks, tokens, and what is assigned to a
name such as `password` or `api_key`.

Literal anchors (a prefix, a word) say where to look; a pattern and, for assignments, the shape of the value decide.
What is plainly no secret stays: placeholders (`changeme`, `<token>`, `${TOKEN}`), names of variables, field names.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Secret:
    """Characters start..end of the text; `kind` is the vendor or the form, as `github` or `password`."""

    kind: str
    start: int
    end: int


def find_secrets(text: str) -> list[Secret]:
    """Secrets in the text, in order and without overlaps; the more certain form wins."""
    taken: list[Secret] = []
    starts: list[int] = []
    for secret in (*_vendor_keys(text), *_assigned(text)):
        place = bisect_left(starts, secret.start)
        is_free_before = place == 0 or taken[place - 1].end <= secret.start
        if is_free_before and (place == len(taken) or secret.end <= starts[place]):
            taken.insert(place, secret)
            starts.insert(place, secret.start)
    return taken


# ---------------------------------------------------------------- forms that say themselves what they are

_B64 = "[A-Za-z0-9+/]"
_URL64 = "[A-Za-z0-9_-]"
# literal anchor, kind, pattern. The formats are the ones the vendors document.
_FORMS: tuple[tuple[str, str, str], ...] = (
    ("-----BEGIN", "private_key",
     r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----)){40,}(?:-----END [A-Z0-9 ]+-----)?"),
    ("eyJ", "jwt", rf"eyJ{_URL64}{{10,}}\.eyJ{_URL64}{{10,}}\.{_URL64}{{16,}}"),
    ("://", "url_password", r"(?<=://)[^\s/:@'\"<>{}$%*]{1,64}:(?!//)[^\s/@'\"<>{}$*]{4,100}(?=@[A-Za-z0-9\[])"),
    ("AKIA", "aws", r"AKIA[A-Z2-7]{16}"),
    ("ASIA", "aws", r"ASIA[A-Z2-7]{16}"),
    ("gh", "github", r"gh[pousr]_[A-Za-z0-9]{36,255}"),
    ("github_pat_", "github", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    ("glpat-", "gitlab", rf"glpat-{_URL64}{{20,64}}"),
    ("xox", "slack", r"xox[abeoprs]-(?:\d{6,}-)?[A-Za-z0-9-]{10,}"),
    ("xapp-", "slack", r"xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]{20,}"),
    ("hooks.slack.com", "slack", r"hooks\.slack\.com/(?:services|workflows)(?:/[A-Za-z0-9]{8,}){2}/[A-Za-z0-9]{16,}"),
    ("discord", "discord", rf"discord(?:app)?\.com/api/webhooks/\d{{17,20}}/{_URL64}{{60,}}"),
    ("_live_", "stripe", r"[rs]k_live_[A-Za-z0-9]{20,}"),
    ("_test_", "stripe", r"[rs]k_test_[A-Za-z0-9]{20,}"),
    ("whsec_", "stripe", rf"whsec_{_B64}{{24,}}=*"),
    ("AIza", "google", rf"AIza{_URL64}{{35}}"),
    ("GOCSPX-", "google", rf"GOCSPX-{_URL64}{{28}}"),
    ("ya29.", "google", rf"ya29\.{_URL64}{{40,}}"),
    ("sk-ant-", "anthropic", rf"sk-ant-{_URL64}{{24,}}"),
    ("sk-", "openai", rf"sk-(?:proj-|svcacct-|admin-)?(?=[A-Za-z_-]*\d){_URL64}{{32,}}"),
    ("hf_", "hugging_face", r"hf_[A-Za-z0-9]{30,40}"),
    ("npm_", "npm", r"npm_[A-Za-z0-9]{36}"),
    ("pypi-", "pypi", rf"pypi-AgE{_URL64}{{50,}}"),
    ("SG.", "sendgrid", rf"SG\.{_URL64}{{22}}\.{_URL64}{{43}}"),
    ("SK", "twilio", r"SK[0-9a-f]{32}"),
    ("key-", "mailgun", r"key-[0-9a-f]{32}"),
    (":AA", "telegram", rf"\d{{8,10}}:AA{_URL64}{{32,34}}"),
    ("sq0", "square", rf"sq0(?:atp|csp|idp)-{_URL64}{{22,43}}"),
    ("EAAA", "square", rf"EAAA[A-Za-z0-9]{_URL64}{{59}}"),
    ("shp", "shopify", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    ("_v1_", "digitalocean", r"do[opr]_v1_[0-9a-f]{64}"),
    ("dapi", "databricks", r"dapi[0-9a-f]{32}"),
    ("hvs.", "vault", rf"hvs\.{_URL64}{{24,}}"),
    ("dp.", "doppler", r"dp\.(?:pt|st|ct|sa)\.[A-Za-z0-9._-]{40,}"),
    ("lin_api_", "linear", r"lin_api_[A-Za-z0-9]{40}"),
    ("ntn_", "notion", r"ntn_[A-Za-z0-9]{40,}"),
    ("PMAK-", "postman", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}"),
    ("NRAK-", "new_relic", r"NRAK-[A-Z0-9]{27}"),
    ("glsa_", "grafana", r"glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}"),
    ("ATATT3", "atlassian", rf"ATATT3{_URL64}{{60,}}=?[0-9A-F]*"),
    ("AccountKey=", "azure", rf"(?<=AccountKey=){_B64}{{80,88}}={{0,2}}"),
    ("AGE-SECRET-KEY-1", "age", r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    ("r8_", "replicate", r"r8_[A-Za-z0-9]{37,40}"),
    ("gsk_", "groq", r"gsk_[A-Za-z0-9]{48,56}"),
    ("xai-", "xai", r"xai-[A-Za-z0-9]{60,84}"),
    ("pplx-", "perplexity", r"pplx-[A-Za-z0-9]{40,56}"),
    ("Bearer ", "bearer", r"(?<=Bearer )(?=[^\s]*\d)[A-Za-z0-9._~+/-]{20,}=*"),
    ("Basic ", "basic_auth", rf"(?<=[Aa]uthorization: Basic ){_B64}{{12,}}={{0,2}}"),
)  # fmt: skip
_WHOLE = (r"(?<![A-Za-z0-9_-])", r"(?![A-Za-z0-9_-])")
_COMPILED = tuple(
    (anchor, kind, re.compile(form if kind in ("url_password", "private_key") else _WHOLE[0] + form + _WHOLE[1]))
    for anchor, kind, form in _FORMS
)


def _vendor_keys(text: str) -> Iterator[Secret]:
    for anchor, kind, pattern in _COMPILED:
        if anchor not in text:
            continue
        for match in pattern.finditer(text):
            value = match[0].rpartition(":")[2] if kind == "url_password" else match[0]
            if _FILLED_IN.search(value) or len(set(value)) < 4 or (kind == "url_password" and _is_plain_word(value)):
                continue
            yield Secret(kind, match.end() - len(value), match.end())


# ---------------------------------------------------------------- what is assigned to a telling name

_PASSWORDS = ("passw", "pwd", "passphrase")
_KEYS = ("secret", "token", "apikey", "api_key", "api-key", "access_key", "accesskey", "credential",
         "auth_key", "private_key", "privatekey", "encryption_key", "signing_key", "account_key",
         "client_key", "signature_key",
         "master_key", "license_key")  # fmt: skip
# The rest of the name; a closing quote or bracket; a type; `=`, `:`, `=>`, `:=` or a comma.
_VALUE = re.compile(
    r"(?P<rest>[\w.-]{0,40})[\"'`\])]{0,3}[ \t]*(?::[ \t]*(?:str|string|String|&str|&'static str|bytes)[ \t]*)?"
    r"(?P<sign>=>|:=|==?|!=|:|,|[ \t](?=[\"']))[ \t]*(?:[A-Za-z]{1,2}(?=[\"']))?"
    r"(?:(?P<quote>[\"'`])(?P<quoted>[^\"'`\n]{6,256})(?P=quote)"
    r"|(?P<bare>[^\s\"'`,;(){}\[\]<>$*|\\]{6,256})(?=[ \t]*(?:[#;,\n]|\Z)))"
)
_PLACEHOLDER = re.compile(
    r"x{4,}|X{4,}|\*{3,}|\.{3}|_{4,}|#{3,}|<|>|\$\{|\{\{|%[(sd]|\byour|your[_-]|example|placeholder|change.?me|dummy|redacted|"
    r"insert|replace.?(?:me|this|with)|todo\b|12345678|abcdefgh|foobar|sample|my[_-]?(?:secret|token|key|passw)|not.?a.?real|"
    r"deadbeef|test.?test",
    re.I,
)
_FILLED_IN = re.compile(r"x{6,}|\*{3,}|\.{3}|<|>|example|your[_-]|placeholder", re.I)  # where a form already fits
_PASSWORD_WORDS = re.compile(
    r"pass(?:w(?:or)?d)?s?|pwd|secret|passphrase|token|key|auth|login|user|none|null|true|false", re.I
)


def _assigned(text: str) -> Iterator[Secret]:
    lowered = text.lower()
    if len(lowered) != len(text):  # a capital whose small form is two characters: only ASCII matters here
        lowered = "".join(character.lower() if character.isascii() else character for character in text)
    for words, kind in ((_PASSWORDS, "password"), (_KEYS, "key")):
        for word in words:
            place = lowered.find(word)
            while place >= 0:
                match = _VALUE.match(text, place + len(word))
                if match is not None and _is_secret_value(match, text, place, kind):
                    group = "quoted" if match["quoted"] is not None else "bare"
                    yield Secret(kind, *match.span(group))
                place = lowered.find(word, place + len(word))


def _is_secret_value(match: re.Match[str], text: str, place: int, kind: str) -> bool:
    value = match["quoted"] or match["bare"]
    if _PLACEHOLDER.search(value) or len(set(value)) < 4:
        return False
    if match["sign"] in (",", " ", "\t") and kind == "key":
        return False
    if kind == "password":
        return _is_password(value, match, text, place)
    return _is_random(value) and (match["quoted"] is not None or _mixes(value))


def _is_password(value: str, match: re.Match[str], text: str, place: int) -> bool:
    """Passwords that people choose have little entropy: here it counts that the value is no name, word list or text."""
    if match["sign"] in ("==", "!=", ",") and not _mixes(value):
        return False
    if re.search(r"\s", value) or _PASSWORD_WORDS.fullmatch(value) or value.startswith(("/", "./", "http", "--", "%")):
        return False
    if _is_word(
        value
    ):  # `password: "correcthorse"` is one, `password_field = "passwd_input"` and `password: string` none
        is_plain = re.fullmatch(r"[a-z]{8,}|[A-Z][a-z]{7,}", value) is not None
        is_whole_name = match["rest"].lower() in ("", "d", "ord")  # `db_password`, not `password_field`
        return is_plain and is_whole_name and match["quoted"] is not None and not _PASSWORD_WORDS.search(value)
    if match["quoted"] is None and re.fullmatch(r"[A-Za-z_][\w.]*", value):
        # Bare: the value of a setting if it is at a line's end after NAME=, else the name of a variable.
        return _mixes(value) and (match["sign"] == ":" or re.match(r"[A-Z0-9_]*=\S", text[place:][:60]) is not None)
    return True


def _is_plain_word(value: str) -> bool:
    return (value.isalpha() and (value.islower() or value.isupper() or value.istitle())) or bool(
        _PASSWORD_WORDS.fullmatch(value)
    )


def _is_word(value: str) -> bool:
    """Letters, with the marks that names have: `passwd_input`, `user.password`, `correct-horse`."""
    return re.fullmatch(r"[A-Za-z_.:/\-]+", value) is not None


def _mixes(value: str) -> bool:
    return re.search(r"\d", value) is not None and re.search(r"[A-Za-z]", value) is not None


def _is_random(value: str) -> bool:
    """Twelve characters or more that no name or sentence has: digits among letters, and many different ones."""
    if len(value) < 12 or re.search(r"\s", value):
        return False
    if not _mixes(value):
        return len(value) >= 20 and _is_jumbled(value)
    if re.match(r"https?://|/[a-z]|\./|[\w.-]+@|\d{4}-\d\d-\d\d|urn:|\$", value):
        return False
    parts = [part for part in re.split(r"[_.:/-]", value) if part]
    plain = sum(part.isdigit() or _is_plain_word(part) for part in parts)
    if len(parts) > 1 and plain >= len(parts) - 1 and max(map(len, parts)) < 16:
        return False  # words and numbers: `token_type_ids_2`, `sha256-digest-1`
    return entropy(value) >= (2.8 if re.fullmatch(r"[0-9a-fA-F-]+", value) else 3.2)


def _is_jumbled(value: str) -> bool:
    """Letters only, in a mixture of small and capital that no CamelCase has."""
    capitals = sum(character.isupper() for character in value) / len(value)
    return 0.25 <= capitals <= 0.75 and value.isalnum() and not re.search(r"[a-z]{7}|[A-Z]{7}", value)


def entropy(text: str) -> float:
    """Bits per character of the text's own distribution (Shannon)."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)
