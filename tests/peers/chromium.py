"""The browser that the page is tried in."""

import shutil

from tests.conftest import missing


def chromium() -> str:
    """Return the path of Chromium; without it the test is skipped, in the pipeline failed."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or missing("Chromium")
