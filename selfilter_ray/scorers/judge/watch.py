"""Whether failures are the samples' or the configuration's, told from what came before.

A server that has answered once with these settings is set up well: a request that it refuses later
is a matter of that sample. Before that, a few refusals of different samples say that the settings
are wrong. A server that stops answering ends the run; what was answered is kept.
"""

from __future__ import annotations

from selfilter_ray.errors import ConfigError
from selfilter_ray.scorers.judge.failures import Refused, Unreachable
from selfilter_ray.scorers.judge.settings import JudgeConfig

PROBES = 3


class Watch:
    """Counts what came of the requests.

    Args:
        settings: of the judge.
        proven: whether an answer to these settings is stored from before.
    """

    def __init__(self, settings: JudgeConfig, proven: bool) -> None:
        self.settings = settings
        self.proven = proven
        self._failed_before_success = 0
        self._silent_in_a_row = 0
        self._first: Refused | Unreachable | None = None

    def answered(self) -> None:
        self.proven = True
        self._silent_in_a_row = 0

    def failed(self, error: Refused | Unreachable) -> None:
        """Note a failure.

        Raises:
            ConfigError: when it is not this sample's own.
        """
        self._first = self._first or error
        if isinstance(error, Refused):
            if error.hopeless or (error.status == 403 and not self.proven):
                raise ConfigError(self._remedy(error)) from None
        else:
            self._silent_in_a_row += 1
            if self._silent_in_a_row > 2 * self.settings.concurrency and self.proven:
                raise ConfigError(self._remedy(error)) from None
        if not self.proven:
            self._failed_before_success += 1
            if self._failed_before_success >= PROBES:
                raise ConfigError(self._remedy(self._first)) from None

    def finish(self) -> None:
        """At the end: a run in which the server gave no answer at all has the wrong settings.

        Raises:
            ConfigError: as said.
        """
        if self._first is not None and not self.proven:
            raise ConfigError(self._remedy(self._first))

    def _remedy(self, error: Refused | Unreachable) -> str:
        url, name = self.settings.base_url, self.settings.api_key_env
        if isinstance(error, Unreachable):
            return (
                f"the judge at {url} does not answer ({error}). Start it or correct judge.base_url,"
                " which usually ends in /v1; then run again: stored answers are kept."
            )
        remedies = {
            401: f"export a valid key in the environment variable {name}"
            if name
            else "name the environment variable that holds its key in judge.api_key_env",
            402: "the account has no credit left: add some and run again, stored answers are kept",
            403: f"the key in {name} may not use this model: use another key or judge.model",
            404: "correct judge.base_url, which usually ends in /v1, or judge.model "
            f"({self.settings.model!r})",
        }
        if error.status < 400:
            return f"{url} redirects: give the address that it leads to as judge.base_url ({error})"
        remedy = remedies.get(
            error.status,
            "correct the settings of judge that it names (model, with_image, temperature, "
            "max_tokens, token_field, extra_body)",
        )
        return f"the judge at {url} refuses the requests: {remedy}. It said: {error}"
