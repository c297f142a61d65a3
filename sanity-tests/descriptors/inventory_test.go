package descriptors

import (
	"os"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

func official() *descriptorpb.FileDescriptorProto {
	return protodesc.ToFileDescriptorProto(csi.File_csi_proto)
}

// ours reads the file that `cargo run --example descriptors -- FILE` writes.
func ours(t *testing.T) *descriptorpb.FileDescriptorProto {
	t.Helper()
	path := os.Getenv("CSI_DESCRIPTOR_SET")
	if path == "" {
		t.Skip("CSI_DESCRIPTOR_SET is not set: run sanity-tests/run.sh, which writes the driver's descriptor set first")
	}
	bytes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(bytes, set); err != nil {
		t.Fatal(err)
	}
	for _, file := range set.GetFile() {
		if file.GetPackage() == "csi.v1" {
			return file
		}
	}
	t.Fatal("no file of package csi.v1 in the descriptor set")
	return nil
}

func TestOurProtocolIsTheSpecification(t *testing.T) {
	mine, theirs := Take(ours(t)), Take(official())
	for _, line := range Difference(mine, theirs) {
		t.Error(line)
	}
	t.Logf("%d elements compared", len(theirs))
}

// A comparison that cannot fail proves nothing: every kind of change must be seen, from both sides.
func TestEveryKindOfDifferenceIsSeen(t *testing.T) {
	message := func(file *descriptorpb.FileDescriptorProto, name string) *descriptorpb.DescriptorProto {
		for _, message := range file.GetMessageType() {
			if message.GetName() == name {
				return message
			}
		}
		t.Fatalf("no message %s", name)
		return nil
	}
	field := func(file *descriptorpb.FileDescriptorProto, in, name string) *descriptorpb.FieldDescriptorProto {
		for _, field := range message(file, in).GetField() {
			if field.GetName() == name {
				return field
			}
		}
		t.Fatalf("no field %s.%s", in, name)
		return nil
	}
	type file = *descriptorpb.FileDescriptorProto
	changes := map[string]func(file){
		"package":      func(f file) { f.Package = proto.String("csi.v2") },
		"syntax":       func(f file) { f.Syntax = proto.String("proto2") },
		"service":      func(f file) { f.Service = f.Service[1:] },
		"method":       func(f file) { f.Service[0].Method = f.Service[0].Method[1:] },
		"method input": func(f file) { f.Service[0].Method[0].InputType = proto.String(".csi.v1.Volume") },
		"streaming":    func(f file) { f.Service[0].Method[0].ServerStreaming = proto.Bool(true) },
		"message":      func(f file) { f.MessageType = f.MessageType[1:] },
		"field":        func(f file) { message(f, "Volume").Field = message(f, "Volume").Field[1:] },
		"field name":   func(f file) { field(f, "Volume", "volume_id").Name = proto.String("volumeId") },
		"field number": func(f file) { field(f, "Volume", "volume_id").Number = proto.Int32(99) },
		"field type": func(f file) {
			field(f, "Volume", "volume_id").Type = descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum()
		},
		"field label": func(f file) {
			field(f, "Volume", "volume_id").Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		},
		"oneof":      func(f file) { field(f, "VolumeCapability", "block").OneofIndex = nil },
		"nested":     func(f file) { m := message(f, "VolumeCapability"); m.NestedType = m.NestedType[1:] },
		"enum value": func(f file) { e := message(f, "VolumeCapability").NestedType[2].EnumType[0]; e.Value = e.Value[1:] },
		"enum number": func(f file) {
			message(f, "VolumeCapability").NestedType[2].EnumType[0].Value[1].Number = proto.Int32(99)
		},
		"reserved": func(f file) { message(f, "NodeGetVolumeStatsResponse").ReservedRange = nil },
		"secret option": func(f file) {
			proto.ClearExtension(field(f, "CreateVolumeRequest", "secrets").Options, csi.E_CsiSecret)
		},
		"alpha option": func(f file) {
			field(f, "Volume", "volume_id").Options = &descriptorpb.FieldOptions{}
			proto.SetExtension(field(f, "Volume", "volume_id").Options, csi.E_AlphaField, true)
		},
		"extension":  func(f file) { f.Extension = f.Extension[1:] },
		"duplicated": func(f file) { f.MessageType = append(f.MessageType, message(f, "Volume")) },
	}
	for name, change := range changes {
		changed := proto.Clone(official()).(file)
		change(changed)
		if len(Difference(Take(changed), Take(official()))) == 0 {
			t.Errorf("%s: a change in our file is not seen", name)
		}
		if len(Difference(Take(official()), Take(changed))) == 0 {
			t.Errorf("%s: a change in the specification is not seen", name)
		}
	}
	if lines := Difference(Take(official()), Take(official())); len(lines) != 0 {
		t.Errorf("equal files differ: %s", strings.Join(lines, "; "))
	}
}
