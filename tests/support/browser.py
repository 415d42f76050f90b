"""Chromium without a window, driven over its debugging pipe: a page at a width, what it says and what it asks for."""

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One tab.

    Attributes:
        complaints: what was written to the console or its log.
        asked: the addresses that were asked for.
    """

    def __init__(self, send: int, receive: int) -> None:
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._send, self._receive, self._buffer, self._last = send, receive, b"", 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and wait for its answer."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: Path, width: int, height: int = 900) -> None:
        """Open a page in a window of this width, and wait until it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=page.as_uri())
        while self.evaluate("document.readyState") != "complete":
            pass

    def evaluate(self, expression: str) -> Any:
        """The value of some JavaScript."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], 60)
            read = os.read(self._receive, 1 << 16) if ready else b""
            assert read, "the browser does not answer"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        event = json.loads(message)
        about = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.asked.append(about["request"]["url"])
        elif event.get("method") in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(about))
        return event


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser whose profile lies in ``folder``."""
    assert CHROMIUM is not None
    receive_commands, send = os.pipe()
    receive, send_answers = os.pipe()
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
        *("--no-first-run", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}"),
    ]
    # Chromium reads commands from descriptor 3 and writes answers to 4
    script = f'exec "$@" 3<&{receive_commands} 4>&{send_answers}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", CHROMIUM, *flags],
        pass_fds=(receive_commands, send_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(receive_commands)
    os.close(send_answers)
    try:
        yield Browser(send, receive)
    finally:
        process.terminate()
        process.wait(timeout=30)
        os.close(send)
        os.close(receive)
