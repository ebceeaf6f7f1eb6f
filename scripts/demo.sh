#!/usr/bin/env bash
# Packages a real MLflow model, starts the image and asks it for predictions.
set -euo pipefail
mpack=.venv/bin/mpack
model=fixtures/models/mlflow-wine/model
export MPACK_HOME=${MPACK_HOME:-$PWD/.demo}
mkdir -p "$MPACK_HOME"

echo "\$ mpack build $model -t wine:1"
image=$("$mpack" build "$model" -t wine:1 -o docker --lock "$MPACK_HOME/wine.mpack.lock")
echo "$image"
container=$(docker run -d --rm --read-only --cap-drop ALL -p 127.0.0.1::5000 "$image")
trap 'docker rm -f "$container" >/dev/null' EXIT
port=$(docker port "$container" 5000 | head -n1 | sed 's/.*://')
.venv/bin/python scripts/ask.py "http://127.0.0.1:$port" fixtures/models/mlflow-wine/expect.json
