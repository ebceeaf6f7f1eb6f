"""Prints how long reading and checking N manifests of one directory takes (1,000 unless told), median of five."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from mpack.manifests import check_packaging, read_manifests

PACKAGING = """kind: ModelPackaging
id: wine-{number}
spec:
  integrationName: docker-rest
  artifactName: wine-1.{number}.zip
  targets:
    - {{name: docker-push, connectionName: docker-{number}}}
  arguments:
    imageName: "wine-test:prefix-{{{{ RandomUUID }}}}"
    workers: 4
  resources:
    limits: {{cpu: "4", memory: 4Gi}}
    requests: {{cpu: "2", memory: 2Gi}}
"""
CONNECTION = """kind: Connection
id: docker-{number}
spec:
  type: docker
  uri: registry.example.com/team
  username: builder
  password: cGFzc3dvcmQ=
"""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    times = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(count):
            text = PACKAGING if number % 2 else CONNECTION
            Path(scratch, f"{number}.yaml").write_text(text.format(number=number // 2), "utf-8")
        for _ in range(5):
            start = time.perf_counter()
            manifests = read_manifests([], [scratch])
            for name in manifests.packagings:
                check_packaging(manifests, name)
            times.append(time.perf_counter() - start)
    print(f"{count} manifests: {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
