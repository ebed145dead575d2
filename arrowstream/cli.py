"""The command line: `arrowstream run app.py`, `arrowstream sql "SELECT ..." --at DIR_OR_FILE`."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from arrowstream import __version__

if TYPE_CHECKING:
    from arrowstream.context import StreamingContext

DEFAULT_NAME = "arrowstream"
"""The name of a context that was given none."""

LINE_SECONDS = 0.5
"""How often the progress line is drawn."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="arrowstream")
def main() -> None:
    """ArrowStream: a dataframe that never ends."""


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--workers", type=click.IntRange(min=0), help="Worker processes, where the program does not say.")
@click.option("--progress/--no-progress", default=None, help="Draw a progress line (default: on a terminal).")
@click.argument("app", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(app: Path, args: tuple[str, ...], workers: int | None, progress: bool | None) -> None:
    """Run a Python program and wait until the contexts it has started have ended.

    Ctrl-C stops them gracefully: what has arrived is finished. A second one leaves at once, with code 130. A context
    that fails ends the program with code 1.
    """
    import runpy

    from arrowstream.context import contexts
    from arrowstream.errors import ArrowStreamError
    from arrowstream.running import stop_all
    from arrowstream.settings import WORKERS_VARIABLE
    from arrowstream.usercode import line_of

    if workers is not None:
        os.environ[WORKERS_VARIABLE] = str(workers)
    sys.argv = [str(app), *args]
    sys.path.insert(0, str(app.resolve().parent))
    line = ProgressLine() if (sys.stderr.isatty() if progress is None else progress) else None
    try:
        runpy.run_path(str(app), run_name="__main__")
        for context in contexts():
            context.await_termination()
            context.stop()
    except KeyboardInterrupt:
        stop_all()
    except ArrowStreamError as error:
        where = error.line or line_of(error)
        said = f"{type(error).__name__}: {error}"
        raise click.ClickException(said if not where or where in said else f"{said} ({where})") from error
    finally:
        if line is not None:
            line.end()


@main.command()
@click.argument("statement")
@click.option("--at", required=True, help="A DuckDB file, a directory of Parquet files, or a directory of several.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--allow-files", is_flag=True, help="Let the statement read any file, not the outputs alone.")
def sql(statement: str, at: str, form: str, allow_files: bool) -> None:
    """Query the outputs of a context, running or finished."""
    from arrowstream.connection import connect
    from arrowstream.errors import ArrowStreamError
    from arrowstream.export import write_csv, write_json

    try:
        with connect(at, allow_files=allow_files) as outputs:
            answer = outputs.sql(statement)
            if form == "table":
                answer.show()
            elif form == "csv":
                write_csv(answer.to_arrow_table(), sys.stdout)
            else:
                write_json(answer.to_arrow_table(), sys.stdout)
    except ArrowStreamError as error:
        raise click.ClickException("\n".join([str(error), *getattr(error, "__notes__", ())])) from error


class ProgressLine:
    """One line on standard error, drawn again and again: rows/s in and out, batch time, lag.

    Until `end`, what the program prints goes through here: the line is taken away before, so that the two never share
    one, and is there again at the next drawing.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._seen: dict[int, tuple[float, int, int]] = {}
        self._drawn = 0
        self._lock = threading.RLock()
        self._error = sys.stderr
        self._streams = sys.stdout, sys.stderr
        self._unfinished = False  # the program is in the middle of a line
        sys.stdout, sys.stderr = (cast(TextIO, _Above(stream, self)) for stream in self._streams)
        threading.Thread(target=self._run, name="progress", daemon=True).start()

    def end(self) -> None:
        """Take the line away."""
        if not self._over.is_set():
            self._over.set()
            self.clear()
            sys.stdout, sys.stderr = self._streams

    @contextlib.contextmanager
    def printing(self, text: str, stream: TextIO) -> Iterator[None]:
        """While the program prints this, the line is not there."""
        with self._lock:
            self.clear()
            if text and stream.isatty():
                self._unfinished = not text.endswith("\n")
            yield

    def clear(self) -> None:
        with self._lock:
            if self._drawn:
                self._draw("")

    def _run(self) -> None:
        while not self._over.wait(LINE_SECONDS):
            if "arrowstream.context" in sys.modules:
                from arrowstream.context import contexts

                text = " | ".join(self._describe(context) for context in contexts())
                with self._lock:
                    if not self._over.is_set() and not self._unfinished:
                        self._draw(text)

    def _describe(self, context: StreamingContext) -> str:
        progress, now = context.progress, time.monotonic()
        rows_in, rows_out = progress.rows_in, sum(progress.rows_out.values())
        before = self._seen.get(id(context), (now - LINE_SECONDS, rows_in, rows_out))
        self._seen[id(context)] = (now, rows_in, rows_out)
        seconds = max(now - before[0], 1e-9)
        last = progress.last
        # What matters most comes first: a narrow terminal cuts the rest.
        text = f"{context.name}: " if context.name != DEFAULT_NAME else ""
        if context.error is not None:
            return f"{text}FAILED"
        text += f"in {(rows_in - before[1]) / seconds:,.0f} rows/s, out {(rows_out - before[2]) / seconds:,.0f}"
        if last is not None:
            text += f", batch {last.seconds * 1000:.1f} ms, lag {last.lag * 1000:.0f} ms"
        if progress.dead_letters:
            text += f", {progress.dead_letters:,} dead letters"
        return f"{text}, {progress.batches:,} batches"

    def _draw(self, text: str) -> None:
        width = os.get_terminal_size(self._error.fileno()).columns - 1 if self._error.isatty() else 200
        text = text[:width]
        self._error.write("\r" + text + " " * max(0, self._drawn - len(text)) + ("\r" if not text else ""))
        self._error.flush()
        self._drawn = len(text)


class _Above:
    """A stream of the program's that takes the progress line away before it writes."""

    def __init__(self, stream: TextIO, line: ProgressLine) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        with self._line.printing(text, self._stream):
            return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


if __name__ == "__main__":
    main()
