"""Places that are not on this machine's disk: run folders, data and images by URI.

Algorithms work on local paths. What lies below a URI is copied to a folder of this host when it is
needed (``local_copy``), and back when it is made (``Mirror``). Local paths cost nothing: they are
what they are. Only the modules here open object stores, through ``pyarrow.fs``.
"""

from selfilter_ray.errors import StorageError
from selfilter_ray.storage.connection import MissingError
from selfilter_ray.storage.copies import local_copy
from selfilter_ray.storage.mirror import Mirror
from selfilter_ray.storage.objects import (
    TooLargeError,
    exists,
    read_bytes,
    write_bytes,
)
from selfilter_ray.storage.places import below, is_uri, name_of, shown

__all__ = [
    "Mirror",
    "MissingError",
    "StorageError",
    "TooLargeError",
    "below",
    "exists",
    "is_uri",
    "local_copy",
    "name_of",
    "read_bytes",
    "shown",
    "write_bytes",
]
