"""A build as its record, and what a record of somebody else may decide when it is built again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpack.artifact.limits import Limits
from mpack.describe import Described, described
from mpack.errors import EnvironmentFault, InputError
from mpack.images import stored_image
from mpack.oci.store import Store
from mpack.pipeline import BuildRequest, Workshop
from mpack.progress import Progress
from mpack.rebuild.anew import Consent, artifact_location, rebuilt, request_of, require_same
from mpack.rebuild.record import provenance_of
from mpack.resolve import LockEntry, Resolution, ResolveOptions, lock_inputs
from mpack.supply.attachments import Kept
from mpack.supply.provenance import Provenance
from mpack.testing.tiny import tiny_base, tiny_plan

INVOICES = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"
REQUEST = BuildRequest(str(INVOICES), "docker-rest", options=ResolveOptions("linux/amd64"))


def progress() -> Progress:
    return Progress(3, io.StringIO())


def recorded(request: BuildRequest, found: Described, directory: Path) -> Provenance:
    """The record of a build of a tiny plan, whose lock has the key of what was asked for."""
    store = Store(directory / "store")
    image = tiny_base(store)
    (directory / "model").mkdir()
    plan, _ = tiny_plan(image, directory / "model")
    inputs = lock_inputs(found.spec, request.options)
    entry = LockEntry(inputs.key, inputs.requirements, plan.base, plan.environment, None, "deflate 0")
    return provenance_of(request, found, Resolution(plan, entry, True), stored_image(image))


@pytest.mark.parametrize("how", ["base", "argument"])
def test_no_directory_of_a_base_is_told(tmp_path: Path, how: str) -> None:
    """Of a base in a file its name alone is in lock and record, and elsewhere the record still fits the artifact."""
    place = f"oci:{tmp_path}/secret-place/our-base"
    given: dict[str, Any] = {"base": place} if how == "base" else {"arguments": {"dockerfileBaseImage": place}}
    request = replace(REQUEST, **given)
    with described(request, progress()) as found:
        made = recorded(request, found, tmp_path)
    text = json.dumps(made.predicate())
    assert "secret-place" not in text and "base=oci:our-base" in made.lock.key
    again = request_of(Kept(made, ""), str(INVOICES), tmp_path / "lock", Consent(), None)
    with described(again, progress()) as found:
        require_same(made, found)
        assert lock_inputs(found.spec, again.options).key == made.lock.key


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Provenance]:
    """A record that would allow everything."""
    with described(REQUEST, progress()) as found:
        made = recorded(REQUEST, found, tmp_path)
    limits = dict.fromkeys(made.parameters.limits, 10**30)
    parameters = replace(made.parameters, limits=limits, trust_pickle=True, trust_modules=("os",), allow_vcs=True)
    yield replace(made, parameters=replace(parameters, artifact="/etc/passwd"))


def test_a_foreign_record_allows_nothing(record: Provenance, tmp_path: Path) -> None:
    """Artifact, limits and trust are the user's where the record is not of this machine; else those of the build."""
    foreign, own = Kept(record, ""), Kept(record, str(INVOICES))
    with pytest.raises(EnvironmentFault, match="not of this machine") as caught:
        artifact_location(foreign, None)
    assert caught.value.code == "artifact-missing" and "--artifact" in caught.value.hint
    assert artifact_location(foreign, "/") == "/" and artifact_location(own, None) == str(INVOICES)
    consent = Consent(limits=Limits(total=5), trust_modules=frozenset({"ours"}))
    asked = request_of(foreign, "/x", tmp_path / "lock", consent, None)
    assert asked.limits == Limits(total=5) and not asked.options.allow_vcs
    assert (asked.trust.modules, asked.trust.pickle) == ({"ours"}, False)
    trusted = request_of(own, "/x", tmp_path / "lock", consent, None)
    assert trusted.limits.total == 10**30 and (trusted.trust.modules, trusted.trust.pickle) == ({"os"}, True)
    assert not trusted.options.allow_vcs, "that is asked each time"


def test_a_lock_of_other_wishes_is_not_made_anew(record: Provenance, tmp_path: Path) -> None:
    """A record whose lock does not fit its parameters ends before a base or an index is asked."""
    odd = replace(record, lock=replace(record.lock, key="another"))
    workshop: Any = Workshop(Store(tmp_path / "own"), None, bases=None)  # type: ignore[arg-type]
    with (
        pytest.raises(InputError, match="other wishes") as caught,
        rebuilt(Kept(odd, ""), str(INVOICES), workshop, progress(), Consent()),
    ):
        pass
    assert caught.value.code == "rebuild-impossible"
