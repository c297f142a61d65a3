package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/kubernetes-csi/csi-test/v5/utils"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"k8s.io/klog/v2"
)

// Report is what the suite's process hands back.
type Report struct {
	// Capabilities, each with the prefix of who declares it: plugin/, controller/, node/.
	Capabilities []string
	MaxVolumes   int64
	Specs        []Spec
	// Calls counts the RPCs by method.
	Calls map[string]int
	// Uses counts what was seen mounted after each successful NodeStage and NodePublish.
	Uses map[string]int
}

// Spec is the outcome of one spec.
type Spec struct {
	// Path is the containers' texts; Text the spec's own.
	Path    []string
	Text    string
	State   string
	Seconds float64
	// Message is the failure, or the suite's words for skipping.
	Message string
	// Output is what the suite wrote on the way; only for failures.
	Output string
}

// Name is the whole name of a spec.
func (s Spec) Name() string { return strings.Join(append(append([]string{}, s.Path...), s.Text), " ") }

func readReport(path string) (*Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	report := &Report{}
	return report, json.Unmarshal(text, report)
}

// notifier is the part of testing.T that the suite needs.
type notifier struct{ failed bool }

func (n *notifier) Fail() { n.failed = true }

// runSuite is the suite's process.
func runSuite(settingsText string) int {
	var settings Settings
	if err := json.Unmarshal([]byte(settingsText), &settings); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 64
	}
	watch := newWatch(settings)
	config := sanity.NewTestConfig()
	config.Address = settings.Endpoint
	config.ControllerAddress = settings.ControllerEndpoint
	config.TargetPath = settings.Target
	config.StagingPath = settings.Staging
	config.TestVolumeSize = volumeSize
	config.TestVolumeExpandSize = expandSize
	config.TestVolumeAccessType = settings.Access
	config.TestNodeVolumeAttachLimit = true
	config.TestVolumeMutableParameters = map[string]string{"accountingType": "monthly"}
	config.DialOptions = append(config.DialOptions, watch.option())
	config.ControllerDialOptions = append(config.ControllerDialOptions, watch.option())

	settings.apply(&config)

	report := Report{}
	if err := report.ask(config); err != nil {
		fmt.Fprintln(os.Stderr, "cannot read the driver's capabilities:", err)
		return 1
	}
	klog.SetOutput(ginkgo.GinkgoWriter)
	suite := sanity.GinkgoTest(&config)
	ginkgo.ReportAfterSuite("report", func(all ginkgo.Report) { report.take(all) })
	gomega.RegisterFailHandler(ginkgo.Fail)
	how, show := ginkgo.GinkgoConfiguration()
	how.Timeout = suiteLimit - time.Minute
	if settings.Focus != "" {
		how.FocusStrings = []string{settings.Focus}
	}
	show.NoColor, show.Verbose = true, true
	outcome := &notifier{}
	ginkgo.RunSpecs(outcome, "csi-sanity", how, show)
	suite.Finalize()

	report.Calls, report.Uses = watch.results()
	text, err := json.Marshal(report)
	if err == nil {
		err = os.WriteFile(settings.Report, text, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if outcome.failed {
		return 2
	}
	return 0
}

// ask reads what the driver declares, the same way as the suite does.
func (r *Report) ask(config sanity.TestConfig) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	node, err := utils.Connect(config.Address, config.DialOptions...)
	if err != nil {
		return err
	}
	defer node.Close()
	controller := node
	if config.ControllerAddress != "" {
		if controller, err = utils.Connect(config.ControllerAddress, config.ControllerDialOptions...); err != nil {
			return err
		}
		defer controller.Close()
	}
	plugin, err := csi.NewIdentityClient(node).GetPluginCapabilities(ctx, &csi.GetPluginCapabilitiesRequest{})
	if err != nil {
		return err
	}
	for _, capability := range plugin.GetCapabilities() {
		if service := capability.GetService(); service != nil {
			r.Capabilities = append(r.Capabilities, "plugin/"+service.GetType().String())
		}
	}
	control, err := csi.NewControllerClient(controller).ControllerGetCapabilities(ctx, &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		return err
	}
	for _, capability := range control.GetCapabilities() {
		r.Capabilities = append(r.Capabilities, "controller/"+capability.GetRpc().GetType().String())
	}
	nodes, err := csi.NewNodeClient(node).NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		return err
	}
	for _, capability := range nodes.GetCapabilities() {
		r.Capabilities = append(r.Capabilities, "node/"+capability.GetRpc().GetType().String())
	}
	info, err := csi.NewNodeClient(node).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return err
	}
	r.MaxVolumes = info.GetMaxVolumesPerNode()
	return nil
}

// take copies what matters of ginkgo's own report.
func (r *Report) take(all ginkgo.Report) {
	for _, spec := range all.SpecReports {
		if spec.LeafNodeType != types.NodeTypeIt && !spec.Failed() {
			continue
		}
		taken := Spec{
			Path: spec.ContainerHierarchyTexts, Text: spec.LeafNodeText, State: spec.State.String(),
			Seconds: spec.RunTime.Seconds(), Message: spec.FailureMessage(),
		}
		if spec.Failed() {
			taken.Message += "\nat " + spec.FailureLocation().String()
			for _, more := range spec.AdditionalFailures {
				taken.Message += "\nalso: " + more.Failure.Message
			}
			taken.Output = spec.CapturedGinkgoWriterOutput
		}
		r.Specs = append(r.Specs, taken)
	}
}
