"""Arrays, tables and tensors that a stranger may have written: their headers are checked before anything is read.

``.npy`` files hold numbers only, parquet tables plain columns only, and no file may claim to hold more than it has or
than a process can take.
"""

import math
import os
import re
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lwexplain.errors import RunError
from lwexplain.run.files import RunFiles, remedy
from lwexplain.run.parsing import parse_json
from lwexplain.table import attach

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MOST_TABLE = 512 * 2**20
"""Bytes of a parquet file, and of its columns when they are unpacked."""

MOST_CELLS = 2**25
"""Rows times columns of a parquet file."""

MOST_COLUMNS = 64
MOST_HEADER = 100 * 10**6
"""Bytes of the header of a safetensors file, as the format has it."""

ARRAY_HEADER = re.compile(
    rb"\{'descr': '([<|][biuf][1248])', 'fortran_order': False, 'shape': \(((?:\d{1,18}, ?){0,5}\d{0,18}),?\), ?\} *\n"
)
"""Numbers in the order of C, of at most six dimensions."""

TENSOR_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
                "U64": 8, "I64": 8, "F64": 8}  # fmt: skip


def map_array(files: RunFiles, name: str) -> np.ndarray:
    """A ``.npy`` file of numbers, memory-mapped and read-only; raises RunError where it is damaged."""
    with files.open(name) as file:
        try:
            shape, dtype, offset = _array_header(file)
            if math.prod(shape) == 0:
                return np.empty(shape, dtype)
            return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape)  # type: ignore[no-any-return]
        except (OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
            raise _damaged(files, name, error) from None


def write_array(files: RunFiles, name: str, array: np.ndarray) -> None:
    """Write a ``.npy`` file of numbers, whole or not at all."""
    with files.replacing(name) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def read_table(files: RunFiles, name: str) -> "pd.DataFrame":
    """A parquet file of numbers and texts with its ``attrs``; raises RunError where it is damaged or too large.

    Texts that were written as categories come back as such, whole numbers with gaps as ``Int64``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with files.open(name, MOST_TABLE) as file:
        try:
            opened = pq.ParquetFile(file)
            _check_table(opened)
            texts = [field.name for field in opened.schema_arrow if _is_text(field.type)]
            table = pq.ParquetFile(file, read_dictionary=texts).read()
            attrs = _attrs(table)
            frame = _frame(table, opened.schema_arrow)
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError, OverflowError) as error:
            raise _damaged(files, name, error) from None
    return attach(frame, attrs)


def write_table(files: RunFiles, name: str, frame: "pd.DataFrame") -> None:
    """Write a parquet file, whole or not at all; raises RunError for one that ``read_table`` would refuse."""
    if frame.size > MOST_CELLS:
        raise RunError(
            f"{files.path(name)} would hold {frame.size:,} values, at most {MOST_CELLS:,} are kept; "
            "analyze fewer images with --max-samples"
        )
    with files.replacing(name) as temporary:
        frame.to_parquet(temporary, index=False)


def check_tensors(file: BinaryIO) -> dict[str, str]:
    """Check the header of a safetensors file against its size and return its metadata; raises ValueError."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > min(MOST_HEADER, size - 8):
        raise ValueError("it is cut short")
    header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a mapping")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts")
    for entry in header.values():
        _check_tensor(entry, size - 8 - length)
    return metadata


def _check_tensor(entry: Any, size: int) -> None:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = [*shape, start, end]
        fits = all(type(number) is int and number >= 0 for number in whole) and len(shape) <= 32
        fits = fits and start <= end <= size and end - start == math.prod(shape) * TENSOR_BYTES[dtype]
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError("its header does not fit its content")


def _array_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and offset of the numbers of a ``.npy`` file that are all there; raises ValueError."""
    start = file.read(10)
    found = re.fullmatch(ARRAY_HEADER, file.read(int.from_bytes(start[8:10], "little")))
    if start[:8] != b"\x93NUMPY\x01\x00" or found is None:
        raise ValueError("it holds no plain numbers")
    dtype = np.dtype(found[1].decode())
    shape = tuple(int(side) for side in found[2].split(b",") if side.strip())
    offset = file.tell()
    size = os.fstat(file.fileno()).st_size - offset
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError("its header does not fit its size")
    return shape, dtype, offset


def _check_table(opened: Any) -> None:
    import pyarrow as pa

    about = opened.metadata
    if about.num_columns > MOST_COLUMNS or about.num_columns != len(opened.schema_arrow):
        raise ValueError(f"it has {about.num_columns:,} columns, expected at most {MOST_COLUMNS} plain ones")
    if not 0 <= about.num_rows * max(1, about.num_columns) <= MOST_CELLS:
        raise ValueError(f"it has {about.num_rows:,} rows, more than fit")
    if len(set(opened.schema_arrow.names)) < about.num_columns:
        raise ValueError("it has two columns of one name")
    for field in opened.schema_arrow:
        plain = pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null
        if not (_is_text(field.type) or any(test(field.type) for test in plain)):
            raise ValueError("it has columns that hold neither numbers nor text")
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    if any(group.num_rows < 0 for group in groups) or sum(group.num_rows for group in groups) != about.num_rows:
        raise ValueError("its parts do not add up")
    if sum(group.total_byte_size for group in groups) > MOST_TABLE:
        raise ValueError(f"it unpacks to more than {MOST_TABLE:,} bytes")


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _frame(table: "pa.Table", written: "pa.Schema") -> "pd.DataFrame":
    """The columns as pandas has them: nothing is taken from what the file says of pandas."""
    import pandas as pd
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if _is_text(column.type) and not pa.types.is_dictionary(written.field(name).type):
            columns[name] = pd.Series(_texts(column), dtype="object")
        elif pa.types.is_integer(column.type) and column.null_count:
            columns[name] = column.to_pandas(integer_object_nulls=True).astype("Int64")
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns, columns=table.column_names)


def _texts(column: "pa.ChunkedArray") -> np.ndarray:
    """The texts of a column that was read as a dictionary, None where there is none: equal ones are one object."""
    found = [np.empty(0, dtype="object")]
    for chunk in column.chunks:
        words = np.array([*chunk.dictionary.to_pylist(), None], dtype="object")
        found.append(words[chunk.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)])
    return np.concatenate(found)


def _attrs(table: "pa.Table") -> dict[str, Any]:
    raw = (table.schema.metadata or {}).get(b"PANDAS_ATTRS", b"{}")
    attrs = parse_json(raw)
    if not isinstance(attrs, dict):
        raise ValueError("its attributes are not a mapping")
    return attrs


def _damaged(files: RunFiles, name: str, error: Exception) -> RunError:
    text = " ".join(str(error).split())
    reason = text if isinstance(error, ValueError) and len(text) < 80 else "it is no whole file of its kind"
    return RunError(f"{files.path(name)} cannot be read ({reason}); {remedy(name)}")
