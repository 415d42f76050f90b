"""The report's page: whole, valid, self-contained, and legible in a browser."""

import base64
import dataclasses
import html
import importlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.browser import CHROMIUM, Browser, browser
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.evaluation.verification import Role
from bayesprune.reporting import page as page_module
from bayesprune.reporting import units
from bayesprune.reporting.bottom_line import bottom_line
from bayesprune.reporting.cautions import Caution
from bayesprune.reporting.flips import Flip
from bayesprune.reporting.grids import confusion, layers_grid
from bayesprune.reporting.inline import inline_png
from bayesprune.reporting.loading import load_lines
from bayesprune.reporting.wording import verdict_lines

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
    assert len(read.all("h1")) == len(read.all("main")) == len(read.all("head")) == 1
    for tag, attributes in read.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert not {"srcset", "action", "poster"} & attributes.keys(), (tag, attributes)
        assert str(attributes.get("href") or "#").startswith("#")  # within a picture
        assert "url(" not in str(attributes.get("style")).replace("url(#", "")
        assert str(attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "@import" not in read.styles and "url(" not in read.styles
    ids = [str(attributes["id"]) for _, attributes in read.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    linked = re.findall(r"""(?:href="|url\()#([^")]+)""", source)
    assert linked and set(linked) <= set(ids)
    policy = next(a for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none';")


def pictures(path: Path) -> list[ET.Element]:
    """The pictures of a page, strictly read."""
    found = re.findall(r"<figure>.*?(<svg.*?</svg>)", path.read_text(encoding="utf-8"), re.DOTALL)
    return [ET.fromstring(svg) for svg in found]


@KINDS
def test_pictures_are_inline_svgs_with_a_text_and_tooltips(pages: dict[str, Path], kind: str) -> None:
    shown = pictures(pages[kind])
    labels = [svg.get("aria-label") for svg in shown]
    assert all(labels) and len(set(labels)) == len(labels)
    assert len(shown) == (7 if kind == "classes" else 5) - ("Latency of each layer" not in str(labels))
    for svg in shown:
        assert svg.get("role") == "img" and svg.get("viewBox")
        assert not any(e.tag.endswith(("script", "image", "foreignObject", "}style")) for e in svg.iter())
        assert len([e for e in svg.iter() if e.tag == "title"]) > 0, svg.get("aria-label")  # the pointer shows figures
        assert [e for e in svg.iter() if e.tag == "text"]  # letters, not outlines of them
        assert "#000000" not in ET.tostring(svg, "unicode")  # black is the page's own ink
        assert float(svg.get("viewBox", "").split()[2]) * 96 / 72 <= 450


def test_tooltips_say_what_is_drawn(pages: dict[str, Path], reports: dict[str, bp.Report]) -> None:
    found = reports["classes"]
    tips = {
        svg.get("aria-label"): [e.text for e in svg.iter() if e.tag == "title"] for svg in pictures(pages["classes"])
    }
    kept = tips["The fraction of each weight's entries that is kept"]
    assert kept == [
        f"{name}: {int(mask.sum()):,} of {mask.numel():,} entries kept" for name, mask in found.subject.masks.items()
    ]
    row = next(m for m in found.models if m.role.name == "PRUNED")
    times = tips[f"Latency of a batch of {found.batch}, model by model"]
    assert f"posterior mean, pruned: {units.latency(row.seconds)} {units.speed(row.speedup)}" in times
    snr = tips["Histogram of the signal-to-noise ratio of the groups of 0.weight"]
    counts = [int(str(tip).split()[0].replace(",", "")) for tip in snr]
    assert sum(counts) == found.subject.masks["0.weight"].numel()


@KINDS
def test_the_cut_that_was_used_is_in_the_histograms(pages: dict[str, Path], kind: str) -> None:
    shown = [svg for svg in pictures(pages[kind]) if "Histogram" in str(svg.get("aria-label"))]
    assert len(shown) == 2
    for svg in shown:
        assert any("the cut that was used, SNR" in "".join(e.itertext()) for e in svg.iter() if e.tag == "text")


@KINDS
def test_the_verdict_is_on_top_and_everything_is_there(
    pages: dict[str, Path], reports: dict[str, bp.Report], kind: str
) -> None:
    text = " ".join(Reader(pages[kind].read_text(encoding="utf-8")).text.split())
    figures = ["Error", "Worst class", "Calibration"] if kind == "classes" else ["RMSE", "Coverage"]
    order = [
        "Size",
        "Speed",
        figures[0],
        "NLL",
        "Warnings",
        "Beside its rivals",
        "Pictures",
        "Models",
        "Weights",
        "Plan",
    ]
    text = text[text.index("UTC") :]
    places = [re.search(rf"\b{word}\b", text).start() for word in order]
    assert places == sorted(places)
    assert all(figure in text for figure in figures)
    found = reports[kind]
    assert all(row.choice.reason in text for row in found.weights)
    source = html.unescape(pages[kind].read_text(encoding="utf-8"))
    assert all(row.name in source for row in found.models)
    assert EVIL in text  # as text, not as an element
    assert all(w.text in text for w in found.warnings)
    assert 'net = bp.load("lenet.safetensors")' in text and "3 draws of the posterior, seed 0" in text
    assert f"torch {torch.__version__}" in text


@KINDS
def test_the_bottom_line_stands_first(pages: dict[str, Path], reports: dict[str, bp.Report], kind: str) -> None:
    said = bottom_line(reports[kind])
    source = pages[kind].read_text(encoding="utf-8")
    place = source.index(f'<p class="bottom {said.answer.replace(" ", "-")}">')
    assert place < source.index('<ul class="cards')
    assert html.unescape(source[place:]).split(">", 1)[1].startswith(str(said))


def test_the_title_says_what_it_is_about(reports: dict[str, bp.Report], tmp_path: Path) -> None:
    path, found = tmp_path / "page.html", reports["classes"]
    found.to_html(path, net="mlp(12, (32,), 3)", data="three <classes>", run="runs/7", recipe="epochs = 3\n# & more")
    source = html.unescape(path.read_text())
    title = "mlp(12, (32,), 3) on three <classes>, pruned to 50.00%"
    assert f"<h1>{title}</h1>" in source and f"<title>{title}, runs/7: bayesprune</title>" in source
    assert f"Run runs/7, {found.made:%Y-%m-%d %H:%M} UTC" in source
    assert "<h2>The recipe</h2>\n<pre>epochs = 3\n# & more</pre>" in source and "<classes>" not in path.read_text()
    found.to_html(path)
    source = path.read_text()
    assert "<h1>Sequential, pruned to 50.00%</h1>" in source and "The recipe" not in source


@KINDS
def test_before_and_after_stand_large_with_an_interval(
    pages: dict[str, Path], reports: dict[str, bp.Report], kind: str
) -> None:
    source = pages[kind].read_text(encoding="utf-8")
    big = source[source.index('<ul class="cards big">') :].split("</ul>")[0]
    verdict = reports[kind].verdict
    change = verdict.error or verdict.rmse
    pairs = [
        (units.size(verdict.dense.nbytes), units.size(verdict.packed.nbytes)),
        (units.latency(verdict.dense.seconds), units.latency(verdict.packed.seconds)),
        tuple(f"{x:.2%}" if kind == "classes" else f"{x:.4g}" for x in (change.before, change.after)),
    ]
    assert re.findall(r'<b class="value">(.*?)</b>', big) == [f"{before} → {after}" for before, after in pairs]
    (bar,) = re.findall(r"<svg.*?</svg>", big, re.DOTALL)
    drawn = ET.fromstring(bar)
    rect, dot = drawn.find("rect"), drawn.find("circle")
    scale = (float(dot.get("cx")) - 100) / change.difference  # 0 lies in the middle
    assert 100 + scale * change.low == pytest.approx(float(rect.get("x")), abs=0.2)
    assert scale * (change.high - change.low) == pytest.approx(float(rect.get("width")), abs=0.2)
    assert drawn.find("title").text.startswith("95% interval of the change")


@KINDS
def test_rivals_stand_with_error_size_and_latency(
    pages: dict[str, Path], reports: dict[str, bp.Report], kind: str
) -> None:
    source = html.unescape(pages[kind].read_text(encoding="utf-8"))
    table = source[source.index('<table class="beside">') :].split("</table>")[0]
    found = reports[kind]
    rivals = [row for row in found.models if row.role.rival]
    assert len(rivals) >= 2
    for row in (found.verdict.packed, found.verdict.dense, *rivals):
        line = next(part for part in table.split("<tr") if f'title="{row.name}"' in part)
        figure = f"{row.score.error:.2%}" if kind == "classes" else f"{row.score.rmse:.4g}"
        for told in (figure, units.size(row.nbytes), units.latency(row.seconds)):
            assert f"<td>{told}</td>" in line, (row.name, told)
        assert ("<svg" in line) == (row is not found.verdict.packed)


def test_statistics_are_named_in_footnotes_alone(pages: dict[str, Path]) -> None:
    text = Reader(pages["classes"].read_text(encoding="utf-8")).text
    head, notes = text[: text.index("¹ interval")], text[text.index("¹ interval") :]
    for name in ("Agresti", "McNemar", "bootstrap"):
        assert name not in head and name in notes


def test_long_names_are_elided_and_whole_in_the_tooltip(tmp_path: Path) -> None:
    found = report("classes")
    name = "encoder.layers.0.self_attention.output_projection.weight"
    long = dataclasses.replace(
        found,
        weights=(dataclasses.replace(found.weights[0], name=name), found.weights[1]),
        warnings=(),
    )
    source = long._repr_html_()
    assert f'title="{name}">encoder.layers…jection.weight</th>' in source
    assert 'title="2.weight">2.weight</th>' in source


def test_confusion_before_and_after_counts_each_answer(pages: dict[str, Path], reports: dict[str, bp.Report]) -> None:
    subject = reports["classes"].subject
    grids = confusion(reports["classes"])
    assert [grid.title for grid in grids] == ["Confusion before pruning", "Confusion after pruning"]
    for grid, role in zip(grids, (subject.found.reference, Role.PRUNED), strict=True):
        answer, truth = subject.found.outputs[role].argmax(-1), subject.found.targets
        for k, (name, cells) in enumerate(grid.rows):
            assert name == subject.names[k]
            expected = [int(((truth == k) & (answer == said)).sum()) for said in range(3)]
            assert [int(cell.text or 0) for cell in cells] == expected
            assert [cell.marked for cell in cells] == [said == k for said in range(3)]
    assert "Confusion after pruning" in pages["classes"].read_text()
    assert "Confusion" not in pages["real targets"].read_text()


def test_this_run_lies_on_the_curve(reports: dict[str, bp.Report], tmp_path: Path) -> None:
    found = reports["classes"]
    bnet, x, y = found.subject.bnet, torch.randn(40, 12), torch.arange(40) % 3
    curve = bp.sweep(bnet, [(x, y)], keep=[0.5, 0.2])
    again = bp.Curve.from_dict(json.loads(json.dumps(curve.to_dict())))
    assert again == curve
    found.to_html(tmp_path / "page.html", curve=again)
    (svg,) = [s for s in pictures(tmp_path / "page.html") if "with this net" in str(s.get("aria-label"))]
    tips = [e.text for e in svg.iter() if e.tag == "title"]
    packed = found.verdict.packed
    assert f"this net, 50.00% kept, {units.size(packed.nbytes)}: error {packed.score.error:.2%}" in tips
    for point in curve.points:
        if point.saliency != "unpruned":
            figures = f"{point.kept:.2%} kept, {units.size(point.nbytes)}: error {point.score.error:.2%}"
            assert f"{point.saliency}, {figures}" in tips
    with pytest.raises(ValueError, match=r"no curve of bp\.sweep"):
        bp.Curve.from_dict({"points": [{"saliency": "snr"}]})


def flipping(images: torch.Tensor) -> tuple[tuple[Flip, ...], torch.Tensor, torch.Tensor, torch.Tensor]:
    """The flips of a net of which pruning takes most, with labels and both nets' answers."""
    torch.manual_seed(0)
    y = torch.arange(len(images)) % 3
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 3))
    bnet = bp.BayesianNet(net, {"1.weight": bp.SparseVD()})
    bp.classify(bnet, len(images))
    masks = {"1.weight": torch.arange(images[0].numel()).expand(3, -1) < 8}
    loader = DataLoader(TensorDataset(images, y), batch_size=7)
    found = bp.report(bnet, masks, loader, draws=1, classes=["ant", "bee", "cat"])
    outputs = found.subject.found.outputs
    return found.subject.flips, y, outputs[Role.DENSE].argmax(-1), outputs[Role.PRUNED].argmax(-1)


def test_images_that_flipped_are_those_and_no_others() -> None:
    images = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    shown, y, before, after = flipping(images)
    names = ["ant", "bee", "cat"]
    expected = {
        (names[y[k]], names[before[k]], names[after[k]], bool(before[k] == y[k])): images[k, 0]
        for k in range(30)
        if (before[k] == y[k]) != (after[k] == y[k])
    }
    assert shown and {(f.truth, f.before, f.after, f.lost) for f in shown} <= set(expected)
    assert [f.lost for f in shown] == sorted((f.lost for f in shown), reverse=True)
    lost, won = ((before == y) & (after != y)).sum(), ((before != y) & (after == y)).sum()
    assert (sum(f.lost for f in shown), sum(not f.lost for f in shown)) == (min(lost, 12), min(won, 6))
    flat = {tuple(((i - i.min()) / (i.max() - i.min()) * 255).round().int().flatten().tolist()) for i in images[:, 0]}
    for flip in shown:
        with Image.open(BytesIO(base64.b64decode(inline_png(flip.pixels).partition(",")[2]))) as png:
            assert png.size == (8, 8) and tuple(png.tobytes()) in flat


def test_inputs_that_are_no_images_show_none() -> None:
    assert flipping(torch.randn(30, 16, 8, 8))[0] == () and flipping(torch.randn(30, 12))[0] == ()


class Own(nn.Module):
    """A net that a file cannot describe."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.fc = nn.Linear(3, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).relu()


def test_the_load_line_is_the_one_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is run as it stands, of a net that loads alone and of one whose class it imports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n\nclass Own(nn.Module):\n    def __init__(self, width=4):\n        super().__init__()\n"
        "        self.fc = nn.Linear(3, width)\n\n    def forward(self, x):\n        return self.fc(x).relu()\n\n"
        "def make(width):\n    return Own(width)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own_nets = importlib.import_module("own_nets")
    for net, made_by, needs in (
        (nn.Sequential(nn.Linear(3, 2)), None, "needs neither Pyro nor pickle"),
        (own_nets.Own(), None, "net=Own()"),
        (own_nets.make(7), "own_nets:make(7)", "net=make(7)"),
    ):
        bp.save(net, "model.safetensors")
        line = load_lines(net, "model.safetensors", made_by)
        assert needs in line
        loaded: dict[str, Any] = {"bp": bp}
        exec(line, loaded)
        again = loaded["net"].state_dict()
        assert all(torch.equal(x, again[name]) for name, x in net.state_dict().items())
    assert "net=make()" in load_lines(own_nets.Own(), "m", "own_nets:make")


def test_what_a_class_asks_for_is_left_to_fill_in() -> None:
    class Needy(Own):
        def __init__(self, width: int) -> None:
            super().__init__(width)

    assert "Needy(width=…)" in load_lines(Needy(3), "model.safetensors")


def test_deep_nets_have_a_grid_in_place_of_a_picture_a_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(12) for layer in (nn.Linear(6, 6), nn.Tanh())), nn.Linear(6, 3))
    x, y = torch.randn(60, 6), torch.arange(60) % 3
    bnet = bp.BayesianNet(net, {"*.weight": bp.SparseVD()})
    bp.classify(bnet, 60)
    masks = bp.masks(bnet, keep=0.5)
    found = bp.report(bnet, masks, [(x, y)], draws=1)
    found.to_html(tmp_path / "page.html")
    labels = [str(svg.get("aria-label")) for svg in pictures(tmp_path / "page.html")]
    assert not any("Histogram" in label or "each layer" in label for label in labels)
    grid = layers_grid(found, bnet.state())
    assert [name for name, _ in grid.rows] == list(masks) and len(masks) == 13
    for name, (kept, *cells, _) in grid.rows:
        assert kept.text == f"{float(masks[name].float().mean()):.1%}"
        groups = [int(cell.tip.partition(": ")[2].split()[0].replace(",", "")) for cell in cells]
        stay = [int(re.search(r"groups, ([\d,]+) of them", cell.tip)[1].replace(",", "")) for cell in cells]
        assert sum(groups) == masks[name].numel() and sum(stay) == int(masks[name].sum())
        cut = [cell.marked for cell in cells].index(True)  # one cut for all lies between two columns
        assert sum(stay[:cut]) == 0 and sum(stay[cut:]) == sum(groups[cut:])
    assert "the cut that was used, SNR" in grid.note and "Layers at a glance" in (tmp_path / "page.html").read_text()


def test_few_layers_have_no_grid(reports: dict[str, bp.Report]) -> None:
    assert layers_grid(reports["classes"], reports["classes"].subject.bnet.state()) is None


def test_no_card_is_green_where_a_warning_voids_it(reports: dict[str, bp.Report]) -> None:
    found = dataclasses.replace(reports["classes"], warnings=())
    good = {line.title for line in verdict_lines(found) if line.good}
    assert "Size" in good
    voided = dataclasses.replace(found, warnings=(Caution("never predicted", "2 of 3 classes", "…"),))
    source = voided._repr_html_()
    assert 'class="card better"' not in source and "(better)" not in source and "Do not ship: 2 of 3" in source


def test_the_same_report_gives_the_same_page(pages: dict[str, Path], reports: dict[str, bp.Report]) -> None:
    again = pages["classes"].with_name("again.html")
    reports["classes"].to_html(again, model="lenet.safetensors")
    assert again.read_bytes() == pages["classes"].read_bytes()


def test_a_notebook_shows_the_same_without_pictures(reports: dict[str, bp.Report]) -> None:
    read = Reader(reports["classes"]._repr_html_())
    text = " ".join(read.text.split())
    assert f"{reports['classes'].verdict.error.after:.2%}" in text and "Warnings" in text
    assert not read.all("img") and not read.all("html") and not read.all("figure")
    selectors = [s.strip() for s in re.findall(r"([^{}]+)\{", read.styles)]
    assert selectors and all(s.startswith((".bayesprune", "@media")) for s in selectors)  # others keep their own style


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
  const luminance = c => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number);
    return 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b); };
  const paper = luminance(getComputedStyle(document.querySelector('main')).backgroundColor);
  const found = [];
  for (const e of document.querySelectorAll('h1, h2, p, li, span, b, th, td, pre, figcaption, caption')) {
    const style = getComputedStyle(e), ink = luminance(style.color);
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    const pale = contrast < 7 && !/q[78]/.test(e.className);
    if (parseFloat(style.fontSize) < 14 || pale) found.push(e.outerHTML.slice(0, 80));
  }
  return found;
})()
"""
WITHOUT_INK = """
[...document.querySelectorAll('figure svg text')].filter(
  t => getComputedStyle(t).fill !== getComputedStyle(document.querySelector('main')).color).map(t => t.outerHTML)
"""


@KINDS
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_it(pages: dict[str, Path], tab: Browser, kind: str, width: int, scheme: str) -> None:
    tab.complaints.clear()
    tab.asked.clear()
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.open(pages[kind], width)
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways
    paper = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert paper == tab.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor")
    drawn = tab.evaluate(
        "[...document.querySelectorAll('figure svg')].map(i => i.getBoundingClientRect()).map(r => [r.width, r.right])"
    )
    assert len(drawn) >= 4 and all(wide > 300 and right <= width for wide, right in drawn)
    boxes = "[...document.querySelectorAll('table')].map(t => t.parentElement)"
    assert tab.evaluate(f"{boxes}.every(b => getComputedStyle(b).overflowX === 'auto')")
    first = tab.evaluate(
        f"{boxes}.map(b => {{ b.scrollLeft = 999; return b.querySelector('tbody th').getBoundingClientRect().left"
        " - b.getBoundingClientRect().left; })"
    )
    assert all(abs(left) < 1 for left in first)  # names stay while figures scroll
    cards = tab.evaluate("[...document.querySelectorAll('.card')].map(c => c.getBoundingClientRect().top)")
    assert cards[0] < 420 and (len(set(cards)) == len(cards)) == (width == 400)  # one column on a phone
    assert tab.evaluate(SMALL_OR_PALE) == []
    assert tab.evaluate(WITHOUT_INK) == []
    assert tab.complaints == []
    assert {address.partition(":")[0] for address in tab.asked} <= {"file", "data"}
    assert sum(address.startswith("file") for address in tab.asked) == 1
    shot = tab.screenshot()
    assert shot.startswith(b"\x89PNG") and int.from_bytes(shot[16:20], "big") == width


def test_on_paper_nothing_is_cut_off(pages: dict[str, Path], tab: Browser) -> None:
    tab.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    tab.open(pages["classes"], 718)  # A4 between its margins
    assert tab.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("[...document.querySelectorAll('.scroll')].every(b => b.scrollWidth <= innerWidth)")
    pdf = base64.b64decode(tab.call("Page.printToPDF")["data"])
    tab.call("Emulation.setEmulatedMedia", media="")
    assert pdf.startswith(b"%PDF") and len(pdf) > 10_000
