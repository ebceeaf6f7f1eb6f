"""Errors on their way out: printed once, in words, with the exit code of their kind."""

from __future__ import annotations

import errno
import json
import sys
import traceback

import click

from mpack.errors import EXIT_INTERRUPTED, EnvironmentFault, InternalError, MpackError, UsageError

BROKEN_PIPE = 141


def report_error(error: BaseException, *, debug: bool, as_json: bool) -> int:
    """Prints an error (on stdout as JSON too, where the command was to print JSON) and returns the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        sys.stderr.write("\ninterrupted; nothing was tagged or written\n")
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    known = as_mpack_error(error)
    if debug:
        sys.stderr.write("".join(traceback.format_exception(error)))
    if as_json:
        sys.stdout.write(json.dumps({"error": known.to_json()}) + "\n")
    sys.stderr.write(f"mpack: {known.message}\n")
    if known.hint:
        sys.stderr.write(f"  {known.hint}\n")
    return known.exit_code


def as_mpack_error(error: BaseException) -> MpackError:
    """The error as one of ours: click's as usage, a full disk as such, anything else as a bug."""
    if isinstance(error, MpackError):
        return error
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"See `{context.command_path} --help`." if context else "See `mpack --help`."
        return UsageError("usage", error.format_message(), hint)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentFault(
            "disk-full",
            f"The disk is full: {error.filename or 'a file'} could not be written.",
            "Free some space (`mpack cache prune`, `mpack rm --older-than 7d`) and try again.",
        )
    return InternalError(
        "internal",
        f"This is a bug in mpack: {type(error).__name__}: {error}",
        "Run again with --debug and report the traceback.",
    )
