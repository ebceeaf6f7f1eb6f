"""From a recipe to an OCI image in the store: one layer, one configuration, the same digest for the same packages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from mpack.bases.debian import debian_rootfs
from mpack.bases.recipe import NONROOT, Recipe, make_recipe, minors
from mpack.oci.compose import EPOCH
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.store import Store

#: Labels of base images: the recipe, and the user's system packages.
RECIPE_LABEL = "dev.mpack.base"
PACKAGES_LABEL = "dev.mpack.base.system-packages"
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
    for python in minors():
        for shell in (False, True):
            recipe = make_recipe(python, shell=shell)
            if reference == recipe_name(recipe, platform):
                return recipe
    return None


def find_recipe_image(store: Store, recipe: Recipe, platform: str) -> OciImage | None:
    """The recipe's image if the store has it."""
    return store.find(recipe_name(recipe, platform))


def build_recipe_image(store: Store, recipe: Recipe, platform: str, say: Callable[[str], None]) -> OciImage:
    """Builds the recipe's image anew and gives it its name. Raises what `debian_rootfs` raises."""
    name = recipe_name(recipe, platform)
    what = f" and {', '.join(recipe.extra)}" if recipe.extra else ""
    say(f"building the base image {name} from Debian {recipe.suite}'s packages{what}")
    with store.lease(), debian_rootfs(recipe, platform) as root:
        layer = store.write_layer(root.entries, kind="base", existing=root.directories)
        config = canonical_json(_config(recipe, platform, layer.diff_id, root.python_version))
        image = store.put_image(config, (layer,))
        store.add_image(image, [name], role=ROLE)
    return image


def _config(recipe: Recipe, platform: str, diff_id: str, python_version: str) -> dict[str, object]:
    system, architecture, variant = (*platform.split("/"), "")[:3]
    labels = {
        "org.opencontainers.image.title": recipe.name,
        "org.opencontainers.image.version": python_version,
        RECIPE_LABEL: recipe.variant,
    }
    if recipe.extra:
        labels[PACKAGES_LABEL] = " ".join(recipe.extra)
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
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": EPOCH, "created_by": f"mpack base: {recipe.variant} of Debian {recipe.suite}"}],
    }
    return {**value, "variant": variant} if variant else value
