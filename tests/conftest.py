"""For all tests: shapes and types are checked, and one thread is enough."""

import multiprocessing
import os
import shutil
import signal

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook

_told = []


def _end(*_):
    """The first signal is enough: what then ends must not be cut by the next one."""
    if not _told:
        _told.append(True)
        raise KeyboardInterrupt


# `make test` ends this with SIGTERM; it runs in the background, where shells make
# programs deaf to Ctrl-C, and children inherit that.
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), _end)


def pytest_runtest_makereport(item, call):
    """The signal may have come to a test that makes an exit code of it."""
    if _told or (call.excinfo and call.excinfo.errisinstance(SystemExit)):
        item.session.shouldstop = "told to end"


# Annotations cost nothing in use; here each call is held to its stated shapes.
install_import_hook("sbtutor", "beartype.beartype")
torch.set_num_threads(1)
os.environ["SBTUTOR_JOURNAL"] = "off"  # trying an exercise here is nobody's progress

DYING = """
import os, signal, torch
from sbtutor import batch_training, pool, train
torch.set_num_threads(1)  # as above: sums of floats depend on it
replace, seen = os.replace, []
def dying(source, target):
    seen.append(os.path.basename(target))
    if moment in (len(seen), (seen[-1], seen.count(seen[-1]))):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = dying
"""


@pytest.fixture(scope="session")
def dying():
    """Start some code in a process of its own, which shares no state with this one.

    With a moment, which is a number of files or a file's name and how often it came,
    the process is killed just before that file is moved into place.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sbtutor.batch_training", "sbtutor.train"])

    def start(code, moment=None, **given):
        given["moment"] = moment
        process = context.Process(target=exec, args=(DYING + code, given))
        process.start()
        return process

    return start


@pytest.fixture
def quiet(monkeypatch):
    """No progress lines."""
    monkeypatch.setenv("SBTUTOR_PROGRESS", "off")


@pytest.fixture
def unchecked(monkeypatch):
    """Calls as users make them: without the tests' own check of annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def trained(monkeypatch):
    """Start and config of each cycle that is really trained, in this process."""
    from sbtutor import cycles

    seen, real = [], cycles.train_cycle

    def counted(start, split, config, how=None):
        state = {name: t.clone() for name, t in start.state_dict().items()}
        seen.append((state, config))
        return real(start, split, config, how)

    monkeypatch.setattr(cycles, "train_cycle", counted)
    return seen


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
