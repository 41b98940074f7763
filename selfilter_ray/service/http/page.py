"""The live page: its files as they lie in ``service/page``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import FastAPI, Response

INDEX = "index.html"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def add_page(app: FastAPI) -> None:
    """The files hold no data and need no key; what they show they ask for with one.

    Each file has a route of its own, so no address can reach anything else.
    """
    folder = resources.files("selfilter_ray.service") / "page"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        media_type = TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None:
            address = "/" if file.name == INDEX else f"/{file.name}"
            app.get(address, include_in_schema=False)(_route(file, media_type))


def _route(file: Traversable, media_type: str) -> Callable[[], Awaitable[Response]]:
    headers = {"Cache-Control": "no-cache"}

    async def page() -> Response:
        return Response(file.read_bytes(), media_type=media_type, headers=headers)

    return page
