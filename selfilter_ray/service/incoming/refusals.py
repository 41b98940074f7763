"""Why a sample of a request is not scored: codes, HTTP statuses, remedies.

Where the quarantine of a dataset has a reason for it, the code is that reason.
"""

from __future__ import annotations

from selfilter_ray.samples.quarantine import REMEDIES as OF_THE_QUARANTINE
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.service.messages import Refused

REMEDIES = OF_THE_QUARANTINE | {
    "features_dimension": "send features of the embedder that the run was made with",
    "features_encoding": "send base64 (RFC 4648, padded) of little-endian numbers of that dtype",
    "features_length": "send features that are not all zero, and each between -1 and 1",
    "image_aspect_ratio": "crop the image, or have limits.image_aspect_ratio raised",
    "image_base64": "send standard base64 (RFC 4648, padded), without a data: prefix",
    "image_broken": "send a whole image file",
    "image_fetch": "see that the address answers 200 with an image, or send the image as base64",
    "image_missing": "correct the path: it is relative to images.root of the service",
    "image_outside_root": "send a relative path without .. and without links, or base64",
    "image_path_off": "send the image as base64, or have images.root set",
    "image_too_large": "shrink the image, or have limits.image_bytes or image_pixels raised",
    "image_url": "send a whole http or https address",
    "image_url_refused": "send the image as base64, or have images.urls allow the address",
    "images_too_large": "send fewer samples a request, or have limits.images_bytes raised",
    "not_finite": "remove NaN and Infinity from the sample, and numbers beyond float32",
    "record_shape": "give the sample a list of turns under conversations",
    "text_too_long": "shorten the text, or have limits.text_bytes raised",
    "too_many_images": "split the sample, or have limits.images raised",
    "too_many_turns": "split the sample, or have limits.turns raised",
}
TOO_LARGE = frozenset({"image_too_large", "images_too_large", "text_too_long"})
FORBIDDEN = frozenset({"image_outside_root", "image_path_off", "image_url_refused"})
UNPROCESSABLE = 422


class Unusable(Exception):
    """A sample that cannot be scored. ``code`` is a key of ``REMEDIES``."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


def refused(id: str, error: Unusable | BadRow) -> Refused:
    """The answer to a sample with this id."""
    code = error.reason if isinstance(error, BadRow) else error.code
    detail = error.detail.encode("utf-8", "backslashreplace").decode()[:500]
    return Refused(id, code, _status(code), detail, REMEDIES[code])


def _status(code: str) -> int:
    if code in TOO_LARGE:
        return 413
    return 403 if code in FORBIDDEN else UNPROCESSABLE
