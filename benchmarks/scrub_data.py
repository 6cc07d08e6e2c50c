"""Generated text for benchmarks/scrub.py: personal data of twelve countries, what only looks like it, and secrets.

Every identifier is made from its number plan with the check digits computed here, apart from the package's own code
(but for national numbers, where the last characters are searched until the published rule holds). Every hard negative
is of a kind that scrubbers are known to fall for. Sentences are in the country's language; half of them announce what
comes ("Tel.:"), the other half do not, where a person would know it without.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from groundup.corpus.pii import national_checks as checks
from groundup.corpus.pii.check_digits import verhoeff

DIGITS = string.digits
Truth = tuple[str, int, int]  # type, start, end


@dataclass(frozen=True)
class Line:
    text: str
    truth: tuple[Truth, ...]


@dataclass(frozen=True)
class Country:
    code: str
    phones: tuple[str, ...]  # `#` any digit, `N` 2-9
    announced_phones: tuple[str, ...]  # formats that only a word in front tells from other numbers
    phone_word: str
    mail_domain: str
    sentence: str
    national: Callable[[random.Random], tuple[str, str]] | None  # (words before, number)
    bban: str = ""  # IBAN after the check digits: `#` digit, `A` letter


def _until(
    rng: random.Random, make: Callable[[random.Random], str], check: Callable[[str], bool], show: str = ""
) -> str:
    """A number that passes; `show` puts it into groups (`{}` takes as many characters as its width says)."""
    while True:
        number = make(rng)
        if check(number):
            break
    return number if not show else "".join(_grouped(number, show))


def _grouped(number: str, show: str) -> list[str]:
    out, place = [], 0
    for character in show:
        if character == "#":
            out.append(number[place])
            place += 1
        else:
            out.append(character)
    return out


def fill(rng: random.Random, pattern: str) -> str:
    pick = {"#": DIGITS, "N": "23456789", "A": string.ascii_uppercase, "x": "0123456789abcdef"}
    return "".join(rng.choice(pick[c]) if c in pick else c for c in pattern)


def _date(rng: random.Random, order: str) -> str:
    parts = {
        "y": f"{rng.randrange(40, 100):02d}",
        "m": f"{rng.randrange(1, 13):02d}",
        "d": f"{rng.randrange(1, 29):02d}",
    }
    return "".join(parts[part] for part in order)


def luhn_complete(body: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return body + str(-total % 10)


def iban(rng: random.Random, country: str, bban: str) -> str:
    account = fill(rng, bban)
    value = int("".join(str(int(c, 36)) for c in account + country + "00"))
    compact = f"{country}{98 - value % 97:02d}{account}"
    return compact if rng.random() < 0.4 else " ".join(compact[i : i + 4] for i in range(0, len(compact), 4))


def card(rng: random.Random) -> str:
    head, size, groups = rng.choice((("4", 16, "4444"), ("51", 16, "4444"), ("54", 16, "4444"), ("2221", 16, "4444"),
                                     ("34", 15, "465"), ("37", 15, "465"), ("6011", 16, "4444"), ("3530", 16, "4444"),
                                     ("62", 16, "4444"), ("36", 14, "464")))  # fmt: skip
    number = luhn_complete(fill(rng, head + "#" * (size - len(head) - 1)))
    sign = rng.choice(("", " ", " ", "-"))
    out, place = [], 0
    for width in map(int, groups):
        out.append(number[place : place + width])
        place += width
    return sign.join(out)


def _us(rng: random.Random) -> tuple[str, str]:
    area = rng.choice([n for n in range(1, 900) if n != 666])
    return rng.choice(
        ("SSN: ", "social security number ", "")
    ), f"{area:03d}-{rng.randrange(1, 100):02d}-{rng.randrange(1, 10000):04d}"


def _gb(rng: random.Random) -> tuple[str, str]:
    head = rng.choice(("AB", "CE", "JG", "PX", "SR", "WM"))
    number = head + fill(rng, "######") + rng.choice("ABCD")
    shown = number if rng.random() < 0.5 else f"{number[:2]} {number[2:4]} {number[4:6]} {number[6:8]} {number[8]}"
    return rng.choice(("NI number ", "National Insurance: ", "")), shown


def _de(rng: random.Random) -> tuple[str, str]:
    def make(r: random.Random) -> str:
        digits = r.sample(DIGITS, 9)
        digits.insert(r.randrange(10), r.choice(digits))
        return "".join(digits) + r.choice(DIGITS)

    return rng.choice(("Steuer-ID ", "IdNr. ", "")), _until(
        rng, make, checks.de_tax, rng.choice(("", "## ### ### ###"))
    )


def _fr(rng: random.Random) -> tuple[str, str]:
    def make(r: random.Random) -> str:
        return fill(r, r.choice("12")) + _date(r, "ym") + f"{r.randrange(1, 96):02d}" + fill(r, "########")

    return rng.choice(("n° de sécurité sociale ", "NIR : ", "")), _until(
        rng, make, checks.fr_nir, rng.choice(("", "# ## ## ## ### ### ##"))
    )


def _es(rng: random.Random) -> tuple[str, str]:
    make = lambda r: fill(r, r.choice(("########A", "X#######A", "Y#######A")))  # noqa: E731
    number = _until(rng, make, checks.es_dni)
    return rng.choice(("DNI ", "NIF: ", "")), number if rng.random() < 0.6 else f"{number[:-1]}-{number[-1]}"


def _it(rng: random.Random) -> tuple[str, str]:
    def make(r: random.Random) -> str:
        letters = "".join(r.choice("BCDFGLMNPRSTV") for _ in range(6))
        born = f"{r.randrange(40, 100)}{r.choice('ABCDEHLMPRST')}{r.randrange(1, 29):02d}"
        return letters + born + r.choice("ABCDEFGHIL") + fill(r, "###A")

    return rng.choice(("codice fiscale ", "C.F. ", "")), _until(rng, make, checks.it_cf)


def _nl(rng: random.Random) -> tuple[str, str]:
    return rng.choice(("BSN ", "burgerservicenummer: ")), _until(rng, lambda r: fill(r, "N########"), checks.nl_bsn)


def _pl(rng: random.Random) -> tuple[str, str]:
    return rng.choice(("PESEL ", "nr PESEL: ", "")), _until(
        rng, lambda r: _date(r, "ymd") + fill(r, "#####"), checks.pl_pesel
    )


def _se(rng: random.Random) -> tuple[str, str]:
    number = _until(rng, lambda r: _date(r, "ymd") + fill(r, "####"), checks.se_person, "######-####")
    return rng.choice(("personnummer ", "")), rng.choice(("", "19")) + number


def _br(rng: random.Random) -> tuple[str, str]:
    shown = rng.choice(("###.###.###-##", "###.###.###-##", ""))
    return "CPF " if not shown else rng.choice(("CPF: ", "")), _until(
        rng, lambda r: fill(r, "###########"), checks.br_cpf, shown
    )


def _in(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.3:
        return rng.choice(("PAN ", "")), fill(rng, "AAAPA####A")
    shown = rng.choice(("#### #### ####", ""))
    return "Aadhaar " if not shown else rng.choice(("Aadhaar no. ", "")), _until(
        rng, lambda r: fill(r, "N###########"), verhoeff, shown
    )


def _jp(rng: random.Random) -> tuple[str, str]:
    shown = rng.choice(("", "#### #### ####"))
    return rng.choice(("マイナンバー ", "個人番号: ")), _until(
        rng, lambda r: fill(r, "############"), checks.jp_my_number, shown
    )


COUNTRIES: tuple[Country, ...] = (
    Country("US", ("(N##) N##-####", "N##-N##-####", "N##.N##.####", "+1 N## N## ####",
                   "1-N##-N##-####", "+1 (N##) N##-####"),
            ("N##-####", "N##N######"), "Phone: ", "com", "You can reach {} any day of the week", _us),
    Country("GB", ("020 7### ####", "07### ######", "+44 20 7### ####", "+44 (0)161 ### ####",
                   "(01632) ######", "0161 ### ####"),
            ("07#########",), "Tel: ", "co.uk", "Please give {} to the office", _gb, "AAAA##############"),
    Country("DE", ("030 1#######", "+49 30 1#######", "0171 #######", "+49 (0)89 #### ####",
                   "089/########", "0221-######"),
            ("0171#######",), "Telefon: ", "de", "Bitte geben Sie {} bei der Anmeldung an", _de, "##################"),
    Country("FR", ("01 ## ## ## ##", "06.##.##.##.##", "+33 6 ## ## ## ##", "+33 (0)1 ## ## ## ##", "04-##-##-##-##"),
            ("06########",), "Tél. : ", "fr", "Merci de noter {} pour la suite", _fr, "###########A###########"),
    Country("ES", ("91 ### ## ##", "6## ## ## ##", "+34 6## ### ###", "+34 91 ### ## ##"),
            ("6## ### ###", "6########"), "Teléfono: ", "es", "Hemos apuntado {} aquí", _es, "####################"),
    Country("IT", ("02 #### ####", "06 ########", "+39 3## ### ####", "3N# #######", "3N# ### ####", "+39 02 #######"),
            ("3N########",), "cell. ", "it", "Abbiamo ricevuto {} con la domanda", _it, "A######################"),
    Country("NL", ("020-#######", "06-########", "+31 6 ########", "+31 20 ### ####", "0#0 ### ## ##"),
            ("06########",), "telefoon: ", "nl", "Wilt u {} vermelden bij uw bericht", _nl, "AAAA##########"),
    Country("PL", ("+48 ### ### ###", "22 ### ## ##", "+48 22 ### ## ##"),
            ("N## ### ###", "N########"), "tel. ", "pl", "Prosimy podać {} tutaj", _pl, "########################"),
    Country("SE", ("08-### ### ##", "070-### ## ##", "+46 70 ### ## ##", "+46 (0)8 ### ### ##", "031-## ## ##"),
            ("070#######",), "telefon ", "se", "Vi har antecknat {} i vårt register", _se, "####################"),
    Country("BR", ("(11) 9####-####", "(21) 3###-####", "+55 11 9####-####", "11 9####-####"),
            ("9####-####",), "telefone: ", "com.br", "Anote {} antes de sair", _br, "#######################AA"),
    Country("IN", ("+91 9#### #####", "9#### #####", "+91-8#########", "0##-########", "0#### ######"),
            ("9#########",), "Mobile: ", "in", "Kindly share {} with the front desk", _in),
    Country("JP", ("03-####-####", "090-####-####", "+81 90 #### ####", "+81-3-####-####", "06-####-####"),
            ("090########",), "電話: ", "jp", "お手数ですが {} をご確認ください", _jp),
)  # fmt: skip
_FIRST = (
    "jane",
    "anna",
    "piotr",
    "lars",
    "marie",
    "carlos",
    "giulia",
    "sven",
    "amit",
    "yuki",
    "tom",
    "eva",
    "joao",
    "kees",
    "pilar",
)
_LAST = (
    "doe",
    "muller",
    "nowak",
    "svensson",
    "dupont",
    "garcia",
    "rossi",
    "devries",
    "silva",
    "sharma",
    "tanaka",
    "smith",
)
_HOSTS = ("acme", "mailhaus", "postbox", "firma", "webpost", "courriel", "correo", "kontor", "officina", "netmail")


def email(rng: random.Random, domain: str) -> str:
    first, last = rng.choice(_FIRST), rng.choice(_LAST)
    local = rng.choice(
        (
            f"{first}.{last}",
            f"{first}_{last}{rng.randrange(100)}",
            f"{first[0]}{last}",
            f"{first}+{last}",
            f"{first}-{last}",
        )
    )
    return f"{local}@{rng.choice(('', 'mail.', ''))}{rng.choice(_HOSTS)}{rng.randrange(100)}.{domain}"


def ip(rng: random.Random) -> str:
    if rng.random() < 0.3:
        groups = [f"{rng.randrange(0x10000):x}" for _ in range(6)]
        return rng.choice(
            (f"2a00:1450:{':'.join(groups)}", f"2001:4860:{groups[0]}::{groups[1]}", f"2600:{groups[0]}:{groups[1]}::1")
        )
    first = rng.choice((23, 52, 81, 93, 104, 151, 185, 193, 212))
    return f"{first}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"


def positives(count: int, seed: int) -> list[Line]:
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        country = rng.choice(COUNTRIES)
        type, before, value = _identifier(rng, country)
        head, tail = country.sentence.split("{}")
        start = len(head) + len(before)
        lines.append(
            Line(
                f"{head}{before}{value}{rng.choice(('.', ',', '')) if not tail else ''}{tail}.",
                ((type, start, start + len(value)),),
            )
        )
    return lines


def _identifier(rng: random.Random, country: Country) -> tuple[str, str, str]:
    """(type, words before it, the identifier)."""
    type = rng.choice(("email", "phone", "phone", "ip", "iban", "card", "national_id"))
    if type == "iban" and not country.bban:
        type = "card"
    if type == "email":
        return type, rng.choice(("", "e-mail ")), email(rng, country.mail_domain)
    if type == "ip":
        return type, rng.choice(("", "IP ")), ip(rng)
    if type == "iban":
        return type, rng.choice(("", "IBAN ", "IBAN: ")), iban(rng, country.code, country.bban)
    if type == "card":
        return type, rng.choice(("", "card ", "Visa ")), card(rng)
    if type == "national_id" and country.national is not None:
        words, number = country.national(rng)
        return ("ssn" if country.code == "US" else type), words, number
    if rng.random() < 0.25:
        return "phone", country.phone_word, fill(rng, rng.choice(country.announced_phones))
    return "phone", rng.choice(("", country.phone_word)), fill(rng, rng.choice(country.phones))


def hard_negatives(count: int, seed: int) -> list[Line]:
    """Lines without personal data, each with something that looks like it."""
    rng = random.Random(seed)
    return [Line(rng.choice(_NEGATIVES)(rng), ()) for _ in range(count)]


def _wrong(number: str, rng: random.Random) -> str:
    """One digit changed, never to what it was."""
    places = [place for place, character in enumerate(number) if character.isdigit()]
    place = places[-1] if rng.random() < 0.5 else rng.choice(places[4:])
    return number[:place] + rng.choice([d for d in DIGITS if d != number[place]]) + number[place + 1 :]


def _wrong_card(rng: random.Random) -> str:
    return f"The sample number {_wrong(card(rng), rng)} fails the check."


def _wrong_iban(rng: random.Random) -> str:
    country = rng.choice([one for one in COUNTRIES if one.bban])
    return f"Reference {_wrong(iban(rng, country.code, country.bban), rng)} was rejected."


def _dotted(rng: random.Random, *ends: int) -> str:
    return ".".join(str(rng.randrange(1, end)) for end in ends)


def _day(rng: random.Random, shown: str) -> str:
    return (datetime(1900, 1, 1) + timedelta(seconds=rng.randrange(130 * 365 * 86400))).strftime(shown)


# Without their last digit.
_NOBODYS_IPS = ("127.0.0.", "192.0.2.", "203.0.113.1", "198.51.100.", "255.255.255.1", "224.0.0.")
_NEGATIVES: tuple[Callable[[random.Random], str], ...] = (
    _wrong_card,
    _wrong_iban,
    lambda r: f"Released as version {_dotted(r, 20, 30, 200, 9000)} last week.",
    lambda r: f"pip install package=={_dotted(r, 200, 200, 200, 200)}",
    lambda r: f"commit {fill(r, 'x' * 40)} fixes the build",
    lambda r: f"sha256:{fill(r, 'x' * 64)}",
    lambda r: f"id {fill(r, 'xxxxxxxx-xxxx-4xxx-axxx-xxxxxxxxxxxx')} not found",
    lambda r: f"It was on {_day(r, '%Y-%m-%d %H:%M:%S')}.",
    lambda r: f"From {_day(r, '%d/%m/%Y')} to {_day(r, '%d.%m.%Y')}.",
    lambda r: f"The war of {_day(r, '%Y')}-{_day(r, '%Y')}, the years {_day(r, '%Y')} {_day(r, '%Y')} {_day(r, '%Y')}",
    lambda r: f"See ISBN 978-{r.randrange(1, 9)}-{fill(r, '##-######-#')} and ISSN {fill(r, '####-####')}.",
    lambda r: f"doi:10.{fill(r, '####')}/j.{fill(r, '####.####.##.###')}",
    lambda r: f"The server listens on {r.choice(_NOBODYS_IPS)}{fill(r, 'N')}:8080.",
    lambda r: f"Docs use 2001:db8::{fill(r, 'xxxx')} and ::1 and fe80::{fill(r, 'xxxx')} as examples.",
    lambda r: f"Write to {r.choice(_FIRST)}@example.{r.choice(('com', 'org', 'net'))} or admin@localhost.",
    lambda r: f"git clone git@github.com:{r.choice(_LAST)}/{r.choice(_HOSTS)}.git and use @decorator or logo@2x.png",
    lambda r: f"Population {fill(r, 'N#,###,###')}, budget $ {fill(r, 'N# ### ###')}.",
    lambda r: f"Total: {fill(r, '#######')}.{fill(r, '##')} EUR at {fill(r, '##.####')} %.",
    lambda r: f"x = 0.{fill(r, '############')}; y = {fill(r, '#.########')}e-{fill(r, '##')}",
    lambda r: f"at {r.randrange(-89, 89)}.{fill(r, '######')}, {r.randrange(-179, 179)}.{fill(r, '######')} on the map",
    lambda r: f"MAC {fill(r, 'xx:xx:xx:xx:xx:xx')} answered at {_day(r, '%H:%M:%S')}",
    lambda r: f"timestamp 1{fill(r, '#########')} and 1{fill(r, '############')} ms",
    lambda r: f"Order no. {fill(r, 'N#######')}, part {fill(r, 'AA-####-##')}, lot {fill(r, 'AAA######')}.",
    lambda r: " ".join(str(r.randrange(100, 1000)) for _ in range(6)) + " were the counts",
    lambda r: "\t".join(fill(r, "##.##") for _ in range(7)),
    lambda r: f"Section {_dotted(r, 20, 20, 20, 20)} of RFC {fill(r, 'N###')}",
    lambda r: f"for (int i = {fill(r, '####; i < ########; i += ##')}) a[{fill(r, '###')}] = 0{fill(r, 'xxxxxxxx')};",
    lambda r: f"Scores: {fill(r, '#-#, #-#, ##-##')} ({_day(r, '%Y')})",
    lambda r: f"std::vector<a::b> at line {fill(r, '####')}:{fill(r, '##')}, ratio {fill(r, '#')}:{fill(r, '#')}",
    lambda r: f"ID 000-{fill(r, '##-####')} and 666-{fill(r, '##-####')} were never given out.",
)  # fmt: skip


# ---------------------------------------------------------------- secrets


def secret_lines(count: int, seed: int) -> list[Line]:
    """Code and settings with one secret each; the truth is the secret's own characters."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        secret = rng.choice(_SECRETS)(rng)
        shape = rng.choice(_CODE)
        if isinstance(secret, tuple):
            shape, secret = secret
        head, tail = shape.split("{}")
        lines.append(Line(head + secret + tail, (("secret", len(head), len(head) + len(secret)),)))
    return lines


def _alnum(rng: random.Random, size: int, letters: str = string.ascii_letters + DIGITS) -> str:
    return "".join(rng.choice(letters) for _ in range(size))


def _block(rng: random.Random) -> str:
    return "\n".join(_alnum(rng, 64, string.ascii_letters + DIGITS + "+/") for _ in range(6))


_UPPER = string.ascii_uppercase + "234567"
_URLSAFE = string.ascii_letters + DIGITS + "-_"
_CODE = (
    'key = "{}"\n',
    "export CREDENTIAL={}\n",
    "value: {}\n",
    "# old one: {}\n",
    'connect("{}", retries=3)\n',
    "{}\n",
)
_PASSWORD = (
    "hunter2",
    "Tr0ub4dor&3",
    "S3cure!Pass",
    "qwerty789!",
    "letmein42",
    "P@ssw0rd2024",
    "correcthorse",
    "zebra-7-lamp",
    "Sommer2023!",
)
_SECRETS: tuple[Callable[[random.Random], str | tuple[str, str]], ...] = (
    lambda r: "AKIA" + _alnum(r, 16, _UPPER),
    lambda r: r.choice(("ghp_", "gho_", "ghs_")) + _alnum(r, 36),
    lambda r: "glpat-" + _alnum(r, 20, _URLSAFE),
    lambda r: f"xoxb-{fill(r, '###########-############')}-{_alnum(r, 24)}",
    lambda r: "sk_live_" + _alnum(r, 24),
    lambda r: "AIza" + _alnum(r, 35, _URLSAFE),
    lambda r: "sk-proj-" + _alnum(r, 48),
    lambda r: "sk-ant-api03-" + _alnum(r, 93, _URLSAFE),
    lambda r: "hf_" + _alnum(r, 34, string.ascii_letters),
    lambda r: "npm_" + _alnum(r, 36),
    lambda r: f"SG.{_alnum(r, 22, _URLSAFE)}.{_alnum(r, 43, _URLSAFE)}",
    lambda r: f"eyJhbGciOiJIUzI1NiJ9.eyJ{_alnum(r, 40, _URLSAFE)}.{_alnum(r, 43, _URLSAFE)}",
    lambda r: ("{}\n", f"-----BEGIN RSA PRIVATE KEY-----\n{_block(r)}\n-----END RSA PRIVATE KEY-----"),
    lambda r: ('aws_secret_access_key = "{}"\n', _alnum(r, 40, string.ascii_letters + DIGITS + "+/")),
    lambda r: ('API_KEY = "{}"\n', _alnum(r, 32, "0123456789abcdef")),
    lambda r: ("SECRET_TOKEN={}\n", _alnum(r, 40)),
    lambda r: ('  "client_secret": "{}",\n', _alnum(r, 32, _URLSAFE)),
    lambda r: ("auth_token: '{}'\n", _alnum(r, 24)),
    lambda r: ('db_password = "{}"\n', r.choice(_PASSWORD)),
    lambda r: ("DB_PASSWORD={}\n", r.choice(_PASSWORD[:6])),
    lambda r: ("  password: {}\n", r.choice(_PASSWORD[:6])),
    lambda r: ("postgres://app:{}@db.internal:5432/main\n", _alnum(r, 14)),
    lambda r: ("Authorization: Bearer {}\n", _alnum(r, 40)),
    lambda r: f"{fill(r, 'N########')}:AA{_alnum(r, 33, _URLSAFE)}",
)  # fmt: skip
