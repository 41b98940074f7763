"""The live page: three files, as they are in ``service/page``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import FastAPI, Response

FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def add_page(app: FastAPI) -> None:
    """The files hold no data and need no key; what they show they ask for with one."""
    for address, (name, media_type) in FILES.items():
        file = resources.files("selfilter_ray.service") / "page" / name
        app.get(address, include_in_schema=False)(_route(file, media_type))


def _route(file: Traversable, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(
            file.read_bytes(), media_type=media_type, headers={"Cache-Control": "no-cache"}
        )

    return page
