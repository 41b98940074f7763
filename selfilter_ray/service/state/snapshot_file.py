"""One snapshot: the selector's state in two files, written whole and verified when read.

``SEQUENCE.features.npy`` holds the vectors; ``SEQUENCE.state.safetensors`` everything else, with
checksums of both. The second is written last: without it there is no snapshot.

Shapes: K kept samples in the order of admission, D features, C rows of a part.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfilter_ray import atomic
from selfilter_ray.errors import ArtifactError
from selfilter_ray.online.state import State

FORMAT = 1
FEATURES, STATE = ".features.npy", ".state.safetensors"
PART_BYTES = 8 * 2**20
READERS = 4

Rows = Callable[[int, int], np.ndarray]


@dataclass(frozen=True, slots=True)
class Held:
    """What a snapshot holds.

    Attributes:
        state: of the selector, without its features when it is written.
        checksum: of the last record of the log that went into it.
        number: of the durable state that it belongs to.
        tally: counts over the log up to there.
    """

    state: State
    checksum: bytes
    number: str
    tally: dict[str, int]

    @property
    def sequence(self) -> int:
        return int(self.state.header["sequence"])


def write(folder: Path, held: Held, rows: Rows) -> tuple[Path, int]:
    """The file that makes the snapshot valid, and the bytes of both.

    Args:
        rows: float32 features of the kept samples from one row to another.

    Raises:
        OSError: when they cannot be written.
    """
    name = f"{held.sequence:015d}"
    shape = len(held.state.ids), int(held.state.header["features"])
    with atomic.replacing(folder / (name + FEATURES)) as temporary:
        sums, features_bytes = _write_features(temporary, shape, rows)
    ids = np.frombuffer(json.dumps(held.state.ids).encode(), np.uint8)
    arrays = {name: np.ascontiguousarray(array) for name, array in held.state.arrays.items()}
    arrays |= {"ids": ids, "parts": sums}
    header = {
        "format": FORMAT,
        "state": held.state.header,
        "checksum": held.checksum.hex(),
        "number": held.number,
        "tally": held.tally,
    }
    said = json.dumps(header, sort_keys=True)
    metadata = {"header": said, "digest": _digest(said, arrays)}
    file = folder / (name + STATE)
    with atomic.replacing(file) as temporary:
        save_file(arrays, temporary, metadata)
    return file, features_bytes + file.stat().st_size


def read(file: Path) -> Held:
    """A snapshot; its features are mapped from their file.

    Raises:
        ArtifactError: when it is damaged or of another format.
    """
    try:
        header, arrays = _read_state(file)
        features_KD = np.load(features_of(file), mmap_mode="r", allow_pickle=False)
        _check_features(features_of(file), features_KD, arrays.pop("parts"))
        ids = json.loads(arrays.pop("ids").tobytes())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"the snapshot {file} cannot be read: {error}") from error
    arrays["features_KD"] = features_KD
    state = State(header["state"], ids, arrays)
    return Held(state, bytes.fromhex(header["checksum"]), header["number"], header["tally"])


def size(file: Path) -> int:
    """Bytes of both files."""
    return sum(part.stat().st_size for part in (file, features_of(file)))


def features_of(file: Path) -> Path:
    """The other file of the snapshot."""
    return file.with_name(file.name.removesuffix(STATE) + FEATURES)


def _write_features(file: Path, shape: tuple[int, int], rows: Rows) -> tuple[np.ndarray, int]:
    sums = []
    with open(file, "wb") as target:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(target, header)
        for start, stop in _parts(*shape):
            part_CD = np.ascontiguousarray(rows(start, stop), "<f4")
            sums.append(zlib.crc32(part_CD.data))
            target.write(part_CD.data)
        written = target.tell()
    return np.array(sums, np.uint32), written


def _read_state(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with safe_open(file, framework="np") as stored:
        metadata = stored.metadata() or {}
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    if metadata["digest"] != _digest(metadata["header"], arrays):
        raise ValueError("its checksum is wrong")
    header = json.loads(metadata["header"])
    if header["format"] != FORMAT:
        raise ValueError(f"it has format {header['format']}, this version reads {FORMAT}")
    return header, arrays


def _check_features(file: Path, features_KD: np.memmap, sums: np.ndarray) -> None:
    """Reads the file itself, in large pieces: faults of the map would ask for small ones."""
    parts = list(_parts(*features_KD.shape))
    if features_KD.dtype != np.dtype("<f4") or sums.shape != (len(parts),):
        raise ValueError("its features do not fit it")

    # CRC-32 reads three gigabytes a second: a cryptographic hash would double the time to open.
    def check(number: int) -> bool:
        start, stop = parts[number]
        piece = os.pread(source.fileno(), (stop - start) * row, features_KD.offset + start * row)
        return zlib.crc32(piece) == sums[number]

    row = 4 * features_KD.shape[1]
    with open(file, "rb", buffering=0) as source, ThreadPoolExecutor(READERS) as readers:
        if not all(readers.map(check, range(len(parts)))):
            raise ValueError("the checksum of its features is wrong")


def _parts(rows: int, features: int) -> Iterator[tuple[int, int]]:
    step = max(1, PART_BYTES // (4 * features))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _digest(header: str, arrays: dict[str, np.ndarray]) -> str:
    whole = hashlib.blake2b(header.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        whole.update(f"{name} {array.dtype.str} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).data)
    return whole.hexdigest()
