"""A report in a real browser: Chromium, driven by puppeteer-core (`make browser`), or alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reports import made_up
from supsup_runtime.evaluation.report import write_report

pytestmark = pytest.mark.slow
LOOK = Path(__file__).with_name("look.cjs")
MODULES = Path(__file__).resolve().parents[4] / "build" / "node" / "node_modules"
NAMES = [f"task {k} <script>alert({k})</script> {'long' * k}" for k in range(12)]
LABELS = ["cat & dog", "<b>", "an unusually long name of a class", "3"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, made_up(NAMES, LABELS, lost=5))
    return path


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium on the path; install Debian's package chromium")
    return found


def looked_at(path: Path, profile: Path) -> dict[str, Any]:
    browser, node = chromium(), shutil.which("node")
    if node is None:
        pytest.skip("no node on the path; install Debian's package nodejs")
    places = f"{MODULES}{os.pathsep}{os.environ.get('NODE_PATH', '')}"
    environment = {**os.environ, "NODE_PATH": places}
    find = [node, "-e", "require.resolve('puppeteer-core')"]
    if subprocess.run(find, env=environment, capture_output=True, check=False).returncode:
        pytest.skip(f"no puppeteer-core in NODE_PATH or {MODULES}; make browser")
    look = [node, str(LOOK), browser, str(profile), path.as_uri()]
    done = subprocess.run(look, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_browser_draws_it(report: Path, tmp_path: Path) -> None:
    found = looked_at(report, tmp_path)
    assert found["said"] == []
    asked = [url for url in found["requests"] if not url.startswith("data:image/png;base64,")]
    assert asked == [report.as_uri()] * 4
    for name, look in found["looks"].items():
        assert look["width"] == look["window"] == int(name.split()[1]), name
        assert look["beyond"] == 0, name
        assert look["smallest"] >= 9, name
        # tasks: 12 and 5 lost; classes of 12 tasks: 4 right and 3 wrong each
        assert (look["right_cells"], look["wrong_cells"]) == (12 + 12 * 4, 5 + 12 * 3), name
        assert (look["curves"], look["thin"]) == (2, 12), name
        assert look["shades"] == 6, name
        assert look["pictures"] == [[True, 8, 8]] * 4, name
        assert look["scripts"] == 0, name
        assert look["headings"][:3] == [
            "out.onnx",
            "Accuracy of each task",
            "Tasks taken for others",
        ]


def test_light_and_dark_have_contrast(report: Path, tmp_path: Path) -> None:
    looks = looked_at(report, tmp_path)["looks"]
    light, dark = looks["light 360"], looks["dark 360"]
    assert luminance(light["paper"]) > 0.9
    assert luminance(dark["paper"]) < 0.05
    for look in (light, dark):
        for key, least in (("ink", 7), ("muted", 4.5), ("known", 3)):  # WCAG 2.1
            pair = sorted(luminance(look[each]) for each in ("paper", key))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= least, key


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` (WCAG 2.1)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_chromium_alone_reads_it(report: Path, tmp_path: Path) -> None:
    options = ["--headless", "--no-sandbox", f"--user-data-dir={tmp_path}", "--dump-dom"]
    done = subprocess.run(
        [chromium(), *options, report.as_uri()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('<polyline points="') == 12 + 1 + 3  # losses, mean; confidence
    assert "<script" not in done.stdout
    assert "task 3 &lt;script&gt;alert(3)" in done.stdout
