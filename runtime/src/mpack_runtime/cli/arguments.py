"""The command line's grammar: the reference's words, and what goes beyond them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

FORMATS = ("json", "csv", "jsonl", "parquet")


def parser() -> argparse.ArgumentParser:
    """Sub-commands serve, triton, predict, info, self-check and health; `command` is None without one."""
    shared = argparse.ArgumentParser(add_help=False)
    top = argparse.ArgumentParser(prog="mpack_runtime", description="A packaged model.", allow_abbrev=False)
    for target, default in ((top, None), (shared, argparse.SUPPRESS)):
        verbose = False if default is None else default
        target.add_argument("-v", "--verbose", action="store_true", default=verbose, help="debug output, tracebacks")
        target.add_argument("--model", metavar="DIR", default=default, help="directory of another model")
        target.add_argument("--entrypoint", metavar="MODULE", default=default, help="module of a GPPI model")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, words: str, *aliases: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=words, description=words, parents=[shared], aliases=aliases, allow_abbrev=False
        )

    command("serve", "Serve the model over HTTP.")
    command("triton", "Serve the model by Triton; what follows are flags of tritonserver.")
    predict = command("predict", "Predict files into OUTPUT_DIR.")
    predict.add_argument("inputs", metavar="INPUT", nargs="+", help="JSON, CSV, JSON Lines or Parquet file")
    predict.add_argument("output_dir", metavar="OUTPUT_DIR", help="an existing directory")
    predict.add_argument("--output_file_name", metavar="NAME", help="name of the one result (default results.<format>)")
    predict.add_argument("--format", choices=FORMATS, help="format of the results (default: the input's)")
    predict.add_argument("--method", metavar="NAME", help="what to ask, predict_proba for instance (default: its own)")
    predict.add_argument("--resume", action="store_true", help="keep what is done if it ends early; go on with that")
    command("info", "Print the input and output schema.")
    check = command("self-check", "Load the model, ask it its sample and print a JSON line.", "self_check")
    check.add_argument("--modules", action="store_true", help="list the source files of all modules imported")
    command("health", "Exit 0 if the service in this container is ready.")
    return top


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words up to `triton`, where it is the command, and the server's flags behind it, which are not ours."""
    ours = next((index for index, word in enumerate(words) if not word.startswith("-")), len(words))
    if list(words[ours : ours + 1]) != ["triton"]:
        return list(words), []
    return list(words[: ours + 1]), list(words[ours + 1 :])
