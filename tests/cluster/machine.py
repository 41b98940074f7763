"""A computer of its own on this one: own network, processes, disk, shared memory and name.

It is a set of Linux namespaces that one process holds. When that process ends, the kernel kills
everything in them and removes them: nothing is left, whoever ended it and however.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START_SECONDS = 30
FOLDERS = ("tmp", "home", "var-tmp")
HOME = "/home/user"
# What is not mounted here is read-only, so nothing can be shared by being written. Its own folders
# hide those of the same path, and a tmpfs hides the disks of all machines. Children that lose their
# parents are reaped by the kernel: an ignored SIGCHLD stays ignored over exec.
BOOT = """
set -e
hostname "$1"
cd "$2"
mount --bind hosts /etc/hosts
mount --bind home /home
mount --bind var-tmp /var/tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777,size=2g tmpfs /dev/shm
mount -o remount,bind,ro /
mount -t tmpfs tmpfs "$3"
mount --bind tmp /tmp
mount -o remount,bind,rw /tmp
cd /
ip link set lo up
trap "" CHLD
exec sleep infinity
"""
GUARD = ("setpriv", "--pdeathsig", "KILL")  # ends with the thread that started it
NAMESPACES = ("--net", "--mount", "--pid", "--ipc", "--uts")


class Machine:
    """Boots, runs commands, loses its power, boots again with what is on its disk.

    Args:
        name: of the host.
        disks: folder below which every machine of a network has its disk.

    Attributes:
        disk: seen from outside; ``tmp`` in it is the machine's /tmp.
    """

    def __init__(self, name: str, disks: Path) -> None:
        self.name, self.disk, self._disks = name, disks / name, disks
        self._holder: subprocess.Popen[str] | None = None
        for folder in FOLDERS:
            (self.disk / folder).mkdir(parents=True)
        (self.disk / "tmp").chmod(0o1777)
        (self.disk / "home" / "user").mkdir()
        (self.disk / "hosts").write_text("127.0.0.1 localhost\n")

    def boot(self) -> None:
        """Must be called in the main thread: the machine ends with the thread that started it."""
        assert self._holder is None, f"{self.name} is up"
        boot = ["sh", "-c", BOOT, "boot", self.name, str(self.disk), str(self._disks)]
        self._holder = subprocess.Popen(
            [*GUARD, "unshare", *NAMESPACES, "--mount-proc", "--fork", "--kill-child", "--", *boot],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_booted():
            if self._holder.poll() is not None:
                raise RuntimeError(f"{self.name} did not boot: {self._holder.stderr.read()}")
            assert time.monotonic() < deadline, f"{self.name} does not boot"
            time.sleep(0.01)

    @property
    def is_up(self) -> bool:
        return self._holder is not None

    @property
    def init(self) -> int:
        """Process id, outside, of the machine's first process."""
        assert self._holder is not None, f"{self.name} is down"
        pid = self._holder.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def popen(
        self,
        command: Sequence[str],
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        **options: object,
    ) -> subprocess.Popen[str]:
        """Start a process inside; it ends with this one, and with the machine.

        Args:
            log: file outside that gets what it prints, beside what is there.
            env: variables in addition to PATH, HOME and LANG; nothing else comes from outside.
        """
        with contextlib.ExitStack() as stack:
            if log is not None:
                options["stdout"] = stack.enter_context(log.open("a"))
                options["stderr"] = subprocess.STDOUT
            return subprocess.Popen(
                self._entered(command),
                env=self._environment(env or {}),
                text=True,
                start_new_session=True,
                **({"stdin": subprocess.DEVNULL} | options),
            )

    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        seconds: float = 120.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end.

        Raises:
            RuntimeError: when it fails and ``check`` is set; with what it printed.
        """
        done = subprocess.run(
            self._entered(command),
            env=self._environment(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"{self.name}: {' '.join(command)} ended with {done.returncode}:\n"
                f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
            )
        return done

    def kill(self) -> None:
        """SIGKILL to everything in it; nothing runs any more afterwards. Its disk stays."""
        if self._holder is None:
            return
        try:
            os.kill(self.init, signal.SIGKILL)
        except (ProcessLookupError, IndexError, FileNotFoundError):  # it never got so far
            self._holder.kill()
        self._holder.wait()
        self._holder.stderr.close()
        self._holder = None

    def _is_booted(self) -> bool:
        """Its first process has become the one that only sleeps."""
        try:
            return Path(f"/proc/{self.init}/comm").read_text() == "sleep\n"
        except (OSError, IndexError):
            return False

    def _entered(self, command: Sequence[str]) -> list[str]:
        enter = ["nsenter", f"--target={self.init}", *NAMESPACES, "--"]
        return [*GUARD, *enter, "env", f"--chdir={HOME}", *GUARD, *command]

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": HOME, "LANG": "C.UTF-8", **more}
