"""The socket source: lines from a TCP server."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator

import polars as pl
import pyarrow as pa
import pytest

import arrowstream as ars
from arrowstream.connectors.source import EndOfStream
from arrowstream.errors import PlanError, SourceError
from arrowstream.sources.socket import SocketReader, SocketSource
from arrowstream.testing.line_server import LineServer
from arrowstream.testing.source_suite import SourceSuite, Supply, polled, reading


@pytest.fixture
def server() -> Iterator[LineServer]:
    with LineServer() as server:
        yield server


class TextSupply(Supply):
    malformed = 2

    def __init__(self, server: LineServer) -> None:
        self._server = server

    def source(self) -> SocketSource:
        return SocketSource(self._server.address)

    def feed(self, first: int, count: int) -> pl.DataFrame:
        lines = [f"line número {n}" for n in range(first, first + count)]
        self._server.send(lines)
        return pl.DataFrame({"line": lines})

    def feed_malformed(self) -> None:
        self._server.send_bytes(b"caf\xe9\n\xff\xfe\n")

    def end(self) -> None:
        self._server.disconnect()


class NdjsonSupply(TextSupply):
    malformed = 4

    def source(self) -> SocketSource:
        return SocketSource(self._server.address, "ndjson", {"n": pl.Int64, "name": pl.String})

    def feed(self, first: int, count: int) -> pl.DataFrame:
        records = [{"n": n, "name": f"name {n}"} for n in range(first, first + count)]
        self._server.send([json.dumps(record) for record in records])
        return pl.DataFrame(records)

    def feed_malformed(self) -> None:
        self._server.send_bytes(b'{"n": 1\n{"n": "one"}\n[1]\n{"name": "\xff"}\n')


class TestSocketText(SourceSuite):
    @pytest.fixture
    def supply(self, server: LineServer) -> TextSupply:
        return TextSupply(server)


class TestSocketNdjson(SourceSuite):
    @pytest.fixture
    def supply(self, server: LineServer) -> NdjsonSupply:
        return NdjsonSupply(server)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":99", "localhost:http", "h:0", "h:70000", "::1:99"])
def test_an_address_of_another_form_is_refused_at_once(address: str) -> None:
    with pytest.raises(PlanError, match=r"host:port|in brackets"):
        SocketSource(address)


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert (SocketSource("[::1]:99").host, SocketSource("[::1]:99").port) == ("::1", 99)


def test_it_says_that_nothing_listens_and_what_to_do() -> None:
    """The first mistake of everyone: the context is started before the server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    source = SocketSource(f"127.0.0.1:{port}")
    with pytest.raises(ConnectionRefusedError, match=rf"nothing listens at 127.0.0.1:{port} .*nc -lk {port}"):
        source.open(source.address, None)


def test_a_line_that_comes_in_pieces_is_one_row(server: LineServer) -> None:
    source = SocketSource(server.address)
    with reading(source) as reader:
        for piece in (b"one l", b"in"):
            server.send_bytes(piece)
            assert reader.poll(0.02) is None
        server.send_bytes(b"e\nano")
        assert polled(source, reader, 1)["line"].to_list() == ["one line"]
        server.send_bytes(b"ther\n")
        assert polled(source, reader, 1)["line"].to_list() == ["another"]
        assert reader.position() == 2


def test_the_last_line_needs_no_end(server: LineServer) -> None:
    """`printf 'a\\nb' | nc -l 9999`."""
    source = SocketSource(server.address).bounded()
    with reading(source) as reader:
        server.send_bytes(b"a\n\nb\r\nlast")
        server.disconnect()
        assert polled(source, reader, None)["line"].to_list() == ["a", "", "b", "last"]
        assert reader.position() == 4


def test_a_server_that_closes_is_connected_to_again(server: LineServer) -> None:
    """The engine opens the split again, from the position, when a `ConnectionError` comes."""
    source = SocketSource(server.address)
    with reading(source) as reader:
        server.send(["before"])
        polled(source, reader, 1)
        server.disconnect()
        with pytest.raises(ConnectionError, match="closed the connection"):
            reader.poll(60)
        position = reader.position()
    with reading(source, position) as reader:
        server.send(["after"])
        polled(source, reader, 1)
        assert reader.position() == 2


def test_a_connection_that_breaks_within_a_line_gives_the_piece_to_the_rejects() -> None:
    """A server that is killed, or a network that fails: nobody knows whether the line was whole."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = SocketSource(f"127.0.0.1:{listener.getsockname()[1]}").bounded()
        with reading(source) as reader:
            client, _ = listener.accept()
            client.sendall(b"whole\nhal")
            polled(source, reader, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()  # with a reset
            assert isinstance(reader, SocketReader)
            assert reader.poll(10) is None
            refused = reader.rejects()
            assert refused is not None
            assert refused["raw"].to_pylist() == [b"hal"]
            assert "broke within this line" in refused["reason"][0].as_py()
            with pytest.raises(ConnectionError, match="broke"):
                reader.poll(0)


def test_a_line_without_end_does_not_fill_the_memory(server: LineServer) -> None:
    """Somebody sends a film to the port."""
    source = SocketSource(server.address, longest_line=1000)
    with reading(source) as reader:
        server.send_bytes(b"first\n" + b"x" * 100_000 + b"\nsecond\n")
        refused: list[pa.RecordBatch] = []
        assert polled(source, reader, 2, refused)["line"].to_list() == ["first", "second"]
        [batch] = refused
        assert batch["raw"].to_pylist() == [b"x" * 1000]
        assert batch["reason"].to_pylist() == [
            "the line is 100000 bytes long, and 1000 are allowed; this is its beginning (longest_line= allows more)"
        ]
        assert reader.position() == 3


def test_each_connection_has_its_csv_header(server: LineServer) -> None:
    source = SocketSource(server.address, "csv", {"n": pl.Int64, "word": pl.String}, has_header=True).bounded()
    for _ in range(2):
        with reading(source) as reader:
            server.send(["word,other,n", "a,x,1", "b,y,2"])
            assert polled(source, reader, 2).rows() == [(1, "a"), (2, "b")]
        server.disconnect()


def test_a_csv_header_without_a_column_is_an_error(server: LineServer) -> None:
    source = SocketSource(server.address, "csv", {"n": pl.Int64}, has_header=True)
    with reading(source) as reader:
        server.send(["word,other", "a,x"])
        with pytest.raises(SourceError, match="names none of the columns 'n'; it has: word, other"):
            reader.poll(10)


def test_acknowledged_lines_are_answered_by_their_number() -> None:
    """A sender that wants no line lost keeps what was not answered, and sends it again over the next connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = SocketSource(f"127.0.0.1:{listener.getsockname()[1]}", ack=True)
        with reading(source, 100) as reader:
            sender, _ = listener.accept()
            with sender, sender.makefile() as answers:
                sender.sendall(b"a\n\nb\n")
                polled(source, reader, 3)
                assert reader.position() == 103
                reader.acknowledge(100)  # of the connection before
                reader.acknowledge(102)
                assert answers.readline() == "ACK 2\n"
                reader.acknowledge(101)
                reader.acknowledge(103)
                assert answers.readline() == "ACK 3\n"


def test_a_sender_that_does_not_listen_to_its_answers_blocks_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        source = SocketSource(f"127.0.0.1:{listener.getsockname()[1]}", ack=True)
        with reading(source) as reader:
            sender, _ = listener.accept()
            with sender:
                for n in range(1, 300_001, 3):
                    reader.acknowledge(n)
                with sender.makefile() as answers:
                    told = 0
                    while told < 299_998:
                        assert reader.poll(0) is None
                        line = answers.readline()
                        assert line.startswith("ACK ")
                        assert int(line.split()[1]) > told
                        told = int(line.split()[1])


def test_rows_at_a_high_rate_come_in_large_batches(server: LineServer) -> None:
    """Work is per buffer: a hundred thousand lines must not be a hundred thousand polls."""
    payload = b"".join(b"line %d\n" % n for n in range(200_000))
    sender = threading.Thread(target=server.send_bytes, args=(payload,))
    source = SocketSource(server.address)
    with reading(source) as reader:
        sender.start()
        sizes: list[int] = []
        while sum(sizes) < 200_000:
            rows = reader.poll(10)
            assert isinstance(rows, pa.RecordBatch)
            sizes.append(rows.num_rows)
        sender.join()
        assert reader.position() == 200_000
    assert len(sizes) < 500


def test_a_closed_reader_has_ended(server: LineServer) -> None:
    source = SocketSource(server.address)
    reader = source.open(source.address, None)
    reader.close()
    with pytest.raises(EndOfStream):
        reader.poll(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_last_line_is_acknowledged_before_the_connection_closes(workers: int) -> None:
    """A sender that minds ACK sends again what was not named: a graceful stop must leave nothing to send again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        ctx = ars.StreamingContext(batch_interval="20ms", workers=workers)
        ctx.read.socket(f"{host}:{port}", ack=True).write.memory("lines")
        starting = threading.Thread(target=ctx.start)
        starting.start()
        client, _ = server.accept()
        starting.join(60)
        with client, client.makefile("rb") as answers:
            client.sendall(b"one\ntwo\nthree\n")
            ctx.process_all_available(timeout=30)
            client.sendall(b"four\n")
            ctx.stop(timeout=60)
            told = answers.read().decode().splitlines()
        assert told[-1] == "ACK 4"
        assert len(ctx.sql("FROM lines")) == 4
