"""The system's Chromium, driven by Playwright, in which tests of the report open pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium. Skips if the machine has none."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no chromium on PATH to open the report in")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


class Page:
    """A page that was opened from a file, with everything that it complained about or requested."""

    def __init__(self, found: Any, width: int = 1400, height: int = 900, scheme: str = "light"):
        self.context = found.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
            accept_downloads=True,
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", self._failed)

    def _failed(self, request: Any) -> None:
        """Forget a request that the page's policy forbids: it is announced, but never sent."""
        if request.failure == "csp":
            self.requests.remove(request.url)

    def open(self, file: Path, fragment: str = "") -> Any:
        """The page, drawn."""
        self.page.goto(file.resolve().as_uri() + fragment)
        self.page.wait_for_selector("body[data-ready]", timeout=30_000)
        return self.page

    def close(self) -> None:
        self.context.close()


SETTLED = """async () => {
  const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  do { await frame(); await frame(); } while (waiting);  // tiles fill in the frame after they come into view
  const near = [...document.images].filter(image => {
    const {top, bottom} = image.getBoundingClientRect();
    return bottom > -300 && top < innerHeight + 300;
  });
  await Promise.all(near.map(image => image.decode().catch(() => {})));
}"""


def settle(page):
    """Wait until everything is drawn that the page's state requires."""
    page.evaluate(SETTLED)
