#!/bin/sh
# Holds the driver to the CSI specification: its descriptors against the official module's, then csi-sanity against the
# real binary with the emulated cloud and real mounts.
#
#   sanity-tests/run.sh BINARY [-case ext4,xfs,block,split] [-logs DIRECTORY]
#
# Needs Go 1.25 or newer (1.21 fetches it by itself), and for csi-sanity root and loop devices; without them the
# descriptors alone are compared, and it says so.
set -eu

[ $# -ge 1 ] || { echo "usage: $0 BINARY [-case NAMES] [-logs DIRECTORY]" >&2; exit 64; }
binary=$(realpath "$1")
shift
# Made absolute: go test runs each package's tests in its own directory.
[ -z "${CSI_DESCRIPTOR_SET:-}" ] || CSI_DESCRIPTOR_SET=$(realpath "$CSI_DESCRIPTOR_SET")
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "$0: go is missing: install Go 1.25 or newer (https://go.dev/dl, package golang)" >&2; exit 69; }

mkdir -p bin
if [ -z "${CSI_DESCRIPTOR_SET:-}" ]; then
  CSI_DESCRIPTOR_SET=$PWD/bin/descriptors.bin
  (cd .. && cargo run --quiet --locked --example descriptors -- "$CSI_DESCRIPTOR_SET")
fi
export CSI_DESCRIPTOR_SET
go test -count=1 ./...

if [ "$(id -u)" != 0 ] || [ ! -e /dev/loop-control ]; then
  echo "LEFT OUT: csi-sanity, because it mounts real file systems on loop devices: run it as root where /dev/loop-control exists"
  exit 0
fi
go build -buildvcs=false -o bin/runner ./runner
# The runner itself, not a shell, receives the signals.
exec bin/runner "$@" "$binary"
