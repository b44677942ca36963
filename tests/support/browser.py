"""Headless Chromium for tests of pages, driven by Playwright through Node.js."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "export" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NEEDED = {
    "Chromium (apt-get install chromium)": CHROMIUM is not None,
    "Node.js (apt-get install nodejs npm)": shutil.which("node") is not None,
    "its packages (npm ci in export/browser)": (PACKAGES / "node_modules/playwright-core").is_dir(),
}
ABSENT = [what for what, is_there in NEEDED.items() if not is_there]
in_browser = pytest.mark.skipif(bool(ABSENT), reason=f"needs {', '.join(ABSENT)}")


def visit(driver, *visits):
    """Runs a driver, a script for Node.js, on visits, and returns what it found on each page."""
    task = {"package": str(PACKAGES / "package.json"), "chromium": CHROMIUM, "visits": visits}
    result = subprocess.run(
        ["node", str(driver)],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
