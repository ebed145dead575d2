"""What a stream frame takes, and what it refuses at the line where it is asked."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from apart import PLANS, Apart, source

import arrowstream
from arrowstream import StreamFrame
from arrowstream.connectors.changes import Append, Retract, Upsert
from arrowstream.errors import ArrowStreamError, ColumnError, NotRowLocalError, PlanError
from arrowstream.operators.aggregate import MergeAggregate
from arrowstream.plan.methods import METHODS, Rows

SCHEMA = pl.Schema(
    {"shop": pl.String(), "price": pl.Float64(), "n": pl.Int64(), "tags": pl.List(pl.String()), "at": pl.Datetime("us")}
)


@pytest.fixture
def orders() -> StreamFrame:
    return source("orders", SCHEMA)


def test_a_frame_knows_its_columns_before_any_row(orders: StreamFrame) -> None:
    """A notebook shows what a call gives as soon as it is made."""
    made = orders.select("shop", total=pl.col("price") * pl.col("n"))
    assert made.schema == pl.Schema({"shop": pl.String(), "total": pl.Float64()})
    assert made.columns == ["shop", "total"]
    assert made.kind == Append()
    assert repr(made) == "<StreamFrame shop: String, total: Float64; append-only>"
    assert made.group_by("shop").agg(pl.len()).kind == Upsert(("shop",))


def test_a_frame_is_never_changed(orders: StreamFrame) -> None:
    """Two branches of one frame do not know each other."""
    orders.filter(pl.col("n") > 1)
    left, right = orders.drop("tags"), orders.rename({"n": "count"})
    assert orders.schema == SCHEMA
    assert "tags" not in left.columns
    assert "n" in left.columns
    assert right.columns == ["shop", "price", "count", "tags", "at"]


Ask = Callable[[StreamFrame], Any]

WRONG: list[tuple[str, Ask, type[ArrowStreamError], str]] = [
    ("a column that is not there", lambda f: f.select("pricee"), ColumnError, r"pricee.*price"),
    ("one in an expression", lambda f: f.filter(pl.col("nn") > 1), ColumnError, "nn"),
    ("one to be renamed", lambda f: f.rename({"x": "y"}), PlanError, "x"),
    ("one to be dropped", lambda f: f.drop("x"), PlanError, "x"),
    ("one to group by", lambda f: f.group_by("x").agg(pl.len()), ColumnError, "x"),
    ("one to be summed", lambda f: f.group_by("shop").agg(pl.col("x").sum()), ColumnError, "x"),
    ("a predicate that is no Boolean", lambda f: f.filter(pl.col("n")), PlanError, "Boolean"),
    ("arithmetic on words", lambda f: f.select(pl.col("shop") * 2), PlanError, "shop|str"),
    ("names given twice", lambda f: f.select("n", pl.col("price").alias("n")), PlanError, "n"),
    ("a mean in between", lambda f: f.select(pl.col("n") - pl.col("n").mean()), NotRowLocalError, "mean"),
    ("a shift", lambda f: f.with_columns(pl.col("n").shift()), NotRowLocalError, "shift"),
    ("a window in a filter", lambda f: f.filter(pl.col("n").sum().over("shop") > 1), NotRowLocalError, "over"),
    ("a filter by a maximum", lambda f: f.filter(pl.col("n") == pl.col("n").max()), NotRowLocalError, "max"),
    ("a cumulated sum", lambda f: f.select(pl.col("n").cum_sum()), NotRowLocalError, "cum"),
    ("constants alone", lambda f: f.select(pl.lit(1)), NotRowLocalError, "one row for every batch"),
    ("a fill by neighbours", lambda f: f.fill_null(strategy="forward"), NotRowLocalError, "fill_null"),
    ("a fill with a limit", lambda f: f.fill_null(limit=2), PlanError, "fill_null"),
    ("a fill with an average", lambda f: f.fill_null(pl.col("n").mean()), NotRowLocalError, "mean"),
    ("an order of groups", lambda f: f.group_by("shop", maintain_order=True), PlanError, "order"),
    ("an aggregate of nothing", lambda f: f.agg(), PlanError, "at least one aggregate"),
    ("a key that looks around", lambda f: f.group_by(pl.col("n").rank()), NotRowLocalError, "rank"),
    ("a median of text", lambda f: f.group_by("shop").agg(pl.col("n").str.len_bytes().median()), PlanError, "String"),
    ("SQL that aggregates", lambda f: f.sql("SELECT count(*) FROM self"), NotRowLocalError, "group_by"),
    ("SQL with an unknown column", lambda f: f.sql("SELECT nn FROM self"), PlanError, "nn"),
    ("SQL with an error", lambda f: f.sql("SELECT FROM WHERE"), PlanError, "frame.sql"),
    ("the source of a computed frame", lambda f: f.select("n").source, PlanError, "ctx.read"),
]


@pytest.mark.parametrize(("ask", "error", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_wrong_fails_at_its_line(
    orders: StreamFrame, ask: Ask, error: type[ArrowStreamError], said: str
) -> None:
    """A typing error shows while the program is written, not in the batch at three in the morning."""
    with pytest.raises(error, match=f"(?s){said}") as raised:
        ask(orders)
    assert isinstance(raised.value, ArrowStreamError)


@pytest.mark.parametrize("name", sorted(name for name, entry in METHODS.items() if not isinstance(entry, Rows)))
def test_a_method_of_lazyframe_that_a_stream_has_not_says_what_to_call(orders: StreamFrame, name: str) -> None:
    """A Polars user types what they know."""
    if hasattr(StreamFrame, name):
        return
    with pytest.raises(PlanError, match=name) as raised:
        getattr(orders, name)
    assert isinstance(raised.value, AttributeError)
    assert not hasattr(orders, name)


def test_other_names_are_plain_attribute_errors(orders: StreamFrame) -> None:
    """What copies, pickles and inspects objects asks for names that nobody has."""
    with pytest.raises(AttributeError, match="nonsense"):
        _ = orders.nonsense
    assert not hasattr(orders, "_repr_mimebundle_")
    assert copy.copy(orders).schema == orders.schema
    assert pickle.loads(pickle.dumps(SCHEMA)) == SCHEMA


def test_every_recorded_method_is_there(orders: StreamFrame) -> None:
    """What the table of methods calls row-local can be called."""
    missing = {name for name, entry in METHODS.items() if isinstance(entry, Rows) and not hasattr(StreamFrame, name)}
    assert missing <= {"match_to_schema", "select_seq", "with_columns_seq"}


# --- map_batches


def test_map_batches_is_asked_once_what_it_gives(orders: StreamFrame) -> None:
    """A model's columns need not be written down where an empty frame shows them."""
    asked: list[int] = []

    def model(frame: pl.DataFrame) -> pl.DataFrame:
        asked.append(frame.height)
        return frame.select(score=pl.col("n") * 2.0)

    assert orders.map_batches(model).schema == pl.Schema({"score": pl.Float64()})
    assert asked == [0]


def test_map_batches_with_a_schema_is_not_asked(orders: StreamFrame) -> None:
    """A function that cannot take an empty frame."""

    def fails(frame: pl.DataFrame) -> pl.DataFrame:
        raise ZeroDivisionError

    assert orders.map_batches(fails, schema={"a": pl.Int64}).columns == ["a"]
    with pytest.raises(PlanError, match=r"failed on an empty frame \(ZeroDivisionError.*schema=") as raised:
        orders.map_batches(fails)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_map_batches_must_give_a_frame(orders: StreamFrame) -> None:
    """The `return` was forgotten."""
    with pytest.raises(PlanError, match="gave NoneType, it must give a DataFrame"):
        orders.map_batches(lambda frame: None)  # type: ignore[arg-type,return-value]


def test_what_map_batches_gives_is_held_to_its_first_answer(orders: StreamFrame) -> None:
    """A function gives integers of nothing and floats of something."""
    frame = source(schema=pl.Schema({"a": pl.Int64()}))
    rows = pl.DataFrame({"a": [1, 2]})
    changing = frame.map_batches(lambda at: at.select(pl.col("a").cast(pl.Float64)) if at.height else at)
    with pytest.raises(PlanError, match=r"map_batches.*Float64.*the schema is.*Int64"):
        changing.check(rows)


def test_check_finds_a_function_that_looks_at_other_rows() -> None:
    """The user vouches that a function works row by row; `check` finds out."""
    frame = source(schema=pl.Schema({"a": pl.Int64()}))
    rows = pl.DataFrame({"a": range(20)})
    frame.map_batches(lambda at: at.with_columns(b=pl.col("a") + 1)).check(rows)
    with pytest.raises(AssertionError, match=r"cut into pieces of .* the answer differs from one shot"):
        frame.map_batches(lambda at: at.with_columns(b=pl.col("a").rank())).check(rows)


def test_check_compares_with_a_reading_that_shares_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that is the same in one batch and in many: where an operator gives nothing, both give nothing."""
    frame = source().group_by("k").agg(pl.len())
    rows = pl.DataFrame({"k": ["a", "b"], "v": [1, 2]})
    frame.check(rows)
    monkeypatch.setattr(MergeAggregate, "process", lambda self, inputs, moment: self.nothing())
    with pytest.raises(
        AssertionError, match=r"run as a stream, all rows in one batch, the answer differs(?s:.)*one shot:"
    ):
        frame.check(rows)


def test_check_holds_rows_to_the_sources() -> None:
    """The rows to check with come from a file that has other types."""
    left, right = source("left"), source("right")
    rows = pl.DataFrame({"k": ["a"], "v": [1]})
    left.check(rows)
    both = arrowstream.concat([left, right])
    both.check({"left": rows, "right": rows})
    with pytest.raises(PlanError, match="give the rows of each"):
        both.check(rows)
    with pytest.raises(PlanError, match=r"no rows are given for source 'right'"):
        both.check({"left": rows})
    with pytest.raises(PlanError, match=r"source 'left': column 'v' is String and should be Int64"):
        left.check(pl.DataFrame({"k": ["a"], "v": ["b"]}))


# --- several frames


def test_concat_wants_frames_that_fit(orders: StreamFrame) -> None:
    """Two sources of one kind of row, but for a detail."""
    with pytest.raises(PlanError, match="at least one"):
        arrowstream.concat([])
    with pytest.raises(PlanError, match=r"the frames differ.*cast or select"):
        arrowstream.concat([orders, orders.cast({"n": pl.Int32})])
    with pytest.raises(PlanError, match="the frames differ"):
        arrowstream.concat([orders, orders.select("price", "shop", "n", "tags", "at")])
    with pytest.raises(PlanError, match="different contexts"):
        arrowstream.concat([orders, source("orders", SCHEMA, Apart())])
    assert arrowstream.concat([orders]) is orders
    assert arrowstream.concat([orders, orders]).kind == Append()
    counts = orders.group_by("shop").agg(pl.len())
    assert arrowstream.concat([counts, counts]).kind == Retract()


def test_the_short_forms_of_groups_are_those_of_polars(orders: StreamFrame) -> None:
    """`group_by("shop").sum()` and its like."""
    grouped = orders.select("shop", "n").group_by("shop")
    for name in ("sum", "mean", "min", "max", "first", "last", "n_unique", "all"):
        assert getattr(grouped, name)().columns == ["shop", "n"], name
    assert grouped.len().columns == ["shop", "len"]
    assert grouped.len("orders").columns == ["shop", "orders"]


def test_pipe_is_for_chains(orders: StreamFrame) -> None:
    """A step of one's own in a chain of calls."""
    assert orders.pipe(lambda frame, name, keep: frame.select(name, *keep), "n", keep=["at"]).columns == ["n", "at"]


def test_a_notebook_shows_a_frame(orders: StreamFrame) -> None:
    """The last line of a cell is a frame."""
    assert "price" in orders._repr_html_()
    assert "Source orders" in orders.explain()


def test_nothing_is_registered_without_write() -> None:
    """A frame that is not written is a thought, not an output."""
    assert PLANS.outputs == []
