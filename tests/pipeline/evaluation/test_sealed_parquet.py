"""Parquet files with a checksum: any reader reads them, and pyarrow is given none that is damaged."""

import io
import random

import pytest

from swa_cli.pipeline.evaluation.sealed_parquet import check_seal, seal

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def table():
    return pa.table({"a": list(range(50)), "b": [str(number) for number in range(50)]})


@pytest.fixture(scope="module")
def plain(table):
    stream = io.BytesIO()
    parquet.write_table(table, stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def sealed(plain):
    stream = io.BytesIO(plain)
    seal(stream)
    return stream.getvalue()


def test_it_stays_the_same_table(table, sealed):
    check_seal(io.BytesIO(sealed))

    assert parquet.read_table(io.BytesIO(sealed)).equals(table)


def test_every_damaged_byte_is_found(sealed):
    chosen = random.Random(0)
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1 << chosen.randrange(8)
        with pytest.raises(ValueError, match="checksum"):
            check_seal(io.BytesIO(damaged))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:50]])
def test_another_length_is_found(sealed, change):
    with pytest.raises(ValueError, match="checksum"):
        check_seal(io.BytesIO(change(sealed)))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"x" * 100, b"\xff" * 100])
def test_what_is_no_such_file_has_no_checksum(content):
    with pytest.raises(ValueError, match="it has no checksum before its footer"):
        check_seal(io.BytesIO(content))


def test_a_table_of_another_program_has_no_checksum(plain):
    with pytest.raises(ValueError, match="it has no checksum before its footer"):
        check_seal(io.BytesIO(plain))
