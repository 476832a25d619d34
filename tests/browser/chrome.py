"""A headless Chromium, driven by the DevTools protocol over a pipe. Needs nothing but the browser."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 30
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
    # No name can be resolved: a page that asks the network for anything fails.
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--force-color-profile=srgb"),
)


def found() -> str | None:
    """The browser's path, from CHROMIUM or the usual names; None if there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


class Chrome:
    """One browser with one page. ``problems`` has every console error, exception and failed request since ``open``."""

    def __init__(self, browser: str, profile: Path) -> None:
        from_browser, to_us = os.pipe()
        from_us, to_browser = os.pipe()

        def descriptors() -> None:  # Chromium reads from 3 and writes to 4
            held = os.dup(from_us), os.dup(to_us)
            os.dup2(held[0], 3)
            os.dup2(held[1], 4)

        self._process = subprocess.Popen(
            [browser, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            close_fds=False,
            preexec_fn=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        self._read, self._write, self._held, self._number = from_browser, to_browser, b"", 0
        self.problems: list[str] = []
        self._events: list[str] = []
        self._session: str | None = None
        page = next(target for target in self._send("Target.getTargets")["targetInfos"] if target["type"] == "page")
        self._session = self._send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def __enter__(self) -> Chrome:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def open(self, path: Path, *, width: int, height: int = 900, dark: bool = False, media: str = "screen") -> None:
        """Open a file in a window of this size, as on a phone if it is narrow."""
        phone = width < 600
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.problems.clear()
        self._events.clear()
        self._send("Page.navigate", url="about:blank")
        self._wait("Page.loadEventFired")
        self._events.clear()
        self._send("Page.navigate", url=path.absolute().as_uri())
        self._wait("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page, and return its JSON value."""
        answer = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, such as Tab or Enter."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        typed = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self._send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes.get(key, 0),
                **(typed if kind == "keyDown" else {}),
            )  # fmt: skip

    def click(self, selector: str) -> None:
        """Click the middle of an element with the pointer, as a reader does."""
        script = """(() => {
            const element = document.querySelector(SELECTOR);
            element.scrollIntoView({block: "center"});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        })()"""
        place = self.run(script.replace("SELECTOR", json.dumps(selector)))
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Save a PNG of the page."""
        data = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        """Return the page as it is printed."""
        return base64.b64decode(self._send("Page.printToPDF", printBackground=False)["data"])

    def _send(self, method: str, **values: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": values}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
        raise AssertionError(f"{method}: no answer")

    def _wait(self, event: str) -> None:
        if event in self._events:
            return
        for _ in self._messages():
            if event in self._events:
                return

    def _messages(self) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + _SECONDS
        while True:
            while b"\0" in self._held:
                first, _, self._held = self._held.partition(b"\0")
                message: dict[str, Any] = json.loads(first)
                self._note(message)
                yield message
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the browser gave no answer in {_SECONDS} s"
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._held += more

    def _note(self, message: dict[str, Any]) -> None:
        method, values = message.get("method", ""), message.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        if method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.problems.append(str(values["args"]))
        if method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.problems.append(values["entry"]["text"])
        if method == "Network.loadingFailed":
            self.problems.append(str(values))
        if method == "Network.requestWillBeSent":
            address = values["request"]["url"]
            if not address.startswith(("file:", "data:", "about:")):
                self.problems.append(f"the page asks for {address}")


@contextmanager
def chrome(browser: str, folder: Path) -> Iterator[Chrome]:
    """Start a browser with a profile of its own in a folder."""
    with Chrome(browser, folder / "profile") as started:
        yield started
