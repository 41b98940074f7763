"""Errors that a user can act on. The command line turns each into its exit code.

Every message says what is wrong and what to do about it; anything else that is raised is a bug
and ends with exit code 1 and a traceback.
"""

from __future__ import annotations


class SelfilterError(Exception):
    """Base of the errors whose message is meant for the user."""

    exit_code = 1


class ConfigError(SelfilterError):
    """Wrong usage or configuration."""

    exit_code = 2


class DataError(SelfilterError):
    """The input data cannot be used."""

    exit_code = 3


class ArtifactError(SelfilterError):
    """A file of a run folder or a checkpoint is missing, damaged or of another version."""

    exit_code = 3


class StorageError(SelfilterError):
    """An object store does not answer, or refuses."""
