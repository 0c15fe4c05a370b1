"""Reading of MATLAB files: version 7.3, which is HDF5, and the older ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import scipy.io


class MatFile:
    """The variables of a MATLAB file of any version, with axes in MATLAB's order. A context manager closes the file.

    Raises:
        ValueError: if the file is missing, is no MATLAB file, is truncated or lacks a variable. Every method raises it
            too; the message names the file.
    """

    def __init__(self, path: Path):
        self.path = path
        with _as_value_error(path):
            self._variables: Mapping = h5py.File(path, "r") if h5py.is_hdf5(path) else scipy.io.loadmat(path)

    def __enter__(self) -> "MatFile":
        return self

    def __exit__(self, *error) -> None:
        if isinstance(self._variables, h5py.File):
            self._variables.close()

    def read_array(self, name: str, *shape: int | None) -> np.ndarray:
        """A numeric variable of this shape, with None for any length, converted to float64."""
        value = self._find(name)
        with _as_value_error(f"{self.path}: {name}"):
            array = np.array(_load(value), dtype=np.float64)
        if array.ndim != len(shape) or any(
            length not in (None, size) for length, size in zip(shape, array.shape, strict=True)
        ):
            lengths = " x ".join("N" if length is None else str(length) for length in shape)
            raise ValueError(f"{self.path}: {name} must be {lengths}, but got {_shape(array)}")
        return array

    def read_strings(self, name: str) -> list[str]:
        """The strings of a cell array, column by column."""
        cells = self._cells(name)
        return [self._read_string(name, number, cells) for number in range(1, len(cells) + 1)]

    def count_cells(self, name: str) -> int:
        return len(self._cells(name))

    def read_cells(self, name: str, numbers) -> Iterator[np.ndarray]:
        """The cells of an array, one after another; `numbers` count from 1, column by column. HDF5 reads no others."""
        cells = self._cells(name)
        for number in numbers:
            yield self._read_cell(name, number, cells)

    def _find(self, name: str):
        with _as_value_error(self.path):
            names = sorted(key for key in self._variables if not key.startswith(("__", "#")))
            if name in names:
                return self._variables[name]
        raise ValueError(f"{self.path} must hold the variable {name}, but got {', '.join(names) or 'none'}")

    def _cells(self, name: str) -> np.ndarray:
        value = self._find(name)
        with _as_value_error(f"{self.path}: {name}"):
            array = _load(value)
            is_cell = h5py.check_ref_dtype(value.dtype) if isinstance(value, h5py.Dataset) else array.dtype == object
        if not is_cell:
            raise ValueError(f"{self.path}: {name} must be a cell array, but got {_shape(array)} {array.dtype}")
        return array.ravel(order="F")

    def _read_cell(self, name: str, number: int, cells: np.ndarray) -> np.ndarray:
        with _as_value_error(f"{self.path} row {number}: {name}"):
            cell = cells[number - 1]
            return _load(self._variables[cell]) if isinstance(cell, h5py.Reference) else np.asarray(cell)

    def _read_string(self, name: str, number: int, cells: np.ndarray) -> str:
        letters = self._read_cell(name, number, cells).ravel(order="F")
        if letters.dtype == np.uint16:  # version 7.3 holds the code of each letter
            return letters.astype("<u2").tobytes().decode("utf-16-le", "replace")
        if letters.dtype.kind != "U":
            raise ValueError(f"{self.path} row {number}: {name} must be text, but got {letters.dtype}")
        return "".join(letters)


def _load(value) -> np.ndarray:
    """The array with axes in MATLAB's order, which HDF5 stores reversed."""
    return value[()].T if isinstance(value, h5py.Dataset) else np.asarray(value)


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape))


@contextmanager
def _as_value_error(what) -> Iterator[None]:
    """Raises any error of the readers as a ValueError of one line that names `what`."""
    try:
        yield
    except Exception as error:  # scipy's parser raises errors of many types, and h5py OSError, KeyError and others
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what} must be MATLAB data that can be read whole, but got: {reason}") from error
