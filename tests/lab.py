"""JupyterLab as a learner has it: a server, and a page; see `lab_page` for the rest."""

import ast
import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import NamedTuple

from sbtutor import lessons

# Milliseconds; generous, as nothing here is a measurement and other tests run beside.
WAIT = 300_000
RUN = 600_000  # in which a lesson has run

# All cells are in the page, on screen or not; nothing is fetched, nothing pops up.
OVERRIDES = {
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
FLAGS = [
    "--no-browser",
    "--ip=127.0.0.1",
    "--allow-root",
    "--expose-app-in-browser",  # so that commands need no clicks through menus
    "--ServerApp.port_retries=0",
    # Where the tests are killed, the server ends by itself.
    "--ServerApp.shutdown_no_activity_timeout=600",
    "--MappingKernelManager.cull_idle_timeout=300",
    "--LabApp.news_url=",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
]
SESSION = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session"


class Server(NamedTuple):
    """A running JupyterLab: its address, the token that opens it, its folder."""

    base: str
    token: str
    root: Path


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def serve(root: Path, work: Path, **env: str):
    """JupyterLab on the folder `root`; `work` gets its log and all that it keeps.

    Its kernels run this very interpreter, and see the variables `env`.
    """
    app = work / "app"
    app.mkdir(parents=True)
    (app / "overrides.json").write_text(json.dumps(OVERRIDES))
    kept = ("JUPYTER_CONFIG_DIR", "IPYTHONDIR")
    kept += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    env = {**os.environ, **env, **{name: str(work / name) for name in kept}}
    env |= lessons.own_kernel(work / "kernel")
    token, log = secrets.token_hex(12), work / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", *FLAGS]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"]
    command += [f"--LabApp.app_settings_dir={app}"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as runtime:
        env["JUPYTER_RUNTIME_DIR"] = runtime  # a short path, for sockets
        if lessons.sockets(Path(runtime), f"kernel-{uuid.uuid4()}"):
            command += ["--KernelManager.transport=ipc"]
        for _ in range(3):  # another process may take the port before JupyterLab does
            port = _free_port()
            with log.open("w") as out:
                process = subprocess.Popen(
                    [*command, f"--port={port}"], env=env, stdout=out,
                    stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip
            try:
                server = Server(f"http://127.0.0.1:{port}", token, root)
                if _answers(server, process):
                    yield server
                    return
                if process.poll() is None:
                    break
            finally:
                _end(process)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def _answers(server: Server, process: subprocess.Popen) -> bool:
    """Wait for the server; False if it ended, or took too long."""
    until = time.monotonic() + WAIT / 1000
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError, http.client.HTTPException):
            address = f"{server.base}/api?token={server.token}"
            urllib.request.urlopen(address, timeout=5).close()
            return True
        time.sleep(0.2)
    return False


def _end(process: subprocess.Popen) -> None:
    """End the server, which ends its kernels."""
    for how, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def promised(page, call: str, arg=None):
    """What an asynchronous function of one argument returns.

    Playwright would wait for it without an end, if the kernel dies meanwhile.
    """
    late = f"""new Promise((_, no) =>
      setTimeout(() => no(Error("no answer in {WAIT} ms")), {WAIT}))"""
    return page.evaluate(f"(arg) => Promise.race([({call})(arg), {late}])", arg)


def open_page(browser, server: Server, trouble: list[str]):
    """An empty page that reaches the server only; `trouble` gets all complaints."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(WAIT)
    page.on("pageerror", lambda error: trouble.append(f"page error: {error}"))

    def heard(message):
        if message.type == "error":
            at = message.location.get("url", "")
            trouble.append(f"console: {message.text} ({at})")

    def refused(route):
        trouble.append(f"outside request: {route.request.url}")
        route.abort()

    ours = (server.base, server.base.replace("http", "ws"), "data:", "blob:", "about:")
    page.on("console", heard)
    page.route(lambda url: not url.startswith(ours), refused)
    page.on(
        "websocket",
        lambda ws: ws.url.startswith(ours) or trouble.append(f"outside: {ws.url}"),
    )
    return page


def open_lesson(page, server: Server, name: str) -> None:
    """Open a notebook of the server's folder, in a workspace of its own.

    A page that is loaded again opens all that its workspace had open.
    """
    place = f"lab/workspaces/{name.partition('.')[0]}/tree/{name}"
    page.goto(f"{server.base}/{place}?token={server.token}&reset")
    settle(page)


def settle(page) -> None:
    """Wait until the notebook is shown and its kernel answers.

    Cells that are run before there is a kernel make JupyterLab ask for one.
    """
    page.wait_for_function(f"() => {SESSION}?.kernel?.status === 'idle'")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    promised(
        page,
        """async () => {
          const { context, sessionContext } = jupyterapp.shell.currentWidget;
          await Promise.all([context.ready, sessionContext.ready]);
          await sessionContext.session.kernel.info;
        }""",
    )


def command(page, name: str, **args) -> None:
    """One of JupyterLab's commands, such as `docmanager:save`."""
    call = "([name, args]) => jupyterapp.commands.execute(name, args)"
    promised(page, call, [name, args])


def start_all(page) -> None:
    """Run all cells, without waiting for them."""
    page.evaluate(
        """() => {
          jupyterapp.commands.execute("notebook:run-all-cells").then(
            (fine) => { window.allRan = String(fine); });
        }"""
    )


def run_last(page) -> None:
    """Run the last cell, and wait until it has run."""
    last = page.locator(".jp-CodeCell").last
    before = last.locator(".jp-InputPrompt").inner_text()
    last.locator(".cm-content").click()
    command(page, "notebook:run-cell")
    page.wait_for_function(
        """(before) => {
          const prompts = document.querySelectorAll(".jp-CodeCell .jp-InputPrompt");
          const now = prompts[prompts.length - 1].textContent;
          return now !== before && /\\d/.test(now);
        }""",
        arg=before,
    )


def await_all(page) -> bool:
    """Wait until all cells have run and figures are drawn; False if a cell failed."""
    page.wait_for_function("() => window.allRan", timeout=RUN)
    await_figures(page)
    return page.evaluate("window.allRan") == "true"


def close(page) -> None:
    """Close the page and its kernel."""
    promised(page, f"async () => {SESSION}?.shutdown()")
    page.close()


def await_figures(page) -> None:
    """Wait until no widget is loading and each figure is drawn."""
    page.wait_for_function(
        """() => !/Loading widget/.test(
            document.querySelector(".jp-Notebook").textContent) &&
          [...document.querySelectorAll(".js-plotly-plot")].every(
            (plot) => plot.querySelector(".main-svg"))"""
    )


def ask(page, expression: str, setup: str = ""):
    """The value, as JSON holds it, of an expression in the page's kernel."""
    code = f"__import__('json').dumps({expression}, default=str)"
    reply = promised(
        page,
        f"""async ([setup, code]) => {{
          const sent = {SESSION}.kernel.requestExecute(
            {{ code: setup, silent: true, user_expressions: {{ it: code }} }});
          return (await sent.done).content;
        }}""",
        [setup, code],
    )
    told = reply.get("user_expressions", {}).get("it", reply)
    assert "data" in told, told
    return json.loads(ast.literal_eval(told["data"]["text/plain"]))
