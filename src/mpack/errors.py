"""Every error that mpack raises on purpose: one tree, one exit code a branch, one stable code an error.

    MpackError
    ├── InputError          exit 1    the user's input is at fault (artifact, pins, manifest)
    ├── UsageError          exit 2    unknown option, packager or argument
    ├── EnvironmentFault    exit 3    engine, index, registry, auth, network, disk
    ├── VerificationError   exit 4    the image did not answer as it must
    └── InternalError       exit 70   a bug of ours
    (interrupted)           exit 130  Ctrl-C; not an MpackError

`mpack diff` ends with 1 where the images differ, as diff(1) does, and `mpack rebuild` where it made another image; both
therefore end with no InputError.

Raised low, printed once (by `mpack.cli`). A message says what was tried, on what and why it failed; the hint says what
to do. `code` is a stable word for programs and a heading in docs/reference/errors.md.
"""

from __future__ import annotations

import errno

EXIT_INTERRUPTED = 130

#: code -> one line for the reference page. An error with a code that is not here is a bug, and is refused when made.
CODES: dict[str, str] = {
    # input
    "artifact-missing": "The artifact's path does not exist or cannot be read.",
    "artifact-empty": "The artifact, or a file in it that must have content, is empty.",
    "artifact-truncated": "The archive or file ends before its content does.",
    "artifact-corrupt": "The archive or file is damaged or is not what its first bytes say.",
    "artifact-unsafe": "The archive or directory holds an entry that mpack never unpacks.",
    "artifact-too-large": "The artifact exceeds a limit on size, entries or compression ratio.",
    "artifact-changed": "The artifact changed while it was being read.",
    "artifact-unknown": "Nothing in the artifact is a model that a format plugin knows.",
    "artifact-ambiguous": "More than one model stands in the same place.",
    "artifact-invalid": "A manifest inside the artifact (MLmodel, odahuflow.project.yaml, …) is wrong.",
    "artifact-digest": "The artifact is not the one its given digest names.",
    "pickle-refused": "A pickle names something that is not plain model data.",
    "override-invalid": "mpack.toml is wrong, or one inside the artifact asks for what it may not.",
    "requirements-invalid": "A requirement cannot be read or is of a kind that is refused.",
    "requirements-clash": "No set of versions satisfies the model's and the runtime's requirements together.",
    "requirements-unavailable": "A pinned version has no wheel for this Python and platform, or does not exist.",
    "conda-untranslatable": "A conda package has no known counterpart on a Python index.",
    "python-unavailable": "No base image with the model's Python version is at hand.",
    "lock-invalid": "The lock file cannot be read.",
    "lock-mismatch": "The lock file was made for other requirements, another base or another platform.",
    "base-unsuitable": "The base image lacks Python or a file that the image needs, or is of another platform.",
    "template-invalid": "A Dockerfile or image-name template is wrong.",
    "image-name-invalid": "The image name is not a legal reference.",
    "provenance-missing": "Nothing tells how the image was built.",
    "provenance-invalid": "The record of how the image was built is damaged, or is not mpack's.",
    "rebuild-impossible": "The image cannot be built again here: another mpack, or other wishes beside the artifact.",
    "sbom-unknown": "The image's files tell of no package, and mpack did not build it.",
    "manifest-invalid": "Manifests cannot be read, or what they say is wrong or does not fit together.",
    "connection-invalid": "A connection lacks a field, or one of its fields cannot be what it says.",
    "plan-not-embeddable": "The Dockerfile template adds steps that only an engine can run.",
    # usage
    "usage": "The command line is wrong.",
    "packager-unknown": "No packager of that name is installed.",
    "packaging-unknown": "The manifests have no ModelPackaging of that id, or several and none was named.",
    "packager-unfit": "The packager does not accept this artifact.",
    "argument-invalid": "A packager argument is unknown or has a wrong value.",
    "plugin-broken": "An installed plugin cannot be loaded.",
    "plugin-duplicate": "Two installed distributions offer a plugin of the same name.",
    # environment
    "engine-unavailable": "No container engine answers.",
    "engine-failed": "The container engine refused or broke off.",
    "port-taken": "A port of this machine that a model was to be served on is in use, or not for this user.",
    "sandbox-unavailable": "Neither a container engine nor runc is at hand to run a model in.",
    "secret-unavailable": "A secret is not where a connection says it is.",
    "index-unreachable": "The Python index cannot be reached or refuses the credentials.",
    "registry-failed": "The image registry cannot be reached or refuses.",
    "base-unavailable": "The base image is not in the store, the engine or a registry.",
    "tool-missing": "A program that this step needs is not installed.",
    "disk-full": "The disk is full.",
    "disk-unwritable": "A file or directory that mpack must write cannot be written.",
    "store-corrupt": "The image store or a cache holds damaged content.",
    "download-failed": "An artifact cannot be fetched from where it is.",
    "artifact-denied": "The store of the artifact wants credentials and there are none, or refuses them.",
    "image-unreadable": "An image to compare is not sound, or holds more than mpack compares.",
    "signing-failed": "cosign did not sign the image, or could not check its signature.",
    "image-unknown": "No image of that name is in the store, the engine or a registry.",
    # verification
    "verification-failed": "The image's self-check failed or answered otherwise than expected.",
    "not-optimized": "The model cannot be converted so that every answer stays, and --optimize-strict was given.",
    "signature-invalid": "The image has no signature that fits the key.",
    # bug
    "internal": "A bug in mpack or in a plugin.",
}


class MpackError(Exception):
    """Root of the tree. `message` is one or more full sentences, `hint` what to do, `code` a key of `CODES`."""

    exit_code = 70

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"error code {code!r} is not listed in mpack.errors.CODES")
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def to_json(self) -> dict[str, str]:
        """{code, message, hint}, as `--json` prints it under "error"."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class InputError(MpackError):
    """The user's input is at fault: artifact, pins, manifest (exit 1)."""

    exit_code = 1


class UsageError(MpackError):
    """Unknown option, packager or argument (exit 2)."""

    exit_code = 2


class EnvironmentFault(MpackError):
    """The environment is at fault: engine, index, registry, network, disk (exit 3)."""

    exit_code = 3


class VerificationError(MpackError):
    """The image did not answer as it must (exit 4). Nothing was tagged, pushed or written."""

    exit_code = 4


class InternalError(MpackError):
    """A bug of ours (exit 70)."""

    exit_code = 70


def disk_fault(error: OSError, doing: str, hint: str) -> EnvironmentFault:
    """A full disk as disk-full; any other refusal of the file system as disk-unwritable with `hint`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = "Free some space (`mpack cache prune`, `mpack rm --older-than 7d`) and try again."
        return EnvironmentFault("disk-full", f"{doing} failed: the disk of {error.filename or 'a file'} is full.", free)
    reason = error.strerror or str(error)
    return EnvironmentFault("disk-unwritable", f"{doing} failed: {error.filename or 'a file'}: {reason}.", hint)
