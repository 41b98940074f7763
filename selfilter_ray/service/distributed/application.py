"""The application of Ray Serve: ingress, scorers, writer.

``selfilter_ray.service.distributed.application:build`` is what a Serve config file names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from selfilter_ray.online.base import base_of
from selfilter_ray.service.config import parse_service_config
from selfilter_ray.service.distributed.backend import RayBackend
from selfilter_ray.service.distributed.scorer import ScorerReplica
from selfilter_ray.service.distributed.writer import WriterReplica
from selfilter_ray.service.http.app import create_app
from selfilter_ray.service.http.logs import log_json
from selfilter_ray.service.scoring import FeatureScorer
from selfilter_ray.service.settings import ServiceConfig

# A replica that died is noticed within this time; a stuck one after the timeout.
HEALTH_SECONDS, HEALTH_TIMEOUT_SECONDS = 1.0, 10.0
# The HTTP interface counts what waits and answers 429; behind it nothing is turned away.
ENOUGH = 10_000
GRACE_SECONDS = 20.0
OWN_CPUS = 0.1  # an ingress shares cores with the scorers
# What is heavy leaves the event loop by itself; fewer threads wait for each other at the GIL.
ONE_LOOP = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


class Ingress:
    """Takes requests; its routes are those of ``service.http.app``."""

    def __init__(
        self, tree: dict[str, Any], scorers: DeploymentHandle[Any], writer: DeploymentHandle[Any]
    ) -> None:
        log_json()
        self._config = ServiceConfig.model_validate(tree)
        self._backend = RayBackend(self._config, scorers, writer)

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Serve puts the id of a request into its answer itself.
        return create_app(self._config, self._backend, echo_request_id=False)


def build(args: dict[str, Any]) -> Application:
    """The application from the ``args`` of a Serve config file: a ``ServiceConfig``.

    Raises:
        ConfigError: naming each wrong key; when the run has no finished Stage 1.
    """
    return application(parse_service_config(args))


def application(config: ServiceConfig) -> Application:
    """The application, to be given to ``serve.run``."""
    tree = config.model_dump(mode="json")
    net = FeatureScorer(config.run_dir)
    base = base_of(config.online, np.array([net.base]))
    common: dict[str, Any] = {
        "health_check_period_s": HEALTH_SECONDS,
        "health_check_timeout_s": HEALTH_TIMEOUT_SECONDS,
        "graceful_shutdown_timeout_s": GRACE_SECONDS,
        "max_ongoing_requests": ENOUGH,
        # Addresses may hold what their senders put there; our own log leaves them out.
        "logging_config": {"enable_access_log": False},
    }
    scorers = serve.deployment(
        name="scorer", ray_actor_options=_resources(config), **_replicas(config), **common
    )(ScorerReplica)
    one_loop = {"runtime_env": {"env_vars": ONE_LOOP}}
    writer = serve.deployment(
        name="writer",
        num_replicas=1,
        ray_actor_options={"num_cpus": config.writer_cpus, **one_loop},
        **common,
    )(WriterReplica)
    ingress = serve.deployment(
        name="ingress",
        num_replicas=config.ingress,
        ray_actor_options={"num_cpus": OWN_CPUS, **one_loop},
        **common,
    )(serve.ingress()(Ingress))
    return ingress.bind(tree, scorers.bind(tree), writer.bind(tree, sum(net.features), base))


def _replicas(config: ServiceConfig) -> dict[str, Any]:
    asked = config.scorer
    if asked.least == asked.most:
        return {"num_replicas": asked.least}
    scaling = {
        "min_replicas": asked.least,
        "max_replicas": asked.most,
        "target_ongoing_requests": asked.batch,
    }
    return {"autoscaling_config": scaling}


def _resources(config: ServiceConfig) -> dict[str, float]:
    gpus = config.scorer.gpus
    if gpus is None:
        from selfilter_ray.distributed.runtime import gpus_each

        gpus = gpus_each(None)
    return {"num_cpus": config.scorer.cpus} | ({"num_gpus": gpus} if gpus else {})
