"""Tests of the report in a real browser: Debian's chromium, or the program in TOCO_CHROMIUM."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

OFFLINE = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = os.environ.get("TOCO_CHROMIUM") or shutil.which("chromium")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing: install it, or set TOCO_CHROMIUM to its path")
        pytest.skip("chromium is missing: apt-get install chromium (Debian), or set TOCO_CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OFFLINE)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, whole_run: Path) -> Iterator[Page]:
    """Open the report. After the test, check that the console is empty and nothing was fetched from the network."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    messages: list[str] = []
    fetched: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto((whole_run / "report.html").as_uri())
    # A canvas takes the size of its photograph when it is first drawn.
    page.wait_for_function(
        "[...document.querySelectorAll('.entry')].every("
        "one => one.querySelector('canvas').width === one.querySelector('img').naturalWidth)"
    )
    yield page
    page.close()
    assert messages == []
    assert [address for address in fetched if not address.startswith(("data:", "file:"))] == []


def first_mask(page: Page) -> str:
    """Return the slider's mask of the first image that has a class, as a data URL."""
    return str(page.evaluate("document.querySelector('.entry:not([data-classes=\"\"]) canvas').toDataURL()"))


def visible(page: Page) -> list[str]:
    return [str(one.get_attribute("data-classes")) for one in page.locator(".entry:visible").all()]


def test_page__opens_without_broken_images_or_overflow(page: Page, tmp_path: Path) -> None:
    page.screenshot(path=tmp_path / "report.png", full_page=True)
    assert (tmp_path / "report.png").stat().st_size > 50_000
    broken = page.evaluate("[...document.images].filter(one => !one.naturalWidth).length")
    assert broken == 0
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0


def test_page__fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    output = page.locator("#background-value").bounding_box()
    assert output is not None
    assert output["x"] + output["width"] <= 390


def test_slider__changes_the_masks_at_once(page: Page) -> None:
    before = first_mask(page)
    page.locator("#background").fill("1")
    assert page.locator("#background-value").inner_text().startswith("1.00, mIoU ")
    nothing = first_mask(page)
    page.locator("#background").fill("0")
    everything = first_mask(page)
    assert len({before, nothing, everything}) == 3
    page.locator("#reset").click()
    assert first_mask(page) == before


def test_slider__works_with_the_keyboard(page: Page) -> None:
    page.locator("#background").focus()
    before = page.locator("#background").input_value()
    page.keyboard.press("ArrowRight")
    assert float(page.locator("#background").input_value()) == pytest.approx(float(before) + 0.01)


def test_filters__show_only_matching_images(page: Page) -> None:
    entries = len(visible(page))
    assert page.locator("#shown").inner_text() == f"{entries} of {entries} images"
    page.locator("#class-filter").select_option("2")
    shown = visible(page)
    assert 0 < len(shown) < entries
    assert all("2" in classes.split() for classes in shown)
    assert page.locator("#shown").inner_text() == f"{len(shown)} of {entries} images"
    page.locator("#rank-filter").select_option("worst")
    assert len(visible(page)) < len(shown)
    page.locator("#class-filter").select_option("")
    ranks = {one.get_attribute("data-rank") for one in page.locator(".entry:visible").all()}
    assert ranks == {"worst"}


def test_page__works_without_a_mouse_and_with_a_screen_reader(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('select, input, canvas, section, article')]"
        ".filter(one => !(one.labels?.length || one.ariaLabel || one.getAttribute('aria-labelledby'))).length"
    )
    assert unnamed == 0
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("h1").count() == 1


def test_page__prints_without_its_controls(page: Page, tmp_path: Path) -> None:
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator(".controls").is_visible()
    assert page.locator(".entry").first.is_visible()
