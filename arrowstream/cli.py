"""The command line: `arrowstream run app.py`, `arrowstream sql "SELECT ..." --at DIR_OR_FILE`."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

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

    Ctrl-C stops them gracefully: what has arrived is finished.
    """
    import runpy

    from arrowstream.context import WORKERS_VARIABLE, contexts, stop_all
    from arrowstream.errors import ArrowStreamError

    if workers is not None:
        os.environ[WORKERS_VARIABLE] = str(workers)
    sys.argv = [str(app), *args]
    sys.path.insert(0, str(app.resolve().parent))
    line = ProgressLine() if (sys.stderr.isatty() if progress is None else progress) else None
    try:
        runpy.run_path(str(app), run_name="__main__")
        for context in list(contexts):
            context.await_termination()
            context.stop()
    except KeyboardInterrupt:
        if line is not None:
            line.end()
        click.echo("stopping: finishing what has arrived (Ctrl-C again to leave at once)", err=True)
        stop_all()
    except ArrowStreamError as error:
        if line is not None:
            line.end()
        raise click.ClickException(f"{type(error).__name__}: {error}") from error
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
    """One line on standard error, drawn again and again: rows/s in and out, batch time, lag."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._seen: dict[int, tuple[float, int, int]] = {}
        self._drawn = 0
        threading.Thread(target=self._run, name="progress", daemon=True).start()

    def end(self) -> None:
        """Take the line away."""
        if not self._over.is_set():
            self._over.set()
            self._draw("")

    def _run(self) -> None:
        while not self._over.wait(LINE_SECONDS):
            if "arrowstream.context" in sys.modules:
                from arrowstream.context import contexts

                text = " | ".join(self._describe(context) for context in list(contexts))
                if not self._over.is_set():
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
        text += f"in {(rows_in - before[1]) / seconds:,.0f} rows/s, out {(rows_out - before[2]) / seconds:,.0f}"
        if last is not None:
            text += f", batch {last.seconds * 1000:.1f} ms, lag {last.lag * 1000:.0f} ms"
        if progress.dead_letters:
            text += f", {progress.dead_letters:,} dead letters"
        return f"{text}, {progress.batches:,} batches"

    def _draw(self, text: str) -> None:
        width = os.get_terminal_size(2).columns - 1 if sys.stderr.isatty() else 200
        text = text[:width]
        sys.stderr.write("\r" + text + " " * max(0, self._drawn - len(text)) + ("\r" if not text else ""))
        sys.stderr.flush()
        self._drawn = len(text)


if __name__ == "__main__":
    main()
