package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
)

// Remote is a driver that runs already, its node plugin on another machine: a VM with an agent (scripts/vm/agent.rs)
// that runs scripts there.
type Remote struct {
	// Unix sockets on this machine.
	Node, Controller string
	// URL of the emulator's admin endpoint.
	Admin string
	// TCP port of the agent on the loopback interface.
	Agent int
	// The kubelet's directory on the other machine.
	Kubelet string
}

var remoteCase = Case{
	Name: "vm", About: "node plugin in a VM with a SCSI controller, controller outside", Access: "mount", Uses: "ext4",
	Split: true,
}

func parseRemote(text string) (*Remote, error) {
	if text == "" {
		return nil, nil
	}
	remote := &Remote{}
	return remote, json.Unmarshal([]byte(text), remote)
}

// settings is what the suite's process is told about a driver elsewhere.
func (r *Remote) settings(report, focus string) Settings {
	return Settings{
		Endpoint: "unix://" + r.Node, ControllerEndpoint: "unix://" + r.Controller,
		Target: r.Kubelet + "/target", Staging: r.Kubelet + "/staging",
		Access: remoteCase.Access, Focus: focus, Report: report, Agent: r.Agent,
	}
}

// apply lets the suite make, remove and look at paths on the other machine.
func (s Settings) apply(config *sanity.TestConfig) {
	if s.Agent == 0 {
		return
	}
	create := func(path string) (string, error) { return path, s.must("mkdir -p " + quote(path)) }
	remove := func(path string) error { return s.must("rm -rf " + quote(path)) }
	config.CreateTargetDir, config.CreateStagingDir = create, create
	config.RemoveTargetPath, config.RemoveStagingPath = remove, remove
	config.CheckPath = func(path string) (sanity.PathKind, error) {
		path = quote(path)
		out, err := s.script(fmt.Sprintf("if [ -d %s ]; then echo directory; elif [ -f %s ]; then echo file; "+
			"elif [ -e %s ]; then echo other; else echo not_found; fi", path, path, path))
		return sanity.PathKind(strings.TrimSpace(out)), err
	}
}

// mountedAt names what is at a path of the other machine.
func (s Settings) mountedAt(path string) string {
	path = quote(path)
	out, err := s.script(fmt.Sprintf("if [ -b %s ]; then echo block; else awk -v p=%s '$2 == p {t = $3} END {print t ? t : \"nothing\"}' /proc/mounts; fi", path, path))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out)
}

func quote(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }

func (s Settings) must(script string) error {
	_, err := s.script(script)
	return err
}

// script runs in the VM: "RUN seconds length" and the text; the answer is "code length" and the output.
func (s Settings) script(script string) (string, error) {
	connection, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.Agent), 10*time.Second)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(connection, "RUN 30 %d\n%s", len(script), script); err != nil {
		return "", err
	}
	reader := bufio.NewReader(connection)
	head, err := reader.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the agent did not answer: %w", err)
	}
	output, err := io.ReadAll(reader)
	if err == nil && !strings.HasPrefix(head, "0 ") {
		err = fmt.Errorf("%s: exit code and length %s: %s", script, strings.TrimSpace(head), output)
	}
	return string(output), err
}

// run holds a driver elsewhere to the suite. Who started it looks for leftovers there.
func (r *Remote) run(logs, focus string, judge func(*world, Settings) (*Report, error)) (verdict Verdict) {
	verdict.Case = remoteCase
	dir, err := os.MkdirTemp("", "csi-sanity-")
	if err != nil {
		verdict.problem("%v", err)
		return verdict
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		verdict.problem("%v", err)
		return verdict
	}
	w := &world{dir: dir, logs: logs, admin: r.Admin}
	report, err := judge(w, r.settings(w.path("report.json"), focus))
	if err != nil {
		verdict.problem("the suite's process: %v", err)
	}
	verdict.judge(report)
	for _, left := range w.disksLeft() {
		verdict.problem("disk left in the cloud: %s", left)
	}
	return verdict
}
