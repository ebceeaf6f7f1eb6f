"""Manifests: files that say what is packaged, by which packager, with what arguments, and where it goes."""

from mpack.manifests.model import Manifests as Manifests
from mpack.manifests.model import ModelPackaging as ModelPackaging
from mpack.manifests.model import PackagingIntegration as PackagingIntegration
from mpack.manifests.model import PackagingTarget as PackagingTarget
from mpack.manifests.model import Resources as Resources
from mpack.manifests.model import Where as Where
