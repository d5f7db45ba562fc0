"""The report's page in a real browser: what it shows, what a reader can do, and what must not happen."""

import io
import json
import re

import pytest
from PIL import Image

from launch.results import html, read
from tests.browser import Page, browser, settle
from tests.test_report import NASTY, make_run

LONG = "a_rather_long_name_of_a_figure_for_which_no_telephone_is_wide_enough"
SVG = (
    "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>"
    "<script>parent.document.title='owned'</script><image href='https://example.com/y.png'/></svg>"
)
YAML = """\
# Question  What does beta cost?
# Finding   Means over 2 seeds.
#             beta=0   test/mse 0.6 ± 0.1
#           Beta costs error.
program: research/vae_mnist.py
method: grid
parameters:
  beta: {values: [0, 4, 20]}
  arch: {values: [patch, conv]}
  seed: {values: [0, 1]}
"""


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """3 β × 2 layers × 2 seeds: ten finished, one diverged, one failed; texts, and a task's picture."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    (folder / "trials").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(YAML)
    i = 0
    for beta in (0, 4, 20):
        for arch in ("patch", "conv"):
            for seed in (0, 1):
                state = {(20, "conv", 1): "failed", (20, "patch", 1): "diverged"}
                state = state.get((beta, arch, seed), "finished")
                point = {"beta": beta, "arch": arch, "seed": seed}
                trial = {"index": i, "flags": point, "key": f"key{i:02d}"}
                (folder / "trials" / f"{i:04d}.json").write_text(json.dumps(trial))
                run = make_run(
                    folder / f"key{i:02d}", beta, seed, state, 200 if state == "finished" else 100, arch=arch
                )
                texts = run / "media" / "sample" / "text"
                texts.mkdir()
                for step in (0, 100):
                    (texts / f"{step:08d}.html").write_text(
                        f"<p>the same line</p><p>beta {beta}, step {step}</p>"
                    )
                (run / "output.log").write_text("loading\nthe last line\n")
                (run / "evaluate").mkdir()
                Image.new("RGB", (40, 20), (0, 9 * i, 0)).save(run / "evaluate" / "grid.png")
                results = {
                    "task": "evaluate",
                    "seed": 0,
                    "score": beta + seed / 10,
                    LONG: 1,
                    "files": ["grid.png"],
                }
                (run / "evaluate" / "results.json").write_text(json.dumps(results))
                i += 1
    return folder


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory):
    return html.write_report(folder, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def opened(chromium, file):
    """The opened page. At the end, nothing but the file itself was requested, and nothing complained."""
    tab = Page(chromium)
    yield tab.open(file)
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    tab.close()


def labels(page):
    return page.locator("#runs tbody th.pinned").all_inner_texts()


def count(page):
    return page.locator(".count").inner_text()


# ---- the table -----------------------------------------------------------------------------------------


def test_the_parts_and_the_sweeps_words(opened):
    headings = opened.locator("main > section > h2").all_inner_texts()
    assert headings == [
        "Runs",
        "Parallel coordinates",
        "Learning curves",
        "What mattered",
        "Pictures and texts",
        "How to reproduce",
    ]
    assert opened.locator("header dd.lead").inner_text() == "What does beta cost?"
    assert "beta=0 test/mse 0.6 ± 0.1\nBeta costs error." in opened.locator("header").inner_text()
    assert "11 of 12 runs are done" in opened.locator("#warning").inner_text()
    assert count(opened) == "12 of 12 runs"


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("beta > 1 and status == finished", 6),
        ("beta in [0, 20] and not (seed == 1)", 4),
        ("arch contains CON or beta == 0", 8),
        ("test/mse < 1", 4),
        ("evaluate/score >= 20", 4),
        ("test/mse == none", 2),
        ('status != "finished"', 2),
        ("beta>=4 and(seed=0)", 4),
        ('"beta" > 4', 4),
        ("`test/mse` < 1", 4),
        ('"best val/mse" < 1', 4),
        ('reason == none and status == "finished"', 10),
        ("reason != none", 1),
    ],
)
def test_a_typed_filter(opened, text, n):
    opened.get_by_label("filter the runs").fill(text)
    settle(opened)
    assert count(opened) == f"{n} of 12 runs" and len(labels(opened)) == n
    assert opened.locator(".problem").inner_text() == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bta > 1", "there is no column bta; did you mean beta?"),
        ("mse > 1", "did you mean test/mse?"),
        ("beta >", "a value is missing before the end"),
        ("beta", "a comparison is missing after beta"),
        ("beta > big", "> needs a number; big is not one"),
        ("(beta > 1", "a “)” is missing before the end"),
        ("beta > 1 seed == 0", "an “and” or an “or” is missing before seed"),
        ("beta in 1", "“in” needs a list"),
        ("beta & 1", "“&” can't be read here"),
    ],
)
def test_a_filter_that_cannot_be_read_says_why(opened, text, said):
    opened.get_by_label("filter the runs").fill(text)
    settle(opened)
    assert said in opened.locator(".problem").inner_text() and count(opened) == "12 of 12 runs"


def test_sort_columns_and_means(opened):
    assert labels(opened)[0] == "beta=0 · arch=patch · seed=0", "the best first"
    head = opened.locator("#runs thead")
    head.get_by_role("button", name="beta").click()
    head.get_by_role("button", name="beta").click()
    settle(opened)
    assert labels(opened)[0].startswith("beta=20")
    assert opened.locator("#runs th[aria-sort]").get_attribute("aria-sort") == "descending"
    menu = opened.locator("#runs .menu")
    menu.locator("summary").click()
    menu.get_by_label("evaluate/score", exact=True).check()
    menu.get_by_label("arch", exact=True).uncheck()
    settle(opened)
    texts = head.get_by_role("button").all_inner_texts()
    assert "evaluate/score" in texts and "arch" not in texts
    opened.get_by_label("mean over seeds", exact=True).check()
    settle(opened)
    assert len(labels(opened)) == 6
    row = opened.locator("#runs tbody tr", has_text="beta=0 · arch=patch").inner_text()
    assert "2 of 2" in row and "0.050 ± 0.071" in row  # of 0 and 0.1
    assert "1 of 2" in opened.locator("#runs tbody tr", has_text="beta=20 · arch=conv").inner_text()


def test_selected_runs_filter_what_is_below_and_differ(opened):
    for seed in (0, 1):
        opened.get_by_label(f"select beta=4 · arch=conv · seed={seed}", exact=True).check()
    settle(opened)
    assert count(opened) == "12 of 12 runs, 2 selected"
    assert opened.locator("#tiles figure").count() == 2
    opened.get_by_role("button", name="What differs").click()
    rows = opened.locator("#diff tbody th").all_inner_texts()
    assert "seed" in rows and "commit" in rows and "beta" not in rows and "steps" not in rows
    opened.get_by_role("button", name="Show all").click()
    settle(opened)
    assert count(opened) == "12 of 12 runs"


def focused(page):
    return page.evaluate("document.activeElement.dataset.focus ?? document.activeElement.tagName")


def test_the_focus_stays_where_a_reader_has_put_it(opened):
    """By keyboard only: redrawing does not send the focus back to the top of the page."""
    opened.get_by_label("select beta=4 · arch=conv · seed=0", exact=True).focus()
    opened.keyboard.press("Space")
    settle(opened)
    assert "1 selected" in count(opened) and focused(opened) == "select key06"
    opened.locator("#runs thead").get_by_role("button", name="seed").focus()
    opened.keyboard.press("Enter")
    settle(opened)
    assert "sort=" in opened.url and focused(opened) == "sort seed"
    opened.get_by_text("Bounds by keyboard").click()
    opened.locator("#parallel fieldset", has_text="arch").get_by_label("conv").focus()
    opened.keyboard.press("Space")
    settle(opened)
    assert count(opened).startswith("6 of 12") and focused(opened) == "arch=conv"
    opened.locator("#tiles").scroll_into_view_if_needed()
    settle(opened)
    opened.locator("#tiles .opens").first.focus()
    for expected in ("150 (4 of 5)", "100 (3 of 5)"):
        opened.keyboard.press("ArrowLeft")
        settle(opened)
        assert opened.locator("#pictures output").inner_text() == expected


@pytest.mark.parametrize("part", ["runs", "parallel", "curves"])
def test_a_menu_is_closed_by_escape_and_by_a_click_elsewhere(opened, part):
    menu = opened.locator(f"#{part} .menu")
    for closing in ("escape", "click"):
        menu.locator("summary").click()
        assert menu.get_by_role("checkbox").first.is_visible()
        menu.get_by_role("checkbox").first.focus()
        opened.keyboard.press("Escape") if closing == "escape" else opened.locator("h1").click()
        assert not menu.get_by_role("checkbox").first.is_visible()
        if closing == "escape":
            assert opened.evaluate("document.activeElement.tagName") == "SUMMARY"


# ---- charts --------------------------------------------------------------------------------------------


def test_a_drag_that_ends_beside_its_axis_selects_no_run(opened):
    canvas = opened.locator("#parallel canvas")
    canvas.evaluate("e => e.scrollIntoView({block: 'center'})")
    settle(opened)
    box = canvas.bounding_box()
    x, width = box["x"] + 52, (box["width"] - 104) / 3

    def meet_a_line(at):
        for y in range(int(box["y"]) + 45, int(box["y"] + box["height"]) - 40, 4):
            opened.mouse.move(at, y)
            if opened.locator(".tip").is_visible():
                return
        raise AssertionError("no line there")

    meet_a_line(x + 12)  # still on the first axis
    opened.mouse.down()
    opened.mouse.move(x + 0.5 * width, box["y"] + 60, steps=5)
    opened.mouse.up()
    settle(opened)
    assert "brush=" in opened.url and "sel=" not in opened.url
    opened.evaluate("set({brush: {}})")
    meet_a_line(x + 0.5 * width)
    opened.mouse.down()
    opened.mouse.up()
    settle(opened)
    assert "sel=" in opened.url, "a click does"


BLANK = """e => {
  const other = Object.assign(document.createElement('canvas'), {width: e.width, height: e.height});
  return e.toDataURL() === other.toDataURL();
}"""


def test_a_chart_out_of_view_is_drawn_when_it_comes_into_view(opened):
    last = opened.locator("#matter canvas").last
    opened.evaluate("scrollTo(0, 0)")
    assert last.evaluate(BLANK)
    last.scroll_into_view_if_needed()
    settle(opened)
    assert not last.evaluate(BLANK)


def test_all_charts_are_drawn_for_paper(opened):
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("figure canvas").count() >= 4
    assert not any(canvas.evaluate(BLANK) for canvas in opened.locator("figure canvas").all())


def test_a_brush_by_mouse_and_by_typing(opened):
    canvas = opened.locator("#parallel canvas")
    canvas.evaluate("e => e.scrollIntoView({block: 'center'})")
    settle(opened)
    box = canvas.bounding_box()
    x = box["x"] + 52  # the first axis: beta
    opened.mouse.move(x, box["y"] + 36)
    opened.mouse.down()
    opened.mouse.move(x, box["y"] + 100, steps=4)
    opened.mouse.up()
    settle(opened)
    assert count(opened) == "4 of 12 runs" and all(text.startswith("beta=20") for text in labels(opened))
    assert "brush=" in opened.url
    opened.mouse.click(x, box["y"] + 60)  # lets it go
    settle(opened)
    assert count(opened) == "12 of 12 runs"
    opened.get_by_text("Bounds by keyboard").click()
    opened.get_by_label("beta to", exact=True).fill("5")
    opened.get_by_label("beta to", exact=True).press("Tab")
    settle(opened)
    assert count(opened) == "8 of 12 runs"
    opened.locator("#parallel fieldset", has_text="arch").get_by_label("conv").uncheck()
    settle(opened)
    assert count(opened) == "4 of 12 runs"


def test_a_curve_tells_its_run_and_selects_it(opened):
    opened.get_by_label("mean and band over seeds").uncheck()
    canvas = opened.locator("#curves canvas").first
    canvas.evaluate("e => e.scrollIntoView({block: 'center'})")
    settle(opened)
    box = canvas.bounding_box()
    found = None
    for dy in range(10, int(box["height"]) - 30, 3):  # until a curve is met
        opened.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + dy)
        if opened.locator(".tip").is_visible():
            found = opened.locator(".tip").inner_text()
            break
    assert found and re.match(r"beta=20 · arch=\w+ · seed=\d\nstep \d+", found)
    opened.mouse.down()
    opened.mouse.up()
    settle(opened)
    assert "1 selected" in count(opened)


def test_curves_by_epoch_on_logarithmic_axes(opened):
    opened.locator("#curves select").select_option("epoch")
    opened.get_by_label("log y").check()
    opened.locator("#curves summary").click()
    opened.locator("#curves .menu").get_by_label("train/loss").uncheck()
    settle(opened)
    assert opened.locator("#curves figure").count() == 1
    assert {"x=epoch", "logy=true"} <= set(opened.url.partition("#")[2].split("&"))


@pytest.mark.parametrize(("form", "begins"), [("PNG", b"\x89PNG"), ("SVG", b"<svg")])
@pytest.mark.parametrize("part", ["parallel", "curves", "matter"])
def test_a_chart_is_saved(opened, part, form, begins):
    with opened.expect_download() as saved:
        opened.locator(f"#{part} .save").first.get_by_text(form, exact=True).click()
    data = saved.value.path().read_bytes()
    assert data.startswith(begins) and len(data) > 1000
    if form == "SVG" and part == "parallel":
        assert data.count(b"<path") >= 12, "a line a run"


def test_the_table_is_saved(opened):
    with opened.expect_download() as saved:
        opened.get_by_text("Save as CSV").click()
    lines = saved.value.path().read_text().splitlines()
    assert len(lines) == 13 and lines[0].startswith("key,beta,arch,seed,status")


def test_a_view_can_be_sent(chromium, file, opened):
    opened.get_by_label("filter the runs").fill("beta > 1")
    opened.get_by_label("colour by").select_option("arch")
    opened.get_by_role("button", name="latent/traversal").click()
    opened.get_by_role("slider", name="step").evaluate("e => { e.value = 1; e.oninput(); }")
    settle(opened)
    other = Page(chromium)
    again = other.open(file, "#" + opened.url.partition("#")[2])
    assert count(again) == "8 of 12 runs" and again.get_by_label("colour by").input_value() == "arch"
    assert again.locator("#pictures output").inner_text() == "50 (2 of 5)"
    assert again.locator(".tabs [aria-pressed=true]").inner_text() == "latent/traversal"
    other.close()


@pytest.mark.parametrize(
    "fragment", ["#filter=%E0%A4%A", "#brush=[1", "#sel=7&keys={}&x=nowhere", "#run=none", "#&&=&a=b"]
)
def test_a_damaged_address_is_no_harm(chromium, file, fragment):
    tab = Page(chromium)
    page = tab.open(file, fragment)
    assert count(page) == "12 of 12 runs" and tab.complaints == []
    tab.close()


# ---- pictures ------------------------------------------------------------------------------------------


def test_pictures_in_rows_and_columns_at_a_step(opened):
    tiles = opened.locator("#tiles")
    tiles.scroll_into_view_if_needed()
    settle(opened)
    assert tiles.locator(".column").all_inner_texts() == ["beta=0", "beta=4", "beta=20"]
    assert tiles.locator(".row").all_inner_texts() == ["arch=patch", "arch=conv"]
    opened.locator("#pictures .scroll").focus()
    opened.keyboard.press("ArrowLeft")
    settle(opened)
    assert opened.locator("#pictures output").inner_text() == "150 (4 of 5)"
    assert "step 100" in tiles.inner_text(), "what the shorter runs have is said"
    opened.locator("#pictures select").nth(1).select_option("seed")
    settle(opened)
    assert tiles.locator(".column").all_inner_texts() == ["seed=0", "seed=1"]


def test_rows_without_columns(opened):
    """The reader's choice is followed, whatever the other settings say."""
    down, across = (opened.locator("#pictures select").nth(i) for i in (0, 1))
    across.select_option("-")
    down.select_option("beta")
    opened.locator("#tiles").scroll_into_view_if_needed()
    settle(opened)
    tiles = opened.locator("#tiles")
    assert tiles.locator(".row").all_inner_texts() == ["beta=0", "beta=4", "beta=20"]
    assert tiles.locator(".column").count() == 0
    assert tiles.locator(".stack").evaluate_all("list => list.map(e => e.children.length)") == [4, 4, 4]
    down.select_option("-")
    settle(opened)
    assert tiles.locator(".stack").count() == 0 and tiles.locator("figure").count() == 12


def test_what_a_task_made_stands_beside_it(opened):
    opened.get_by_role("button", name="evaluate: grid").click()
    opened.locator("#tiles").scroll_into_view_if_needed()
    settle(opened)
    assert opened.locator("#tiles img").count() == 12


def test_two_pictures_with_a_wipe_between(opened):
    opened.locator("#tiles").scroll_into_view_if_needed()
    opened.get_by_label("enlarge sample/reconstructions of beta=0 · arch=patch · seed=0", exact=True).click()
    box = opened.locator("dialog")
    box.get_by_label("compare with").select_option(label="beta=4 · arch=conv · seed=0")
    over = box.locator(".wipe img").nth(1)
    assert over.evaluate("e => e.style.clipPath") == "inset(0px 0px 0px 50%)"
    box.get_by_label("position of the wipe").evaluate("e => { e.value = 0.25; e.oninput(); }")
    assert over.evaluate("e => e.style.clipPath") == "inset(0px 0px 0px 25%)"
    area = box.locator(".wipe").bounding_box()
    opened.mouse.move(area["x"] + 0.5 * area["width"], area["y"] + 5)
    opened.mouse.down()
    opened.mouse.move(area["x"] + 0.75 * area["width"], area["y"] + 5)
    opened.mouse.up()
    assert over.evaluate("e => e.style.clipPath") == "inset(0px 0px 0px 75%)"
    with opened.expect_download() as saved:
        box.get_by_role("button", name="Save").click()
    pixels = Image.open(io.BytesIO(saved.value.path().read_bytes())).convert("RGB")
    assert pixels.getpixel((5, 5)) == (0, 200, 0) and pixels.getpixel((pixels.width - 5, 5)) == (0, 200, 160)
    opened.keyboard.press("Escape")
    opened.locator("dialog").wait_for(state="detached")


def scroll_to_texts(page):
    """Scroll to the first text until it is filled in: what is drawn above it meanwhile may push it away."""
    for _ in range(50):
        settle(page)
        page.locator("#tiles figure").first.scroll_into_view_if_needed()
        settle(page)
        if page.locator("#tiles iframe").count():
            return
    raise AssertionError("no text was filled in")


def test_texts_side_by_side_with_equal_lines_marked(opened):
    opened.get_by_role("button", name="sample/text").click()
    scroll_to_texts(opened)
    opened.get_by_label("enlarge beta=0 · arch=patch · seed=0", exact=True).click()
    box = opened.locator("dialog")
    box.get_by_label("compare with").select_option(label="beta=4 · arch=patch · seed=0")
    assert box.locator(".lines .same").all_inner_texts() == ["the same line"] * 2
    assert "beta 4, step 100" in box.locator(".lines").inner_text()


def test_the_board_is_saved(opened):
    opened.locator("#tiles").scroll_into_view_if_needed()
    settle(opened)
    with opened.expect_download() as saved:
        opened.get_by_text("Save all as PNG").click()
    sheet = Image.open(io.BytesIO(saved.value.path().read_bytes())).convert("RGB")
    colours = {sheet.getpixel((x, y)) for x in range(0, sheet.width, 7) for y in range(0, sheet.height, 7)}
    assert {(0, 200, 0), (0, 200, 160)} <= colours


def test_the_whole_board_is_saved_at_one_step_though_little_of_it_is_in_view(chromium, file):
    tab = Page(chromium, width=1000, height=400)
    page = tab.open(file, "#pic=evaluate:%20grid&rows=-&across=-&size=700")
    page.get_by_role("button", name="Save all as PNG").evaluate("e => e.scrollIntoView()")
    settle(page)
    assert page.locator("#tiles img").count() < 12
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save all as PNG").click()
    sheet = Image.open(io.BytesIO(saved.value.path().read_bytes())).convert("RGB")
    colours = {colour for _, colour in sheet.getcolors(1 << 24)}
    assert {(0, 9 * i, 0) for i in range(12)} <= colours, "each run's picture has a colour of its own"
    tab.close()


def test_an_enlarged_text_can_be_scrolled_by_keyboard(opened):
    opened.get_by_role("button", name="sample/text").click()
    scroll_to_texts(opened)
    assert opened.locator("#tiles iframe").first.get_attribute("tabindex") == "-1"
    opened.get_by_label("enlarge beta=0 · arch=patch · seed=0", exact=True).click()
    assert opened.locator("dialog iframe").get_attribute("tabindex") == "0"


def test_an_address_that_changes_is_followed(opened):
    opened.evaluate("location.hash = '#size=300&filter=beta%20%3E%201&rows=nowhere'")
    settle(opened)
    assert count(opened) == "8 of 12 runs"
    assert opened.get_by_label("size of a picture").input_value() == "300"
    assert opened.get_by_label("filter the runs").input_value() == "beta > 1"


def test_numbers_beside_words_in_a_flag(chromium, tmp_path):
    """A flag that takes numbers and words is written in the same way on its axis and in its cells."""
    for i, rate in enumerate((1e-05, 0.001, "auto")):
        make_run(tmp_path / "mixed" / f"key{i}", 4, 0, rate=rate)
    tab = Page(chromium)
    page = tab.open(html.write_report(tmp_path / "mixed"))
    page.get_by_text("Bounds by keyboard").click()
    words = page.locator("#parallel fieldset", has_text="rate").locator("label").all_inner_texts()
    assert words == ["0.00001", "0.001", "auto"]
    assert {f"rate={text}" for text in ("1e-05", "0.001", "auto")} == set(labels(page))
    page.locator("#parallel fieldset", has_text="rate").get_by_label("0.00001").uncheck()
    settle(page)
    assert count(page) == "2 of 3 runs" and tab.complaints == []
    tab.close()


def test_the_page_of_a_run(opened):
    opened.locator("#runs").get_by_role("button", name="beta=20 · arch=conv · seed=1").click()
    box = opened.locator("dialog")
    text = box.inner_text()
    for expected in (
        "out of memory",
        "python research/vae_mnist.py --beta=20",
        "the last line",
        "evaluate/score",
        "c0ffee0123-dirty",
    ):
        assert expected in text, expected
    assert "run=key11" in opened.url or settle(opened) or "run=key11" in opened.url
    opened.keyboard.press("Escape")
    settle(opened)
    assert opened.locator("dialog").count() == 0 and "run=" not in opened.url


def test_pictures_beside_the_page(chromium, folder, file, tmp_path):
    assert "file:" not in file.read_text().partition("<style>")[0], "without such pictures none are allowed"
    file = html.write_report(folder, tmp_path / "small.html", max_mb=0)
    assert len(list((tmp_path / "small_files").glob("*.png"))) > 10
    tab = Page(chromium)
    page = tab.open(file)
    page.locator("#tiles").scroll_into_view_if_needed()
    settle(page)
    widths = page.evaluate("[...document.querySelectorAll('#tiles img')].map(e => e.naturalWidth)")
    assert widths and set(widths) == {16}
    assert "are kept beside this page, in small_files/" in page.locator("#pictures .note").inner_text()
    assert all(url.startswith(tmp_path.as_uri()) for url in tab.requests) and tab.complaints == []
    tab.close()


# ---- what must not happen ------------------------------------------------------------------------------


def test_nothing_of_a_run_is_executed_and_nothing_is_fetched(chromium, tmp_path):
    """Names, flags, texts, pictures and logs try to run code."""
    folder = tmp_path / "runs" / "<img src=x onerror=alert(1)>"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(f"# Question: {NASTY}\n" + YAML)
    run = make_run(
        folder / "<script>alert(1)<!--", 4, 0, arch=NASTY, **{f"flag{i}": f"\"'\n{NASTY}" for i in range(200)}
    )
    make_run(folder / "key1", 0, 0, arch="a\u2028b", note=float("1e300"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows += [{"step": 250, "val/mse": None, f"val/{NASTY}": 1.0, "val/huge": 1e308}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "output.log").write_text(f"</script>{NASTY}")
    owned = f"{NASTY}<img src='https://example.com/x.png'><a href='javascript:alert(1)'>x</a><iframe src='https://example.com'></iframe>"
    for key, suffix, content in [
        ("sample/text", "html", owned),
        ("sample/plain", "txt", owned),
        ("sample/picture", "svg", SVG),
        ("sample/broken", "png", "no picture"),
    ]:
        path = run / "media" / key / f"{200:08d}.{suffix}"
        path.parent.mkdir(parents=True)
        path.write_text(content)
    file = html.write_report(folder, tmp_path / "r.html")
    assert NASTY not in file.read_text()
    tab = Page(chromium)
    dialogs = []
    tab.page.on("dialog", lambda shown: (dialogs.append(shown.message), shown.dismiss()))
    page = tab.open(file)
    for key in ("sample/text", "sample/plain", "sample/picture", "sample/broken"):
        page.get_by_role("button", name=key, exact=True).click()
        page.locator("#tiles").scroll_into_view_if_needed()
        settle(page)
    assert page.locator("#tiles .none", has_text="can't be shown").count() == 1
    page.locator("#runs tbody .link").first.click()
    settle(page)
    assert page.title() == folder.name and dialogs == []
    assert [url for url in tab.requests if "example.com" in url] == []
    assert {url for url in tab.requests if not url.startswith(("data:", "blob:", "about:"))} == {
        file.as_uri()
    }
    assert all("Content Security Policy" in text or "sandboxed" in text for text in tab.complaints), (
        tab.complaints
    )
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium, file, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab = Page(chromium, scheme=scheme)
    page = tab.open(file)
    settle(page)
    found = Axe().run(page).response["violations"]
    serious = [
        f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in found if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
    tab.close()


@pytest.mark.parametrize("width", [360, 420, 1400, 3840])
def test_no_page_is_wider_than_its_screen(chromium, file, width):
    tab = Page(chromium, width=width)
    page = tab.open(file)
    page.locator("#tiles").scroll_into_view_if_needed()
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    table = page.locator("#runs .scroll").first
    table.evaluate("e => { e.scrollLeft = 1e6; }")
    box = page.locator("#runs tbody th.pinned").first.bounding_box()
    if width < 700:  # the column that tells rows apart is still in view
        assert box["x"] >= 0 and box["x"] + box["width"] <= 0.55 * width
    tab.close()


def test_the_theme_is_kept_in_the_address(chromium, file):
    tab = Page(chromium)
    page = tab.open(file)
    ink = "getComputedStyle(document.body).color"
    before = page.evaluate(ink)
    page.get_by_role("button", name="Dark or light").click()
    settle(page)
    assert page.evaluate(ink) != before and "theme=dark" in page.url
    tab.close()


def test_a_page_without_javascript_has_its_table(chromium, file):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("noscript table tbody tr").count() == 12
    context.close()


def test_a_sweep_that_still_runs_and_a_single_run(chromium, folder, tmp_path):
    for found in (folder / "key00", folder):
        tab = Page(chromium)
        page = tab.open(html.write_report(found, tmp_path / f"{found.name}.html"))
        assert page.locator("#runs tbody tr").count() >= 1 and tab.complaints == []
        tab.close()
    assert read.read_sweep(folder / "key00").runs[0].tasks[0].results["score"] == 0
