"""The command line as a user runs it against a cluster: in a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

PATIENCE_SECONDS = 240

# Stands in for the interpreter on the cluster: says what the job was given, then prints lines until
# it is asked to stop.
INTERPRETER = """#!/bin/sh
echo "arguments: $@"
echo "files: $(ls -A | tr '\\n' ' ')"
echo "GREETING: $GREETING"
python -c 'import selfilter_ray; print("package:", selfilter_ray.__file__)'
trap 'echo "asked to stop, patience $RAY_JOB_STOP_WAIT_TIME_S"; exit 0' TERM
i=0
while true; do i=$((i+1)); echo "line $i"; sleep 0.2; done
"""


def write_interpreter(folder: Path) -> Path:
    script = folder / "interpreter"
    script.write_text(INTERPRETER)
    script.chmod(0o755)
    return script


def begin(environment: dict[str, str], *arguments: str, cwd: Path) -> subprocess.Popen:
    """Start a command; its output is read by ``ended`` or ``Reading``."""
    return subprocess.Popen(
        [sys.executable, "-m", "selfilter_ray.cli", *arguments],
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


class Reading:
    """Collects what a command prints while it runs."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.out, self.err = process, [], []
        self._threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((process.stdout, self.out), (process.stderr, self.err))
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _read(stream, lines) -> None:
        lines.extend(iter(stream.readline, ""))

    def wait_for(self, what) -> None:
        """Until a condition of this object holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not what(self):
            assert time.monotonic() < deadline, "".join(self.out[-20:] + self.err[-20:])
            time.sleep(0.05)

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        code = self.process.wait(PATIENCE_SECONDS)
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        return code


class Wire:
    """A connection between a user and a dashboard, which can be cut and mended."""

    def __init__(self, port: int) -> None:
        self.target, self._open = port, []
        self._listener: socket.socket | None = None
        self.port = 0
        self.mend()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def mend(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self._listener, self.port = listener, listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Nothing listens any more, and what was open is broken."""
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
