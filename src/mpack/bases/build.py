"""From a recipe to an OCI image in the store: a layer of Debian's packages, perhaps one of a wheel's files, one
configuration; the same digest for the same packages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product

from mpack.bases.debian import debian_rootfs
from mpack.bases.recipe import KINDS, NONROOT, Recipe, make_recipe, minors
from mpack.bases.wheel import check_platform, wheel_entries
from mpack.oci.compose import EPOCH
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.store import Store

#: Labels of base images: the recipe, and the user's system packages.
RECIPE_LABEL = "dev.mpack.base"
PACKAGES_LABEL = "dev.mpack.base.system-packages"
#: Label of base images with a server: the wheel that it comes from, "name==version".
SERVER_LABEL = "dev.mpack.base.server"
#: The role of base images in the store.
ROLE = "base"


def recipe_name(recipe: Recipe, platform: str) -> str:
    """The name of a recipe's image: `mpack-base:python3.11`, with `-shell`, `-with-<hash>` and `-<arch>` as needed."""
    tag = recipe.variant
    if recipe.extra:
        tag += "-with-" + hashlib.sha256(" ".join(recipe.extra).encode()).hexdigest()[:12]
    if platform != "linux/amd64":
        tag += "-" + platform.removeprefix("linux/").replace("/", "-")
    return f"{recipe.name}:{tag}"


def named_recipe(reference: str, platform: str) -> Recipe | None:
    """The recipe without system packages whose image for `platform` has this name; None for any other name."""
    for kind, python, shell in product(KINDS, minors(), (False, True)):
        recipe = make_recipe(python, kind=kind, shell=shell)
        if reference == recipe_name(recipe, platform):
            return recipe
    return None


def find_recipe_image(store: Store, recipe: Recipe, platform: str) -> OciImage | None:
    """The recipe's image if the store has it."""
    return store.find(recipe_name(recipe, platform))


def build_recipe_image(store: Store, recipe: Recipe, platform: str, say: Callable[[str], None]) -> OciImage:
    """Builds the recipe's image anew and gives it its name.

    Raises what `debian_rootfs` and `wheel_entries` raise, InputError base-unsuitable for a platform without wheel.
    """
    check_platform(recipe, platform)
    name = recipe_name(recipe, platform)
    what = f" and {', '.join(recipe.extra)}" if recipe.extra else ""
    what += f" and {recipe.wheel.name} {recipe.wheel.version}" if recipe.wheel else ""
    say(f"building the base image {name} from Debian {recipe.suite}'s packages{what}")
    with store.lease(), ExitStack() as stack:
        files = stack.enter_context(wheel_entries(recipe.wheel, recipe.python, platform)) if recipe.wheel else []
        root = stack.enter_context(debian_rootfs(recipe, platform))
        layers = [store.write_layer(root.entries, kind="base", existing=root.directories)]
        if files:
            layers.append(store.write_layer(files, kind="base"))
        config = _config(recipe, platform, [layer.diff_id for layer in layers], root.python_version)
        image = store.put_image(canonical_json(config), tuple(layers))
        store.add_image(image, [name], role=ROLE)
    return image


def _config(recipe: Recipe, platform: str, diff_ids: list[str], python_version: str) -> dict[str, object]:
    system, architecture, variant = (*platform.split("/"), "")[:3]
    labels = {
        "org.opencontainers.image.title": recipe.name,
        "org.opencontainers.image.version": python_version,
        RECIPE_LABEL: recipe.variant,
    }
    if recipe.extra:
        labels[PACKAGES_LABEL] = " ".join(recipe.extra)
    if recipe.wheel:
        labels[SERVER_LABEL] = f"{recipe.wheel.name}=={recipe.wheel.version}"
    made_by = [f"mpack base: {recipe.variant} of Debian {recipe.suite}"]
    made_by += [f"mpack base: {labels[SERVER_LABEL]}"] if recipe.wheel else []
    value: dict[str, object] = {
        "architecture": architecture,
        "os": system,
        "created": EPOCH,
        "config": {
            "Env": [f"{key}={value}" for key, value in recipe.env],
            "Cmd": ["python3"],
            "WorkingDir": "/",
            "Labels": labels,
            # A user's Dockerfile on the base with a shell installs things, so that one is root's.
            **({} if recipe.shell else {"User": f"{NONROOT}:{NONROOT}"}),
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": EPOCH, "created_by": text} for text in made_by],
    }
    return {**value, "variant": variant} if variant else value
