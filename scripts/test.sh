#!/usr/bin/env bash
# test.sh: everything that must pass, one summary at the end. A suite that fails does not stop the others.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
target=${CARGO_TARGET_DIR:-target}
logs=$target/test-logs
mkdir -p "$logs"
summary=() failed=0 left_out=()
started=$SECONDS

# suite NAME COMMAND...: runs it, shows its output, keeps its log.
suite() {
  local name=$1 begin=$SECONDS status=0 detail=""
  shift
  printf '\n=== %s: %s\n' "$name" "$*"
  "$@" 2>&1 | tee "$logs/$name.log" || status=$?
  case $name in
    tests) detail=$(awk '/^test result:/ {p += $4; f += $6; i += $8} END {printf "%d passed, %d failed, %d ignored", p, f, i}' "$logs/$name.log")$(sed -n 's/^\(crash\|storm\): [0-9].*/; &/p' "$logs/$name.log" | tr -d '\n') ;;
    scsi | e2e | e2e-vm | quickstart) detail=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$logs/$name.log" | tail -n 1 || true) ;;
    deploy) detail=$(sed -n 's/^Ran \([0-9]* tests\).*/\1/p' "$logs/$name.log") ;;
    sanity) detail=$(awk '/^csi-sanity v/ {on = 1; next} on && / passed, / {sub(/^ +/, ""); printf "%s%s", s, $0; s = "; "}' "$logs/$name.log") ;;
  esac
  if [ "$status" = 0 ]; then
    summary+=("$(printf 'ok    %-10s %5d s  %s' "$name" $((SECONDS - begin)) "$detail")")
  else
    summary+=("$(printf 'FAIL  %-10s %5d s  %s (log: %s)' "$name" $((SECONDS - begin)) "$detail" "$logs/$name.log")")
    failed=1
  fi
}

# A live Kubernetes is built from source, once: from the start on what the suites leave of the processors. Suite e2e waits for it.
live=no
if [ "$(id -u)" = 0 ] && [ -e /dev/loop-control ] && command -v go >/dev/null; then
  live=yes
  # A process group of its own, in this session: across sessions the kernel's autogroups make nothing of `nice`.
  set -m
  nice -n 19 tests/e2e/setup.sh > "$logs/e2e-setup.log" 2>&1 &
  builder=$!
  set +m
  trap 'kill -- -$builder 2>/dev/null || true' EXIT
fi

suite format cargo fmt --check
suite clippy cargo clippy --locked --all-targets -- -D warnings
suite docs env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
suite tests cargo test --locked --no-fail-fast
cargo build --locked
if command -v go >/dev/null; then
  suite sanity sanity-tests/run.sh "$target/debug/nifcloud-additional-storage-csi"
else
  left_out+=("csi-sanity: Go is missing")
fi
if ! python3 -c 'import yaml' 2>/dev/null; then
  left_out+=("manifests, chart and documentation: PyYAML is missing")
elif ! scripts/kube-clients.sh >/dev/null; then
  left_out+=("manifests, chart and documentation: kubectl and helm cannot be had")
else
  suite deploy python3 -m unittest discover -s tests/deploy
fi
if [ "$(uname -m)" = x86_64 ]; then
  suite scsi make --no-print-directory scsi
else
  left_out+=("scsi: the VMs are x86_64 machines")
fi
if [ $live = yes ]; then
  suite e2e make --no-print-directory e2e
  suite quickstart make --no-print-directory quickstart
  # On emulated machines, which nothing hurries: not when this run has been slow already (the whole has 90 minutes).
  if [ "$(uname -m)" = x86_64 ] && [ $((SECONDS - started)) -lt 3900 ]; then
    suite e2e-vm make --no-print-directory e2e-vm
  else
    left_out+=("e2e-vm: 65 minutes have passed; run \`make e2e-vm\`")
  fi
else
  left_out+=("e2e: a live Kubernetes needs root, loop devices and Go")
fi
if [ "$(id -u)" != 0 ] || [ ! -e /dev/loop-control ]; then
  left_out+=("tests on real disks (loop_host, loop_node, csi-sanity with mounts): they need root and loop devices")
fi
python3 -c 'import ensurepip' 2>/dev/null || left_out+=("the vendor's command line against the emulator: python3-venv is missing")
for tool in mkfs.xfs mkfs.btrfs; do
  command -v "$tool" >/dev/null || left_out+=("tests on ${tool#mkfs.}: $tool is missing")
done

printf '\n=== summary\n'
printf '%s\n' "${summary[@]}"
for what in "${left_out[@]}"; do printf 'LEFT OUT  %s\n' "$what"; done
printf '%s in %d s\n' "$([ $failed = 0 ] && echo passed || echo FAILED)" $((SECONDS - started))
exit $failed
