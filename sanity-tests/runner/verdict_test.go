package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// goodReport is what a complete run looks like: all promised capabilities, every spec passed or rightly skipped.
func goodReport() *Report {
	report := &Report{MaxVolumes: 14, Uses: map[string]int{"ext4": 3}}
	for _, capability := range promised {
		if capability != attachLimit {
			report.Capabilities = append(report.Capabilities, capability)
		}
	}
	report.Specs = []Spec{
		{Path: []string{"Controller Service [Controller Server]", "ListVolumes"}, Text: "lists", State: "passed"},
		{Path: []string{"Controller Service [Controller Server]", "GetCapacity"}, Text: "tells", State: "skipped"},
		{Path: []string{"Controller Service [Controller Server]", "ListVolumes"}, Text: "pages", State: "pending"},
	}
	for len(report.Specs) < suiteSpecs {
		text := fmt.Sprintf("spec %d", len(report.Specs))
		report.Specs = append(report.Specs, Spec{Path: []string{"Identity Service"}, Text: text, State: "passed"})
	}
	return report
}

func judged(change func(*Report)) *Verdict {
	report := goodReport()
	change(report)
	verdict := &Verdict{Case: Case{Uses: "ext4"}}
	verdict.judge(report)
	return verdict
}

func TestACompleteRunIsGood(t *testing.T) {
	verdict := judged(func(*Report) {})
	if !verdict.good() {
		t.Fatal(verdict.Failures, verdict.Problems)
	}
	if counts := verdict.counts(); counts != "101 passed, 0 failed, 1 skipped, 1 pending: ok" {
		t.Fatal(counts)
	}
	if !strings.Contains(verdict.Skipped[0], "neither quota nor free space") {
		t.Fatal(verdict.Skipped)
	}
}

func TestWhateverIsMissingFailsTheRun(t *testing.T) {
	without := func(capability string) func(*Report) {
		return func(r *Report) {
			r.Capabilities = slices.DeleteFunc(r.Capabilities, func(c string) bool { return c == capability })
		}
	}
	changes := map[string]func(*Report){
		"a failed spec":         func(r *Report) { r.Specs[0].State = "failed" },
		"a panicked spec":       func(r *Report) { r.Specs[0].State = "panicked" },
		"a timed-out spec":      func(r *Report) { r.Specs[0].State = "timedout" },
		"an interrupted spec":   func(r *Report) { r.Specs[0].State = "interrupted" },
		"a skip without cause":  func(r *Report) { r.Specs[0].State = "skipped" },
		"fewer specs":           func(r *Report) { r.Specs = r.Specs[:suiteSpecs-1] },
		"no spec":               func(r *Report) { r.Specs = nil },
		"more pending specs":    func(r *Report) { r.Specs[0].State = "pending" },
		"a run of a wrong rule": func(r *Report) { r.Specs[1].State = "passed" },
		"no attach limit":       func(r *Report) { r.MaxVolumes = 0 },
		"another file system":   func(r *Report) { r.Uses = map[string]int{"ext4": 3, "xfs": 1} },
		"nothing mounted":       func(r *Report) { r.Uses = nil },
		"a mount not made":      func(r *Report) { r.Uses["nothing"] = 1 },
	}
	for _, capability := range promised {
		if capability != attachLimit {
			changes["no "+capability] = without(capability)
		}
	}
	for name, change := range changes {
		if judged(change).good() {
			t.Errorf("%s: the run still counts as good", name)
		}
	}
	if verdict := (&Verdict{}); verdict.good() {
		t.Error("a case without a report counts as good")
	}
}

func TestEveryRuleHasACapabilityThatIsPromisedOrExplained(t *testing.T) {
	for _, rule := range rules {
		if _, explained := absent[rule.needs]; !explained && !slices.Contains(promised, rule.needs) {
			t.Errorf("%s is neither promised nor explained", rule.needs)
		}
	}
}

func TestMountinfoIsReadWithItsEscapes(t *testing.T) {
	text := `36 35 98:0 / /mnt/a\040b\134c rw,noatime shared:1 - ext4 /dev/loop1 rw
37 35 0:5 /loop1 /mnt/block rw master:2 propagate_from:1 - devtmpfs udev rw
`
	want := []mountPoint{{`/mnt/a b\c`, "ext4"}, {"/mnt/block", "devtmpfs"}}
	if got := parseMountinfo(text); !slices.Equal(got, want) {
		t.Fatalf("%v", got)
	}
}

func TestTheFileSystemIsAskedForInEveryMountCapabilityAndNowhereElse(t *testing.T) {
	mount := func() *csi.VolumeCapability {
		return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}
	}
	block := &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}
	create := &csi.CreateVolumeRequest{VolumeCapabilities: []*csi.VolumeCapability{mount(), block, mount()}}
	setFsType(create.ProtoReflect(), "xfs")
	stage := &csi.NodeStageVolumeRequest{VolumeCapability: mount(), VolumeContext: map[string]string{"a": "b"}}
	setFsType(stage.ProtoReflect(), "xfs")
	for i, capability := range []*csi.VolumeCapability{create.VolumeCapabilities[0], create.VolumeCapabilities[2], stage.VolumeCapability} {
		if capability.GetMount().GetFsType() != "xfs" {
			t.Errorf("capability %d: %v", i, capability)
		}
	}
	if block.GetMount() != nil {
		t.Error("a block capability became a mount")
	}
}
