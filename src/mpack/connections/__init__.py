"""Named endpoints and references to their secrets: what a build reaches a registry or an object store with."""

from mpack.connections.model import TYPES as TYPES
from mpack.connections.model import Connection as Connection
from mpack.connections.secret import Secret as Secret
from mpack.connections.secret import parse_secret as parse_secret
