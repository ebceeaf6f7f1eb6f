"""Artifacts out of stores: http, S3, Google Cloud Storage, Azure Blob Storage, MLflow; fetched into a cache."""

from mpack.stores.model import Access as Access
from mpack.stores.model import Origin as Origin
