"""``selfilter-ray serve``: the service on a local Ray, or on a cluster, until it is stopped."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from selfilter_ray.config.root import RayConfig
from selfilter_ray.distributed.runtime import connected
from selfilter_ray.errors import ConfigError
from selfilter_ray.service.settings import ServiceConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "selfilter"
LOOK_SECONDS = 0.5
# Serve looks at its proxy every ten seconds and gives it up after the third look, and it starts a
# proxy anew that needs more than five seconds to start. A cluster sets the same at `ray start`.
PROXY = {
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20",
}


def serve_until_stopped(config: ServiceConfig, address: str | None, haproxy: bool) -> None:
    """Start the application, say where it answers, and wait for SIGINT or SIGTERM.

    Args:
        address: of a Ray cluster; None starts Ray on this machine.
        haproxy: put HAProxy before the replicas, instead of Serve's own proxy.

    Raises:
        ConfigError: when the service would be open to the network without keys, or the run has no
            finished Stage 1.
        SelfilterError: when it does not come up.
    """
    _refuse_open_door(config)
    if haproxy:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    for name, value in PROXY.items():
        os.environ.setdefault(name, value)
    # Ray takes the signals when it starts: ours come after it.
    with connected(RayConfig(address=address)), _stop_wanted() as stop, _served(config):
        shown = "localhost" if config.host in ("127.0.0.1", "::1") else config.host
        print(f"selfilter-ray: http://{shown}:{config.port}/ (Ctrl-C stops)", flush=True)
        while not stop.wait(LOOK_SECONDS):
            pass
        print("selfilter-ray: stopping; what was answered is kept.", file=sys.stderr, flush=True)


@contextmanager
def _served(config: ServiceConfig) -> Iterator[None]:
    """The application runs inside the block."""
    from ray import serve

    from selfilter_ray.service.distributed.application import application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    app = application(config)
    serve.start(
        proxy_location="HeadOnly",
        http_options={
            "host": config.host,
            "port": config.port,
            "request_timeout_s": None,  # a stream may last; single requests have their own limit
        },
    )
    try:
        serve.run(app, name=NAME, route_prefix="/")
        yield
    finally:
        # Ray reports actors that end on purpose as if something were wrong.
        logging.getLogger("ray._private.worker").setLevel(logging.CRITICAL)
        serve.shutdown()


@contextmanager
def _stop_wanted() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal ends the process at once."""
    wanted = threading.Event()

    def asked(number: int, frame: FrameType | None) -> None:
        if wanted.is_set():
            raise KeyboardInterrupt
        wanted.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_open_door(config: ServiceConfig) -> None:
    """No keys and an address that others reach: anyone could fill the selection."""
    try:
        loopback = ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        loopback = config.host == "localhost"
    if loopback or config.keys.file or os.environ.get(config.keys.environment):
        return
    raise ConfigError(
        f"host {config.host} can be reached by others, and no keys are configured: set keys.file "
        f"or the variable {config.keys.environment}, or take host 127.0.0.1."
    )
