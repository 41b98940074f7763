"""Machines on one network that this computer is no part of.

The switch is a machine too: its bridge lies in a network namespace of its own. So addresses clash
with nothing outside, nothing outside listens, and several networks do not know each other.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from machine import Machine

SUBNET = "10.77.0"
SWITCH = f"{SUBNET}.1"


class Network:
    """A switch, which also runs what is no part of the cluster, and machines that join it.

    Args:
        folder: for the disks of all.
    """

    def __init__(self, folder: Path) -> None:
        self._disks = folder
        self._addresses: dict[str, str] = {}
        self.machines: dict[str, Machine] = {}
        self.switch = Machine("switch", folder)
        self._addresses["switch"] = SWITCH

    def __enter__(self) -> Network:
        self.switch.boot()
        bridge = "ip link add bridge type bridge && ip link set bridge up"
        self.switch.run(["sh", "-ec", f"{bridge} && ip address add {SWITCH}/24 dev bridge"])
        return self

    def __exit__(self, *raised: object) -> None:
        for machine in (*self.machines.values(), self.switch):
            machine.kill()

    def add(self, name: str) -> Machine:
        """A new machine, up and on the network; the others find it by its name."""
        machine = Machine(name, self._disks)
        self.machines[name] = machine
        self._addresses[name] = f"{SUBNET}.{len(self._addresses) + 10}"
        self._name_all()
        self.boot(machine)
        return machine

    def boot(self, machine: Machine) -> None:
        """Boot it, with the address that it had before."""
        machine.boot()
        self._connect(machine)

    def address(self, machine: Machine) -> str:
        return self._addresses[machine.name]

    def lose(self, machine: Machine) -> None:
        """What a power cut does: it is silent at once; no connection is closed."""
        self.switch.run(["ip", "link", "delete", f"to-{machine.name}"])
        machine.kill()

    def _connect(self, machine: Machine) -> None:
        port = f"to-{machine.name}"
        # The kernel may still be removing the one of before.
        self.switch.run(["ip", "link", "delete", port], check=False)
        # Both ends are made from outside, where both namespaces can be named.
        pair = ["ip", "link", "add", port, "type", "veth"]
        pair += ["peer", "name", "eth0", "netns", str(machine.init)]
        enter = ["nsenter", f"--target={self.switch.init}", "--net"]
        subprocess.run([*enter, *pair], check=True, capture_output=True)
        self.switch.run(["sh", "-ec", f"ip link set {port} master bridge && ip link set {port} up"])
        address = f"ip address add {self.address(machine)}/24 dev eth0"
        route = f"ip route add default via {SWITCH}"
        machine.run(["sh", "-ec", f"{address} && ip link set eth0 up && {route}"])

    def _name_all(self) -> None:
        lines = [f"{address} {name}" for name, address in self._addresses.items()]
        for machine in (*self.machines.values(), self.switch):
            # Written in place: the file is mounted into machines that are up.
            (machine.disk / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
