"""The report's page: what is in its text, and what a reader can do with it in a real browser."""

import base64
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from clusters import until
from page_example import CLASS_COLORS, HOSTILE, example_page, name_of
from PIL import Image

from aras.report.page import Card, Cards, Footprints, Page, Section, Table
from aras.report.render import bar_label, digest, ink_on, numeric_columns, render, told_date, told_percent

CARDS = 2000
WIDTHS = (400, 800, 1600)
SCALE_ROOM = 28  # CSS pixels below a fitted map, for its scale
SCHEMES = ("light", "dark")


class Markup(HTMLParser):
    """The start tags of a document, and the text of its scripts and styles."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, dict[str, str | None], str]] = []
        self.now: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.now = self.tags[-1]

    def handle_endtag(self, tag):
        self.now = ("", {})

    def handle_data(self, data):
        tag, attributes = self.now
        if tag in ("script", "style"):
            self.inside.append((tag, attributes, data))


@pytest.fixture(scope="module")
def small():
    """A page of a few cards, as text and as its markup."""
    html = render(example_page(12, 30))
    return html, Markup(html)


# ---------------------------------------------------------------------------------------------- its text


def test_what_a_run_wrote_is_text_and_never_markup(small):
    html, markup = small
    assert "<img src=x" not in html
    assert not [attributes for _, attributes in markup.tags if any(name.startswith("on") for name in attributes)]
    data = [json.loads(text) for tag, attributes, text in markup.inside if attributes.get("type") == "application/json"]
    cards = next(part for part in data if part["kind"] == "cards")
    assert cards["cards"][3]["captions"][0]["text"] == HOSTILE  # whole, and inside its own element
    scripts = [attributes for tag, attributes in markup.tags if tag == "script"]
    assert len([one for one in scripts if "type" not in one]) == 2


def test_the_policy_allows_this_style_and_these_scripts_alone(small):
    html, markup = small
    meta = next(a for tag, a in markup.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in str(meta["content"]).split(";"))
    ours = {tag: [] for tag in ("script", "style")}
    for tag, attributes, text in markup.inside:
        if "type" not in attributes:
            ours[tag].append(digest(text))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == ours["script"]
    assert rules["style-src"].split() == ours["style"]
    assert rules["img-src"] == "data:"
    assert not [tag for tag, attributes in markup.tags if "style" in attributes]  # it would be refused
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_a_page_with_files_beside_it_may_show_them():
    page = example_page(1, 1)
    beside = Page(**{**vars(page), "is_embedded": False})
    assert "img-src data: &#39;self&#39;;" in render(beside)


def test_a_page_of_nothing_says_what_to_run():
    sections = [Section("fidelity", "Fidelity", "", [], "python synthetic_metrics.py --reference <test>")]
    html = render(Page("ARAS400k", "", "not a date", [], sections, [], [], True))
    assert "python synthetic_metrics.py --reference &lt;test&gt;" in html
    assert "not a date" in html


def test_ink_on_a_color_can_be_read():
    def luminance(color):
        values = np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    greys = [f"#{value:02x}{value:02x}{value:02x}" for value in range(256)]
    for color in (*CLASS_COLORS, *greys):
        low, high = sorted((luminance(color), luminance(ink_on(color))))
        assert (high + 0.05) / (low + 0.05) >= 4.5, color


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["77.1 ± 0.2", "65.3", "–"], True),
        (["−0.02", "1.5e-3", ""], True),
        (["58.42 [50.9, 63.4]", "< 0.1 %"], True),
        (["12.5 (11.9–13.1)", "2"], True),
        (["0.0625 (expected)", "2"], True),
        (["N52E012", "12"], False),
        (["2 tables, 1 figure", "12 outputs"], False),
        (["2.0.1-beta", "1"], False),
        (["", "–"], False),
        (["42.70 †", "1"], True),
    ],
)
def test_columns_of_numbers_are_found(cells, numeric):
    table = Table("", ["c"], [[cell] for cell in cells], [[""] for _ in cells])
    assert numeric_columns(table) == [numeric]


def test_cells_not_run_do_not_make_a_column_words():
    table = Table("", ["c"], [["1.5"], ["not run"]], [[""], ["missing"]])
    assert numeric_columns(table) == [True]
    assert numeric_columns(Table("", ["c"], [["not run"]], [["missing"]])) == [True]


def test_parts_of_a_bar_say_what_they_have_room_for():
    assert bar_label("Crop", 0.46) == "Crop 46"
    assert bar_label("out of distribution", 0.36) == "36"
    assert bar_label("Crop", 0.02) == ""


def test_of_one_bar_the_legend_tells_how_many_there_are(small):
    html, _ = small
    assert re.search(r"unsure <b>1,250</b> <span class=\"share\">25 %</span>", html)


@pytest.mark.parametrize(
    ("share", "told"), [(0, "0 %"), (1e-5, "< 0.1 %"), (0.0123, "1.2 %"), (0.0996, "10 %"), (0.5, "50 %"), (1, "100 %")]
)
def test_shares_are_told_in_percent(share, told):
    assert told_percent(share) == told


def test_dates_are_told_as_people_write_them():
    assert told_date("2026-11-03T09:05:00+00:00") == "3 November 2026, 09:05 UTC"
    assert told_date("yesterday") == "yesterday"


# ---------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.fail("no Chromium to show the page in: apt-get install chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def example():
    return example_page(CARDS, 10000)


@pytest.fixture(scope="module")
def address(example, tmp_path_factory):
    """The address of the file with the example."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(example), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def visit(browser):
    """Open an address, as `visit(address, width, scheme)`; what the page complains of or fetches fails the test."""
    contexts, trouble = [], []

    def opened(address, width=1280, scheme="light", before=None, height=900):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (trouble.append(f"alert: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: fetched(request.url, address))
        if before:
            page.add_init_script(before)
        page.goto(address)
        return page

    def fetched(url, address):
        if not url.startswith("data:") and url.partition("#")[0] != address.partition("#")[0]:
            trouble.append(f"request: {url}")

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def cards_of(page: Page) -> list[Card]:
    return next(part for section in page.sections for part in section.parts if isinstance(part, Cards)).cards


def choose(page, name, *values):
    for value in values:
        page.locator(f".filters input[name={name}][value='{value}']").check(force=True)


def count_line(page):
    return page.locator(".count-line").inner_text()


def focused(page):
    return page.evaluate("document.activeElement.innerText || document.activeElement.className")


# Every text on the page whose contrast with what is behind it is below WCAG's AA.
FAINT_TEXTS = """() => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const parse = (color) => { const [r, g, b, a] = color.match(/[\\d.]+/g).map(Number); return { r, g, b, a: a ?? 1 }; };
  const light = ({ r, g, b }) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const found = [];
  let seen = 0;
  for (const element of document.querySelectorAll("body *:not(svg *):not(script):not(template)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.matches(":disabled, :has(> :disabled), :has(> :disabled) *")) continue;
    let ground = element;
    while (ground !== document.documentElement && parse(getComputedStyle(ground).backgroundColor).a < 1) ground = ground.parentElement;
    const [low, high] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor].map((c) => light(parse(c))).sort((a, b) => a - b);
    seen += 1;
    const size = parseFloat(getComputedStyle(element).fontSize);
    if ((high + 0.05) / (low + 0.05) < (size >= 24 ? 3 : 4.5)) found.push(`${element.className}: ${element.textContent.slice(0, 40)}`);
  }
  return { seen, found };
}"""  # noqa: E501


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_every_width_and_can_be_read_in_both_schemes(visit, address, width, scheme):
    page = visit(address, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".card").first.click()
    dialog = page.locator("#card-dialog")
    assert dialog.evaluate("(it) => it.scrollWidth - it.clientWidth") <= 0
    for _ in range(2):  # with the dialog, and without
        texts = page.evaluate(FAINT_TEXTS)
        assert texts["seen"] > 50
        assert texts["found"] == []
        page.keyboard.press("Escape")


@pytest.mark.slow
def test_filters_leave_what_they_should_and_stay_in_the_address(visit, example, address):
    cards = cards_of(example)
    page = visit(address)
    assert count_line(page) == "2,000 images"
    choose(page, "split", "test", "synth")
    wanted = [card for card in cards if card.split in ("test", "synth")]
    assert count_line(page) == f"{len(wanted):,} of 2,000 images"
    choose(page, "class", "Water", "Tree")
    wanted = [card for card in wanted if {"Water", "Tree"} <= set(card.classes)]
    assert 0 < len(wanted) < 1000
    assert count_line(page) == f"{len(wanted):,} of 2,000 images"
    page.locator("[name=sort]").select_option("score")
    shown = page.locator(".card-name").all_inner_texts()
    scored = sorted((card for card in wanted if card.score is not None), key=lambda card: card.score)
    assert shown == [card.name for card in scored[: len(shown)]]
    page.locator("[data-page='1']").click()
    told = page.url
    assert "#cards?" in told

    again = visit(told)
    assert count_line(again) == f"{len(wanted):,} of 2,000 images"
    assert again.locator(".page-line").inner_text().startswith("2 of ")
    assert again.locator(".card-name").all_inner_texts() == page.locator(".card-name").all_inner_texts()
    again.locator(".reset").click()
    assert count_line(again) == "2,000 images"
    again.locator(".contents a[href='#map']").click()
    assert again.url.endswith("#map")


@pytest.mark.slow
def test_search_looks_through_names_and_captions_which_stay_text(visit, address):
    page = visit(address)
    page.locator("[name=q]").fill("ONERROR=alert")
    assert count_line(page) == "1 of 2,000 images"
    assert page.locator(".card-caption").inner_text() == HOSTILE
    page.locator(".card").click()
    assert page.locator(".caption p").first.inner_text() == HOSTILE
    page.keyboard.press("Escape")
    page.locator("[name=q]").fill(f"{name_of(77)} quiet")  # words of the name and of a caption
    assert page.locator(".card-name").all_inner_texts() == [name_of(77)]
    page.locator("[name=q]").fill("nothing has this")
    assert count_line(page) == "0 of 2,000 images"
    assert page.locator(".card").count() == 0


@pytest.mark.slow
def test_by_keyboard_alone_a_card_is_found_opened_left_and_linked_to(visit, address):
    page = visit(address)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("[name=q]").focus()
    for _ in range(40):  # over the filters to the first card
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "card":
            break
    assert name_of(0) in focused(page)
    page.keyboard.press("ArrowRight")
    assert name_of(1) in focused(page)
    page.keyboard.press("ArrowDown")
    below = focused(page).split("\n")[0]
    assert below not in (name_of(0), name_of(1), name_of(2))
    page.keyboard.press("Enter")
    title = page.locator("#card-dialog h2")
    assert title.inner_text() == below
    page.keyboard.press("ArrowRight")
    following = title.inner_text()
    assert following == name_of(int(below[-2:]) + 1)
    address_of_card = page.url
    page.keyboard.press("Escape")
    assert not page.locator("#card-dialog").is_visible()
    assert focused(page).startswith(below)

    linked = visit(address_of_card)
    assert linked.locator("#card-dialog h2").inner_text() == following
    assert "open=" in address_of_card


@pytest.mark.slow
def test_arrows_in_the_dialog_go_through_what_the_filters_leave(visit, address):
    page = visit(address)
    choose(page, "split", "val")
    page.locator(".card").nth(23).click()  # the last of the first page of cards
    assert "24 of 500" in page.locator(".dialog-place").inner_text()
    page.locator("[data-step='1']").click()
    assert "25 of 500" in page.locator(".dialog-place").inner_text()
    assert page.locator("#card-dialog h2").inner_text() == name_of(4 * 24 + 1)


def colors_on(part) -> int:
    """How many colours a part of the page shows: one or two where nothing is drawn."""
    shot = Image.open(io.BytesIO(part.screenshot()))
    return len(shot.convert("RGB").getcolors(1 << 20))


@pytest.mark.slow
def test_the_map_opens_patches_and_hides_splits(visit, example, address):
    page = visit(address)
    part = page.locator(".footprints")
    canvas = part.locator(".plane-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle = {"x": box["width"] / 2 + 3, "y": (box["height"] - SCALE_ROOM) / 2 + 3}
    canvas.hover(position=middle)
    tip = part.locator(".plane-tip")
    name, told = tip.locator("b").inner_text(), tip.locator("span").inner_text()
    footprints = next(p for s in example.sections for p in s.parts if isinstance(p, Footprints))
    patch = next(one for one in footprints.patches if one.name == name)
    assert told.startswith(patch.split)
    west, south, east, north = footprints.bounds
    assert abs((patch.west + patch.east) / 2 - (west + east) / 2) < 2 * (patch.east - patch.west)
    assert abs((patch.south + patch.north) / 2 - (south + north) / 2) < 2 * (patch.north - patch.south)
    page.wait_for_timeout(300)
    assert colors_on(tip.locator("canvas")) > 100
    canvas.click(position=middle)
    assert page.locator("#card-dialog h2").inner_text() == name
    page.keyboard.press("Escape")

    part.locator(f".chip:has-text('{patch.split}') input").uncheck(force=True)
    page.mouse.move(5, 5)
    canvas.hover(position=middle)
    assert not tip.is_visible() or not tip.locator("span").inner_text().startswith(patch.split)

    canvas.focus()
    page.keyboard.press("ArrowRight")
    first = tip.locator("b").inner_text()
    page.keyboard.press("ArrowRight")
    second = tip.locator("b").inner_text()
    assert int(second[-3:]) > int(first[-3:])
    assert second in part.locator("[aria-live]").inner_text()
    page.keyboard.press("Enter")
    assert page.locator("#card-dialog h2").inner_text() == second


@pytest.mark.slow
def test_no_control_covers_a_map(visit, address):
    page = visit(address, 400)
    for part in page.locator(".footprints, .scatter").all():
        canvas, zoom = part.locator(".plane-canvas").bounding_box(), part.locator(".zoom").bounding_box()
        assert zoom["y"] + zoom["height"] <= canvas["y"]


@pytest.mark.slow
def test_a_folded_table_opens_by_keyboard(visit, address):
    page = visit(address)
    part = page.locator(".folded").first
    assert not part.locator("table").is_visible()
    part.locator("summary").focus()
    page.keyboard.press("Enter")
    assert part.locator("table").is_visible()


@pytest.mark.slow
def test_the_wheel_scrolls_the_page_until_the_map_is_in_focus(visit, address):
    page = visit(address)
    canvas = page.locator(".footprints .plane-canvas")
    canvas.scroll_into_view_if_needed()
    scale = page.locator(".footprints .scale span")
    before, top = scale.inner_text(), page.evaluate("scrollY")
    canvas.hover()
    page.mouse.wheel(0, 120)
    until(lambda: page.evaluate("scrollY") > top, "a scrolled page")
    assert scale.inner_text() == before
    canvas.focus()
    canvas.hover()
    top = page.evaluate("scrollY")
    page.mouse.wheel(0, -1500)
    until(lambda: scale.inner_text().endswith(" m"), "a scale in metres")
    assert page.evaluate("scrollY") == top
    page.keyboard.press("0")
    until(lambda: scale.inner_text() == before, "the fitted map")


@pytest.mark.slow
def test_points_of_a_feature_map_show_their_image(visit, example, address):
    page = visit(address)
    part = page.locator(".scatter").first
    canvas = part.locator(".plane-canvas")
    canvas.scroll_into_view_if_needed()
    canvas.focus()
    page.keyboard.press("ArrowRight")
    tip = part.locator(".plane-tip")
    seen = {tip.locator("b").inner_text()}
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
        seen.add(tip.locator("b").inner_text())
    assert len(seen) > 3
    assert colors_on(canvas) > 20
    page.keyboard.press("Enter")
    assert page.locator("#card-dialog").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert not tip.is_visible()


@pytest.mark.slow
def test_curves_tell_their_values_at_the_cursor(visit, address):
    page = visit(address)
    part = page.locator(".curve").nth(1)
    values = part.locator(".readout .value")
    assert part.locator(".place").inner_text() == "last values"
    part.locator(".chart").focus()
    page.keyboard.press("Home")
    assert part.locator(".place").inner_text() == "at epoch 1"
    assert float(values.nth(0).inner_text()) == pytest.approx(0.6 - 0.5 * np.exp(-1 / 7), rel=1e-3)
    assert values.nth(2).inner_text() == "–"  # that line has epoch 7 alone
    page.keyboard.press("ArrowRight")
    assert part.locator(".place").inner_text() == "at epoch 2"
    assert values.nth(1).inner_text() == "–"  # and that one every second epoch
    page.keyboard.press("Tab")
    assert part.locator(".place").inner_text() == "last values"
    chart = part.locator(".chart")
    box = chart.bounding_box()
    chart.hover(position={"x": box["width"] - 15, "y": 60})
    assert part.locator(".place").inner_text() == "at epoch 40"


@pytest.mark.slow
def test_the_scheme_is_the_systems_until_chosen_and_then_remembered(visit, address):
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = visit(address, scheme="dark")
    light = visit(address, scheme="light")
    grounds = light.evaluate(ground), dark.evaluate(ground)
    assert grounds[0] != grounds[1]
    light.locator("#scheme").click()
    assert light.evaluate(ground) == grounds[1]
    light.reload()
    assert light.evaluate(ground) == grounds[1]
    assert light.locator("#scheme").inner_text() == "Light"


@pytest.mark.slow
def test_where_nothing_can_be_stored_the_scheme_still_changes(visit, address):
    refused = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('', 'no'); } });"
    page = visit(address, before=refused)
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.locator("#scheme").click()
    assert page.evaluate(ground) != before


@pytest.mark.slow
def test_a_figure_is_enlarged_and_left_again(visit, address):
    page = visit(address, 800)
    page.locator(".plate").first.focus()
    page.keyboard.press("Enter")
    image = page.locator("#figure-dialog img")
    assert image.bounding_box()["width"] == 900
    page.keyboard.press("Escape")
    assert focused(page) == "plate"


@pytest.mark.slow
def test_pages_without_cards_or_with_their_images_beside_work(visit, tmp_path):
    page = example_page(8, 20)
    bare = Page(**{**vars(page), "sections": [s for s in page.sections if s.id in ("map", "features")]})
    (tmp_path / "bare.html").write_text(render(bare))
    shown = visit((tmp_path / "bare.html").as_uri())
    shown.locator(".scatter .plane-canvas").first.focus()
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("Enter")
    assert shown.locator("#card-dialog").is_visible()


@pytest.mark.slow
def test_sprites_of_files_beside_the_page_are_shown(browser, tmp_path):
    page = example_page(4, 4)
    beside = []
    for k, sheet in enumerate(page.sheets):
        (tmp_path / f"{k}.webp").write_bytes(base64.b64decode(sheet.src.partition(",")[2]))
        beside.append(type(sheet)(f"{k}.webp", sheet.width, sheet.height, sheet.alt))
    path = tmp_path / "report.html"
    path.write_text(render(Page(**{**vars(page), "sheets": beside, "is_embedded": False})))
    shown = browser.new_page()
    messages = []
    shown.on("console", lambda message: messages.append(message.text))
    shown.goto(path.as_uri())
    shown.wait_for_load_state()
    shown.wait_for_timeout(300)  # a canvas drawn from a file cannot be asked what is on it
    assert colors_on(shown.locator(".card canvas.image").first) > 100
    assert messages == []
    shown.close()


@pytest.mark.slow
def test_two_thousand_cards_are_fast(visit, address):
    """Bounds a slow and busy machine keeps; what is usual is a tenth of them."""
    page = visit(address)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    timed = """async (value) => {
        const box = document.querySelector(`.filters input[value="${value}"]`);
        const began = performance.now();
        box.click();
        document.querySelector(".card-grid").getBoundingClientRect();
        return performance.now() - began;
    }"""
    filters = [page.evaluate(timed, value) for value in ("test", "Water", "Tree", "Water", "Tree", "test")]
    assert paint < 5000
    assert max(filters) < 500
