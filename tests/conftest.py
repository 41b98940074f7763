"""Fixtures that several test files share."""

import pytest


@pytest.fixture(scope="module")
def ray_cluster():
    """One local Ray for all tests of a module: starting one takes seconds."""
    from selfilter_ray.config import RayConfig
    from selfilter_ray.distributed.runtime import connected

    with connected(RayConfig(num_cpus=2)):
        yield
