package main

import (
	"context"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// callLimit ends a call that hangs; the suite itself sets no deadline.
const callLimit = 90 * time.Second

// watch sits between the suite and the driver: it asks for a file system, bounds every call, and looks at what the
// driver really mounted.
type watch struct {
	settings Settings
	mutex    sync.Mutex
	calls    map[string]int
	uses     map[string]int
}

func newWatch(settings Settings) *watch {
	return &watch{settings: settings, calls: map[string]int{}, uses: map[string]int{}}
}

func (w *watch) option() grpc.DialOption { return grpc.WithChainUnaryInterceptor(w.intercept) }

func (w *watch) intercept(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if message, ok := request.(proto.Message); ok && w.settings.FsType != "" {
		// A copy: the suite may use its capability again.
		message = proto.Clone(message)
		setFsType(message.ProtoReflect(), w.settings.FsType)
		request = message
	}
	err := invoke(ctx, method, request, reply, connection, options...)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.calls[method[strings.LastIndex(method, "/")+1:]]++
	if err != nil {
		return err
	}
	switch request := request.(type) {
	case *csi.NodeStageVolumeRequest:
		if w.settings.Access == "mount" {
			w.uses[w.look(request.GetStagingTargetPath())]++
		}
	case *csi.NodePublishVolumeRequest:
		w.uses[w.look(request.GetTargetPath())]++
	}
	return nil
}

// setFsType does what the provisioner does with a StorageClass's fstype: names it in every mount capability.
func setFsType(message protoreflect.Message, fsType string) {
	if capability, ok := message.Interface().(*csi.VolumeCapability); ok {
		if mount := capability.GetMount(); mount != nil && mount.FsType == "" {
			mount.FsType = fsType
		}
		return
	}
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Message() == nil || field.IsMap():
		case field.IsList():
			for i := 0; i < value.List().Len(); i++ {
				setFsType(value.List().Get(i).Message(), fsType)
			}
		default:
			setFsType(value.Message(), fsType)
		}
		return true
	})
}

// mountedAt names what is at a path: "block" for a block device, a file system's type for a mount, else "nothing".
func mountedAt(path string) string {
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0 {
		return "block"
	}
	found := "nothing"
	for _, point := range mounts() {
		if point.target == path {
			found = point.fsType
		}
	}
	return found
}

func (w *watch) look(path string) string {
	if w.settings.Agent != 0 {
		return w.settings.mountedAt(path)
	}
	return mountedAt(path)
}

func (w *watch) results() (calls, uses map[string]int) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.calls, w.uses
}
