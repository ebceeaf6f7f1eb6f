#!/usr/bin/env bash
# Runs a command with a docker engine and mpack's system tools at hand: installs what is missing (as root, on Debian), starts
# dockerd where none answers, and stops what it started.
# usage: with-engine.sh [--browser | --load] COMMAND...
set -euo pipefail
packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
more=
case "${1:-}" in --browser | --load) more=$1; shift ;; esac

need dockerd docker.io
need runc runc
need mmdebstrap mmdebstrap
[ -x /usr/bin/docker ] || command -v docker >/dev/null || packages+=(docker.io)
if [ "$more" = --load ]; then need h2load nghttp2-client; need wrk wrk; fi
if [ "$more" = --browser ]; then
  need chromium chromium
  need docker-registry docker-registry
  need htpasswd apache2-utils
  need podman podman
  need openssl openssl
  need faketime faketime
  need prometheus prometheus
  need newuidmap uidmap
  for tool in skopeo umoci podman buildah containerd; do need "$tool" "$tool"; done
fi
if [ ${#packages[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${packages[*]} (Debian's package names). Install them as root, then run this again." >&2
    exit 3
  fi
  echo "installing ${packages[*]}" >&2
  log=$(mktemp)
  if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 3
  fi
  rm -f "$log"
fi

if ! docker info >/dev/null 2>&1; then
  if [ "$(id -u)" != 0 ]; then
    echo "no docker engine answers, and without root none can be started here. Start one (or join its group)." >&2
    exit 3
  fi
  # A daemon that was killed leaves its pid file; when another program has that number now, dockerd would not start.
  pidfile=/var/run/docker.pid
  if [ -f "$pidfile" ] && ! grep -qs dockerd "/proc/$(cat "$pidfile")/comm"; then rm -f "$pidfile"; fi
  log=$(mktemp)
  dockerd >"$log" 2>&1 &
  engine=$!
  stop() { kill "$engine" 2>/dev/null || true; wait "$engine" 2>/dev/null || true; rm -f "$log"; }
  trap stop EXIT
  for _ in $(seq 100); do
    docker info >/dev/null 2>&1 && break
    if ! kill -0 "$engine" 2>/dev/null; then echo "dockerd ended:" >&2; tail -n 20 "$log" >&2; exit 3; fi
    sleep 0.2
  done
fi
"$@"
