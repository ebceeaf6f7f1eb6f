"""`mpack cache`: what the store and the caches take, and giving it back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import click

from mpack.cli.durations import seconds
from mpack.cli.images import size

_MONTH = "30d"


@click.group("cache", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show what the store and the caches take."""
    if ctx.invoked_subcommand is not None:
        return
    from mpack.oci.store import Store
    from mpack.paths import cache_dir
    from mpack.sandbox.scratch import sweep
    from mpack.sandbox.trees import Trees

    sweep(Trees.default().directory)
    store = Store.default()
    uv = _uv_cache()
    places = {
        "store": (store.root, store.disk_usage()),
        "layers": (store.cache.directory, store.cache.size()),
        "cache": (cache_dir(), _usage(cache_dir())),
        "uv": (uv, _usage(uv) if uv else 0),
    }
    if as_json:
        value = {key: {"path": str(path) if path else None, "size": used} for key, (path, used) in places.items()}
        click.echo(json.dumps(value))
        return
    words = {
        "store": "images and cached layers",
        "layers": "of these, layers kept for the next build",
        "cache": "byte code, unpacked layers, and what layers tell for an SBOM",
        "uv": "wheels, shared with uv (`uv cache prune`)",
    }
    for key, (path, used) in places.items():
        click.echo(f"{size(used):>12}  {words[key]}  {path or '(uv does not say where)'}")


@command.command("prune")
@click.option(
    "--older-than", callback=seconds, default=_MONTH, show_default=True, help="Unused for this long: 12h, 7d."
)
def prune(older_than: float) -> None:
    """Forget cached layers that no build used lately, and free what no image needs. uv's cache stays."""
    from mpack import again
    from mpack.oci.store import Store
    from mpack.sandbox.codecache import CodeCache
    from mpack.sandbox.trees import Trees
    from mpack.supply.attachments import facts_dir
    from mpack.supply.jsonfiles import prune as prune_facts

    store = Store.default()
    count = store.cache.prune(older_than)
    CodeCache.default().prune(older_than)
    again.prune(older_than)
    Trees.default().prune(older_than)
    prune_facts(facts_dir(), older_than)
    store.provenance.prune(older_than)
    freed = store.gc()
    click.echo(f"forgot {count} cached layers", err=True)
    if freed is None:
        click.echo("another mpack is at work; the space is freed by the next prune", err=True)
    else:
        click.echo(f"freed {size(freed)}", err=True)


def _usage(directory: Path) -> int:
    """Bytes of all files below a directory, as they are now; what goes meanwhile counts nothing."""
    total = 0
    for path in directory.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
        except OSError:
            continue
    return total


def _uv_cache() -> Path | None:
    from mpack.env.process import uv_binary
    from mpack.errors import EnvironmentFault

    try:
        uv = uv_binary()
    except EnvironmentFault:
        return None
    done = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None
