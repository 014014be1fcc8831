"""The pages in a browser: their size, their colours, and what they run."""

import re
import shutil

import numpy as np
import polars as pl
import pytest
import run_folders
from report_cases import NASTY, WELLS, outcome, write_overview, write_run

import lossselect as ls
from lossselect.cli.compare import compare_runs
from lossselect.comparison.sweep import summarise
from lossselect.reporting.page import write_report

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, as packaged by Debian."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def shown(browser):
    """A function that opens a page of a given width, and checks that it fits and that nothing went wrong."""

    def show(page, width, scheme="light"):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 800}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(f"file://{page}")
        root = "document.documentElement"
        widths = browser.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth, innerWidth]")
        assert widths[0] <= widths[1] <= widths[2] == width
        assert browser.get_log("browser") == []
        return browser

    return show


def read_column(table, place):
    """The text of a column of a table."""
    rows = table.find_elements("css selector", "tbody tr")
    return [row.find_elements("css selector", "td")[place].text for row in rows]


def full_names(table, place):
    """The names in a column, which are tooltips if they are shortened."""
    cells = [
        row.find_elements("css selector", "td")[place]
        for row in table.find_elements("css selector", "tbody tr")
    ]
    names = [cell.find_element("css selector", "bdi") for cell in cells]
    return [name.get_attribute("title") or name.text for name in names]


def test_sorts_and_runs_nothing_else(shown, tmp_path):
    write_run(tmp_path)
    task = ls.Multilabel(8, class_names=NASTY)
    f1 = [0.5, 0.9, float("nan"), 0.1, 0.3, 0.2, 0.8, 0.05]
    write_report(tmp_path, {"": outcome(task, per_class={"class": task.names, "f1": f1})})
    table = shown(tmp_path / "report.html", 1280).find_element("css selector", "table.sorts")
    assert full_names(table, 0) == [*NASTY]
    button = table.find_elements("css selector", "thead button")[1]
    button.click()
    assert read_column(table, 1) == [
        "0.900",
        "0.800",
        "0.500",
        "0.300",
        "0.200",
        "0.100",
        "0.050",
        "\N{EN DASH}",
    ]
    assert full_names(table, 0)[1] == NASTY[6]
    button.click()
    assert read_column(table, 1)[1:3] == ["0.050", "0.100"]
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits(width, scheme, shown, tmp_path):
    write_run(tmp_path)
    task = ls.Multiclass(8, class_names=NASTY)
    of = outcome(task, per_class={"class": task.names, "f1": [0.5] * 8}, confusion=np.ones((8, 8), int))
    write_overview(tmp_path)
    write_report(tmp_path, {"": of})
    browser = shown(tmp_path / "report.html", width, scheme)
    ink, paper = browser.execute_script(
        "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    )
    lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (lightness[0] > lightness[1]) == (scheme == "dark")
    text = browser.find_element("css selector", "#roc svg text")
    assert text.value_of_css_property("fill").replace("rgb", "").startswith(ink.replace("rgb", "")[:12])


@pytest.mark.parametrize(
    "start", ["", "A very long name of an experiment with many words / "], ids=["", "long"]
)
def test_a_hundred_classes_that_differ_at_the_end(start, shown, tmp_path):
    write_run(tmp_path)
    names = [start + name for name in WELLS]
    task = ls.Multiclass(100, class_names=names)
    confusion = np.ones((100, 100), int)
    of = outcome(task, 1000, per_class={"class": names, "f1": [0.5] * 100}, confusion=confusion)
    write_report(tmp_path, {"": of})
    for width in (390, 1280):
        browser = shown(tmp_path / "report.html", width)
        assert find_bad_texts(browser) == []
    table = browser.find_element("css selector", "table.sorts")
    assert full_names(table, 0) == names
    assert len({*read_column(table, 0)}) == 100


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize(
    "name", ["\N{CJK UNIFIED IDEOGRAPH-6F22}" * 20, "category", ""], ids=["CJK", "latin", "digit"]
)
def test_names_of_classes_do_not_overlap(name, count, shown, tmp_path):
    write_run(tmp_path)
    task = ls.Multiclass(count, class_names=[f"{name}{i}" for i in range(count)])
    write_report(tmp_path, {"": outcome(task, confusion=np.ones((count, count), int))})
    assert find_bad_texts(shown(tmp_path / "report.html", 1280)) == []


def test_the_plan_on_a_phone_has_the_whole_width(shown, tmp_path):
    write_run(tmp_path)
    write_report(tmp_path)
    cells = shown(tmp_path / "report.html", 390).find_elements("css selector", ".plan td")
    assert min(cell.size["width"] for cell in cells) > 300


def find_bad_texts(browser):
    """The texts of figures that end outside of their figure or cover another text."""
    return browser.execute_script("""
      return [...document.querySelectorAll("figure svg")].flatMap((svg) => {
        const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")]
        const boxes = texts.map((text) => text.getBoundingClientRect())
        return texts.filter((_, i) => {
          const a = boxes[i]
          const isIn = a.left >= box.left - 1 && a.right <= box.right + 1
          const covers = boxes.some((b, j) => j < i && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > a.height / 2)
          return !isIn || covers
        }).map((text) => text.textContent)
      })""")


def find_wide_tables(browser):
    """The headings of the tables that scroll sideways."""
    return browser.execute_script("""
      return [...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth)
        .map((box) => box.parentElement.firstElementChild.textContent)""")


NAMES = ("loss", "accuracy", "average_precision", *(f"balanced_accuracy_at_{i}" for i in range(15)))
METRICS = [f"{split}/{name}" for split in ("val", "test", "test/default_decision") for name in NAMES]


def test_a_sweep_with_many_metrics_fits(shown, tmp_path, capsys):
    rates, seeds = (0.001, 0.01, 0.1), (0, 1)
    for i, (rate, seed) in enumerate((rate, seed) for rate in rates for seed in seeds):
        metrics = dict.fromkeys(METRICS, (10 if rate == 0.01 else 2) + seed / 10)
        words = f"optimizer.lr={rate}", f"seed={seed}"
        run_folders.write_run(tmp_path / f"{i}-binary", *words, metrics=metrics, value=metrics["val/loss"])
    summarise(tmp_path, {})
    browser = shown(tmp_path / "summary.html", 1280)
    assert find_wide_tables(browser) == []
    runs, metrics = browser.find_elements("css selector", "table.sorts")
    assert read_column(metrics, 0) == METRICS
    header = [cell.text for cell in runs.find_elements("css selector", "th")]
    assert read_column(runs, 0) == [f"{i}-binary and 1 more" for i in (0, 2, 4)]
    losses = header.index("val/loss")
    runs.find_elements("css selector", "thead button")[losses].click()
    values = ["10.050 \N{PLUS-MINUS SIGN} 0.050", *["2.050 \N{PLUS-MINUS SIGN} 0.050"] * 2]
    assert read_column(runs, losses) == values


def test_trainings_with_many_metrics_fit(shown, tmp_path):
    write_run(tmp_path)
    trainings = [f"fold_{i}" for i in range(5)] + ["mean", "standard error"]
    values = dict.fromkeys(METRICS, [0.5] * 7)
    pl.DataFrame({"training": trainings, "seed": [0] * 5 + [None] * 2, **values}).write_csv(
        tmp_path / "members.csv"
    )
    write_report(tmp_path)
    browser = shown(tmp_path / "report.html", 1280)
    assert find_wide_tables(browser) == []
    (table,) = browser.find_elements("css selector", "table.sorts")
    assert read_column(table, 0) == ["seed", *(name for name in METRICS if "default" not in name)]


def test_the_first_column_stays(shown, tmp_path):
    write_run(tmp_path)
    columns = {"class": ("a", "b"), **{f"a long heading {i}": [0.5] * 2 for i in range(20)}}
    write_report(tmp_path, {"": outcome(ls.Multilabel(2, class_names=("a", "b")), per_class=columns)})
    browser = shown(tmp_path / "report.html", 390)
    moved = browser.execute_script("""
      const box = document.querySelector(".scroll"), [first, second] = box.querySelectorAll("td")
      const left = () => [first, second].map((cell) => cell.getBoundingClientRect().left)
      const before = left()
      box.scrollLeft = 100
      return left().map((place, i) => place - before[i])""")
    assert moved == [0, -100]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The folder of a sweep of runs whose settings have markup, with predictions and the log of epochs."""
    monkeypatch.chdir(tmp_path)
    predictions = (
        "row,target,prediction,p_yes\n" + "1,yes,yes,0.8\n2,no,yes,0.6\n3,no,no,0.3\n4,yes,no,0.4\n" * 9
    )
    predictions = "".join(f"{line}\n" for line in dict.fromkeys(predictions.splitlines()))
    for i, name in enumerate((SCRIPT, "b" * 200, "c")):
        folder = tmp_path / "sweep" / f"{i}-{'long' * 9}"
        classes = f"class,f1\nyes,0.{i}\n{SCRIPT},0.5\n"
        metrics = {"val/loss": 0.1 * i, "test/loss": 0.2}
        run_folders.write_run(
            folder,
            f"model={name}",
            metrics=metrics,
            value=0.1 * i,
            predictions=predictions,
            per_class=classes,
        )
        (folder / "logs").mkdir()
        (folder / "logs" / "metrics.csv").write_text("epoch,val/loss\n0,1\n1,0.5\n")
    return tmp_path / "sweep"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["comparison", "sweep"])
def test_pages_of_several_runs(kind, width, scheme, runs, shown, capsys):
    page = runs / "summary.html"
    if kind == "comparison":
        page = runs.parent / "compare.html"
        compare_runs(["sweep"], as_json=False, output="compare.html")
    else:
        summarise(runs, {})
    browser = shown(page, width, scheme)
    table = browser.find_element("css selector", "table.sorts")
    header = [cell.text for cell in table.find_elements("css selector", "th")]
    place = header.index("model")
    assert SCRIPT in read_column(table, place)
    losses = header.index("val/loss")
    button = table.find_elements("css selector", "thead button")[losses]
    button.click()
    assert read_column(table, losses) == ["0.200", "0.100", "0.000"]
    button.click()
    assert read_column(table, losses) == ["0.000", "0.100", "0.200"]
    assert len(browser.find_elements("css selector", "figure svg")) == (2 if kind == "comparison" else 0)
