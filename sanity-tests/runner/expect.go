package main

import (
	"fmt"
	"slices"
	"strings"
)

const (
	suiteVersion = "v5.6.0"
	// suiteSpecs is how many specs this version of the suite has, one of them pending; a spec that vanished must not
	// go unseen.
	suiteSpecs = 103
	// attachLimit stands for a node that reports its limit.
	attachLimit = "node/MaxVolumesPerNode"
)

// promised is what the driver declares in every arrangement. Capabilities decide which specs run, so a capability
// that got lost would silently take its specs along.
var promised = []string{
	"plugin/CONTROLLER_SERVICE",
	"plugin/VOLUME_ACCESSIBILITY_CONSTRAINTS",
	"controller/CREATE_DELETE_VOLUME",
	"controller/PUBLISH_UNPUBLISH_VOLUME",
	"controller/LIST_VOLUMES",
	"controller/LIST_VOLUMES_PUBLISHED_NODES",
	"controller/EXPAND_VOLUME",
	"controller/GET_VOLUME",
	"controller/SINGLE_NODE_MULTI_WRITER",
	"controller/MODIFY_VOLUME",
	"controller/GET_VOLUME_HEALTH",
	"controller/LIST_VOLUME_HEALTH",
	"node/STAGE_UNSTAGE_VOLUME",
	"node/GET_VOLUME_STATS",
	"node/EXPAND_VOLUME",
	"node/SINGLE_NODE_MULTI_WRITER",
	"node/GET_VOLUME_HEALTH",
	"node/GET_STORAGE_HEALTH",
	attachLimit,
}

// absent says why the driver does not declare a capability.
var absent = map[string]string{
	"controller/GET_CAPACITY":                   "the computing API tells neither quota nor free space",
	"controller/CREATE_DELETE_SNAPSHOT":         "NIFCLOUD has no snapshots of additional disks",
	"controller/LIST_SNAPSHOTS":                 "NIFCLOUD has no snapshots of additional disks",
	"controller/GET_SNAPSHOT":                   "NIFCLOUD has no snapshots of additional disks",
	"controller/CLONE_VOLUME":                   "NIFCLOUD cannot copy additional disks",
	"controller/PUBLISH_READONLY":               "AttachVolume has no read-only mode; the node mounts read-only",
	"plugin/GROUP_CONTROLLER_SERVICE":           "NIFCLOUD has no snapshots, so no groups of them",
	"plugin/SNAPSHOT_ACCESSIBILITY_CONSTRAINTS": "NIFCLOUD has no snapshots of additional disks",
}

// rule ties specs to the capability without which they are skipped.
type rule struct {
	// in is the text of one of the spec's containers; text a part of the spec's own, empty for any.
	in, text string
	needs    string
}

// The rules follow the Skip calls in the suite's source (pkg/sanity). Every rule that fits a spec counts.
var rules = []rule{
	{"GetCapacity", "", "controller/GET_CAPACITY"},
	{"ListVolumes", "", "controller/LIST_VOLUMES"},
	{"CreateVolume", "", "controller/CREATE_DELETE_VOLUME"},
	{"CreateVolume", "source snapshot", "controller/CREATE_DELETE_SNAPSHOT"},
	{"CreateVolume", "source volume", "controller/CLONE_VOLUME"},
	{"CreateVolume", "volume attribute class", "controller/MODIFY_VOLUME"},
	{"DeleteVolume", "", "controller/CREATE_DELETE_VOLUME"},
	{"ControllerPublishVolume", "", "controller/PUBLISH_UNPUBLISH_VOLUME"},
	{"ControllerPublishVolume", "max attach limit", attachLimit},
	{"ControllerPublishVolume", "already published but is incompatible", "controller/PUBLISH_READONLY"},
	{"volume lifecycle", "", "controller/PUBLISH_UNPUBLISH_VOLUME"},
	{"ControllerUnpublishVolume", "", "controller/PUBLISH_UNPUBLISH_VOLUME"},
	{"ListSnapshots [Controller Server]", "", "controller/LIST_SNAPSHOTS"},
	{"GetSnapshot [Controller Server]", "", "controller/GET_SNAPSHOT"},
	{"DeleteSnapshot [Controller Server]", "", "controller/CREATE_DELETE_SNAPSHOT"},
	{"CreateSnapshot [Controller Server]", "", "controller/CREATE_DELETE_SNAPSHOT"},
	{"CreateSnapshot [Controller Server]", "accessibility requirements", "plugin/SNAPSHOT_ACCESSIBILITY_CONSTRAINTS"},
	{"ExpandVolume [Controller Server]", "", "controller/EXPAND_VOLUME"},
	{"ModifyVolume [Controller Server]", "", "controller/MODIFY_VOLUME"},
	{"ControllerGetVolumeHealth [Controller Server]", "", "controller/GET_VOLUME_HEALTH"},
	{"ControllerListVolumeHealth [Controller Server]", "", "controller/LIST_VOLUME_HEALTH"},
	{"GroupController Service [GroupController Server]", "", "plugin/GROUP_CONTROLLER_SERVICE"},
	{"GroupController Service [GroupController VolumeGroupSnapshots]", "", "plugin/GROUP_CONTROLLER_SERVICE"},
	{"with single node multi writer capability", "", "node/SINGLE_NODE_MULTI_WRITER"},
	{"NodeStageVolume", "", "node/STAGE_UNSTAGE_VOLUME"},
	{"NodeUnstageVolume", "", "node/STAGE_UNSTAGE_VOLUME"},
	{"NodeGetVolumeStats", "", "node/GET_VOLUME_STATS"},
	{"NodeExpandVolume", "", "node/EXPAND_VOLUME"},
	{"NodeGetVolumeHealth", "", "node/GET_VOLUME_HEALTH"},
	{"NodeGetStorageHealth", "", "node/GET_STORAGE_HEALTH"},
	{"Node Service", "should work", "plugin/CONTROLLER_SERVICE"},
	{"Node Service", "should be idempotent", "plugin/CONTROLLER_SERVICE"},
}

// lacks lists the capabilities that a spec needs and the driver does not declare. Empty: the spec must run.
func lacks(spec Spec, has []string) []string {
	var missing []string
	for _, rule := range rules {
		fits := slices.Contains(spec.Path, rule.in) && strings.Contains(spec.Text, rule.text)
		if fits && !slices.Contains(has, rule.needs) && !slices.Contains(missing, rule.needs) {
			missing = append(missing, rule.needs)
		}
	}
	return missing
}

// reason says in the driver's own words why a spec was skipped.
func reason(missing []string) string {
	var words []string
	for _, capability := range missing {
		why, known := absent[capability]
		if !known {
			why = "no reason is known"
		}
		words = append(words, fmt.Sprintf("no %s: %s", capability, why))
	}
	return strings.Join(words, "; ")
}
