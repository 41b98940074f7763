"""An S3-compatible store on the network."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from machine import Machine
from programs import BIN
from waiting import wait_until

PORT = 9000
BUCKET = "runs"
START_SECONDS = 60


class ObjectStore:
    """Runs on a machine until that ends; what is stored lies in its memory.

    Attributes:
        environment: variables with which clients find and may use it.
    """

    def __init__(self, machine: Machine, host: str, log: Path) -> None:
        program = BIN / "moto_server"
        if not program.exists():
            pytest.skip("moto's server is not installed (extra dev)")
        self._endpoint = f"http://{host}:{PORT}"
        self.environment = {
            "AWS_ENDPOINT_URL": self._endpoint,
            "AWS_ACCESS_KEY_ID": "selfilter",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._machine = machine
        machine.popen([str(program), "-H", host, "-p", str(PORT)], log)
        wait_until(lambda: "Running on" in log.read_text(), "the object store", START_SECONDS)
        self.python("fs.create_dir('runs')")

    def python(self, code: str) -> str:
        """What some code prints that has ``fs``, a file system of pyarrow, at the store."""
        start = (
            "from pyarrow.fs import *; fs = S3FileSystem(allow_bucket_creation=True, "
            f"endpoint_override={self._endpoint!r});"
        )
        command = [str(BIN / "python"), "-c", start + code]
        return self._machine.run(command, self.environment).stdout

    def put(self, folder: str, name: str) -> str:
        """Store a folder of the machine; its URI."""
        options = "destination_filesystem=fs, source_filesystem=LocalFileSystem()"
        self.python(f"copy_files({folder!r}, 'runs/{name}', {options})")
        return f"s3://runs/{name}"

    def names(self, folder: str) -> list[str]:
        """What lies below a folder of the bucket, at any depth."""
        selector = f"FileSelector('runs/{folder}', recursive=True, allow_not_found=True)"
        return self.python(f"print(*[f.path for f in fs.get_file_info({selector})])").split()

    def text(self, name: str) -> str:
        """The content of a file of the bucket."""
        return self.python(f"print(fs.open_input_file('runs/{name}').read().decode(), end='')")
