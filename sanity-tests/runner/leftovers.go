package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sort"
	"strings"
	"syscall"
	"time"
)

// mountPoint is one line of mountinfo.
type mountPoint struct {
	target, fsType string
}

// octal is how mountinfo writes the characters that separate its fields.
var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// parseMountinfo reads proc_pid_mountinfo(5): the target is field 5; the type follows the lone "-".
func parseMountinfo(text string) []mountPoint {
	var found []mountPoint
	for _, line := range strings.Split(text, "\n") {
		left, right, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(rest) < 1 {
			continue
		}
		found = append(found, mountPoint{octal.Replace(fields[4]), rest[0]})
	}
	return found
}

func mounts() []mountPoint {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	return parseMountinfo(string(text))
}

// sweep removes what lies in the world's directory and tells what should not have been there any more: mounts and
// loop devices. Runs after the processes have ended.
func (w *world) sweep() []string {
	var left []string
	points := mounts()
	// The last mounted first.
	for i := len(points) - 1; i >= 0; i-- {
		if strings.HasPrefix(points[i].target, w.dir+"/") {
			left = append(left, "mount "+points[i].target)
			if err := syscall.Unmount(points[i].target, syscall.MNT_DETACH); err != nil {
				left = append(left, fmt.Sprintf("cannot unmount %s: %v", points[i].target, err))
			}
		}
	}
	for _, device := range w.loops() {
		left = append(left, "loop device "+device)
		if text, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			left = append(left, fmt.Sprintf("cannot detach %s: %s", device, text))
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		left = append(left, err.Error())
	}
	return left
}

// loops lists the loop devices over files in the world's directory.
func (w *world) loops() []string {
	text, err := exec.Command("losetup", "-l", "-n", "-O", "NAME,BACK-FILE").Output()
	if err != nil {
		return nil
	}
	var found []string
	for _, line := range strings.Split(string(text), "\n") {
		name, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(strings.TrimSpace(file), w.dir+"/") {
			found = append(found, name)
		}
	}
	return found
}

// disksLeft asks the emulator's books for the disks that still exist.
func (w *world) disksLeft() []string {
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Get(w.admin + "/state")
	if err != nil {
		return []string{"unknown: " + err.Error()}
	}
	defer answer.Body.Close()
	var state struct {
		Disks map[string]struct{ Description string }
	}
	if err := json.NewDecoder(answer.Body).Decode(&state); err != nil {
		return []string{"unknown: " + err.Error()}
	}
	if state.Disks == nil {
		return []string{"unknown: the emulator's state has no list of disks"}
	}
	var names []string
	for name, disk := range state.Disks {
		names = append(names, name+" ("+disk.Description+")")
	}
	sort.Strings(names)
	return names
}
