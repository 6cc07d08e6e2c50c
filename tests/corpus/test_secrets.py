"""Secrets in code and text are found; what only looks like one, or says that it is none, stays."""

from __future__ import annotations

import random
import string
import sysconfig
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus.pii import scrub
from groundup.corpus.pii.secrets import entropy, find_secrets

ALNUM = string.ascii_letters + string.digits


def made(size: int, letters: str = ALNUM, seed: int = 1) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(letters) for _ in range(size))


AWS = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzz9KEYqqqq"


def secrets_in(text: str) -> list[tuple[str, str]]:
    return [(one.kind, text[one.start : one.end]) for one in find_secrets(text)]


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("aws", "AKIA" + made(16, string.ascii_uppercase + "234567")),
        ("github", "ghp_" + made(36)),
        ("gitlab", "glpat-" + made(20)),
        ("stripe", "sk_" + "live_" + made(24)),
        ("google", "AIza" + made(35)),
        ("openai", "sk-proj-" + made(48)),
        ("anthropic", "sk-ant-api03-" + made(90)),
        ("hugging_face", "hf_" + made(34, string.ascii_letters)),
        ("slack", "xoxb-123456789012-123456789012-" + made(24)),
        ("sendgrid", f"SG.{made(22)}.{made(43)}"),
        ("telegram", "987654321:AA" + made(33)),
        ("jwt", f"eyJhbGciOiJIUzI1NiJ9.eyJ{made(40)}.{made(43)}"),
    ],
)
def test_vendors_keys_are_told_by_their_form(kind: str, secret: str) -> None:
    for text in (f'connect("{secret}")', f"old: {secret}\n", secret):
        assert secrets_in(text) == [(kind, secret)]
    assert secrets_in(f"x{secret}") == [] or kind in ("telegram", "jwt")


def test_private_keys_go_whole_and_public_ones_stay() -> None:
    block = "\n".join(made(64, seed=n) for n in range(5))
    private = f"-----BEGIN RSA PRIVATE KEY-----\n{block}\n-----END RSA PRIVATE KEY-----"
    public = f"-----BEGIN PUBLIC KEY-----\n{block}\n-----END PUBLIC KEY-----"
    text = f"{public}\n\n{private}\nrest"
    assert secrets_in(text) == [("private_key", private)]
    assert scrub(text, ("secret",)) == (f"{public}\n\n<SECRET>\nrest", {"SECRET": 1})


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('db_password = "hunter2"\n', "hunter2"),
        ("password: 'correcthorse'\n", "correcthorse"),
        ("DB_PASSWORD=Tr0ub4dor&3\n", "Tr0ub4dor&3"),
        ('"client_secret": "Yj9tELwx-je2ODKAjn-kx",\n', "Yj9tELwx-je2ODKAjn-kx"),
        ("export API_TOKEN=9f86d081884c7d659a2feaa0c55ad015\n", "9f86d081884c7d659a2feaa0c55ad015"),
        ("postgres://app:s3cr3tPw@db.internal/main", "s3cr3tPw"),
        ("Authorization: Bearer 9f86d081884c7d659a2feaa0c55a", "9f86d081884c7d659a2feaa0c55a"),
        (f'aws_secret_access_key = "{AWS}"', AWS),
    ],
)  # fmt: skip
def test_what_is_assigned_to_a_telling_name_is_a_secret(text: str, secret: str) -> None:
    assert [found for _, found in secrets_in(text)] == [secret]


@pytest.mark.parametrize(
    "text",
    [
        'password = "changeme"', 'api_key = "your-api-key-here-123"', 'token = "<token>"', 'secret = "${SECRET_KEY}"',
        "password = getpass.getpass()", "self.password = password", 'password_field = "passwd_input"',
        "def login(user, password: str = ''):", 'token_type_ids = "token_type_ids_2"', "password = os.environ['PW']",
        'if password == "":', "the password is checked, the token is renewed", 'secret_name = "projects/a/secrets/b"',
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "https://user:password@host/path",
        "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", 'AKIA' + "A" * 16, "hf_hub_download(repo)", "sk-learn",
    ],
)  # fmt: skip
def test_what_is_plainly_no_secret_stays(text: str) -> None:
    assert secrets_in(text) == []


def test_false_alarms_in_the_standard_library_are_rare() -> None:
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    files = [path for path in sorted(root.rglob("*.py")) if not set(path.relative_to(root).parts) & skipped][::4]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    megabytes = sum(map(len, texts)) / 1e6
    assert megabytes > 1
    assert sum(len(find_secrets(text)) for text in texts) <= max(1, 0.5 * megabytes)


@given(st.text(max_size=300))
def test_any_text_is_searched_without_an_error_and_in_order(text: str) -> None:
    found = find_secrets(text + " password = \u0130\n" + text)
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_entropy_is_in_bits_per_character() -> None:
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
