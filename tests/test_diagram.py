"""Plans as pictures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import polars as pl
import pytest

import arrowstream as ars
from arrowstream.errors import PlanError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def ctx() -> ars.StreamingContext:
    """Two sources, a join, windows over it, and a filter that two of three outputs share."""
    ctx = ars.StreamingContext()
    orders = ctx.read.memory(
        {"shop": pl.String, "user": pl.Int64, "price": pl.Float64, "ts": pl.Datetime("us")}, name="orders"
    ).with_watermark("ts", "10s")
    clicks = ctx.read.memory({"user": pl.Int64, "page": pl.String, "at": pl.Datetime("us")}, name="clicks")
    known = orders.filter(pl.col("shop") != '<b>"#1 & `co`"</b>')
    seen = known.join(clicks.with_watermark("at", "5s"), on="user", within="1m")
    seen.group_by_dynamic("ts", every="10s", group_by="page").agg(n=pl.len()).write.memory("pages")
    known.group_by("shop").agg(pl.col("price").median()).write.memory("medians")
    ars.concat([orders.select("user"), seen.select("user")]).group_by("user").agg(pl.len()).write.memory("users")
    return ctx


def boxes(svg: str) -> list[tuple[float, float, float, float, list[tuple[float, float, str]]]]:
    """Each box with the lines in it."""
    found = []
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        frame = group.find(f"{SVG}rect")
        assert frame is not None
        texts = [(float(t.get("x", 0)), float(t.get("y", 0)), t.text or "") for t in group.iter(f"{SVG}text")]
        x, y, width, height = (float(frame.get(side, 0)) for side in ("x", "y", "width", "height"))
        found.append((x, y, width, height, texts))
    return found


def test_every_part_is_drawn_once(ctx: ars.StreamingContext) -> None:
    """The filter that feeds a join and a median runs once, and is one box with two lines out."""
    text, svg, mermaid = ctx.explain(), ctx.explain("svg"), ctx.explain("mermaid")
    nodes = len(re.findall(r"^ *#\d+ \w", text, re.MULTILINE))
    lines = nodes - 3 + text.count("(shared: runs once)")
    assert len(boxes(svg)) == nodes
    assert len(re.findall(r"^    n\d+\[", mermaid, re.MULTILINE)) == nodes
    assert mermaid.count("-->") == lines
    assert text.count("(shared: runs once)") == 3
    titles = [group.findtext(f"{SVG}title") or "" for group in ET.fromstring(svg).iter(f"{SVG}g")]
    assert sum(title.startswith("Source orders") for title in titles) == 1


def test_boxes_stand_apart_and_hold_their_text(ctx: ars.StreamingContext) -> None:
    """Nothing is drawn over anything else, and the picture holds it all."""
    svg = ctx.explain("svg")
    drawn = boxes(svg)
    for (ax, ay, aw, ah, _), (bx, by, bw, bh, _) in combinations(drawn, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
    for x, y, width, height, texts in drawn:
        assert all(x < tx and tx + 6.6 * len(text) <= x + width and y < ty < y + height for tx, ty, text in texts)
    _, _, whole_width, whole_height = map(float, (ET.fromstring(svg).get("viewBox") or "").split())
    assert all(x >= 0 and x + width < whole_width and y + height < whole_height for x, y, width, height, _ in drawn)


def test_rows_flow_down(ctx: ars.StreamingContext) -> None:
    """A node stands below all that it reads."""
    heights = {}
    for _, y, _, _, texts in boxes(ctx.explain("svg")):
        heights[texts[0][2]] = y
    where = {word: next(y for title, y in heights.items() if title.startswith(word)) for word in heights}
    order = ["Source orders", "Watermark ts, 10s behind"]
    order += [next(t for t in where if t.startswith(w)) for w in ("Rows filter", "Join", "Window", "Output pages")]
    assert [where[title] for title in order] == sorted({where[title] for title in order})


def test_names_of_users_cannot_break_the_picture(ctx: ars.StreamingContext) -> None:
    """A shop called `<b>"#1 & ..."`: labels are text, in SVG and in Mermaid."""
    svg, mermaid = ctx.explain("svg"), ctx.explain("mermaid")
    assert "<b>" not in svg
    assert '<b>"#1 & `co`"</b>' in "".join(ET.fromstring(svg).itertext()).replace("\n", "")
    for line in mermaid.splitlines():
        if label := re.match(r' +n\d+\["(.*)"\]:::\w+$', line):
            inside = re.sub(r"</?b>|<br/>", "", label[1])
            assert not re.search(r'["<>`&]|#(?!quot;|lt;|gt;|amp;|\d+;)', inside), inside
    assert "#lt;b#gt;#quot;#35;1 #amp; #96;co#96;#quot;#lt;/b#gt;" in mermaid


def test_a_picture_needs_nothing_from_outside(ctx: ars.StreamingContext) -> None:
    """A notebook without a network, light or dark: no links, no scripts, text in the colour of the page."""
    svg = ctx.explain("svg")
    assert not re.search(r"href|url\(|<script|<style|<image|fill=\"(#000|#fff|black|white)", svg)
    assert svg.count("http") == 1  # the namespace
    assert 'fill="currentColor"' in svg


@pytest.mark.parametrize("format", ["text", "mermaid", "svg"])
def test_every_format_says_all_there_is(ctx: ars.StreamingContext, format: str) -> None:
    """Engine, key, changes, time, state and what grows for ever."""
    said = " ".join("".join(ET.fromstring(ctx.explain("svg")).itertext()).split()) if format == "svg" else None
    said = said or ctx.explain(format)
    for fact in (
        "MemorySource, replayable",
        "polars, exchange by page",
        "updates rows of shop",
        "time: ts, watermark 10s behind, held back 1m, as windows close",
        "state group_by_dynamic ts, page: a row per key and bin of open windows",
        "state recompute shop: the rows of each group, unbounded",
        "state group_by user: a row per user (Int64), unbounded",
        "exactly once",
    ):
        assert fact in said, fact


def test_another_format_is_refused(ctx: ars.StreamingContext) -> None:
    with pytest.raises(PlanError, match="format='png' is not one of text, mermaid, svg"):
        ctx.explain("png")


def test_equal_calls_have_names_of_their_own() -> None:
    """Two counts by the same key: the second is numbered, in the order of the outputs."""
    ctx = ars.StreamingContext()
    rows = ctx.read.memory({"k": pl.Int64})
    rows.group_by("k").agg(pl.len()).write.memory("one")
    rows.group_by("k").agg(n=pl.len()).write.memory("two")
    assert "state group_by k: " in ctx.explain()
    assert "state group_by k (2): " in ctx.explain()


def test_a_notebook_shows_the_picture(ctx: ars.StreamingContext) -> None:
    """Of a frame and of a context; a context without outputs has no plan."""
    frame = ctx.read.memory({"k": pl.Int64}).filter(pl.col("k") > 0)
    assert frame.explain("svg") in frame._repr_html_()
    assert ctx.explain("svg") in ctx._repr_html_()
    assert "<svg" not in ars.StreamingContext()._repr_html_()
