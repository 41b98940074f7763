"""A client of a cluster's job server: the address, the token, versions, errors in words."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from selfilter_ray.distributed.token import refusal
from selfilter_ray.errors import ConfigError, SelfilterError

CONNECT_SECONDS, READ_SECONDS = 15, 180
# Ray prefers these to the address that it is given.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


class NoAnswerError(ConfigError):
    """The job server does not answer, or not now."""


class NoSuchJobError(SelfilterError):
    """The cluster does not know the job."""


@dataclass(frozen=True)
class Server:
    """Where the job server is.

    Attributes:
        address: URL of the dashboard, such as ``http://head:8265``; None takes it from the
            environment, as Ray does.
        headers: sent with every request, for a gateway before the dashboard.
        verify: whether its certificate is checked, or a file or folder of certificates to trust.
    """

    address: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    verify: bool | str = True

    @property
    def url(self) -> str:
        """The dashboard's URL.

        Raises:
            ConfigError: when it is none.
        """
        address = self.address or _from_environment()
        if not address:
            raise ConfigError(
                "--address URL is missing: the cluster's dashboard, such as http://head:8265."
            )
        url = address if "://" in address else f"http://{address}"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or address == "auto":
            raise ConfigError(
                f"--address {parts.scheme}://{parts.hostname or ''}: jobs are sent to the "
                "cluster's dashboard, give its URL, such as http://head:8265."
            )
        if parts.username or parts.password:
            raise ConfigError("--address must not hold a user or password: use --header.")
        return url.rstrip("/")


def _from_environment() -> str:
    """As Ray does, but RAY_ADDRESS only where it is a URL: else it is the head's own address."""
    first, second = (os.environ.get(name, "") for name in ADDRESS_VARIABLES)
    return first or (second if second.startswith(("http://", "https://")) else "")


class JobClient(JobSubmissionClient):
    """Ray's client with a limit on the time that a request takes, and errors in words.

    Raises:
        ConfigError: when the server does not answer, is none, or refuses the token.
    """

    def __init__(self, server: Server) -> None:
        self.url = server.url
        before = {name: os.environ.pop(name, None) for name in ADDRESS_VARIABLES}
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            with told(self.url):
                super().__init__(self.url, headers=dict(server.headers), verify=server.verify)
        except FileNotFoundError:
            raise ConfigError(
                f"--verify {server.verify}: there is no such file or folder."
            ) from None
        finally:
            os.environ.update({name: value for name, value in before.items() if value is not None})

    def _do_request(self, method: str, endpoint: str, **settings: Any) -> requests.Response:
        settings.setdefault("timeout", (CONNECT_SECONDS, READ_SECONDS))
        return super()._do_request(method, endpoint, **settings)

    def versions(self) -> dict[str, str]:
        """Of ``ray`` and ``python`` on the cluster's head, as far as it says them."""
        with told(self.url):
            answer = self._do_request("GET", "/api/v0/cluster_metadata")
            data = answer.json().get("data", {}) if answer.status_code == 200 else {}
        found = {"ray": data.get("rayVersion"), "python": data.get("pythonVersion")}
        found["ray"] = found["ray"] or self._server_ray_version
        return {name: version for name, version in found.items() if version}


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turn what Ray's client raises into errors that say what to do."""
    try:
        yield
    except AuthenticationError as error:
        sent = "Authentication failed" in str(error)  # else it was missing
        raise ConfigError(refusal(f"the cluster at {url}", sent)) from None
    except requests.exceptions.SSLError as error:
        raise ConfigError(
            f"{url}: the certificate is not accepted ({_first(error)}). Name its authority with "
            "--verify FILE."
        ) from None
    except requests.exceptions.JSONDecodeError:
        raise ConfigError(f"{url} answers, but is no Ray dashboard: correct --address.") from None
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status >= 500:
            raise NoAnswerError(f"{url} answers with status {status}: try again.") from None
        raise ConfigError(
            f"{url} answers with status {status}: correct --address, or --header where a gateway "
            "stands before the dashboard."
        ) from None
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise NoAnswerError(
            f"{url} does not answer ({type(error).__name__}): look whether it is the dashboard's "
            "URL and can be reached from here."
        ) from None
    except RuntimeError as error:
        raise _of_status(url, str(error)) from None


def check_versions(theirs: Mapping[str, str], ours: Mapping[str, str], sends_code: bool) -> str:
    """Compare the versions of ``ray`` and ``python`` here and on the cluster.

    Args:
        sends_code: this package's source goes with the job, and runs on their Python.

    Returns:
        A remark; empty where there is nothing to say.

    Raises:
        ConfigError: when the job cannot run.
    """
    ray, python = (_minor(theirs.get(name, "")) for name in ("ray", "python"))
    if ray and ray != _minor(ours["ray"]):
        raise ConfigError(
            f"the cluster has Ray {theirs['ray']}, here it is {ours['ray']}: use the same minor "
            f"version on both sides (pip install 'ray[default]=={theirs['ray']}', or another "
            "image)."
        )
    if not python or python == _minor(ours["python"]):
        return ""
    said = f"the cluster has Python {theirs['python']}, here it is {ours['python']}"
    if sends_code and python < (3, 11):
        raise ConfigError(f"{said}: this package needs 3.11 or newer there.")
    return f"{said}: the job runs on the cluster's."


def our_versions() -> dict[str, str]:
    import ray

    return {"ray": ray.__version__, "python": ".".join(map(str, sys.version_info[:3]))}


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _of_status(url: str, text: str) -> SelfilterError:
    """Ray gives the status of an answer only in its message."""
    if "status code 404" in text:
        return NoSuchJobError(f"the cluster at {url} does not know this job: see jobs list.")
    if "returned 404" in text:
        return ConfigError(f"{url} answers, but is no Ray dashboard: correct --address.")
    reason = text.strip().strip(".").strip().splitlines()[-1][:1000]
    if "status code 5" in text:
        return NoAnswerError(f"the dashboard at {url} has a problem: {reason}. Try again.")
    return SelfilterError(f"the cluster at {url} refuses: {reason}")


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:300]
