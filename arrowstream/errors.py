"""Every error ArrowStream raises on purpose.

    ArrowStreamError
    ├── PlanError               what was asked cannot be planned; raised at the line that asks it
    │   ├── ColumnError         a column that is not there, or has another type
    │   ├── NotRowLocalError    an expression whose answer would depend on how the stream is cut
    │   └── ChangeKindError     a sink that cannot take this kind of change
    ├── ContextError            a call at the wrong time: a second start, a stop before start
    ├── SourceError             a source that cannot be opened or read
    ├── SinkError               a sink that cannot be written or committed
    ├── BatchError              a batch that failed, with its number; the cause is chained
    ├── QueryError              SQL over the outputs that cannot be answered
    ├── ClusterError            worker processes: not started, lost, or not trusted
    │   └── WorkerLostError     a worker that is gone in the middle of a call
    ├── StateError              keyed state used out of order, or damaged
    └── MissingExtraError       an optional package that is not installed (also an ImportError)

A message says what was asked, what was found, and what would work.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self


class ArrowStreamError(Exception):
    """The root: `except ArrowStreamError` catches all that the engine raises on purpose.

    What made a run fail (`BatchError`, `SinkError`) says where that was, as far as it is known: `batch_id`, the number
    of the batch; `where`, the output or the node of the plan; `line`, that of the user's own code; `rows`, up to five
    of the rows at fault as JSON, or the first of those that were at hand.
    """

    batch_id: int | None = None
    where: str = ""
    line: str = ""
    rows: tuple[str, ...] = ()

    def located(
        self, *, batch_id: int | None = None, where: str = "", line: str = "", rows: Iterable[str] = ()
    ) -> Self:
        """This error, that says where it happened."""
        self.batch_id, self.where, self.line, self.rows = batch_id, where, line, tuple(rows)
        return self


class PlanError(ArrowStreamError, ValueError):
    """What was asked cannot be planned."""


class ColumnError(PlanError):
    """A column is not there, or has a type that the call cannot take."""


class NotRowLocalError(PlanError):
    """The answer of an expression would depend on how the stream is cut into batches."""


class ChangeKindError(PlanError):
    """A node or sink cannot take the kind of change its input makes."""


class ContextError(ArrowStreamError, RuntimeError):
    """A call that does not fit the state the context is in."""


class SourceError(ArrowStreamError):
    """A source cannot be opened or read."""


class SinkError(ArrowStreamError):
    """A sink cannot be written or committed."""


class BatchError(ArrowStreamError):
    """A batch failed; `batch_id` is its number, the cause is chained."""


class QueryError(ArrowStreamError):
    """SQL over the outputs cannot be answered."""


class ClusterError(ArrowStreamError):
    """Worker processes could not be started, reached or trusted."""


class WorkerLostError(ClusterError):
    """A worker process is gone."""


class StateError(ArrowStreamError):
    """Keyed state was used out of order, or is damaged."""


class MissingExtraError(ArrowStreamError, ImportError):
    """An optional package is not installed; the message has the line that installs it."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error for a connector whose client library is not installed."""
    return MissingExtraError(f"this needs the package {package!r}: pip install 'arrowstream[{extra}]'")


def failure_text(error: BaseException, where: str = "", line: str = "", rows: Iterable[str] = ()) -> str:
    """One line: what was raised, in which output or node, at which line of the user's code, with which rows."""
    said = " ".join(next(iter(str(error).strip().splitlines()), "").split())
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if where:
        text += f"; in {where}"
    if line:
        text += f"; at {line}"
    shown = [row if len(row) <= SHOWN_CHARACTERS else row[: SHOWN_CHARACTERS - 1] + "…" for row in rows]
    return f"{text}; with {', '.join(shown)}" if shown else text


SHOWN_CHARACTERS = 200
"""The most characters of a row that a message shows."""


def kind_of(value: object) -> str:
    """What a value is, for messages; of frames of other libraries also how a Polars frame is made of them."""
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    if library == "builtins":
        return kind.__name__
    name = f"{library}.{kind.__qualname__}"
    cure = {
        "pandas": "pl.from_pandas(...)",
        "pyarrow": "pl.from_arrow(...)",
        "numpy": "pl.DataFrame(...)",
        "duckdb": "its .pl()",
    }.get(library)
    return f"{name} ({cure} makes a Polars frame of it)" if cure else name


def unknown_column(column: str, where: str, columns: Iterable[str]) -> ColumnError:
    """The error for a column that is not there, with the nearest names first."""
    names = list(columns)
    near = difflib.get_close_matches(column, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ColumnError(f"column {column!r} is not in {where}; it has: {', '.join(names)}{hint}")
