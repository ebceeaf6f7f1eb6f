"""Errors on their way out: printed once, in words, with the exit code of their kind."""

from __future__ import annotations

import errno
import json
import sys

import click

from mpack.errors import EXIT_INTERRUPTED, InternalError, MpackError, UsageError, disk_fault
from mpack.redaction import redact

BROKEN_PIPE = 141
#: What the file system answers where the machine, not mpack, is at fault.
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def report_error(error: BaseException, *, debug: bool, as_json: bool) -> int:
    """Prints an error (on stdout as JSON too, where the command was to print JSON) and returns the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        sys.stderr.write("\nmpack: interrupted\n")
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        sys.stderr.write(f"{error}\n")
        return UsageError.exit_code
    known = as_mpack_error(error)
    if debug:
        import traceback

        sys.stderr.write(redact("".join(traceback.format_exception(error))))
    message, hint = redact(known.message), redact(known.hint)
    if as_json:
        sys.stdout.write(json.dumps({"error": {**known.to_json(), "message": message, "hint": hint}}) + "\n")
    sys.stderr.write(f"mpack: {message}\n")
    if hint:
        sys.stderr.write(f"  {hint}\n")
    return known.exit_code


def as_mpack_error(error: BaseException) -> MpackError:
    """The error as one of ours: click's as usage, a full or closed disk as such, anything else as a bug."""
    if isinstance(error, MpackError):
        return error
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"See `{context.command_path} --help`." if context else "See `mpack --help`."
        return UsageError("usage", error.format_message(), hint)
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        hint = "Give this user the right to it; MPACK_HOME names another place for what mpack keeps."
        return disk_fault(error, "Using a file", hint)
    return InternalError(
        "internal",
        f"This is a bug in mpack: {type(error).__name__}: {error}",
        "Run `mpack --debug …` again and report the traceback.",
    )
