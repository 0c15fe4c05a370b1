"""Reading of MATLAB files: version 7.3, which is HDF5, and the older ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import scipy.io


class MatFile:
    """The variables of a MATLAB file of any version, axes in MATLAB's order; a context manager, closed on leaving.

    Raises:
        ValueError: here and in every method, naming the file, if it is missing, is no MATLAB file, is cut short or
            lacks what is asked for.
    """

    def __init__(self, path: Path):
        self.path = path
        with _naming(path):
            self._variables: Mapping = h5py.File(path, "r") if h5py.is_hdf5(path) else scipy.io.loadmat(path)

    def __enter__(self) -> "MatFile":
        return self

    def __exit__(self, *error) -> None:
        if isinstance(self._variables, h5py.File):
            self._variables.close()

    def read_array(self, name: str, *shape: int | None) -> np.ndarray:
        """A numeric variable of that shape, None for any length, as float64 whatever integers the file holds."""
        value = self._find(name)
        with _naming(f"{self.path}: {name}"):
            array = np.array(_load(value), dtype=np.float64)
        if array.ndim != len(shape) or any(
            wanted not in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
        ):
            wanted = " x ".join("N" if length is None else str(length) for length in shape)
            raise ValueError(f"{self.path}: {name} must be {wanted}, but got {_shape(array)}")
        return array

    def read_strings(self, name: str) -> list[str]:
        """A cell array of strings, by columns."""
        cells = self._cells(name)
        return [self._read_string(name, number, cells) for number in range(1, len(cells) + 1)]

    def count_cells(self, name: str) -> int:
        return len(self._cells(name))

    def read_cells(self, name: str, numbers) -> Iterator[np.ndarray]:
        """The cells of an array, counted from 1 by columns, one after another; HDF5 keeps the others on the disk."""
        cells = self._cells(name)
        for number in numbers:
            yield self._read_cell(name, number, cells)

    def _find(self, name: str):
        with _naming(self.path):
            names = sorted(key for key in self._variables if not key.startswith(("__", "#")))
            if name in names:
                return self._variables[name]
        raise ValueError(f"{self.path} must hold the variable {name}, but got {', '.join(names) or 'none'}")

    def _cells(self, name: str) -> np.ndarray:
        value = self._find(name)
        with _naming(f"{self.path}: {name}"):
            array = _load(value)
            is_cell = h5py.check_ref_dtype(value.dtype) if isinstance(value, h5py.Dataset) else array.dtype == object
        if not is_cell:
            raise ValueError(f"{self.path}: {name} must be a cell array, but got {_shape(array)} {array.dtype}")
        return array.ravel(order="F")

    def _read_cell(self, name: str, number: int, cells: np.ndarray) -> np.ndarray:
        with _naming(f"{self.path} row {number}: {name}"):
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
    """HDF5 keeps MATLAB's columns as rows: its axes come reversed."""
    return value[()].T if isinstance(value, h5py.Dataset) else np.asarray(value)


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape))


@contextmanager
def _naming(what) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # scipy raises whatever its parser trips over, h5py OSError, KeyError and others
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what} must be MATLAB data that can be read whole, but got: {reason}") from error
