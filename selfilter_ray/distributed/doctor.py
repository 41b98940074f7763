"""The doctor on a cluster: one task pinned to each node, none of which can hang the others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from selfilter_ray.config import Config, RayConfig
from selfilter_ray.distributed.runtime import connected
from selfilter_ray.doctor.finding import Finding, failed, note, ok
from selfilter_ray.doctor.node import examine_node
from selfilter_ray.doctor.places import leave_marker, remove_probes
from selfilter_ray.doctor.plan import Plan
from selfilter_ray.doctor.report import Node
from selfilter_ray.errors import SelfilterError

CLOCK_SECONDS = 20.0
CLOCK_TRIES = 5
NOTABLE_OFFSET, WRONG_OFFSET = 1.0, 30.0  # seconds; stores refuse signatures after minutes
# Ray hides GPUs from a task that asks for none: the node's own view is what is wanted.
AS_THE_NODE = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}


def examine_cluster(address: str, config: Config | None, timeout: float) -> list[Node]:
    """Check every node that is alive, all at once.

    Args:
        address: of the cluster, or ``auto`` for the one that this machine is part of.
        config: whose places are tried; None for the machines alone.
        timeout: seconds that a node may take.

    Raises:
        ConfigError: when the cluster does not answer.
        SelfilterError: when the driver itself cannot write below ``run_dir``.
    """
    with connected(RayConfig(address=address)):
        plan = Plan.of(config)
        if plan.run_dir is None:
            return _nodes(plan, timeout)
        leave_marker(plan)
        try:
            return _nodes(plan, timeout)
        finally:
            remove_probes(plan)


def _nodes(plan: Plan, timeout: float) -> list[Node]:
    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    asked = {
        node["NodeID"]: _on(node).remote(
            plan,
            node["NodeID"] == here,
            node["Resources"],
            str(Path(node["ObjectStoreSocketName"]).parents[2]),  # TEMP/session/sockets/...
        )
        for node in alive
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout, fetch_local=False)
    found = []
    for node in sorted(
        alive, key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"])
    ):
        id = node["NodeID"]
        findings = _answer(asked[id], timeout)
        if "answer" not in findings:
            findings["clock"] = _clock(node).as_json()
        found.append(
            Node(node["NodeManagerHostname"], node["NodeManagerAddress"], id == here, findings)
        )
    return found


def _on(node: dict[str, Any], function: Any = examine_node) -> Any:
    """A function as a task of this very node; it takes nothing that others could want."""
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(function).options(
        num_cpus=0, max_retries=0, scheduling_strategy=place, runtime_env=AS_THE_NODE
    )


def _answer(reference: Any, timeout: float) -> dict[str, Any]:
    ready, _ = ray.wait([reference], timeout=0)
    if not ready:
        ray.cancel(reference, force=True)
        reason = f"nothing within {timeout:.0f} s: look at this node, or give it more --timeout"
        return {"answer": failed(reason).as_json()}
    try:
        found: dict[str, Any] = ray.get(reference, timeout=CLOCK_SECONDS)
    except RayError as error:
        return {"answer": failed(_reason(error)).as_json()}
    return found


def _reason(error: RayError) -> str:
    text = str(error)
    if "No module named 'selfilter_ray'" in text:
        return "selfilter_ray is not installed on this node: send it with --with-package"
    return text.strip().splitlines()[-1][:1000] if text.strip() else type(error).__name__


def _now() -> float:
    return time.time()


def _clock(node: dict[str, Any]) -> Finding:
    """How far the node's clock is from the driver's, seconds; the quickest of a few answers."""
    best, offset = float("inf"), 0.0
    try:
        for _ in range(CLOCK_TRIES):
            before = time.time()
            there = float(ray.get(_on(node, _now).remote(), timeout=CLOCK_SECONDS))
            after = time.time()
            if after - before < best:
                best, offset = after - before, there - (before + after) / 2
    except (RayError, SelfilterError) as error:
        return failed(f"no answer: {type(error).__name__}")
    text = f"{offset * 1000:+.0f} ms"
    # Half of the way there and back is not known.
    certain = max(0.0, abs(offset) - best / 2)
    if certain > WRONG_OFFSET:
        return failed(f"{text}: set the clock (NTP): stores and leases go by it")
    return note(f"{text}: set the clock (NTP)") if certain > NOTABLE_OFFSET else ok(text)
