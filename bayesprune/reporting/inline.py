"""Figures as inline SVG elements, with the page's own letters and colours and a tooltip on each mark; images as PNG."""

import re
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from bayesprune.plots.style import BLUE, COLOURS, GREY, ORANGE

__all__ = ["STYLE", "Tips", "inline_png", "inline_svg"]

Tips = Mapping[Artist, Sequence[str]]
"""What is said of an artist, or of each of its points in turn."""

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bayesprune",
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.facecolor": "none",
}
"""For ``matplotlib.style.context``, around all that is drawn."""

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_NAMES = {BLUE: "blue", ORANGE: "orange", GREY: "grey", "#b0b0b0": "grey"}
_NAMES |= {colour: f"c{k}" for k, colour in enumerate(COLOURS) if colour not in _NAMES}
_THEMED = {colour.lower(): f"var(--{name})" for colour, name in _NAMES.items()} | {"#000000": "currentColor"}
_COLOUR = re.compile("|".join(_THEMED))
_FONT = re.compile(r"font: (?:bold )?([0-9.]+)px [^;]*")


def inline_svg(figure: Figure, tips: Tips, name: str, label: str) -> str:
    """The figure as an ``<svg>`` element that takes its colours from the page's custom properties.

    Args:
        figure: what was drawn, under :data:`STYLE`.
        tips: what the pointer shows over an artist.
        name: tells its ids from those of the page's other pictures.
        label: the same for those who do not see it.
    """
    told = {}
    for k, (artist, texts) in enumerate(tips.items()):
        artist.set_gid(f"tip{k}")
        told[f"tip{k}"] = texts
    buffer = StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("metadata") or child.tag == f"{_SVG}style":
                parent.remove(child)
    for group in root.iter(f"{_SVG}g"):
        if (tip := told.get(group.get("id", ""))) is not None:
            _tip(group, tip)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set("href" if key == _XLINK else key, _own(key, value, name))
    width, height = (root.get(side, "").removesuffix("pt") for side in ("width", "height"))
    root.attrib.clear()
    root.attrib.update({"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": label, "fill": "currentColor"})
    root.attrib.update({"stroke-linejoin": "round", "stroke-linecap": "butt"})
    return ET.tostring(root, encoding="unicode")


def inline_png(pixels: Tensor) -> str:
    """An image, uint8 and (1 or 3 channels, height, width), as a ``data:`` address."""
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.movedim(0, -1).numpy()
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()


def _tip(group: ET.Element, texts: Sequence[str]) -> None:
    points = list(group.iter(f"{_SVG}use")) if len(texts) > 1 else []
    for element, text in zip(points or [group], texts, strict=False):
        title = ET.Element("title")
        title.text = text
        element.insert(0, title)


def _own(key: str, value: str, name: str) -> str:
    """An attribute with ids of its own, themed colours and the page's letters."""
    if key == "id":
        return f"{name}-{value}"
    if key == _XLINK:
        return f"#{name}-{value.removeprefix('#')}"
    if key == "style":
        value = _FONT.sub(r"font-size: \1px", _COLOUR.sub(lambda found: _THEMED[found[0]], value))
    return value.replace("url(#", f"url(#{name}-")
