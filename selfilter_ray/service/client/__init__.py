"""A typed Python client of the online service. Needs neither torch nor Ray.

with Client("http://127.0.0.1:8000") as client:
    for answer in client.select_stream(samples):
        ...
"""

from selfilter_ray.service.client.answers import (
    Answer,
    Neighbour,
    Ready,
    SampleError,
    Score,
    Snapshot,
)
from selfilter_ray.service.client.client import Client
from selfilter_ray.service.client.encode import encode_features, encode_image
from selfilter_ray.service.client.errors import ServiceError, UnreachableError

__all__ = [
    "Answer",
    "Client",
    "Neighbour",
    "Ready",
    "SampleError",
    "Score",
    "ServiceError",
    "Snapshot",
    "UnreachableError",
    "encode_features",
    "encode_image",
]
