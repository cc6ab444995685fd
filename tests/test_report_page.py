"""Tests of the report in a real browser: Debian's chromium, or the program in TOCO_CHROMIUM."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

OFFLINE = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")

# A canvas takes the size of its photograph when it is first drawn.
DRAWN = (
    "[...document.querySelectorAll('.entry:not([hidden])')].every("
    "one => one.querySelector('canvas').width === one.querySelector('img').naturalWidth)"
)


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
    page.wait_for_function(DRAWN)
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


def test_gallery__shows_a_first_part_and_more_on_request(page: Page, whole_run: Path, tmp_path: Path) -> None:
    text = (whole_run / "report.html").read_text(encoding="utf-8")
    assert text.count("const MORE = 6;") == 1
    (tmp_path / "report.html").write_text(text.replace("const MORE = 6;", "const MORE = 2;"), encoding="utf-8")
    page.goto((tmp_path / "report.html").as_uri())
    total = page.locator(".entry").count()
    assert total > 2
    assert len(visible(page)) == 2
    assert page.locator("#shown").inner_text() == f"2 of {total} images"
    page.locator("#more").click()
    assert len(visible(page)) == min(total, 8)
    assert page.evaluate("document.activeElement.closest('.entry') === document.querySelectorAll('.entry')[2]")
    page.wait_for_function(DRAWN)


def test_filters__show_only_matching_images(page: Page) -> None:
    entries = len(visible(page))
    page.locator("#class-filter").select_option("2")
    shown = visible(page)
    assert 0 < len(shown) < entries
    assert all("2" in classes.split() for classes in shown)
    assert page.locator("#shown").inner_text() == f"{len(shown)} of {len(shown)} images"
    page.locator("#rank-filter").select_option("worst")
    assert len(visible(page)) < len(shown)
    page.locator("#class-filter").select_option("")
    ranks = {one.get_attribute("data-rank") for one in page.locator(".entry:visible").all()}
    assert ranks == {"worst"}


def test_viewer__opens_by_click_or_enter_and_is_left_by_escape(page: Page) -> None:
    names = page.locator(".entry .name").all_inner_texts()
    page.locator(".entry .row").nth(1).click()
    assert page.locator("#viewer-title").inner_text() == names[1]
    page.locator("#viewer-pictures canvas").wait_for()
    figures = page.locator(".entry").nth(1).locator("figure").count()
    assert page.locator("#viewer-pictures figure").count() == figures
    small = page.locator(".entry").nth(1).locator("canvas").evaluate("one => one.toDataURL()")
    assert page.locator("#viewer-pictures canvas").evaluate("one => one.toDataURL()") == small
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-title").inner_text() == names[2]
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    # The browser sends the dialog's close event, which moves the focus, a moment after the dialog is gone.
    page.wait_for_function("name => document.activeElement.textContent === name", arg=names[2])
    page.keyboard.press("Enter")
    assert page.locator("#viewer-title").inner_text() == names[2]
    page.locator("#close").click()
    assert not page.locator("#viewer").is_visible()


def test_viewer__goes_round_through_the_images_that_fit_the_filters(page: Page) -> None:
    page.locator("#rank-filter").select_option("worst")
    names = page.locator(".entry:visible .name").all_inner_texts()
    page.locator(".entry:visible .name").first.click()
    titles = []
    for _ in range(len(names) + 1):
        titles.append(page.locator("#viewer-title").inner_text())
        page.locator("#next").click()
    assert titles == [*names, names[0]]


def test_charts__answer_the_pointer_and_the_arrow_keys(page: Page) -> None:
    plot = page.locator("#training .plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    readout = page.locator("#training .readout").first
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 5)
    last = readout.inner_text()
    assert re.fullmatch(r"iteration 4: [\d.]+", last)
    plot.focus()
    page.keyboard.press("ArrowLeft")
    assert readout.inner_text().startswith("iteration ")
    assert readout.inner_text() != last


def test_confusion__names_the_cell_under_the_pointer(page: Page) -> None:
    page.locator(".confusion tbody td").first.hover()
    assert re.fullmatch(
        r"[\d.]+ % of background predicted as background", page.locator("#confusion-value").inner_text()
    )


def test_page__is_dark_where_the_system_is(page: Page) -> None:
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light == "rgb(255, 255, 255)"


def test_page__works_without_a_mouse_and_with_a_screen_reader(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('select, input, .entry canvas, .plot, section, article, dialog')]"
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
