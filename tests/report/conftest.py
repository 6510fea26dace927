"""A headless Chromium, driven by the Chrome DevTools protocol through a WebSocket."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class BrowserPage:
    """A page in Chromium. errors: what its console, its policy or its scripts complained of."""

    def __init__(self, connection):
        self._connection, self._ids = connection, itertools.count(1)
        self._events = []
        self.errors = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Performance.enable", timeDomain="threadTicks")

    def call(self, method, **params):
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message)

    def _note(self, event):
        self._events.append(event["method"])
        if event["method"] == "Runtime.exceptionThrown":
            details = event["params"]["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.errors.append(event["params"]["entry"]["text"])
        elif event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in (
            "error",
            "warning",
        ):
            self.errors.append(str(event["params"]["args"]))

    def open(self, path):
        """Open a file, and return the seconds until it can be used: loaded, and drawn once."""
        self.errors.clear()
        self._events.clear()
        self.call("Page.navigate", url=Path(path).as_uri())
        while "Page.loadEventFired" not in self._events:
            self._note(json.loads(self._connection.recv(timeout=60)))
        return self.run("new Promise(done => setTimeout(() => done(performance.now()), 0))") / 1000

    def run(self, script):
        """Return the value of an expression, awaited if it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, (script, result["exceptionDetails"])
        return result["result"].get("value")

    def milliseconds(self, script):
        """Return how long an action takes until its effect is laid out and the next frame is due."""
        return self.run(
            f"(async () => {{ const start = performance.now(); {script}; "
            "await new Promise(requestAnimationFrame); document.body.offsetHeight; "
            "return performance.now() - start; })()"
        )

    def thread_seconds(self):
        """Return the CPU time of the page's thread so far: other work on the machine does not add to it."""
        metrics = self.call("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "TaskDuration")

    def press(self, key):
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()

    def settle(self):
        """Wait until the next frame has been drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def size(self, width, height, scale=1.0, mobile=False):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=mobile,
        )  # fmt: skip

    def prefer(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self):
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@pytest.fixture(scope="module")
def browser_page(tmp_path_factory):
    """A page in the installed Chromium; skipped where there is none."""
    client = pytest.importorskip("websockets.sync.client", reason="the extra `browser` is not installed")
    command = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if command is None:
        pytest.skip(f"no Chromium is installed: none of {', '.join(_BROWSERS)} is on the PATH")
    profile = tmp_path_factory.mktemp("chromium")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    process = subprocess.Popen(
        [command, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with client.connect(_address_of_page(profile, process), max_size=None) as connection:
            yield BrowserPage(connection)
            connection.send(json.dumps({"id": 0, "method": "Browser.close"}))
            process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _address_of_page(profile, process, seconds=60):
    """Wait for Chromium's port, and return the address of its first page."""
    import urllib.request

    deadline, file = time.monotonic() + seconds, profile / "DevToolsActivePort"
    while time.monotonic() < deadline:
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        if file.exists() and (lines := file.read_text().splitlines()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as reply:
                for target in json.load(reply):
                    if target["type"] == "page":
                        return target["webSocketDebuggerUrl"]
        time.sleep(0.05)
    raise AssertionError(f"Chromium opened no page in {seconds} s")
