"""Waits for a REST image to be ready, sends it the requests of an expect.json and prints what it answers.

usage: ask.py URL EXPECT.JSON
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import httpx

READY_WITHIN = 60.0


def main() -> int:
    """0 when every answer came with the status that the file names."""
    url, expect = sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf-8"))
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        started = time.perf_counter()
        while True:
            try:
                if client.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if time.perf_counter() - started > READY_WITHIN:
                print(f"{url} was not ready within {READY_WITHIN:.0f} s", file=sys.stderr)
                return 1
            time.sleep(0.05)
        for request in expect["requests"]:
            body = request["body"] if isinstance(request["body"], str) else json.dumps(request["body"])
            print(f"$ curl -H 'Content-Type: {request['content_type']}' -d '{body}' {url}/api/model/invoke")
            answer = client.post("/api/model/invoke", content=body, headers={"Content-Type": request["content_type"]})
            print(answer.text.strip())
            if answer.status_code != request["status"]:
                print(f"expected status {request['status']}, got {answer.status_code}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
