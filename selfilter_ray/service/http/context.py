"""What the routes of one app share."""

from __future__ import annotations

import os
import platform

from selfilter_ray.service.backend import Backend
from selfilter_ray.service.http.auth import Keyring
from selfilter_ray.service.http.gate import Gate
from selfilter_ray.service.http.keys import load_keys
from selfilter_ray.service.http.metrics import HttpMetrics
from selfilter_ray.service.incoming.reader import SampleReader
from selfilter_ray.service.settings import ServiceConfig


class Context:
    """Config, backend, and the app's own parts."""

    def __init__(self, config: ServiceConfig, backend: Backend) -> None:
        self.config, self.backend = config, backend
        self.limits = config.limits
        self.keyring = Keyring(load_keys(config.keys))
        # Whoever watches the service is not to take places from those who use it.
        self.gate, self.reads = Gate(config.limits), Gate(config.limits)
        several = config.ingress > 1
        self.metrics = HttpMetrics(f"{platform.node()}-{os.getpid()}" if several else None)
        self._reader: SampleReader | None = None

    @property
    def reader(self) -> SampleReader:
        """Made at the first request: a backend that is starting does not know its features."""
        if self._reader is None:
            self._reader = SampleReader(self.config, self.backend.features)
        return self._reader
