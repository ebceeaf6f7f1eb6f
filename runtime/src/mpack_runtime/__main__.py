"""`python -m mpack_runtime COMMAND`: the entry point of every image."""

from __future__ import annotations

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    # `-m` puts the working directory there; a queue.py of the user's beside his data must not become a module.
    del sys.path[0]

import argparse
import gc
import importlib.util
import signal
from collections.abc import Sequence
from dataclasses import replace

from mpack_runtime.cli.arguments import parser, split_flags
from mpack_runtime.cli.errors import Usage, guard


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    top = parser()
    words, flags = split_flags(sys.argv[1:] if argv is None else argv)
    arguments = top.parse_args(words)
    arguments.flags = flags
    if arguments.command is None:
        top.print_help()
        return 0
    # Process 1 of a container gets no default action for SIGTERM: it stops a command as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return guard(lambda: _run(arguments), arguments.verbose)


def _run(arguments: argparse.Namespace) -> int:
    from mpack_runtime import threads
    from mpack_runtime.config import Settings
    from mpack_runtime.errors import SettingsError

    settings = Settings.from_env()
    if arguments.command == "health":
        from mpack_runtime.rest.health import health
        from mpack_runtime.triton import health as triton

        return triton.health() if triton.is_triton() else health(settings)
    if arguments.verbose:
        import logging

        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    threads.apply(settings)
    if arguments.command == "triton":
        if settings.workers is None:
            raise SettingsError("MPACK_WORKERS is 'auto', which the REST image knows alone; give a number.")
        from mpack_runtime.config import ModelConfig
        from mpack_runtime.triton.launch import launch

        return launch(ModelConfig.load(), arguments.flags, settings)
    if arguments.command == "serve":
        if importlib.util.find_spec("gunicorn") is None:
            raise Usage("This image has no REST service: its model was packaged as a command line.")
        # Importing makes many objects and no garbage; `serve` turns the collector on again.
        gc.disable()
        from mpack_runtime.cli.model import model_config
        from mpack_runtime.rest.server import serve

        return serve(model_config(arguments.model, arguments.entrypoint), settings)
    return _batch(arguments)


def _batch(arguments: argparse.Namespace) -> int:
    """The commands whose result goes to stdout, and that never run a model as root."""
    from mpack_runtime.cli.model import model_config
    from mpack_runtime.cli.user import become_nobody
    from mpack_runtime.stdio import results

    with results() as out:
        if arguments.command == "predict":
            from mpack_runtime.cli.predict import predict

            return predict(
                lambda: replace(model_config(arguments.model, arguments.entrypoint), method=arguments.method or ""),
                arguments.inputs,
                arguments.output_dir,
                out,
                file_name=arguments.output_file_name,
                form=arguments.format,
                resume=arguments.resume,
                verbose=arguments.verbose,
            )
        become_nobody()
        config = model_config(arguments.model, arguments.entrypoint)
        if arguments.command == "info":
            from mpack_runtime.cli.info import info

            return info(config, out)
        if config.serving.get("server") == "triton":
            from mpack_runtime.triton.check import check as triton_check

            return triton_check(config, out, modules=arguments.modules)
        from mpack_runtime.cli.check import check

        return check(config, out, modules=arguments.modules)


if __name__ == "__main__":
    sys.exit(main())
