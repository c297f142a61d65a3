#!/usr/bin/env bash
# lint.sh: what a machine can check about the form of the code, and the policy on dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${XDG_CACHE_HOME:-$HOME/.cache}/nifcloud-additional-storage-csi/tools
deny_version=0.20.2

cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
for script in scripts/*.sh scripts/*/*.sh .ci/run sanity-tests/*.sh tests/e2e/*.sh deploy/image/*.sh; do
  [ ! -e "$script" ] || bash -n "$script"
done
if command -v shellcheck >/dev/null; then
  shellcheck -S warning scripts/*.sh deploy/image/*.sh .ci/run
else
  echo "LEFT OUT  shellcheck is not installed"
fi

PATH=$tools/bin:$PATH
if ! command -v cargo-deny >/dev/null; then
  echo "installing cargo-deny $deny_version into $tools (about 5 minutes, once)"
  cargo install cargo-deny --version "$deny_version" --locked --quiet --root "$tools" ||
    { echo "LEFT OUT  cargo-deny cannot be installed here: dependency policy not checked"; exit 0; }
fi
cargo deny --all-features check bans licenses sources
if ! output=$(cargo deny --all-features check advisories 2>&1); then
  case $output in
    *"failed to fetch advisory database"*) echo "LEFT OUT  advisories: their database cannot be reached" ;;
    *) printf '%s\n' "$output"; exit 1 ;;
  esac
fi
