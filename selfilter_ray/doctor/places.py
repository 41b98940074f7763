"""Storage as a node sees it: writing, reading, listing, removing below run_dir; reading data."""

from __future__ import annotations

import os
import platform
import secrets
from pathlib import Path

from selfilter_ray.doctor.finding import Finding, failed, note, ok
from selfilter_ray.doctor.plan import Plan, as_uri
from selfilter_ray.errors import StorageError
from selfilter_ray.storage import MissingError, below, is_uri, read_bytes, shown, write_bytes
from selfilter_ray.storage.connection import filesystem, told
from selfilter_ray.storage.objects import delete, list_files
from selfilter_ray.storage.places import Uri

MOST = 4096  # bytes of a probe
MARKER = "driver"


def leave_marker(plan: Plan) -> None:
    """What the driver writes below the run's folder, for every node to find.

    Raises:
        StorageError: when it cannot be written.
    """
    write_bytes(below(plan.probes_uri, MARKER), plan.marker.encode())


def remove_probes(plan: Plan) -> None:
    """Remove all that was written, also a run's folder that held nothing else."""
    assert plan.run_dir is not None
    delete(plan.probes_uri)
    folder = Path(plan.run_dir)
    if not is_uri(plan.run_dir) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def check_run_dir(plan: Plan) -> Finding:
    """Whether this node can work in the run's folder, and whether it is the driver's."""
    assert plan.run_dir is not None
    try:
        seen = read_bytes(below(plan.probes_uri, MARKER), MOST).decode()
    except MissingError:
        seen = ""
    if seen != plan.marker:
        return failed(
            f"{shown(plan.run_dir)} is not the folder that the driver sees: share it between all "
            "nodes, or give a URI such as s3://bucket/path"
        )
    name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    own, sent = below(plan.probes_uri, name), secrets.token_bytes(64)
    write_bytes(own, sent)
    try:
        if read_bytes(own, MOST) != sent:
            return failed(f"{shown(plan.run_dir)} gives back other bytes than were written")
        if name not in {found.name for found in list_files(Uri.of(plan.probes_uri))}:
            return failed(f"{shown(plan.run_dir)} does not list what was written to it")
    finally:
        delete(own)
    return ok("written, read, listed, removed")


def check_inputs(plan: Plan, drives: bool) -> Finding:
    """Whether the data can be read. Only the driver has to: elsewhere it is worth a note."""
    problems = []
    for place in plan.inputs:
        try:
            read_a_little(place)
        except StorageError as error:
            problems.append(str(error))
    if not problems:
        return ok(f"{len(plan.inputs)} readable" if plan.inputs else "packaged")
    if drives:
        return failed("; ".join(problems))
    return note(f"not here; only the driver reads data.inputs ({len(problems)} of them)")


def check_images(plan: Plan) -> Finding:
    """Whether images can be read: every node does."""
    assert plan.image_root is not None
    read_a_little(plan.image_root)
    return ok("readable")


def read_a_little(place: str) -> None:
    """Open a file, or list a folder and open its first file.

    Raises:
        StorageError: when there is none, or it cannot be read.
    """
    from pyarrow.fs import FileSelector, FileType

    uri = Uri.of(as_uri(place))
    with told(uri, "read"):
        system = filesystem(uri)
        info = system.get_file_info(uri.path)
        if info.type == FileType.NotFound:
            raise FileNotFoundError
        path = uri.path
        if info.type == FileType.Directory:
            files = [i for i in system.get_file_info(FileSelector(path)) if i.is_file]
            if not files:
                return
            path = files[0].path
        with system.open_input_file(path) as opened:
            opened.read(64)
