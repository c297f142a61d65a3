package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startLimit = 30 * time.Second
	stopLimit  = 45 * time.Second
)

// process is a child that is ended by its own id.
type process struct {
	role   string
	log    string
	cmd    *exec.Cmd
	stdout io.ReadCloser
	ended  chan error
}

// ownGroup keeps a terminal's Ctrl-C from the children (the runner stops them in order) and ends them with the runner.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// start runs the binary with nothing of this process's environment but what tools need.
func start(logs, role, binary string, env []string, arguments ...string) (*process, error) {
	name := filepath.Join(logs, role+".log")
	log, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(binary, arguments...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LOG_LEVEL=info,additional_storage_csi=debug"}, env...)
	cmd.Stderr = log
	cmd.SysProcAttr = ownGroup()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{role: role, log: name, cmd: cmd, stdout: stdout, ended: make(chan error, 1)}
	return p, nil
}

// firstLine waits for the first line on standard output and leaves the rest to nobody.
func (p *process) firstLine(ctx context.Context) (string, error) {
	type result struct {
		line string
		err  error
	}
	lines := make(chan result, 1)
	go func() {
		reader := bufio.NewReader(p.stdout)
		line, err := reader.ReadString('\n')
		lines <- result{strings.TrimSpace(line), err}
		_, _ = io.Copy(io.Discard, reader)
		p.ended <- p.cmd.Wait()
	}()
	select {
	case got := <-lines:
		if got.err != nil {
			return "", fmt.Errorf("it ended before it was ready: %s", strings.Join(p.tail(5), " | "))
		}
		return got.line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(startLimit):
		return "", fmt.Errorf("not ready after %s", startLimit)
	}
}

// serving waits until the socket accepts a connection.
func (p *process) serving(ctx context.Context, socket string) error {
	go func() {
		_, _ = io.Copy(io.Discard, p.stdout)
		p.ended <- p.cmd.Wait()
	}()
	deadline := time.Now().Add(startLimit)
	for {
		if connection, err := net.Dial("unix", socket); err == nil {
			return connection.Close()
		}
		select {
		case err := <-p.ended:
			p.ended <- err
			return fmt.Errorf("%s ended at once (%v): %s", p.role, err, strings.Join(p.tail(5), " | "))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not serve %s after %s", p.role, socket, startLimit)
		}
	}
}

// stop asks, waits, then insists. An exit by itself, a failure status or a kill is an error.
func (p *process) stop() error {
	select {
	case err := <-p.ended:
		return fmt.Errorf("%s had ended by itself (%v): %s", p.role, err, strings.Join(p.tail(5), " | "))
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.role, err)
	}
	select {
	case err := <-p.ended:
		if err != nil {
			return fmt.Errorf("%s ended with %v after SIGTERM", p.role, err)
		}
		return nil
	case <-time.After(stopLimit):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s was killed: it did not end within %s of SIGTERM", p.role, stopLimit)
	}
}

// tail gives the log's last lines.
func (p *process) tail(count int) []string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) > count {
		lines = lines[len(lines)-count:]
	}
	for i, line := range lines {
		lines[i] = p.role + ": " + line
	}
	return lines
}

// stop ends the processes, the newest first: the emulator outlives the driver.
func (w *world) stop() []string {
	var problems []string
	for i := len(w.processes) - 1; i >= 0; i-- {
		if err := w.processes[i].stop(); err != nil {
			problems = append(problems, err.Error())
		}
	}
	return problems
}
