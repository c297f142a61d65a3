#!/usr/bin/env bash
# prepare.sh WHAT: sees that the machine has what `make WHAT` needs. On Debian and Ubuntu it installs what is missing,
# after saying what; elsewhere, or without root, it names what is missing and how to get it. Safe to repeat.
#
# Exit status 69 when something is missing without which nothing works.
set -euo pipefail
what=${1:?usage: prepare.sh build|demo|test|sanity|release|scsi|e2e|lint}

# Tools in /sbin are not in everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin
say() { printf 'prepare: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

packages=()
need() { have "$1" || packages+=("$2"); }

# for_any RECIPES...: whether this is one of them. `test` runs nearly everything.
for_any() { case " $* " in *" $what "*) ;; *) false ;; esac; }

need cc build-essential
if for_any demo test sanity scsi e2e; then need losetup util-linux; fi
if for_any demo test sanity scsi; then
  need mkfs.ext4 e2fsprogs; need mkfs.xfs xfsprogs; need mkfs.btrfs btrfs-progs
fi
# strace kills the plugin at chosen system calls.
if for_any test scsi; then need strace strace; fi
# Holders of disks: device mapper and RAID, in VMs.
if for_any test scsi; then need dmsetup dmsetup; need mdadm mdadm; fi
if for_any release test scsi e2e; then need musl-gcc musl-tools; fi
# Makers of disks that must be refused: partitions, LVM, RAID, encryption.
if for_any test; then need sfdisk fdisk; need pvcreate lvm2; need cryptsetup cryptsetup-bin; fi
if for_any test e2e; then
  need ip iproute2; need openssl openssl; need sysctl procps; need dpkg-deb dpkg; need python3 python3
  python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
fi
# venv: the vendor's command line tool; yaml: the tests of the manifests.
if for_any test; then
  python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
  python3 -c 'import yaml' 2>/dev/null || packages+=(python3-yaml)
fi

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
# A machine that was never updated has no package lists.
if have apt-get && { [ "$(id -u)" = 0 ] || have sudo; } && [ -z "$(apt-cache madison build-essential 2>/dev/null)" ]; then
  say "reading the package lists (apt-get update)"
  "${as_root[@]}" apt-get update -q >&2 || true
fi

install_packages() {
  say "installing: $* (apt-get)"
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get install -y --no-install-recommends "$@" >&2 && return
  # A machine that was never updated has no package lists.
  "${as_root[@]}" apt-get update -q >&2 && "${as_root[@]}" apt-get install -y --no-install-recommends "$@" >&2
}

name_packages() {
  say "missing: $* (names of Debian's packages; Fedora: e2fsprogs xfsprogs btrfs-progs util-linux gcc musl-gcc golang)"
}

if [ ${#packages[@]} -gt 0 ]; then
  if have apt-get && { [ "$(id -u)" = 0 ] || have sudo; }; then
    install_packages "${packages[@]}" || name_packages "${packages[@]}"
  else
    name_packages "${packages[@]}"
    [ "$(id -u)" = 0 ] || say "not root and no sudo: install them as root; what needs them is left out"
  fi
fi
have cc || { say "a C compiler is needed for the TLS library: install build-essential (Debian) or gcc"; exit 69; }

# The installer and its checksum come from where rustup takes every toolchain.
fetch_rustup() (
  directory=$(mktemp -d)
  trap 'rm -rf "$directory"' EXIT
  cd "$directory"
  from=https://static.rust-lang.org/rustup/dist/$(uname -m)-unknown-linux-gnu/rustup-init
  curl --proto '=https' --tlsv1.2 -sSfL -o rustup-init "$from" &&
    curl --proto '=https' --tlsv1.2 -sSfL "$from.sha256" | awk '{print $1 "  rustup-init"}' | sha256sum --check --quiet &&
    chmod +x rustup-init && ./rustup-init -y -q --no-modify-path --profile minimal --default-toolchain none >&2
)

# Rust: rustup brings the toolchain that rust-toolchain.toml names. Debian 13 and Ubuntu 24.04 have a package of it.
if ! have cargo; then
  candidate=""
  if have apt-get && { [ "$(id -u)" = 0 ] || have sudo; }; then
    candidate=$(apt-cache policy rustup 2>/dev/null | sed -n 's/.*Candidate: \([0-9].*\)/\1/p')
  fi
  if [ -n "$candidate" ]; then
    install_packages rustup
  else
    say "installing: rustup, by its own installer, into $HOME/.cargo (nothing else of yours is changed)"
    have curl || install_packages curl ca-certificates || true
    fetch_rustup || {
      say "Rust is missing: install rustup as https://rustup.rs says, then run this again"
      exit 69
    }
    PATH=$HOME/.cargo/bin:$PATH
  fi
fi
if have rustup; then
  channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
  if ! rustup toolchain list 2>/dev/null | grep -q "^$channel-"; then
    say "installing: Rust $channel (rustup)"
    rustup toolchain install "$channel" --profile minimal --component rustfmt --component clippy >&2
  fi
  if for_any release test scsi e2e; then
    target=$(uname -m)-unknown-linux-musl
    rustup target list --installed | grep -qx "$target" || { say "installing: Rust target $target (rustup)"; rustup target add "$target" >&2; }
  fi
fi

# Go: csi-sanity and Kubernetes are Go programs. 1.21 and newer fetch the version that a module asks for; an older one
# (Debian 12) can at least fetch a newer one as a module, verified like any other.
go_version=1.26.8
go_home=${XDG_CACHE_HOME:-$HOME/.cache}/nifcloud-additional-storage-csi/go
fetch_go() {
  local module directory old=go
  case $(uname -m) in x86_64) module=linux-amd64 ;; aarch64) module=linux-arm64 ;; *) return 1 ;; esac
  have go || install_packages golang-go ca-certificates || return 1
  [ -x /usr/bin/go ] && old=/usr/bin/go
  say "installing: Go $go_version into $go_home (go mod download)"
  directory=$(GOFLAGS=-modcacherw "$old" mod download -json "golang.org/toolchain@v0.0.1-go$go_version.$module" | sed -n 's/.*"Dir": "\(.*\)",*/\1/p')
  [ -n "$directory" ] || return 1
  rm -rf "$go_home.part" "$go_home"
  mkdir -p "$(dirname "$go_home")"
  cp -r "$directory" "$go_home.part"
  # A module's files carry no right to be executed.
  find "$go_home.part/bin" "$go_home.part/pkg/tool" -type f -exec chmod +x {} +
  mv "$go_home.part" "$go_home"
}
# Whether Go is there and new enough.
go_fits() { have go && case $(go env GOVERSION 2>/dev/null) in go1.2[1-9]* | go1.[3-9][0-9]*) ;; *) false ;; esac; }
if for_any test sanity scsi e2e && ! go_fits; then
  if ! have go && have apt-get; then install_packages golang-go || true; fi
  go_fits || fetch_go || say "Go 1.21 or newer is missing (https://go.dev/dl, or package golang of a newer release): what needs it is left out"
fi
exit 0
