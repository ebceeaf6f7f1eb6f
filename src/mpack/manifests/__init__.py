"""Manifests: files that say what is packaged, by which packager, with what arguments, and where it goes."""

from mpack.manifests.checking import check_packaging as check_packaging
from mpack.manifests.faults import Fault as Fault
from mpack.manifests.faults import ManifestError as ManifestError
from mpack.manifests.model import CheckedPackaging as CheckedPackaging
from mpack.manifests.model import Manifests as Manifests
from mpack.manifests.model import ModelPackaging as ModelPackaging
from mpack.manifests.model import PackagingIntegration as PackagingIntegration
from mpack.manifests.model import PackagingTarget as PackagingTarget
from mpack.manifests.model import Resources as Resources
from mpack.manifests.model import Where as Where
from mpack.manifests.reading import read_manifests as read_manifests
