"""Connecting to Ray: a cluster by its address, or a local instance that ends with the process."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selfilter_ray.config import RayConfig
from selfilter_ray.distributed.token import is_sent, offer_token, refusal
from selfilter_ray.errors import ConfigError

REACH_SECONDS = 10.0


@contextmanager
def connected(config: RayConfig) -> Iterator[None]:
    """Have Ray running inside the block. An instance that is already up is used and left up.

    Raises:
        ConfigError: when the cluster does not answer.
    """
    address = config.address or os.environ.get("RAY_ADDRESS")
    local = not address
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    if _is_up():
        yield
        return
    prepare(address)
    import ray
    from ray.exceptions import AuthenticationError

    try:
        with _native_messages_aside():
            ray.init(
                address="local" if local else config.address,
                num_cpus=config.num_cpus if local else None,
                include_dashboard=False if local else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except AuthenticationError:
        raise ConfigError(refusal(f"Ray at {address}", sent=False)) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"Ray at {address or 'local'} does not answer: {error}") from error
    _quiet()
    try:
        yield
    finally:
        ray.shutdown()


def _is_up() -> bool:
    """Whether the caller has started Ray. Asking does not import it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def gpus_each(configured: float | None) -> float:
    """GPUs of one actor or worker: as configured, else one when the cluster offers any."""
    import ray

    if configured is not None:
        return configured
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


def require(config: RayConfig, workers: int, cpus: int, gpus: float, what: str) -> None:
    """Refuse what a local instance can never offer; a cluster may still grow.

    Raises:
        ConfigError: naming the settings; without it the run would wait for ever.
    """
    import ray

    if config.address is not None or os.environ.get("RAY_ADDRESS"):
        return
    offered = ray.cluster_resources()
    for kind, wanted in (("CPU", workers * cpus), ("GPU", workers * gpus)):
        there = offered.get(kind, 0)
        if wanted > there:
            raise ConfigError(
                f"{what} asks for {wanted:g} {kind}s, this machine offers {there:g}: "
                "lower it, set ray.num_cpus to share cores, or give ray.address of a cluster."
            )


def describe() -> str:
    """Run a task, and say what the cluster offers."""
    import ray

    place = ray.get(ray.remote(lambda: platform.node()).remote())
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return f"a task ran on {place}; {cpus:g} CPUs, {gpus:g} GPUs"


def prepare(address: str | None) -> None:
    """Settle what Ray reads from the environment when it is first imported.

    Raises:
        ConfigError: when a cluster does not answer.
    """
    if address:
        _prepare_cluster(address)
    else:
        _prepare_local()


def _prepare_cluster(address: str) -> None:
    """Offer the token, and find out at once whether anything listens: Ray would try for minutes.

    Raises:
        ConfigError: when the address is a dashboard's, or nobody answers there.
    """
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{address} is a dashboard: send the run there with selfilter-ray submit --address, or "
            "give ray.address (RAY_ADDRESS) the head's own address, such as head:6379."
        )
    offer_token()
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or "/" in host:
        return  # auto, or ray://, which have their own ways
    host = host.strip("[]")
    if host in ("localhost", "::1") or host.startswith("127."):
        # Ray would look for a loopback address at this machine's outer one.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Ray at {address} does not answer ({error}): look whether the head runs and can be "
            "reached from here."
        ) from None


def _prepare_local() -> None:
    """A local instance listens on the loopback interface only and asks for a token of its own.

    Ray reads these variables when it is first imported: where the caller has imported it before,
    they are left alone, since only the new processes would see them.
    """
    if "ray" in sys.modules:
        return
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's C++ part writes to the terminal, about its own libraries' actors among other things.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


@contextmanager
def _native_messages_aside() -> Iterator[None]:
    """Show what Ray's C++ part writes to the terminal only when the block fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException as error:
            aside.seek(0)
            text = aside.read()
            if b"InvalidAuthToken" in text and isinstance(error, ConnectionError):
                raise ConfigError(refusal("the cluster", is_sent())) from None
            os.write(terminal, text)
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _quiet() -> None:
    """Leave the terminal to our own progress bars."""
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
