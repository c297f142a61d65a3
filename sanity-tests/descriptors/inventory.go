// Package descriptors compares two descriptor sets element by element.
package descriptors

import (
	"fmt"
	"sort"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Inventory maps the path of an element ("message csi.v1.Volume field volume_id") to all that matters about it.
// Comments, file names and language options are no part of a protocol and are left out.
type Inventory map[string]string

// Take lists every element of one file.
func Take(file *descriptorpb.FileDescriptorProto) Inventory {
	inventory := Inventory{}
	inventory.add("syntax", file.GetSyntax())
	inventory.add("package", file.GetPackage())
	for _, extension := range file.GetExtension() {
		inventory.field("extend "+extension.GetExtendee(), extension)
	}
	for _, service := range file.GetService() {
		inventory.service(file.GetPackage(), service)
	}
	for _, message := range file.GetMessageType() {
		inventory.message(file.GetPackage(), message)
	}
	for _, enum := range file.GetEnumType() {
		inventory.enum(file.GetPackage(), enum)
	}
	return inventory
}

// Difference lists what one inventory has and the other has not, or has otherwise; empty when both are equal.
func Difference(ours, official Inventory) []string {
	var lines []string
	for path, want := range official {
		if have, ok := ours[path]; !ok {
			lines = append(lines, fmt.Sprintf("missing: %s: %s", path, want))
		} else if have != want {
			lines = append(lines, fmt.Sprintf("differs: %s: ours %s, official %s", path, have, want))
		}
	}
	for path, have := range ours {
		if _, ok := official[path]; !ok {
			lines = append(lines, fmt.Sprintf("not in the specification: %s: %s", path, have))
		}
	}
	sort.Strings(lines)
	return lines
}

func (i Inventory) add(path, what string) {
	if before, twice := i[path]; twice {
		// A set must not hide an element behind another of the same name.
		what = before + " AND " + what
	}
	i[path] = what
}

func (i Inventory) service(scope string, service *descriptorpb.ServiceDescriptorProto) {
	path := "service " + scope + "." + service.GetName()
	i.add(path, options(service.GetOptions()))
	for _, method := range service.GetMethod() {
		i.add(path+" method "+method.GetName(), fmt.Sprintf("(%s%s) returns (%s%s) %s",
			stream(method.GetClientStreaming()), method.GetInputType(),
			stream(method.GetServerStreaming()), method.GetOutputType(),
			options(method.GetOptions())))
	}
}

func stream(streaming bool) string {
	if streaming {
		return "stream "
	}
	return ""
}

func (i Inventory) message(scope string, message *descriptorpb.DescriptorProto) {
	name := scope + "." + message.GetName()
	path := "message " + name
	i.add(path, options(message.GetOptions()))
	for _, field := range message.GetField() {
		i.field(path, field)
		if index := field.OneofIndex; index != nil {
			i.add(path+" oneof "+message.GetOneofDecl()[*index].GetName()+" member "+field.GetName(), "")
		}
	}
	for _, oneof := range message.GetOneofDecl() {
		i.add(path+" oneof "+oneof.GetName(), options(oneof.GetOptions()))
	}
	for _, reserved := range message.GetReservedRange() {
		i.add(fmt.Sprintf("%s reserved %d to %d", path, reserved.GetStart(), reserved.GetEnd()-1), "")
	}
	for _, reserved := range message.GetReservedName() {
		i.add(path+" reserved "+reserved, "")
	}
	for _, nested := range message.GetNestedType() {
		i.message(name, nested)
	}
	for _, enum := range message.GetEnumType() {
		i.enum(name, enum)
	}
}

func (i Inventory) field(path string, field *descriptorpb.FieldDescriptorProto) {
	kind := strings.TrimPrefix(field.GetType().String(), "TYPE_")
	label := strings.TrimPrefix(field.GetLabel().String(), "LABEL_")
	i.add(path+" field "+field.GetName(), strings.TrimSpace(fmt.Sprintf("= %d %s %s %s optional:%t %s",
		field.GetNumber(), label, kind, field.GetTypeName(), field.GetProto3Optional(),
		options(field.GetOptions()))))
}

func (i Inventory) enum(scope string, enum *descriptorpb.EnumDescriptorProto) {
	path := "enum " + scope + "." + enum.GetName()
	i.add(path, options(enum.GetOptions()))
	for _, value := range enum.GetValue() {
		i.add(path+" value "+value.GetName(), fmt.Sprintf("= %d %s", value.GetNumber(), options(value.GetOptions())))
	}
	for _, reserved := range enum.GetReservedRange() {
		i.add(fmt.Sprintf("%s reserved %d to %d", path, reserved.GetStart(), reserved.GetEnd()), "")
	}
	for _, reserved := range enum.GetReservedName() {
		i.add(path+" reserved "+reserved, "")
	}
}

// options lists all set options, extensions among them, by full name; what nobody knows the name of, by number.
func options(message proto.Message) string {
	reflected := message.ProtoReflect()
	if !reflected.IsValid() {
		return "[]"
	}
	var set []string
	reflected.Range(func(option protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		set = append(set, fmt.Sprintf("%s(%d)=%v", option.FullName(), option.Number(), value.Interface()))
		return true
	})
	for unknown := reflected.GetUnknown(); len(unknown) > 0; {
		number, _, length := protowire.ConsumeField(unknown)
		if length < 0 {
			set = append(set, "unreadable")
			break
		}
		set = append(set, fmt.Sprintf("unknown(%d)", number))
		unknown = unknown[length:]
	}
	sort.Strings(set)
	return "[" + strings.Join(set, " ") + "]"
}
