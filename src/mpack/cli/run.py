"""`mpack run IMAGE|ARTIFACT`: a model on this machine, for as long as the command lasts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpack.address import is_remote
from mpack.cli.options import build_request, parse_arguments, plan_options, reading_options
from mpack.errors import UsageError

if TYPE_CHECKING:
    from mpack.pipeline import BuildRequest
    from mpack.sandbox.spec import Mount

ENGINES = ("docker", "podman", "runc")


@click.command("run")
@click.argument("artifact", metavar="IMAGE|ARTIFACT")
@click.argument("words", nargs=-1, metavar="[-- WORDS...]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Serve here on this machine; 0: a free port.  [default: the image's]"
)
@click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="A setting of the image; repeatable.")
@click.option(
    "-v", "--volume", "volumes", multiple=True, metavar="SRC:DST[:ro]", help="A file or directory for it; repeatable."
)
@click.option("--engine", type=click.Choice(ENGINES), help="What runs it.  [default: the first that works]")
@click.option("--local", is_flag=True, help="Run the model of ARTIFACT without a container: as you, unconfined.")
@reading_options
@plan_options
def command(
    words: tuple[str, ...],
    port: int | None,
    env: tuple[str, ...],
    volumes: tuple[str, ...],
    engine: str | None,
    local: bool,
    **values: Any,
) -> int:
    """Run IMAGE (of the store, an engine or a registry), or an image built of ARTIFACT, until it ends or Ctrl-C.

    A server of mpack's is told to listen on loopback alone; podman and runc share this machine's network with the
    image, docker does not. WORDS stand for the image's command, as `predict IN OUT` of docker-cli. The exit code is the
    program's.
    """
    settings = parse_env(env)
    mounts = tuple(map(parse_volume, volumes))
    request = build_request(outputs=("store",), **values)
    if local:
        if mounts or engine:
            raise UsageError("usage", "--local uses no container: --volume and --engine have no meaning.")
        return run_local(request, words, port, settings)
    return run_image(request, words, port, settings, mounts, engine)


def run_image(
    request: BuildRequest,
    words: tuple[str, ...],
    port: int | None,
    env: Mapping[str, str],
    mounts: tuple[Mount, ...],
    engine: str | None,
) -> int:
    """Finds or builds the image, then follows it to its end."""
    from mpack.oci.store import Store
    from mpack.run import Wish
    from mpack.run.engines import pick_engine
    from mpack.run.follow import follow
    from mpack.run.ports import container_ports, host_ports

    store = Store.default()
    chosen = pick_engine(engine, store)
    reference = request.location
    if is_artifact(reference):
        from mpack.cli.build import BUILD_PHASES
        from mpack.pipeline import build
        from mpack.progress import Progress

        reference = build(request, Progress(BUILD_PHASES)).image.id
    image, config = chosen.image(reference, request.options.platform, say)
    if chosen.name != "docker" and not is_mpacks(config):
        say(f"warning: no packager of mpack made {request.location}, and {chosen.name} gives it this machine's network")
    ports = {} if words else host_ports(container_ports(config, env), port)
    if port is not None and not ports:
        raise UsageError("usage", f"--port has no meaning: {request.location} serves nothing here.")
    with chosen.start(Wish(image, config, words, ports, env, mounts)) as started:
        return follow(started, *_announce(list(ports.values()), chosen.name))


def run_local(request: BuildRequest, words: tuple[str, ...], port: int | None, env: Mapping[str, str]) -> int:
    """Resolves the artifact's plan and runs the model by this machine's Python."""
    from mpack.describe import described
    from mpack.pipeline import Workshop, resolve_request, write_lock
    from mpack.progress import Progress
    from mpack.run.follow import follow
    from mpack.run.local import run_locally
    from mpack.run.ports import host_ports

    if not is_artifact(request.location):
        raise UsageError(
            "usage", f"--local runs an artifact, and {request.location} is none.", "Run the image without --local."
        )
    progress = Progress(3)
    with described(request, progress) as found:
        workshop = Workshop.of_this_machine()
        resolution = resolve_request(request, found, workshop, progress)
        write_lock(request, resolution.entry)
        plan = resolution.plan
        ports = [] if words else list(host_ports(plan.config.ports[:1], port).values())
        progress.warn("--local: the model runs as you and may do whatever you may; no sandbox is around it")
        with run_locally(
            plan,
            found.spec.contents,
            workshop.index,
            arguments=words,
            port=ports[0] if ports else None,
            env=env,
        ) as started:
            return follow(started, *_announce(ports, "local"))


def is_artifact(text: str) -> bool:
    """True for what is a path or an address; anything else is the name of an image."""
    return "://" in text or is_remote(text) or Path(text).exists() or text.startswith(("/", "./", "../"))


def is_mpacks(config: Mapping[str, Any]) -> bool:
    """True if the image of a `config` object says that a packager of mpack's made it, and so hears its settings."""
    return "dev.mpack.packager" in (config.get("Labels") or {})


def parse_env(pairs: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE words as a dict. Raises UsageError."""
    env = parse_arguments(pairs, "--env", "MPACK_WORKERS=2")
    for key, value in env.items():
        if "\n" in key + value or "\0" in key + value:
            raise UsageError("usage", f"--env {key} has a line break in it.", "Settings are single lines.")
    return env


def parse_volume(text: str) -> Mount:
    """SRC:DST or SRC:DST:ro. Raises UsageError for another form, a SRC that is missing, a DST that is not absolute."""
    from mpack.sandbox.spec import Mount

    source, colon, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    parts = Path(target).parts
    if not (source and colon and len(parts) > 1 and parts[0] == "/") or ".." in parts or mode not in ("", "ro", "rw"):
        raise UsageError(
            "usage", f"-v takes SRC:DST or SRC:DST:ro, not {text!r}.", 'For example: -v "$PWD/data:/data".'
        )
    place = Path(source).resolve()
    if not place.exists():
        raise UsageError("usage", f"-v {text}: there is no {source}.", "Name a file or directory that exists.")
    return Mount(place, str(Path(target)), mode == "ro")


def say(text: str) -> None:
    click.echo(text, err=True)


def _announce(ports: list[int], name: str) -> tuple[int | None, Any]:
    """The port to ask whether it is ready, and what is to be said then."""
    if not ports:
        return None, lambda: None
    more = "".join(f", and on port {port}" for port in ports[1:])
    return ports[0], lambda: say(f"ready at http://127.0.0.1:{ports[0]}{more} ({name}); Ctrl-C ends it")
