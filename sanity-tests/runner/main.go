// The runner of csi-sanity: the real driver on real Unix sockets, the emulated cloud behind it, real mounts.
//
//	runner BINARY                     starts one process after the other:
//	  emulator --backend loop         the cloud; its disks are loop devices
//	  all | controller + node         the driver
//	  runner suite SETTINGS           csi-sanity in a process of its own; writes a report
//
// A case passes when no spec failed, every spec ran that the driver's capabilities imply, the capabilities are those
// that the driver promises, the file systems really were the asked ones, and nothing is left behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func init() {
	// Children get a signal when the thread that started them ends (Pdeathsig): keep to the main thread.
	runtime.LockOSThread()
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "suite" {
		os.Exit(runSuite(os.Args[2]))
	}
	only := flag.String("case", "", "comma-separated names of the cases to run; all when empty")
	logs := flag.String("logs", "", "directory for the processes' logs; a temporary one when empty")
	focus := flag.String("focus", "", "run only specs that match (for debugging: the case then counts as failed)")
	elsewhere := flag.String("remote", "", "JSON: a driver that runs already, its node in a VM (see remote.go); no BINARY then")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: runner [flags] BINARY")
		flag.PrintDefaults()
	}
	flag.Parse()
	remote, err := parseRemote(*elsewhere)
	if err != nil {
		fmt.Fprintln(os.Stderr, "-remote:", err)
		os.Exit(64)
	}
	if remote != nil {
		os.Exit(runRemote(remote, *logs, *focus))
	}
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(64)
	}
	binary, err := filepath.Abs(flag.Arg(0))
	if err == nil {
		err = requirements(binary)
	}
	if err == nil {
		err = runCases(binary, *only, *logs, *focus)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "csi-sanity:", err)
		os.Exit(1)
	}
}

func runRemote(remote *Remote, logs, focus string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	verdict := remote.run(logs, focus, func(w *world, settings Settings) (*Report, error) {
		return w.runSuite(ctx, settings)
	})
	verdict.print(os.Stdout)
	fmt.Printf("csi-sanity %s %s\n", suiteVersion, verdict.counts())
	if verdict.good() {
		return 0
	}
	return 1
}

// requirements names everything that is missing at once, with the package that has it.
func requirements(binary string) error {
	var missing []string
	if info, err := os.Stat(binary); err != nil || info.Mode()&0o111 == 0 {
		missing = append(missing, "an executable driver at "+binary+" (cargo build --release)")
	}
	if os.Geteuid() != 0 {
		missing = append(missing, "root, for mounts and loop devices")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		missing = append(missing, "loop devices (/dev/loop-control; modprobe loop)")
	}
	for tool, pack := range map[string]string{
		"losetup": "mount or util-linux", "blkid": "util-linux", "mkfs.ext4": "e2fsprogs", "resize2fs": "e2fsprogs",
		"mkfs.xfs": "xfsprogs", "xfs_growfs": "xfsprogs",
	} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, fmt.Sprintf("%s (package %s)", tool, pack))
		}
	}
	if len(missing) > 0 {
		return errors.New("missing: " + strings.Join(missing, "; "))
	}
	return nil
}

func runCases(binary, only, logs, focus string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	temporary := logs == ""
	if temporary {
		dir, err := os.MkdirTemp("", "csi-sanity-logs-")
		if err != nil {
			return err
		}
		logs = dir
	}
	cases, err := pick(only)
	if err != nil {
		return err
	}
	var summary []string
	failed := false
	for _, c := range cases {
		if ctx.Err() != nil {
			return errors.New("interrupted; what was started is stopped and cleaned up")
		}
		fmt.Printf("== %s: %s\n", c.Name, c.About)
		start := time.Now()
		verdict := c.run(ctx, binary, filepath.Join(logs, c.Name), focus)
		verdict.print(os.Stdout)
		line := fmt.Sprintf("%-10s %s (%.0f s)", c.Name, verdict.counts(), time.Since(start).Seconds())
		fmt.Printf("== %s\n\n", line)
		summary = append(summary, line)
		failed = failed || !verdict.good()
	}
	fmt.Println("csi-sanity " + suiteVersion)
	for _, line := range summary {
		fmt.Println("  " + line)
	}
	if failed {
		return errors.New("failed; logs in " + logs)
	}
	if temporary {
		return os.RemoveAll(logs)
	}
	return nil
}
