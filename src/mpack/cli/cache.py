"""`mpack cache`: what the store and the caches take, and giving it back."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import click

from mpack.cli.durations import seconds
from mpack.cli.images import age, size

#: Seconds.
_MONTH = 30 * 86400.0


@click.group("cache", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show what the store and the caches take."""
    if ctx.invoked_subcommand is not None:
        return
    from mpack.builders import buildahstore
    from mpack.conda.packages import PackageCache
    from mpack.oci.store import Store
    from mpack.optimize.kept import Conversions
    from mpack.paths import cache_dir
    from mpack.sandbox.codecache import CodeCache
    from mpack.sandbox.scratch import sweep
    from mpack.sandbox.trees import Trees
    from mpack.stores.cache import ArtifactCache

    sweep(Trees.default().directory)
    store, now = Store.default(), time.time()
    uv = _uv_cache()
    artifacts = ArtifactCache.default()
    fetched = _usage(artifacts.directory)
    places = {
        "store": (store.root, store.disk_usage()),
        "layers": (store.cache.directory, store.cache.size()),
        "cache": (cache_dir(), _usage(cache_dir()) - fetched),
        "artifacts": (artifacts.directory, fetched),
        "uv": (uv, _usage(uv) if uv else 0),
    }
    ages = {
        key: [max(0, round(now - entry.used)) for entry in entries]
        for key, entries in (
            ("layers", store.cache.entries()),
            ("artifacts", artifacts.entries()),
            (
                "cache",
                [
                    *CodeCache.default().entries(),
                    *Trees.default().entries(),
                    *Conversions.default().entries(),
                    *PackageCache.default().entries(),
                    *buildahstore.entries(),
                ],
            ),
        )
    }
    if as_json:
        value = {
            key: {
                "path": str(path) if path else None,
                "size": used,
                **({"entries": len(ages[key]), "oldest": max(ages[key], default=None)} if key in ages else {}),
            }
            for key, (path, used) in places.items()
        }
        click.echo(json.dumps(value))
        return
    words = {
        "store": "images and cached layers",
        "layers": "of these, layers kept for the next build",
        "cache": "byte code, unpacked layers, conda packages, buildah's storage, and what layers tell for an SBOM",
        "artifacts": "artifacts fetched from stores, and parts of some",
        "uv": "wheels, shared with uv (`uv cache prune`)",
    }
    for key, (path, used) in places.items():
        oldest = f", the longest unused for {age(max(ages[key]))}" if ages.get(key) else ""
        click.echo(f"{size(used):>12}  {words[key]}{oldest}  {path or '(uv does not say where)'}")


@command.command("prune")
@click.option("--older-than", callback=seconds, help="What was of no use for this long: 12h, 7d.  [default: 30d]")
@click.option("--keep-size", metavar="SIZE", help="What was longest of no use, until so much is left: 5GB, 500MB.")
def prune(older_than: float | None, keep_size: str | None) -> None:
    """Forget cached layers, unpacked or not, byte code, buildah's storage and fetched artifacts, that no build used
    lately, and free what no image needs.

    With --keep-size alone nothing goes for its age. While another mpack is at work nothing goes. uv's cache stays.
    """
    from mpack import again, pruning
    from mpack.artifact.limits import parse_size
    from mpack.artifact.yamlfile import yaml_dir
    from mpack.builders import buildahstore
    from mpack.conda.packages import PackageCache
    from mpack.oci.store import Store
    from mpack.optimize.kept import Conversions
    from mpack.paths import cache_dir
    from mpack.sandbox.codecache import CodeCache
    from mpack.sandbox.trees import Trees
    from mpack.stores.cache import ArtifactCache
    from mpack.supply.attachments import facts_dir
    from mpack.supply.jsonfiles import prune as forget

    size_left = None if keep_size is None else parse_size(keep_size)
    limit = _MONTH if older_than is None and keep_size is None else older_than
    store, code, trees = Store.default(), CodeCache.default(), Trees.default()
    with store.alone() as alone:
        if not alone:
            click.echo("another mpack is at work and may use what is cached: nothing was pruned", err=True)
            return
        before = _usage(cache_dir())
        converted = Conversions.default()
        entries = [*store.cache.entries(store.in_images()), *code.entries(), *trees.entries(), *converted.entries()]
        entries += PackageCache.default().entries()
        entries += buildahstore.entries()
        artifacts = ArtifactCache.default()
        with artifacts.alone() as unused:
            entries += artifacts.entries() if unused else []
            count = pruning.prune(entries, older_than=limit, keep_size=size_left)
        if limit is not None:
            again.prune(limit)
            for directory in (facts_dir(), yaml_dir()):
                forget(directory, limit)
            store.provenance.prune(limit)
        for digest in store.unreadable():
            click.echo(f"blobs stay: the manifest of {digest} cannot be read; `mpack rm {digest}` first", err=True)
        freed = store.sweep() + before - _usage(cache_dir())
    click.echo(f"forgot {count} cached layers and files", err=True)
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
