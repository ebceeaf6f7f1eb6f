"""Where a base image comes from: the store, then the docker daemon, then a registry. It always ends in the store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from threading import Event, Thread
from typing import TYPE_CHECKING

from mpack.bases.build import ROLE
from mpack.bases.recipe import is_own
from mpack.errors import EnvironmentFault, InputError, MpackError
from mpack.oci.image import OciImage
from mpack.oci.imageindex import same_platform
from mpack.oci.store import Store, with_tag
from mpack.spec import FILES

if TYPE_CHECKING:
    from mpack.engine import Docker
    from mpack.registry.credentials import Login

#: Seconds that a registry has for its first answer where mpack can do without it.
PROBE_SECONDS = 3.0


def fetch(
    reference: str,
    platform: str,
    store: Store,
    docker: Docker | None,
    say: Callable[[str], None],
    patient: bool = True,
    login: Login | None = None,
) -> tuple[OciImage, str]:
    """An image of the user's and the digest to name it by: the manifest's, or the image id where docker has it.

    Not `patient`: a registry that does not answer at once is not asked. `login`: whose credentials a registry gets,
    None for Docker's. Raises EnvironmentFault base-unavailable with what each place said, InputError base-unsuitable
    for another platform.
    """
    if reference.startswith(FILES):
        read = fetch_from_file(reference, platform, store)
        return read, read.digest
    held = store.find_any(reference)
    for image in held.images if held else ():
        if same_platform(image.platform, platform):
            return image, image.digest
    other = wrong_platform(reference, held.platform, platform) if held else None
    try:
        from_docker = fetch_from_docker(reference, platform, store, docker, say)
    except InputError as error:
        other, from_docker = error, None  # a registry may have it for this platform too
    if from_docker is not None:
        return from_docker, from_docker.id
    try:
        if not patient:
            check_answers(reference)
        pulled = fetch_from_registry(reference, platform, store, say, login)
    except EnvironmentFault as error:
        if other is not None:
            raise other from error
        engine = "docker does not have it" if docker else "no docker engine answers"
        raise EnvironmentFault(
            "base-unavailable",
            f"The base image {reference} cannot be had: the store does not have it, {engine}. {error.message}",
            f"Build or pull it first, or leave --base away: mpack then picks one. {error.hint}".rstrip(),
        ) from error
    return pulled, pulled.digest


def fetch_from_docker(
    reference: str, platform: str, store: Store, docker: Docker | None, say: Callable[[str], None]
) -> OciImage | None:
    """The daemon's image, saved into the store once per image id; None where the daemon has none of that name."""
    known = docker.inspect(reference) if docker else None
    if docker is None or known is None:
        return None
    has = "/".join(filter(None, (known.get("Os"), known.get("Architecture"), known.get("Variant"))))
    if not same_platform(has, platform):
        raise wrong_platform(reference, has, platform)
    kept = store.find(f"{reference.partition('@')[0]}@{known['Id']}")
    if kept is not None:
        return kept
    from mpack.oci.load import read_archive

    say(f"copying {reference} from docker into mpack's store")
    with store.lease():
        with docker.save(reference) as archive:
            [loaded] = read_archive(store, archive, f"docker's image {reference}")
        # Without a name: the daemon's may move, and the daemon is asked each time.
        store.add_image(loaded.image, role=ROLE)
    return loaded.image


def fetch_from_file(reference: str, platform: str, store: Store) -> OciImage:
    """The image for `platform` of an OCI layout or an archive (FILES). Raises InputError base-unsuitable."""
    from mpack.oci.load import read_file

    with store.lease():
        images = [item.image for item in read_file(store, reference)]
        fitting = {image.digest: image for image in images if same_platform(image.platform, platform)}
        if not fitting and images:
            raise wrong_platform(reference, ", ".join(sorted({image.platform for image in images})), platform)
        if len(fitting) != 1:
            raise InputError(
                "base-unsuitable",
                f"{reference} holds {len(fitting)} images for {platform}; a base is one.",
                "Give a file with the one image.",
            )
        [image] = fitting.values()
        store.add_image(image, role=ROLE)
    return image


def fetch_from_registry(
    reference: str, platform: str, store: Store, say: Callable[[str], None], login: Login | None = None
) -> OciImage:
    """Pulls an image and lists it under its name, which it shares with the same reference's images for other platforms.

    Raises EnvironmentFault registry-failed or image-unknown.
    """
    from mpack.registry import parse_reference
    from mpack.registry.pull import pull

    parsed = parse_reference(reference)
    with store.lease():
        image = pull(parsed, platform, store, say=say, login=login)
        if not same_platform(image.platform, platform):
            raise wrong_platform(reference, image.platform, platform)
        if parsed.digest:
            store.add_image(image, role=ROLE)
            return image
        held = store.find_any(reference)
        others = [item for item in held.images if not same_platform(item.platform, platform)] if held else []
        whole = store.add_index([*others, image], role=ROLE) if others else image
        store.add_image(whole, [with_tag(reference)], role=ROLE)
    return image


def check_answers(reference: str, seconds: float = PROBE_SECONDS) -> None:
    """Raises EnvironmentFault registry-failed if the reference's registry does not answer in that time."""
    from mpack.registry import parse_reference

    registry = parse_reference(reference).api_host
    answered = Event()

    def ask() -> None:
        import httpx

        from mpack.registry.transport import make_http

        for scheme in ("https", "http") if parse_reference(reference).is_loopback else ("https",):
            with suppress(httpx.HTTPError), make_http(registry, seconds) as http:
                if http.get(f"{scheme}://{registry}/v2/").status_code < 500:
                    answered.set()
                    return

    # In a thread: looking up a name has no time limit of its own.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    if not answered.is_set():
        raise EnvironmentFault("registry-failed", f"The registry {registry} does not answer.")


def fetch_by_digest(
    reference: str,
    digest: str,
    platform: str,
    store: Store,
    docker: Docker | None,
    say: Callable[[str], None],
    login: Login | None = None,
) -> tuple[OciImage | None, str]:
    """An image that a lock names: from the store, the daemon (by id) or the registry (by digest); or None and why."""
    found = store.find(f"x@{digest}", platform)
    if found is not None:
        return found, ""
    found = fetch_from_docker(digest, platform, store, docker, say)
    if found is not None:
        return found, ""
    if reference.startswith(FILES) or is_own(reference):
        return None, ""
    from mpack.registry import parse_reference

    try:
        pinned = replace(parse_reference(reference.partition("@")[0]), tag=None, digest=digest)
        return fetch_from_registry(str(pinned), platform, store, say, login), ""
    except MpackError as error:
        return None, error.message


def wrong_platform(reference: str, has: str, wanted: str) -> InputError:
    """The error for a base of another platform."""
    return InputError(
        "base-unsuitable",
        f"The base image {reference} is for {has}, not for {wanted}.",
        f"Give a base for {wanted}, or build for {has} with --platform.",
    )
