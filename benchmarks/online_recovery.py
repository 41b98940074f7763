"""How soon the online service stands again beside many kept samples, and what that takes in memory.

A log is written that has so many admitted samples, with a decision of every sample that was not
admitted between them (rate mode). Then, each in a process of its own: the whole log is replayed; a
snapshot is written while samples are admitted; after as many further decisions as lie between two
snapshots the state is opened from the snapshot and the rest of the log, with the files in memory
and with the files dropped from memory first.

    python -m benchmarks.online_recovery [--kept 1000000] [--features 512] [--rate 0.15]
        [--tail 100000] [--rounds 3] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.store import store_result
from selfilter_ray.online.decision import Decision
from selfilter_ray.online.settings import OnlineSettings
from selfilter_ray.service.messages import Arrival
from selfilter_ray.service.settings import ServiceConfig, SnapshotSettings
from selfilter_ray.service.state.record import sealed, vector_bytes, vector_digest
from selfilter_ray.service.state.store import Append, End
from selfilter_ray.service.state.writer import SelectionWriter

AT_ONCE = 16_384
BATCH = 64


def main() -> None:
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="online-recovery-", dir=arguments.folder))
    try:
        store_result("online_recovery", _measured(arguments, folder))
    finally:
        shutil.rmtree(folder)


def _measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    stated = folder, arguments.rate, arguments.features
    decisions = int(arguments.kept / arguments.rate)
    began = time.perf_counter()
    _in_process(_write_log, *stated, decisions)
    measured: dict[str, Any] = {
        "kept": arguments.kept,
        "features": arguments.features,
        "decisions": decisions,
        "load_before": round(os.getloadavg()[0], 1),
        "log_written_seconds": round(time.perf_counter() - began, 1),
        "log_gib": _gib(folder),
    }
    print(measured, flush=True)
    measured["whole_log"] = _in_process(_replay_and_snapshot, *stated)
    print(measured, flush=True)
    _in_process(_write_log, *stated, arguments.tail)
    for name, cold in (("files_in_memory", False), ("files_on_disk", True)):
        rounds = [_in_process(_open, *stated, cold) for _ in range(arguments.rounds)]
        measured[name] = {key: median(one[key] for one in rounds) for key in rounds[0]}
        print(name, measured[name], flush=True)
    return measured


def _replay_and_snapshot(folder: Path, rate: float, features: int) -> dict[str, Any]:
    """Open without a snapshot; then write one while samples come in."""
    writer = _writer(folder, rate, features)
    stats = writer.stats()
    replayed = {"replayed": stats["replayed"], "replay_seconds": stats["recovery_seconds"]}
    replayed["replay_peak_gib"] = _peak()
    random = np.random.default_rng(1)
    alone = [_admit(writer, random, features) for _ in range(20)]
    began = time.perf_counter()
    snapshot = writer.start_snapshot()
    stopped = time.perf_counter() - began
    beside = []
    while not snapshot.done():
        beside.append(_admit(writer, random, features))
    told = snapshot.result()
    writer.close()
    return replayed | {
        "snapshot_gib": round(told["bytes"] / 2**30, 2),
        "snapshot_seconds": told["seconds"],
        "snapshot_stops_admissions_seconds": round(stopped, 3),
        "batches_beside_snapshot": len(beside),
        "batch_seconds": round(median(alone), 4),
        "batch_seconds_beside_snapshot": round(median(beside or [0.0]), 4),
        "slowest_batch_beside_snapshot": round(max(beside, default=0.0), 4),
        "peak_gib": _peak(),
    }


def _open(folder: Path, rate: float, features: int, cold: bool) -> dict[str, float]:
    if cold:
        _drop_from_memory(folder)
    began, began_cpu = time.perf_counter(), time.process_time()
    writer = _writer(folder, rate, features)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    stats = writer.stats()
    writer.close()
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "load": round(os.getloadavg()[0], 1),
        "replayed": stats["replayed"],
        "kept": stats["kept"],
        "vectors_gib": round(stats["bytes"] / 2**30, 2),
        "peak_gib": _peak(),
        "memory_of_its_own_gib": _own(),
    }


def _write_log(folder: Path, rate: float, features: int, count: int) -> None:
    """Append so many decisions, of which a share is admitted; nothing is searched for them."""
    writer = _writer(folder, rate, features)
    random = np.random.default_rng(writer.sequence)
    end = writer._end
    stop = end.sequence + count
    while end.sequence < stop:
        addition = _addition(end, min(AT_ONCE, stop - end.sequence), rate, features, random)
        writer._store.append(addition)
        end = addition.end
    writer.close()


def _addition(
    start: End, count: int, rate: float, features: int, random: np.random.Generator
) -> Append:
    records, vectors, before = [], {}, start.checksum
    difficulty = random.exponential(size=count).tolist()
    rows = random.standard_normal((int(count * rate) + 2, features), dtype=np.float32)
    for offset, value in enumerate(difficulty):
        sequence = start.sequence + offset
        admitted = int((sequence + 1) * rate) > int(sequence * rate)
        decision = Decision(
            sequence=sequence,
            id=f"sample-{sequence:012d}",
            difficulty=value,
            adjusted=value,
            threshold=1.9,
            reason="admitted" if admitted else "too_easy",
            nearest=(f"sample-{sequence // 2:012d}",),
            similarities=(0.25,),
        )
        digest = None
        if admitted:
            vectors[sequence] = vector_bytes(rows[len(vectors)])
            digest = vector_digest(vectors[sequence])
        record = sealed(before, decision, bytes(16), start.epoch, 1.7e9, digest)
        records.append(record)
        before = record.checksum
    end = End(start.epoch, start.sequence + count, before)
    return Append(start, end, records, vectors)


def _admit(writer: SelectionWriter, random: np.random.Generator, features: int) -> float:
    rows = random.standard_normal((BATCH, features), dtype=np.float32)
    began = time.perf_counter()
    writer.admit(
        [
            Arrival(f"new-{writer.sequence + number}", bytes(16), float(random.exponential()), row)
            for number, row in enumerate(rows)
        ]
    )
    return time.perf_counter() - began


def _writer(folder: Path, rate: float, features: int) -> SelectionWriter:
    config = ServiceConfig(
        run_dir=str(folder),
        state=str(folder / "state"),
        online=OnlineSettings(rate=rate),
        snapshots=SnapshotSettings(decisions=10**9),
    )
    return SelectionWriter.open(config, features, 0.0, "benchmark")


def _in_process(work: Any, *arguments: Any) -> Any:
    """In a process of its own, for its memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _drop_from_memory(folder: Path) -> None:
    os.sync()
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _peak() -> float:
    """GiB that this process had in memory at most, mapped files included."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def _own() -> float:
    """GiB in memory now that are no files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return round(int(line.split()[1]) / 2**20, 2)
    return 0.0


def _gib(folder: Path) -> float:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return round(size / 2**30, 2)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--rate", type=float, default=0.15)
    parser.add_argument("--tail", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the files go (about 10 GB); default: TMPDIR")
    return parser.parse_args()


if __name__ == "__main__":
    main()
