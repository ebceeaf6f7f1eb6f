"""`mpack rebuild IMAGE`: whether its artifact and its lock make the same image again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpack.cli.options import reading_options

if TYPE_CHECKING:
    from mpack.diff import ImageDiff
    from mpack.oci.store import Store
    from mpack.pipeline import Workshop
    from mpack.progress import Progress
    from mpack.rebuild.anew import Consent, Rebuilt
    from mpack.supply.attachments import Kept


@click.command("rebuild")
@click.argument("image")
@click.option("--artifact", metavar="PATH|URL", help="Where the artifact is now.")
@click.option("--allow-vcs", is_flag=True, help="Build git requirements again on this machine.")
@click.option(
    "--dockerfile-template",
    "template",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The Dockerfile template that the build was given.",
)
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    image: str,
    artifact: str | None,
    allow_vcs: bool,
    template: Path | None,
    trust_module: tuple[str, ...],
    trust_pickle: bool,
    max_size: str,
    max_entries: int,
    max_ratio: int,
    as_json: bool,
) -> None:
    """Build IMAGE again from its provenance, every layer anew, and compare.

    IMAGE is of the store, the engine or the registry that it names, or oci:DIR, oci-archive:FILE, docker-archive:FILE;
    of one for several platforms, this machine's. An image that was not built here needs --artifact, and the options on
    what an artifact may hold count for it; one that was is read with those of its build. The exit code is 0 if it comes
    out the same, 1 if not (stdout then says what differs), 2 or more for an error.
    """
    from mpack.artifact.limits import Limits, parse_size
    from mpack.cli.difftext import text
    from mpack.errors import EnvironmentFault, InputError
    from mpack.rebuild.anew import Consent

    limits = Limits(total=parse_size(max_size), entries=max_entries, ratio=max_ratio)
    consent = Consent(allow_vcs, limits, frozenset(trust_module), trust_pickle)
    try:
        digest, platform, difference = _rebuild(image, artifact, consent, template)
    except InputError as error:  # its exit code 1 says here that the image came out otherwise
        raise EnvironmentFault(error.code, error.message, error.hint) from error
    if as_json:
        same = difference is None
        value = {"same": same, "digest": digest, "platform": platform, "diff": difference and difference.to_json()}
        click.echo(json.dumps(value))
    elif difference is None:
        click.echo(f"same digest {digest} ({platform})")
    else:
        click.echo("\n".join(text(difference, False)))
    sys.exit(0 if difference is None else 1)


def _rebuild(
    reference: str, artifact: str | None, consent: Consent, template: Path | None
) -> tuple[str, str, ImageDiff | None]:
    """The digest (the id where an engine has the image) that came out, its platform, and the difference if there is
    one."""
    from mpack.pipeline import Workshop
    from mpack.progress import Progress
    from mpack.rebuild.anew import REBUILD_PHASES, artifact_location, rebuilt

    workshop = Workshop.of_this_machine()
    store, docker = workshop.store, workshop.docker
    progress = Progress(REBUILD_PHASES)
    try:
        with store.lease():
            image_id, digest, known = _known(reference, workshop, progress)
            location = artifact_location(known, artifact)
            with rebuilt(known, location, workshop, progress, consent, template) as made:
                new, platform = made.image.digest or made.image.id, made.image.platform
                if (new == digest) if digest and made.image.digest else made.image.id == image_id:
                    return new, platform, None
                try:
                    return new, platform, _difference(reference, workshop, made)
                finally:
                    if docker is not None and made.image.location == "docker":
                        docker.remove_untagged(made.image.id)
    finally:
        if store.find_record(reference) is None:
            store.gc()  # what had to be copied here to be compared


def _known(reference: str, workshop: Workshop, progress: Progress) -> tuple[str, str | None, Kept]:
    """The image's id, its digest where it has a manifest, and how it was built.

    Raises InputError provenance-missing, and what looking for the image raises.
    """
    from mpack.errors import InputError
    from mpack.images import FILES, find_image, open_image
    from mpack.sandbox import this_platform
    from mpack.supply.lookup import find_provenance

    store, docker = workshop.store, workshop.docker
    if reference.partition(":")[0] in FILES:
        opened = open_image(reference, store, docker, this_platform(), progress.say)
        image_id, digest = opened.image.id, opened.digest
    else:
        found = find_image(reference, store, docker, this_platform(), progress.say)
        image_id, digest = found.id, found.digest
    known = find_provenance(reference, image_id, digest, store)
    if known is None:
        raise InputError(
            "provenance-missing",
            f"Nothing tells how {reference} was built: no record in the store, beside it or at its registry.",
            "Only an image that mpack built, and wrote or pushed without --no-attest, can be built again.",
        )
    return image_id, digest, known


def _difference(reference: str, workshop: Workshop, made: Rebuilt) -> ImageDiff:
    """Why the image made anew is another."""
    from mpack.diff import Side, compare
    from mpack.images import open_image
    from mpack.sandbox import this_platform
    from mpack.targets.files import fetched

    opened = open_image(reference, workshop.store, workshop.docker, this_platform())
    own: Store = made.store
    [image] = fetched(made.image, own, workshop.docker).images
    return compare(Side(reference, opened.image, opened.digest), Side("rebuilt", image, made.image.digest))
