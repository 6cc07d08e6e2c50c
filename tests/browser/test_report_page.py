"""The report in a real browser: it opens from disk, asks the network for nothing, fits narrow and wide windows."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from groundup.report.build import build_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine (apt-get install chromium)")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
)


def _synthetic() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "report" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic_run_for_browser", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(_synthetic().write_run(tmp_path_factory.mktemp("runs") / "demo"))


def browse(page: Path, profile: Path, *flags: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, *FLAGS.split(), f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def with_script(page: Path, folder: Path, script: str) -> Path:
    """The page with a script of the test's own at its end, which writes what it found into the title."""
    copy = folder / "page.html"
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return copy


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_window(page: Path, tmp_path: Path, width: int) -> None:
    # a frame of the wanted width: headless windows cannot be narrower than 500 pixels
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" style="width:{width}px;height:900px;border:0" srcdoc=""></iframe><script>'
        'const f = document.querySelector("#f"); f.onload = () => { const d = f.contentDocument.documentElement;'
        "document.title = `${d.scrollWidth} of ${d.clientWidth}`; };"
        f"f.srcdoc = {page.read_text()!r};".replace("</script>", "<\\/script>")
        + "</script>"
    )
    found = browse(frame, tmp_path / "profile", "--window-size=1500,1000", "--dump-dom", "--virtual-time-budget=4000")
    title = found.split("<title>")[1].split("</title>")[0]
    wide, of = (int(word) for word in title.split(" of "))
    assert wide <= of == width


def test_hostile_samples_do_not_run_and_nothing_is_requested(page: Path, tmp_path: Path) -> None:
    script = (
        "document.title = [performance.getEntriesByType('resource').length, document.images.length,"
        "document.querySelectorAll('svg').length,"
        "getComputedStyle(document.querySelector('.verdict p')).fontSize].join('|')"
    )
    found = browse(with_script(page, tmp_path, script), tmp_path / "profile", "--dump-dom")
    requests, images, charts, size = found.split("<title>")[1].split("</title>")[0].split("|")
    assert (requests, images) == ("0", "0")
    assert int(charts) > 10
    assert float(size.removesuffix("px")) > 16  # the stylesheet applies


def test_it_can_be_photographed_light_and_dark(page: Path, tmp_path: Path) -> None:
    pictures = []
    for name, theme in (("light", "light"), ("dark", "dark")):
        themed = tmp_path / f"{name}.html"
        themed.write_text(page.read_text().replace('data-theme="auto"', f'data-theme="{theme}"'))
        picture = tmp_path / f"{name}.png"
        browse(themed, tmp_path / f"profile-{name}", f"--screenshot={picture}", "--window-size=1400,1200")
        pictures.append(picture.read_bytes())
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 20_000 for picture in pictures)
    assert pictures[0] != pictures[1]
