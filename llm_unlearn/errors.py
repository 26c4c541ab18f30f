"""Errors that a user can act on: each names the offending field, its value and the fix."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input that was found before any work was lost.

    The message is written for the person who typed the command: what is wrong, where, and what to do about it.
    Recipes print it as one line and exit with code 2; library users may catch it as a `ValueError`.
    """

    exit_code = 2


class DivergenceError(RuntimeError):
    """Training produced NaN or infinite values; the message names the step and where the last good state was saved."""

    exit_code = 3


class StorageError(RuntimeError):
    """A file could not be written (a full disk, a read-only folder); the message says what is still there."""

    exit_code = 4


class LeakError(RuntimeError):
    """A file that was about to be uploaded holds what must not leave; it names the file and line. Nothing was sent."""

    exit_code = 6


class HubError(RuntimeError):
    """The hub refused or dropped an upload or a download; the message says what to do. Nothing on disk is lost."""

    exit_code = 5


FAILURES = (
    InputError,
    DivergenceError,
    StorageError,
    HubError,
    LeakError,
)  # one line, and an exit code of its own


def excerpt(value: object, length: int = 60) -> str:
    """The beginning of a value as an error may show it, once: rows are what is to be forgotten."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


@contextlib.contextmanager
def named(place: object) -> Iterator[None]:
    """Within this scope, an `InputError` begins with where it is from: "results.json: ..."."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


@contextlib.contextmanager
def as_input_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Within this scope, what a library raises about arguments that were handed on to it becomes an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        raise InputError(" ".join(str(error).split()) or type(error).__name__) from error
