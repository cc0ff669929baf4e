"""For all tests: shapes and types are checked, and one thread is enough."""

import os
import shutil

import pytest
import torch
from jaxtyping import install_import_hook

# Annotations cost nothing in use; here each call is held to its stated shapes.
install_import_hook("sbtutor", "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def chromium():
    """The path of a browser for playwright; the test is skipped where there is none."""
    pytest.importorskip("playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    return found or pytest.skip("no Chromium or Chrome on this machine")


@pytest.fixture(scope="session")
def browser(chromium):
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    root = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
    with sync_playwright() as play:
        flags = [*root, "--disable-gpu", "--disable-dev-shm-usage"]
        browser = play.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()
