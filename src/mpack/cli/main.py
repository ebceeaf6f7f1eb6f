"""`mpack`: parse, call one verb, print the reference on stdout and all else on stderr.

Verbs are loaded when asked for: `mpack --help` imports no verb.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import sys
import threading

import click

from mpack import __version__
from mpack.cli.report import report_error

#: verb -> (module, help line). The module holds a click command named `command`.
VERBS = {
    "build": ("mpack.cli.build", "Build, verify and store an image of a model artifact."),
    "inspect": ("mpack.cli.inspect", "Show what is in an artifact, what can package it, what is dangerous in it."),
    "plan": ("mpack.cli.plan", "Print the image plan (or, with --spec, the image spec) as JSON."),
    "lock": ("mpack.cli.lock", "Write an artifact's lock file alone, or say whether it fits."),
    "export": ("mpack.cli.export", "Write a Dockerfile and a self-contained build context."),
    "verify": ("mpack.cli.verify", "Run an image's self-check in a sandbox."),
    "run": ("mpack.cli.run", "Run an image, or an artifact's, on this machine."),
    "diff": ("mpack.cli.diff", "Say why two images differ: configuration, packages, layers, files."),
    "rebuild": ("mpack.cli.rebuild", "Build an image again from its provenance, and compare."),
    "sbom": ("mpack.cli.sbom", "Print an image's SBOM: packages, licences, base, model."),
    "push": ("mpack.cli.push", "Push an image to registries."),
    "packagers": ("mpack.cli.packagers", "List the packagers, or show one packager's arguments and targets."),
    "base": ("mpack.cli.base", "Build and list base images and dependency-cache images."),
    "images": ("mpack.cli.images", "List the images of the store."),
    "rm": ("mpack.cli.rm", "Remove images from the store."),
    "cache": ("mpack.cli.cache", "Show and prune the caches."),
    "doctor": ("mpack.cli.doctor", "Say what works on this machine, and what to do about what does not."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(VERBS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpack")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error; anywhere in the line.")
def mpack() -> None:
    """Turn a trained model into a verified, minimal, reproducible container image.

    \b
    mpack build model.zip            # image in docker, or in mpack's store without an engine
    mpack inspect model.zip          # what is in it, and what is dangerous
    """


def run(argv: list[str] | None = None) -> None:
    """The console script: exit codes as in `mpack.errors`."""
    # Names of files become an image's, which has UTF-8 whatever the user's locale is.
    if argv is None and sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
    # What a command makes is mostly kept until it ends: to look through it for garbage every 700 objects is in vain.
    gc.set_threshold(50_000, 20, 20)
    words = sys.argv[1:] if argv is None else argv
    arguments = [word for word in words if word != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = mpack.main(args=arguments, prog_name="mpack", standalone_mode=False)
    except BaseException as error:
        sys.exit(report_error(error, debug=arguments != words, as_json="--json" in arguments))
    if argv is None:
        _end(code if isinstance(code, int) else 0)
    sys.exit(code if isinstance(code, int) else 0)


def _end(code: int) -> None:
    """Ends the process, once what is to be done at its end is done, without freeing each object first: that is a tenth
    of a short command's time. Returns where threads are left, or what was printed cannot be written: so Python ends it.
    """
    if threading.active_count() > 1:
        return
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(code)


def _terminate(number: int, _frame: object) -> None:
    """Ends mpack as Ctrl-C does, so that a cancelled CI job leaves no container and no temporary directory."""
    raise SystemExit(128 + number)
