package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	gib = int64(1) << 30
	// Disks grow in steps of 100 GiB; csi-sanity wants the answer to equal what it asked for.
	volumeSize = 100 * gib
	expandSize = 200 * gib

	nodeName  = "node1"
	zone      = "east-11"
	accessKey = "SANITYKEY"
	secretKey = "sanity-secret"

	suiteLimit = 15 * time.Minute
)

// Case is one run of the whole suite against one arrangement of the driver.
type Case struct {
	Name  string
	About string
	// Access is csi-sanity's access type: mount or block.
	Access string
	// FsType is put into every mount capability, as the provisioner does with a StorageClass's fstype; empty leaves
	// the choice to the driver.
	FsType string
	// Uses is what must be mounted in the end: a file system's name, or "block".
	Uses string
	// Split serves the controller and the node from two processes on two sockets.
	Split bool
}

var allCases = []Case{
	{Name: "ext4", About: "role all, mount access, the default file system (ext4)", Access: "mount", Uses: "ext4"},
	{Name: "xfs", About: "role all, mount access, xfs", Access: "mount", FsType: "xfs", Uses: "xfs"},
	{Name: "block", About: "role all, block access", Access: "block", Uses: "block"},
	{Name: "split", About: "roles controller and node, two processes, two sockets", Access: "mount", Uses: "ext4", Split: true},
}

func pick(only string) ([]Case, error) {
	if only == "" {
		return allCases, nil
	}
	var picked []Case
	for _, name := range strings.Split(only, ",") {
		found := false
		for _, c := range allCases {
			if c.Name == name {
				picked, found = append(picked, c), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no case %q: there are ext4, xfs, block, split", name)
		}
	}
	return picked, nil
}

// Settings is what the suite's process is told.
type Settings struct {
	Endpoint           string
	ControllerEndpoint string
	Target             string
	Staging            string
	Access             string
	FsType             string
	Focus              string
	Report             string
	// Agent is the port of the agent on the node's machine; 0: the node is this machine.
	Agent int
}

// emulatorConfig has more VMs than the node's: a disk without a selected node is born on any VM with a free slot, and
// the attach-limit spec fills the node.
func emulatorConfig() string {
	var text strings.Builder
	fmt.Fprintf(&text, "region = \"east-1\"\n\n[keys]\n%s = %q\n", accessKey, secretKey)
	for _, vm := range []string{nodeName, "node2", "node3"} {
		fmt.Fprintf(&text, "\n[[vms]]\nname = %q\nzone = %q\n", vm, zone)
	}
	return text.String()
}

// run does one case from an empty directory to an empty directory.
func (c Case) run(ctx context.Context, binary, logs, focus string) (verdict Verdict) {
	verdict.Case = c
	dir, err := os.MkdirTemp("", "csi-sanity-")
	if err != nil {
		verdict.problem("%v", err)
		return verdict
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		verdict.problem("%v", err)
		return verdict
	}
	w := &world{dir: dir, logs: logs, binary: binary}
	// Deferred, so that also a panic leaves no mounts behind; later defers run first.
	defer func() {
		for _, left := range w.sweep() {
			verdict.problem("left behind and removed now: %s", left)
		}
	}()
	defer func() { verdict.Problems = append(verdict.Problems, w.stop()...) }()
	if err := w.start(ctx, c); err != nil {
		verdict.problem("%v", err)
		verdict.Tail = w.tails()
		return verdict
	}
	report, err := w.suite(ctx, c, focus)
	if err != nil {
		verdict.problem("the suite's process: %v", err)
		verdict.Tail = w.tails()
	}
	verdict.judge(report)
	for _, left := range w.disksLeft() {
		verdict.problem("disk left in the cloud: %s", left)
	}
	return verdict
}

// world is everything that runs for a case.
type world struct {
	dir, logs, binary string
	endpoint, admin   string
	socket, control   string
	// Newest last.
	processes []*process
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

func (w *world) start(ctx context.Context, c Case) error {
	for _, name := range []string{"data", "devices", "kubelet", "state"} {
		if err := os.Mkdir(w.path(name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(w.path("emulator.toml"), []byte(emulatorConfig()), 0o600); err != nil {
		return err
	}
	if err := w.startEmulator(ctx); err != nil {
		return fmt.Errorf("emulator: %w", err)
	}
	node := []string{
		"--device-dir", w.path("devices", nodeName), "--state-dir", w.path("state"),
		"--kubelet-dir", w.path("kubelet"), "--registration", "false",
	}
	w.socket = w.path("csi.sock")
	if !c.Split {
		return w.startDriver(ctx, "all", w.socket, cloudAndNode(w.endpoint), node...)
	}
	w.control = w.path("ctl.sock")
	if err := w.startDriver(ctx, "controller", w.control, cloudOnly(w.endpoint)); err != nil {
		return err
	}
	return w.startDriver(ctx, "node", w.socket, nodeOnly(), node...)
}

func (w *world) startEmulator(ctx context.Context) error {
	emulator, err := start(w.logs, "emulator", w.binary, nil, "emulator",
		"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--config", w.path("emulator.toml"),
		"--backend", "loop", "--data-dir", w.path("data"), "--device-dir", w.path("devices"))
	if err != nil {
		return err
	}
	w.processes = append(w.processes, emulator)
	line, err := emulator.firstLine(ctx)
	if err != nil {
		return err
	}
	var ready struct{ Endpoint, Admin string }
	if err := json.Unmarshal([]byte(line), &ready); err != nil || ready.Endpoint == "" {
		return fmt.Errorf("its first line is %q, expected {\"endpoint\":URL,\"admin\":URL}", line)
	}
	w.endpoint, w.admin = ready.Endpoint, ready.Admin
	return nil
}

func (w *world) startDriver(ctx context.Context, role, socket string, env []string, more ...string) error {
	arguments := append([]string{role, "--endpoint", "unix://" + socket}, more...)
	driver, err := start(w.logs, role, w.binary, env, arguments...)
	if err != nil {
		return err
	}
	w.processes = append(w.processes, driver)
	return driver.serving(ctx, socket)
}

func cloudOnly(endpoint string) []string {
	return []string{
		"NIFCLOUD_ENDPOINT=" + endpoint, "NIFCLOUD_REGION=jp-east-1",
		"NIFCLOUD_ACCESS_KEY_ID=" + accessKey, "NIFCLOUD_SECRET_ACCESS_KEY=" + secretKey,
	}
}

func nodeOnly() []string { return []string{"NODE_NAME=" + nodeName, "NIFCLOUD_ZONE=" + zone} }

func cloudAndNode(endpoint string) []string { return append(cloudOnly(endpoint), nodeOnly()...) }

// suite runs csi-sanity in a process of its own: the suite is a singleton of its process, and its failures must not
// keep this one from cleaning up.
func (w *world) suite(ctx context.Context, c Case, focus string) (*Report, error) {
	settings := Settings{
		Endpoint: "unix://" + w.socket, Target: w.path("kubelet", "target"), Staging: w.path("kubelet", "staging"),
		Access: c.Access, FsType: c.FsType, Focus: focus, Report: w.path("report.json"),
	}
	if w.control != "" {
		settings.ControllerEndpoint = "unix://" + w.control
	}
	return w.runSuite(ctx, settings)
}

func (w *world) runSuite(ctx context.Context, settings Settings) (*Report, error) {
	text, err := json.Marshal(settings)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(w.logs, "suite.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(ctx, suiteLimit)
	defer cancel()
	command := exec.CommandContext(ctx, self, "suite", string(text))
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = ownGroup()
	failure := command.Run()
	report, err := readReport(settings.Report)
	if err != nil {
		// Without a report the exit status says more than the missing file.
		return nil, fmt.Errorf("no report (%v): see %s", failure, log.Name())
	}
	return report, nil
}

func (w *world) tails() []string {
	var tails []string
	for _, process := range w.processes {
		tails = append(tails, process.tail(15)...)
	}
	return tails
}
