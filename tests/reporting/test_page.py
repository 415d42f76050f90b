"""The report's page: whole, valid, self-contained, and legible in a browser."""

import base64
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from support.browser import CHROMIUM, Browser, browser
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.reporting import page as page_module

pytestmark = pytest.mark.filterwarnings("error:constrained_layout not applied")  # a picture without room for itself

VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = "<img src=http://example.org/x.png onerror=alert(1)> $x_{$"
WIDTHS = (1280, 400)


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed by its own end tag.

    Attributes:
        elements: tag and attributes of each.
        styles: what stands in style elements.
        text: the rest.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.styles, self.text = "", ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        if "p" in self._open:
            assert tag in {"b", "code"}, f"{tag} inside p"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.styles += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report(kind: str) -> bp.Report:
    torch.manual_seed(0)
    x = torch.randn(120, 12)
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3 if kind == "classes" else 1))
    bnet = bp.BayesianNet(net, {"*.weight": bp.SparseVD()})
    y = x[:, :3].argmax(1) if kind == "classes" else x[:, :1] * 2
    model = bp.classify(bnet, 120) if kind == "classes" else bp.regress(bnet, 120)
    loader = DataLoader(TensorDataset(x, y), batch_size=60)
    bp.fit(model, bnet.guide, loader, epochs=3, lr=1e-2, seed=0)
    masks = bp.masks(bnet, keep=0.5)
    baseline = {f"a rival called {EVIL}": (bnet.means(), masks)}
    classes = ["cat", EVIL, "dog"] if kind == "classes" else None
    return bp.report(bnet, masks, loader, draws=3, seed=0, classes=classes, baseline=baseline)


@pytest.fixture(scope="module")
def reports() -> dict[str, bp.Report]:
    return {kind: report(kind) for kind in ("classes", "real targets")}


@pytest.fixture(scope="module")
def pages(reports: dict[str, bp.Report], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {kind: folder / f"{kind.replace(' ', '_')}.html" for kind in reports}
    for kind, path in found.items():
        reports[kind].to_html(path, model="lenet.safetensors")
    return found


KINDS = pytest.mark.parametrize("kind", ["classes", "real targets"])


@KINDS
def test_the_page_is_valid_and_loads_nothing(pages: dict[str, Path], kind: str) -> None:
    source = pages[kind].read_text(encoding="utf-8")
    assert source.startswith('<!DOCTYPE html>\n<html lang="en">') and b"utf-8" in source.encode()[:1024]
    read = Reader(source)
    tags = {tag for tag, _ in read.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert len(read.all("h1")) == len(read.all("title")) == len(read.all("main")) == 1
    for tag, attributes in read.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert not {"href", "srcset", "action", "poster", "style"} & attributes.keys(), (tag, attributes)
        assert (attributes.get("src") or "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
    assert "@import" not in read.styles and "url(" not in read.styles
    policy = next(a for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none';")


@KINDS
def test_pictures_are_whole_svgs_with_a_text(pages: dict[str, Path], kind: str) -> None:
    images = Reader(pages[kind].read_text(encoding="utf-8")).all("img")
    assert len(images) == (7 if kind == "classes" else 5) - ("Latency of each layer" not in str(images))
    for image in images:
        assert image["alt"]
        svg = ET.fromstring(base64.b64decode(str(image["src"]).partition(",")[2]))
        assert svg.tag.endswith("svg")
        for element in svg.iter():
            assert not element.tag.endswith(("script", "image", "foreignObject"))
            links = [value for name, value in element.attrib.items() if name.endswith("href")]
            assert all(link.startswith("#") for link in links)
        width = float(svg.attrib["width"].removesuffix("pt")) * 96 / 72
        assert width <= 450


@KINDS
def test_the_verdict_is_on_top_and_everything_is_there(
    pages: dict[str, Path], reports: dict[str, bp.Report], kind: str
) -> None:
    text = " ".join(Reader(pages[kind].read_text(encoding="utf-8")).text.split())
    figures = ["Error", "Worst class", "Calibration"] if kind == "classes" else ["RMSE", "Coverage"]
    order = ["Size", "Speed", figures[0], "NLL", "Against", "Warnings", "Models", "Weights", "Plan", "Pictures"]
    places = [re.search(rf"\b{word}\b", text).start() for word in order]
    assert places == sorted(places)
    assert all(figure in text for figure in figures)
    found = reports[kind]
    assert all(row.choice.reason in text for row in found.weights)
    assert all(row.name in text for row in found.models) and EVIL in text  # as text, not as an element
    assert all(w.text in text for w in found.warnings)
    assert 'net = bp.load("lenet.safetensors")' in text and "3 draws of the posterior, seed 0" in text
    assert f"torch {torch.__version__}" in text


def test_the_same_report_gives_the_same_page(pages: dict[str, Path], reports: dict[str, bp.Report]) -> None:
    again = pages["classes"].with_name("again.html")
    reports["classes"].to_html(again, model="lenet.safetensors")
    assert again.read_bytes() == pages["classes"].read_bytes()


def test_a_notebook_shows_the_same_without_pictures(reports: dict[str, bp.Report]) -> None:
    read = Reader(reports["classes"]._repr_html_())
    text = " ".join(read.text.split())
    assert f"{reports['classes'].verdict.error.after:.2%}" in text and "Warnings" in text
    assert not read.all("img") and not read.all("html")
    selectors = re.findall(r"([^{}]+)\{", read.styles)
    assert selectors and all(s.strip().startswith(".bayesprune") for s in selectors)  # the notebook keeps its own style


def test_a_page_is_replaced_by_a_whole_one_or_not_at_all(
    reports: dict[str, bp.Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="full"):
            reports["classes"].to_html(path)
    with monkeypatch.context() as patched:
        patched.setattr(page_module, "_content", fail)
        with pytest.raises(OSError, match="full"):
            reports["classes"].to_html(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    reports["classes"].to_html(str(path))
    assert path.read_text().startswith("<!DOCTYPE html>") and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(reports: dict[str, bp.Report], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere' .* make it first"):
        reports["classes"].to_html(tmp_path / "nowhere" / "report.html")
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        reports["classes"].to_html(tmp_path)


def test_a_page_about_another_posterior_is_refused(tmp_path: Path) -> None:
    found = report("classes")
    with torch.no_grad():
        found.subject.bnet.posteriors["0.weight"].get_parameter("loc").mul_(2)
    with pytest.raises(ValueError, match=r"'0\.weight' has changed"):
        found.to_html(tmp_path / "report.html")


def test_a_report_needs_no_matplotlib() -> None:
    code = "import sys, bayesprune; bayesprune.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: the parser alone has checked the page")
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


SMALL_OR_PALE = """
(() => {
  const light = c => { c = c / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const found = [];
  for (const e of document.querySelectorAll('h1, h2, p, li, span, b, td, th, pre, figcaption')) {
    const style = getComputedStyle(e);
    const [r, g, b] = style.color.match(/[0-9.]+/g).map(Number);
    const contrast = 1.05 / (0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b) + 0.05);
    if (parseFloat(style.fontSize) < 14 || contrast < 7) found.push(e.outerHTML.slice(0, 80));
  }
  return found;
})()
"""


@KINDS
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_it(pages: dict[str, Path], tab: Browser, kind: str, width: int) -> None:
    tab.complaints.clear()
    tab.asked.clear()
    tab.open(pages[kind], width)
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways
    images = tab.evaluate(
        "[...document.images].map(i => [i.complete && i.naturalWidth, i.getBoundingClientRect().right])"
    )
    assert len(images) >= 4 and all(natural and right <= width for natural, right in images)
    boxes = "[...document.querySelectorAll('table')].map(t => t.parentElement)"
    assert tab.evaluate(f"{boxes}.every(b => getComputedStyle(b).overflowX === 'auto')")
    cards = tab.evaluate("[...document.querySelectorAll('.card')].map(c => c.getBoundingClientRect().top)")
    assert cards[0] < 250 and (len(set(cards)) == len(cards)) == (width == 400)  # one column on a phone
    assert tab.evaluate(SMALL_OR_PALE) == []
    assert tab.complaints == []
    assert {address.partition(":")[0] for address in tab.asked} <= {"file", "data"}
    assert sum(address.startswith("file") for address in tab.asked) == 1
    shot = tab.screenshot()
    assert shot.startswith(b"\x89PNG") and int.from_bytes(shot[16:20], "big") == width
