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

# Rust: rustup brings the toolchain that rust-toolchain.toml names.
if ! have cargo; then
  [ -x "$HOME/.cargo/bin/cargo" ] && { say "cargo is in $HOME/.cargo/bin: add it to PATH"; exit 69; }
  if have apt-get && [ -n "$(apt-cache madison rustup 2>/dev/null)" ]; then
    install_packages rustup
  else
    say "Rust is missing: install rustup as https://rustup.rs says, then run this again"
    exit 69
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

# Go: csi-sanity is a Go program. 1.21 and newer fetch the version that its module asks for.
case $what in
  test | sanity | scsi | e2e)
    if ! have go; then
      version=$(apt-cache policy golang-go 2>/dev/null | sed -n 's/.*Candidate: 2:\(1\.[0-9]*\).*/\1/p')
      if [ -n "$version" ] && [ "${version#1.}" -ge 21 ] && { [ "$(id -u)" = 0 ] || have sudo; }; then
        install_packages golang-go || true
      else
        say "Go 1.21 or newer is missing (https://go.dev/dl, or package golang of a newer release): what needs it is left out"
      fi
    fi ;;
esac
exit 0
