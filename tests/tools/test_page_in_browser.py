"""The page of a report, clicked through in Chromium."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_reports
import pytest

from ptq_opt import Report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
sync_api = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # The sandbox of Chromium does not work for root, as which containers run.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report() -> Report:
    return page_reports.real()


class Opened:
    """A page, with what it asked the network for and what it complained of."""

    def __init__(self, browser: Any, report: Report, folder: Path, **context: Any) -> None:
        path = folder / "report.html"
        report.save(path)
        self.context = browser.new_context(
            **{"viewport": {"width": 1300, "height": 900}, **context}
        )
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(path.as_uri())
        if context.get("java_script_enabled", True):
            self.page.wait_for_selector("html[data-ready]", timeout=60_000)


@pytest.fixture
def opened(browser: Any, report: Report, tmp_path: Path) -> Iterator[Opened]:
    found = Opened(browser, report, tmp_path)
    yield found
    assert not found.errors
    found.context.close()


def node(page: Any, name: str) -> Any:
    return page.locator(".node", has=page.locator("title", has_text=re.compile(f"^{name}$")))


def transform(page: Any) -> str:
    return str(page.locator("#drawing > g").get_attribute("transform"))


def settled(page: Any) -> str:
    """The transform once the movement is over."""
    page.wait_for_timeout(350)
    return transform(page)


def test_the_page_asks_for_nothing(opened: Opened) -> None:
    """But for its own file, and the layout's script, which it makes itself."""
    first, *rest = opened.requests
    assert first.startswith("file:")
    assert all(url.startswith("blob:") for url in rest)


def test_the_drawing_has_all_operators_islands_and_conversions(
    opened: Opened, report: Report
) -> None:
    page = opened.page
    assert page.locator(".node").count() == len(report.graph.operators) == 9
    assert page.locator(".edge").count() == len(report.graph.edges)
    assert page.locator("#drawing .island").count() == report.graph.islands == 1
    marks = [edge for edge in report.graph.edges if edge.converts]
    assert page.locator("#drawing .mark").count() == len(marks) > 0
    assert "integer" in node(page, "first").get_attribute("class")
    assert "float" in node(page, "second").get_attribute("class")


def test_a_click_shows_why_and_neighbours_lead_on(opened: Opened) -> None:
    page, details = opened.page, opened.page.locator("#details")
    node(page, "second").click()
    assert "excluded by 'second'" in details.inner_text()
    details.get_by_role("button", name="Relu relu").click()
    assert details.locator("h3").inner_text() == "Relu relu"
    assert "dequantize" in details.inner_text()
    assert "selected" in node(page, "relu").get_attribute("class")
    assert details.locator("figure svg[role=img]").count() == 1


def test_search_counts_marks_and_steps_through(opened: Opened) -> None:
    page, field = opened.page, opened.page.locator("#find")
    page.keyboard.press("/")
    page.keyboard.type("conv")
    assert page.locator("#found").inner_text().startswith("2 found")
    assert page.locator(".node.match").count() == 2
    field.press("Enter")
    field.press("Enter")
    assert page.locator("#found").inner_text() == "2 of 2"
    assert page.locator("#details h3").inner_text() == "Conv second"
    field.fill("r1")  # a tensor
    assert "match" in node(page, "relu").get_attribute("class")
    field.fill("nowhere")
    assert page.locator("#found").inner_text() == "nothing found"
    field.press("Escape")
    assert page.locator(".node.match").count() == 0


def test_colours_by_error(opened: Opened) -> None:
    page = opened.page
    fill = "e => getComputedStyle(e.querySelector('rect')).fill"
    before = node(page, "first").evaluate(fill)
    page.locator(".choice").get_by_text("Error").click()
    assert node(page, "first").evaluate(fill) != before
    assert "noise added" in page.locator("#legend").inner_text()
    page.locator(".choice").get_by_text("Precision").click()
    assert node(page, "first").evaluate(fill) == before


def test_zoom_pan_and_fit(opened: Opened) -> None:
    page = opened.page
    start = transform(page)
    page.get_by_role("button", name="Zoom in").click()
    near = transform(page)
    assert near != start
    box = page.locator("#drawing").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 160)
    page.mouse.up()
    assert transform(page) != near
    page.get_by_role("button", name="Fit").click()
    fitted = settled(page)
    page.mouse.move(box["x"] + 40, box["y"] + 60)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    assert transform(page) != fitted


def wait_until(page: Any, condition: str) -> None:
    """Playwright's own way evaluates a string, which the page forbids."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}")


def test_the_wheel_alone_scrolls_the_page(opened: Opened) -> None:
    page = opened.page
    box, before = page.locator("#drawing").bounding_box(), transform(page)
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.wheel(0, 300)
    wait_until(page, "scrollY > 0")
    assert transform(page) == before


def test_the_keyboard_goes_along_the_edges(opened: Opened) -> None:
    page, title = opened.page, opened.page.locator("#details h3")
    page.locator("#drawing").focus()
    page.keyboard.press("ArrowDown")
    assert title.inner_text() == "input x"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert title.inner_text() == "Relu relu"
    page.keyboard.press("End")
    assert title.inner_text() == "output y"
    page.keyboard.press("ArrowUp")
    assert title.inner_text() == "Gemm classifier"
    before = settled(page)
    page.keyboard.press("+")
    assert transform(page) != before
    page.keyboard.press("Escape")
    assert page.locator(".node.selected").count() == 0


def test_a_layer_leads_to_its_operator(opened: Opened) -> None:
    page = opened.page
    page.locator("#layers button", has_text="Conv 'first'").click()
    assert page.locator("#details h3").inner_text() == "Conv first"
    assert "SQNR" in page.locator("#details").inner_text()


def test_layers_sort_and_filter(opened: Opened) -> None:
    page = opened.page
    rows = page.locator("#layers tbody tr:not([hidden])")
    head = page.locator("#layers th", has_text="SQNR before")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert "exact" in rows.first.inner_text()
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert "exact" in rows.last.inner_text()
    page.locator("#filter").fill("flat")
    assert rows.count() == 1


def test_the_command_is_copied(opened: Opened, report: Report) -> None:
    page = opened.page
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#again .copier").click()
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#again code").inner_text()
    assert report.pipeline in copied


def test_the_front_is_drawn(opened: Opened, report: Report) -> None:
    page = opened.page
    measurable = [point for point in report.bits["points"] if point["sqnr_db"] < 120]
    assert page.locator("#pareto .point").count() == len(measurable) > 1
    assert page.locator("#pareto .chosen").count() == 1


def test_names_are_never_code(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, page_reports.hostile(), tmp_path)
    page = opened.page
    for k in range(page.locator(".node").count()):
        page.locator(".node").nth(k).click(force=True)
        assert page_reports.HOSTILE in page.locator("#details h3").inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("h1").inner_text() == page_reports.HOSTILE
    assert not opened.errors


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(scheme: str, browser: Any, report: Report, tmp_path: Path) -> None:
    """By the rules of axe-core: names, roles, contrast."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = Opened(browser, report, tmp_path, color_scheme=scheme).page
    node(page, "first").click()
    page.wait_for_timeout(400)
    for colour in ("Precision", "Error"):
        page.locator(".choice").get_by_text(colour).click()
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()


def test_a_phone_shows_it_without_scrolling_sideways(
    browser: Any, report: Report, tmp_path: Path
) -> None:
    page = Opened(
        browser, report, tmp_path, viewport={"width": 360, "height": 740}, has_touch=True
    ).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    node(page, "first").tap()
    assert page.locator("#details h3").inner_text() == "Conv first"


def test_paper_shows_everything(browser: Any, report: Report, tmp_path: Path) -> None:
    page = Opened(browser, report, tmp_path, color_scheme="dark").page
    page.emulate_media(media="print")
    assert not page.locator(".tools").is_visible()
    assert page.locator("#layers").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")


def test_long_graphs_are_cut_into_columns_on_paper(browser: Any, tmp_path: Path) -> None:
    """Each column whole in the width of the sheet, every operator in one of them."""
    opened = Opened(browser, page_reports.large(100), tmp_path)
    page = opened.page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    columns = page.locator(".sheet").first.locator("svg")
    assert columns.count() > 2
    sheet, column = page.locator("#sheets").bounding_box(), columns.first.bounding_box()
    assert column["height"] < 1.3 * sheet["width"]
    names = "nodes => nodes.map(node => node.textContent).sort()"
    shown, all_ = (
        page.locator(f"{where} .node title").evaluate_all(names)
        for where in ("#sheets", "#drawing")
    )
    assert shown == all_ and len(shown) == 101
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".sheet").count() == 0
    assert not opened.errors


def test_tables_need_no_scripts(browser: Any, report: Report, tmp_path: Path) -> None:
    page = Opened(browser, report, tmp_path, java_script_enabled=False).page
    assert page.locator("#layers tbody tr").count() == len(report.fidelity.layers)
    assert "excluded by 'second'" in page.locator("#operators").inner_text()


def test_a_thousand_operators(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, page_reports.large(), tmp_path)
    page = opened.page
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    assert page.locator(".node").count() == 1001
    page.locator("#find").fill("operator_777")
    page.locator("#find").press("Enter")
    assert "operator_777" in page.locator("#details h3").inner_text()
    before, box = settled(page), page.locator("#overview").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 30)
    assert transform(page) != before
    assert not opened.errors
