"""The settings of the online service. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from selfilter_ray.online.settings import OnlineSettings, SearchName
from selfilter_ray.storage.places import below, is_uri
from selfilter_ray.strict import Positive, Strict

Seconds = Annotated[float, Field(gt=0.0)]
MEBIBYTE = 2**20
# An image at its limit as base64, and the largest text beside it, go into one request or line.
BODY = 8 * MEBIBYTE + 2**18


class ServiceLimits(Strict):
    """What a request may hold at most.

    Attributes:
        body_bytes: of a request that is not a stream.
        batch: samples of a request.
        line_bytes, lines: of a line of NDJSON, and of a stream.
        image_bytes, image_pixels, image_aspect_ratio, images, turns, text_bytes: of a sample.
        images_bytes: of all images of a request together, wherever they come from.
        queue: requests that wait for an answer; a further one is told to come again (429).
        request_seconds: until a request is given up (503).
    """

    body_bytes: Positive = BODY
    batch: Positive = 64
    line_bytes: Positive = BODY
    lines: Positive = 10_000
    image_bytes: Positive = 6 * MEBIBYTE
    image_pixels: Positive = 40_000_000
    image_aspect_ratio: Annotated[float, Field(ge=1.0)] = 50.0
    images: Positive = 8
    turns: Positive = 64
    text_bytes: Positive = 65_536
    images_bytes: Positive = 64 * MEBIBYTE
    queue: Positive = 64
    request_seconds: Seconds = 30.0


class UrlSettings(Strict):
    """Fetching images by URL: off until allowed.

    Attributes:
        hosts: only these (exact names); empty allows every public host.
        ports: only these.
        seconds: for one image, redirects included.
        redirects: how many are followed; each is checked like the first address.
    """

    allowed: bool = False
    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    seconds: Seconds = 10.0
    redirects: Annotated[int, Field(ge=0, le=10)] = 3


class ImageSources(Strict):
    """Where the image of a sample may come from, beside base64.

    Attributes:
        root: folder below which images may be named by path; None for none.
    """

    root: str | None = None
    urls: UrlSettings = UrlSettings()


class KeySettings(Strict):
    """Who may ask. Without a key anywhere, the service is open: keep it on loopback.

    Attributes:
        file: one key a line: ``NAME SCOPE SHA256`` (scopes: data, admin), see docs/service.md.
        environment: name of a variable that holds the same lines.
        metrics: whether /metrics needs a key too.
    """

    file: str | None = None
    environment: str = "SELFILTER_KEYS"
    metrics: bool = False


class SnapshotSettings(Strict):
    """How often the state is written down whole, so that a restart replays little.

    Attributes:
        decisions: between two snapshots.
        keep: how many are kept.
    """

    decisions: Positive = 100_000
    keep: Positive = 3


class PreviewSettings(Strict):
    """What the live page shows of a sample.

    Attributes:
        pixels: edge of a thumbnail; 0 keeps none.
        characters: of the text; 0 keeps none.
        rejected: how many of the newest rejected samples are kept.
    """

    pixels: Annotated[int, Field(ge=0, le=256)] = 96
    characters: Annotated[int, Field(ge=0, le=2000)] = 200
    rejected: Annotated[int, Field(ge=0, le=1000)] = 50


class ReplicaSettings(Strict):
    """Scorer replicas: as many as the load asks for, between two numbers.

    Attributes:
        batch: samples that are embedded together.
        wait_seconds: for a batch to fill.
        gpus: of a replica; None takes one where the cluster has any.
    """

    least: Positive = 1
    most: Positive = 1
    cpus: Annotated[float, Field(gt=0.0)] = 1.0
    gpus: Annotated[float, Field(ge=0.0)] | None = None
    batch: Positive = 32
    wait_seconds: Annotated[float, Field(ge=0.0)] = 0.01

    @model_validator(mode="after")
    def _range(self) -> ReplicaSettings:
        if self.least > self.most:
            raise ValueError("least must not be more than most")
        return self


class ServiceConfig(Strict):
    """The online service.

    Attributes:
        run_dir: folder of a run whose Stage 1 is finished, or its URI.
        state: folder for decisions (SQLite), or a PostgreSQL URL; None for ``RUN_DIR/online``.
        snapshot_dir: folder or URI for snapshots; None for ``snapshots`` beside the SQLite file,
            and for ``RUN_DIR/online/snapshots`` with PostgreSQL.
        search: what proposes neighbours in rate mode: a plain product, FAISS, or FAISS on a GPU of
            the writer's; every one leads to the same decisions.
        ingress: replicas that take requests.
        writer_cpus: cores that Ray sets aside for the writer; its search uses one thread a core.
        host, port: of the HTTP server when this machine starts it.
    """

    run_dir: str
    state: str | None = None
    snapshot_dir: str | None = None
    online: OnlineSettings = OnlineSettings()
    search: SearchName = "exact"
    limits: ServiceLimits = ServiceLimits()
    images: ImageSources = ImageSources()
    keys: KeySettings = KeySettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    previews: PreviewSettings = PreviewSettings()
    scorer: ReplicaSettings = ReplicaSettings()
    ingress: Positive = 1
    writer_cpus: Annotated[float, Field(gt=0.0)] = 0.1
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000

    @model_validator(mode="after")
    def _search_of_the_rule(self) -> ServiceConfig:
        if self.online.budget is not None and self.search != "exact":
            raise ValueError("search: faiss goes with online.rate: take exact with a budget")
        return self

    @model_validator(mode="after")
    def _state_on_a_disk(self) -> ServiceConfig:
        if is_uri(self.run_dir) and self.state is None:
            raise ValueError(
                "run_dir is a URI: set state to a PostgreSQL URL, or to a folder of the host that "
                "the writer always runs on"
            )
        if self.state and is_uri(self.state) and not self.is_postgresql:
            raise ValueError("state must be a folder, or a PostgreSQL URL")
        return self

    @property
    def is_postgresql(self) -> bool:
        return (self.state or "").startswith(("postgresql:", "postgresql+", "postgres:"))

    @property
    def state_folder(self) -> Path:
        """Where what belongs to the service lies, beside a database elsewhere."""
        own = None if self.is_postgresql else self.state
        return Path(own) if own else Path(self.run_dir) / "online"

    @property
    def snapshots_place(self) -> str:
        """A folder, or a URI."""
        if self.snapshot_dir or not is_uri(self.run_dir) or not self.is_postgresql:
            return self.snapshot_dir or str(self.state_folder / "snapshots")
        return below(self.run_dir, "online/snapshots")
