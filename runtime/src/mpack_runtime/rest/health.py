"""`health`: asks the service of this container whether it is ready. Standard library only, so that it is quick."""

from __future__ import annotations

import http.client
import sys

from mpack_runtime.config import Settings


def health(settings: Settings) -> int:
    """0 if /readyz answers 200 within three seconds, else 1 with the reason on stderr."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
    connection = http.client.HTTPConnection(anywhere.get(settings.host, settings.host), settings.port, timeout=3)
    try:
        token = settings.auth.token if settings.auth else ""
        connection.request("GET", "/readyz", headers={"Authorization": f"Bearer {token}"} if token else {})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"The service does not answer: {error}.", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if status != 200:
        print(f"The service is not ready (HTTP {status}).", file=sys.stderr)
    return 0 if status == 200 else 1
