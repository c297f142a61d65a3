#!/bin/sh
# Puts the vendor's own command line (nifcloud-cli, from PyPI) into a virtual environment outside the source tree, and
# prints the path of its `nifcloud` program. Repeated calls find it there. Needs python3 with venv (exit status 69 without
# it), and PyPI once.
set -eu
version=1.17.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nifcloud-additional-storage-csi
home=$cache/vendor-cli-$version
if [ -x "$home/bin/nifcloud" ] && [ -e "$home/complete" ]; then
    echo "$home/bin/nifcloud"
    exit 0
fi
python3 -c 'import ensurepip' 2>/dev/null || {
    echo "vendor-cli: python3 with venv is missing (Debian: apt-get install python3-venv)" >&2
    exit 69
}
mkdir -p "$cache"
# One at a time; the others wait and then find it made.
exec 9>"$home.lock"
flock 9
if [ ! -e "$home/complete" ]; then
    rm -rf "$home"
    python3 -m venv "$home" >&2
    "$home/bin/pip" install --quiet --disable-pip-version-check "nifcloud-cli==$version" >&2
    touch "$home/complete"
fi
echo "$home/bin/nifcloud"
