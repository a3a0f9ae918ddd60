"""``/docs`` in a real browser: the operations are shown, nothing is loaded from another host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.conformance.browser import Browser, browser
from support.server import Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("docs")) as server:
        yield server


@pytest.fixture
async def page(server: Server) -> AsyncIterator[Browser]:
    async with browser(server) as page:
        yield page


async def test_operations_are_shown_and_can_be_tried(server: Server, page: Browser, tmp_path: Path) -> None:
    await page.page.goto(f"{server.url}/docs")
    operations = page.page.locator(".opblock-summary-path")
    await page.page.get_by_role("button", name="Expand operation").first.wait_for(state="attached")
    for section in await page.page.locator(".opblock-tag").all():
        await section.click()
    await operations.first.wait_for()
    documented = server.call("GET", "/openapi.json").json()["paths"]
    assert await operations.count() == sum(len(methods) for methods in documented.values())
    shown = page.page.locator("#operations-auth-getMe, [id$=auth_me_get], [id*=auth_me]").first
    await shown.locator("button.opblock-summary-control").click()
    await shown.get_by_role("button", name="Try it out").click()
    await shown.get_by_role("button", name="Execute", exact=True).click()
    await shown.locator(".live-responses-table").get_by_text('"admin"').first.wait_for()
    await page.page.screenshot(path=tmp_path / "docs.png", full_page=False)
    assert page.errors == []
    assert page.said == []
    hosts = {urlsplit(request.url).netloc for request in page.requests if not request.url.startswith("data:")}
    assert hosts == {urlsplit(server.url).netloc}


async def test_a_script_in_the_page_does_not_run(server: Server, page: Browser) -> None:
    await page.page.goto(f"{server.url}/docs")
    await page.page.evaluate(
        """() => {
          const inline = document.createElement("script");
          inline.textContent = "window.ran = true";
          document.body.append(inline);
          const image = new Image();
          image.src = "http://127.0.0.2:1/x.png";
          document.body.append(image);
        }"""
    )
    assert not await page.page.evaluate("() => Boolean(window.ran)")
    blocked = [line for line in page.said if "Content Security Policy" in line]
    assert len(blocked) >= 2, page.said
