"""A plan as a picture: Mermaid text for pages, SVG for notebooks. Parts that several nodes read are drawn once.

The layout is that of Sugiyama, Tagawa and Toda (1981) in small: layers by the longest way from a source, order within a
layer by the mean of the neighbours, then places by the same mean, as far as the boxes leave room.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from arrowstream.errors import PlanError
from arrowstream.plan.explain import Facts, explain, facts_of
from arrowstream.plan.nodes import Node, Output, SourceNode

_CHARS: Final = 38
"""Characters in a line of a box; longer ones are broken."""

_LINES: Final = 3
"""Lines that one fact may take."""

_LINE: Final = 16
_PAD: Final = 10
_GAP_X: Final = 36
_GAP_Y: Final = 40
_CHAR: Final = 6.7
"""The width of a character of the font, on the safe side, in pixels."""

_SWEEPS: Final = 8

_COLOURS: Final = {
    "source": "#2a9d8f",
    "output": "#3d85c6",
    "state": "#d98a1f",
    "unbounded": "#d9534f",
    "rows": "#8a8a8a",
}
"""Mid-tones, which stand out on white and on black; all else has the colour of the text around."""


def draw(roots: Sequence[Node], format: str) -> str:
    """The plans of these nodes as "text", "mermaid" or "svg". Raises `PlanError` for another."""
    if format not in _DRAWERS:
        raise PlanError(f"explain: format={format!r} is not one of {', '.join(_DRAWERS)}")
    return _DRAWERS[format](roots)


def _text(roots: Sequence[Node]) -> str:
    return explain(*roots)


def mermaid(roots: Sequence[Node]) -> str:
    """A flowchart in Mermaid's language, from the sources down."""
    facts = facts_of(roots)
    numbers = {node: f"n{number}" for number, node in enumerate(facts)}
    lines = ["flowchart TB"]
    for node, fact in facts.items():
        first, *rest = (_mermaid_text(line) for line in _said(fact))
        text = "<br/>".join([f"<b>{first}</b>", *rest])
        lines.append(f'    {numbers[node]}["{text}"]:::{_look(node, fact)}')
    lines += [f"    {numbers[child]} --> {numbers[node]}" for node in facts for child in node.inputs]
    used = {_look(node, fact) for node, fact in facts.items()}
    lines += [f"    classDef {look} stroke:{_COLOURS[look]},stroke-width:2px" for look in _COLOURS if look in used]
    return "\n".join(lines) + "\n"


def _mermaid_text(text: str) -> str:
    """A label that Mermaid takes as it is: what means something to it or to HTML is written as an entity."""
    meant = {"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "\\": "#92;"}
    return "".join(meant.get(char, char) for char in " ".join(text.split()))


def _said(fact: Facts) -> list[str]:
    """The lines of a box: the node, then its engine with what it exchanges by, its changes, time and state."""
    state = f"state {fact.state}" if fact.state else ""
    return [fact.label, *filter(None, (fact.engine, fact.kind, fact.time, state))]


def _look(node: Node, fact: Facts) -> str:
    match node:
        case SourceNode():
            return "source"
        case Output():
            return "output"
    if fact.unbounded:
        return "unbounded"
    return "state" if fact.state else "rows"


@dataclass(eq=False, slots=True)
class _Box:
    """A node to be drawn, or a place that a long line goes through, with no lines of text.

    `top` and `bottom` are those of its layer; a box hangs from the top.
    """

    lines: list[tuple[str, str]]
    look: str = ""
    full: str = ""
    layer: int = 0
    x: float = 0.0
    top: float = 0.0
    bottom: float = 0.0
    above: list[_Box] = field(default_factory=list)
    below: list[_Box] = field(default_factory=list)

    @property
    def width(self) -> float:
        return max((len(text) for text, _ in self.lines), default=0) * _CHAR + 2 * _PAD + 4 if self.lines else 12.0

    @property
    def height(self) -> float:
        return len(self.lines) * _LINE + 2 * _PAD - 4 if self.lines else 0.0


def svg(roots: Sequence[Node]) -> str:
    """The plan as one SVG element, without anything from outside, in the colour of the text around it."""
    layers = _layers(facts_of(roots))
    _place(layers)
    boxes = [box for layer in layers for box in layer]
    width = max((box.x + box.width for box in boxes), default=0.0)
    height = max((box.bottom for box in boxes), default=0.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="-2 -2 {width + 4:.0f} {height + 4:.0f}" '
        f'width="{width + 4:.0f}" height="{height + 4:.0f}" style="max-width:100%;height:auto;color:inherit" '
        'fill="currentColor" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="11">',
        "<title>plan</title>",
    ]
    parts += [_line(box, child) for box in boxes for child in box.below]
    parts += [_drawn(box) for box in boxes if box.lines]
    return "".join([*parts, "</svg>"])


def _layers(facts: Mapping[Node, Facts]) -> list[list[_Box]]:
    """Boxes by layer; lines over several layers go through places of their own."""
    boxes: dict[Node, _Box] = {}
    layers: list[list[_Box]] = []

    def put(box: _Box) -> _Box:
        while len(layers) <= box.layer:
            layers.append([])
        layers[box.layer].append(box)
        return box

    for node, fact in facts.items():
        look = _look(node, fact)
        box = _Box(_wrapped(fact), look, "\n".join(_said(fact)))
        box.layer = 1 + max((boxes[child].layer for child in node.inputs), default=-1)
        boxes[node] = put(box)
        for child in node.inputs:
            upper = boxes[child]
            for between in range(upper.layer + 1, box.layer):
                upper = _join(upper, put(_Box([], layer=between)))
            _join(upper, box)
    return layers


def _join(upper: _Box, lower: _Box) -> _Box:
    upper.below.append(lower)
    lower.above.append(upper)
    return lower


def _wrapped(fact: Facts) -> list[tuple[str, str]]:
    """Lines with their style: the label is bold, a state without a bound red."""
    lines: list[tuple[str, str]] = []
    for number, text in enumerate(_said(fact)):
        style = "head" if number == 0 else "loud" if fact.unbounded and text.startswith("state ") else ""
        found = textwrap.wrap(text, _CHARS, break_long_words=True) or [""]
        if len(found) > _LINES:
            found = [*found[: _LINES - 1], f"{found[_LINES - 1][: _CHARS - 1]}…"]
            if style == "loud":
                found[-1] = "… unbounded"
        lines += [(line, style) for line in found]
    return lines


def _place(layers: Sequence[list[_Box]]) -> None:
    """Order the boxes of each layer, and give all a place."""
    for layer in layers:
        _spread(layer, dict.fromkeys(layer, 0.0))
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = {box: _wanted(box, box.above if down else box.below) for box in layer}
            if sweep < _SWEEPS - 2:
                layer.sort(key=wanted.__getitem__)
            _spread(layer, wanted)
    left = min((box.x for layer in layers for box in layer), default=0.0)
    top = 0.0
    for layer in layers:
        deep = max(box.height for box in layer)
        for box in layer:
            box.x -= left
            box.top, box.bottom = top, top + deep
        top += deep + _GAP_Y


def _wanted(box: _Box, neighbours: Sequence[_Box]) -> float:
    """Where its middle would best be."""
    middles = [other.x + other.width / 2 for other in neighbours] or [box.x + box.width / 2]
    return sum(middles) / len(middles)


def _spread(layer: Sequence[_Box], wanted: Mapping[_Box, float]) -> None:
    """Place a layer in its order as near to what is wanted as fits: neighbours that would overlap share the way."""
    groups: list[tuple[list[_Box], float, float]] = []  # boxes, their width, where the first would begin
    for box in layer:
        group, width, start = [box], box.width, wanted[box] - box.width / 2
        while groups and groups[-1][2] + groups[-1][1] + _GAP_X > start:
            before, length, begin = groups.pop()
            shifted = start - length - _GAP_X
            start = (begin * len(before) + shifted * len(group)) / (len(before) + len(group))
            group, width = [*before, *group], length + _GAP_X + width
        groups.append((group, width, start))
    for group, _, start in groups:
        for box in group:
            box.x = start
            start += box.width + _GAP_X


def _line(upper: _Box, lower: _Box) -> str:
    """Straight down beside the boxes of its layer, then over to the next layer in the gap between."""
    x1, y0, y1 = upper.x + upper.width / 2, upper.top + upper.height, upper.bottom
    x2, y2 = lower.x + lower.width / 2, lower.top
    middle = (y1 + y2) / 2
    path = f"M{x1:.1f} {y0:.1f}V{y1:.1f}C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2:.1f}"
    line = f'<path d="{path}" fill="none" stroke="currentColor" stroke-opacity="0.5" stroke-width="1.3"/>'
    if not lower.lines:
        return line
    tip = f"M{x2 - 4:.1f} {y2 - 7:.1f}L{x2:.1f} {y2:.1f}L{x2 + 4:.1f} {y2 - 7:.1f}Z"
    return f'{line}<path d="{tip}" fill="currentColor" fill-opacity="0.6"/>'


def _drawn(box: _Box) -> str:
    colour = _COLOURS[box.look]
    size = f'x="{box.x:.1f}" y="{box.top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    texts = []
    for number, (text, style) in enumerate(box.lines):
        at = f'x="{box.x + _PAD + 4:.1f}" y="{box.top + _PAD + 8 + number * _LINE:.1f}"'
        look = {"head": 'font-weight="bold"', "loud": f'fill="{colour}" font-weight="bold"'}.get(style, 'opacity="0.8"')
        texts.append(f"<text {at} {look}>{html.escape(text)}</text>")
    return (
        f"<g><title>{html.escape(box.full)}</title>"
        f'<rect {size} rx="5" fill="{colour}" fill-opacity="0.08" stroke="{colour}" stroke-opacity="0.9"/>'
        f'<rect x="{box.x:.1f}" y="{box.top:.1f}" width="4" height="{box.height:.1f}" rx="2" fill="{colour}"/>'
        f"{''.join(texts)}</g>"
    )


_DRAWERS: Final[Mapping[str, Callable[[Sequence[Node]], str]]] = {"text": _text, "mermaid": mermaid, "svg": svg}
