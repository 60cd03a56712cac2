package plugin

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// bare passes messages as bytes.
type bare struct{}

func (bare) Name() string { return "proto" }
func (bare) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (bare) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// serveBytes has a provider called bytes answer every call with these.
func serveBytes(t *testing.T, body []byte) provider.Provider {
	t.Helper()
	dir, err := os.MkdirTemp("", "mayfly") // short, for the socket's path
	testkit.Must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "bytes.sock"))
	testkit.Must(t, err)
	server := grpc.NewServer(grpc.ForceServerCodecV2(bare{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		var in []byte
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		return s.SendMsg(body)
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	r, err := New(Config{Dirs: []string{dir}})
	testkit.Must(t, err)
	p, err := r.Get("bytes")
	testkit.Must(t, err)
	return p
}

// An answer within the limit of bytes that would grow a hundredfold in memory.
func TestManyEmptyParts(t *testing.T) {
	const room = 4<<20 - 1024
	version := "\x0a\x06\x0a\x01a\x12\x011"
	for name, part := range map[string]string{
		"files": "\x1a\x00", "versions": "\x0a\x00", "unknown fields": "\x22\x00",
	} {
		t.Run(name, func(t *testing.T) {
			p := serveBytes(t, append([]byte(version), bytes.Repeat([]byte(part), room/len(part))...))
			r := provider.Request{Class: &class.Class{Ref: class.Ref{Namespace: "shop", Name: "web"}}, TargetPath: "/t"}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := p.Fetch(t.Context(), r)
			runtime.ReadMemStats(&after)
			if fault.Of(err) != fault.BadAnswer || !strings.Contains(fmt.Sprint(err), "more than 10000 times") {
				t.Errorf("the fault is %v", err)
			}
			// The double's side of the answer is in this, too.
			if grown := (after.TotalAlloc - before.TotalAlloc) >> 20; grown > 64 {
				t.Errorf("%d MiB were allocated for an answer of 4 MiB", grown)
			}
		})
	}
}

func TestCountParts(t *testing.T) {
	most := &v1alpha1.MountResponse{}
	for range maxParts {
		most.Files = append(most.Files, &v1alpha1.File{})
		most.ObjectVersion = append(most.ObjectVersion, &v1alpha1.ObjectVersion{})
	}
	good, err := proto.Marshal(most)
	testkit.Must(t, err)
	var wide []byte
	for field := range protowire.Number(maxFields + 1) {
		wide = protowire.AppendVarint(protowire.AppendTag(wide, field+1, protowire.VarintType), 1)
	}
	for _, tc := range []struct{ name, body, want string }{
		{"nothing", "", ""},
		{"as many as may be", string(good), ""},
		{"one file more", string(good) + "\x1a\x00", "field 3 occurs more than 10000 times"},
		{"one version more", string(good) + "\x0a\x00", "field 1 occurs more than 10000 times"},
		{"a field of a later protocol", "\x38\x01", ""},
		{"too many fields", string(wide), "more than 64 different fields"},
		{"no tag", "\xff\xff", "reading a field"},
		{"cut off", "\x1a\x05ab", "reading field 3"},
	} {
		err := countParts([]byte(tc.body))
		if (err == nil) != (tc.want == "") || !strings.Contains(fmt.Sprint(err), tc.want) && tc.want != "" {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}
