"""MATLAB files of version 7.3 as MATLAB itself writes them."""

import h5py
import numpy as np


def write_mat73(path, **variables):
    """Arrays become data sets; lists become cell arrays, of strings or of arrays, whose cells lie in #refs#."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if isinstance(value, list):
                _write_cells(file, name, value)
            else:
                file[name] = np.asarray(value).T
                file[name].attrs["MATLAB_class"] = np.bytes_(np.asarray(value).dtype.name)
    with open(path, "r+b") as file:
        header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2024 HDF5 schema 1.00 ."
        file.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")


def _write_cells(file, name, values):
    references = np.empty((1, len(values)), dtype=h5py.ref_dtype)  # MATLAB's N x 1
    for index, value in enumerate(values):
        cell = np.array([[ord(letter)] for letter in value], np.uint16) if isinstance(value, str) else value.T
        references[0, index] = file.require_group("#refs#").create_dataset(f"{name}_{index}", data=cell).ref
    file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
    file[name].attrs["MATLAB_class"] = np.bytes_("cell")


def object_cells(values):
    """N x 1 cells for `scipy.io.savemat`."""
    cells = np.empty((len(values), 1), dtype=object)
    for index, value in enumerate(values):
        cells[index, 0] = value
    return cells
