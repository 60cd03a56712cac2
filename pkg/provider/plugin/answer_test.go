package plugin

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const marker = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtYXJrZXIifQ.bWFya2VyLXNpZ25hdHVyZQ"

func callFor(t testing.TB) *call {
	t.Helper()
	c := Config{}
	testkit.Must(t, c.complete())
	r := provider.Request{
		Class:      &class.Class{Ref: class.Ref{Namespace: "shop", Name: "web"}},
		Tokens:     identity.Tokens{"a": {JWT: secret.NewString(marker)}},
		TargetPath: "/target",
	}
	return &call{provider: "aws", request: &r, limits: &c}
}

func versions(pairs ...string) (list []*v1alpha1.ObjectVersion) {
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, &v1alpha1.ObjectVersion{Id: pairs[i], Version: pairs[i+1]})
	}
	return list
}

// FuzzJudge: an answer becomes a payload that can be written, or an error without secrets.
func FuzzJudge(f *testing.F) {
	for _, m := range []*v1alpha1.MountResponse{
		{},
		{ObjectVersion: versions("a", "1"), Files: []*v1alpha1.File{{Path: "a", Mode: 0o400, Contents: []byte("x")}}},
		{ObjectVersion: versions("b", "1", "a", "", "b", "2"), Files: []*v1alpha1.File{{Path: "d/a", Mode: 0o777}, {Path: "d/b"}}},
		{ObjectVersion: versions("a", "1"), Files: []*v1alpha1.File{{Path: "a"}, {Path: "a/b"}}},
		{ObjectVersion: versions("a", "1"), Files: []*v1alpha1.File{{Path: "../" + marker, Mode: math.MinInt32}}},
		{ObjectVersion: versions(marker, "1"), Files: []*v1alpha1.File{{Path: "a", Mode: -1}}},
		{ObjectVersion: versions("a", strings.Repeat("v", 5000))},
		{ObjectVersion: versions("a\nb", "1")},
		{ObjectVersion: versions("a", "1"), Error: &v1alpha1.Error{Code: marker}},
	} {
		data := testkit.Value(proto.Marshal(m))(f)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m v1alpha1.MountResponse
		if proto.Unmarshal(data, &m) != nil {
			t.Skip()
		}
		p, err := callFor(t).payload(&m)
		if (p == nil) == (err == nil) {
			t.Fatalf("a payload and an error exclude each other: %v, %v", p, err)
		}
		if err != nil {
			if text := err.Error(); strings.Contains(text, marker) || strings.ContainsAny(text, "\n\r\x00\x1b") || len(text) > 8192 {
				t.Errorf("an error that is not fit to be shown: %q", text)
			}
			return
		}
		checkPayload(t, &m, p)
	})
}

func checkPayload(t *testing.T, m *v1alpha1.MountResponse, p *provider.Payload) {
	t.Helper()
	if m.GetError().GetCode() != "" || len(p.Files) > len(m.GetFiles()) || len(p.Files) == 0 || len(p.Versions) == 0 {
		t.Errorf("%d of %d files and %d versions of an answer with the error %q", len(p.Files), len(m.GetFiles()), len(p.Versions), m.GetError().GetCode())
	}
	var files []atomicdir.File
	for _, f := range p.Files {
		files = append(files, atomicdir.File{Path: f.Path, Mode: f.Mode, Contents: f.Contents.Reveal()})
	}
	if err := atomicdir.ValidateFiles(files); err != nil {
		t.Errorf("the payload cannot be written: %v", err)
	}
	if !slices.IsSortedFunc(p.Versions, func(a, b provider.Version) int { return cmp.Compare(a.ID, b.ID) }) {
		t.Errorf("the versions are not sorted: %v", p.Versions)
	}
	for i, v := range p.Versions {
		if v.ID == "" || strings.Contains(v.ID+v.Version, marker) || (i > 0 && v.ID == p.Versions[i-1].ID) {
			t.Errorf("version %q is empty, secret or doubled", v)
		}
	}
}

func TestVersionLimits(t *testing.T) {
	file := []*v1alpha1.File{{Path: "a"}}
	for want, m := range map[string]*v1alpha1.MountResponse{
		"is too long":              {Files: file, ObjectVersion: versions("a", strings.Repeat("v", maxVersionBytes))},
		"has a control character":  {Files: file, ObjectVersion: versions("a", "1\x1b")},
		"object_version[1]":        {Files: file, ObjectVersion: versions("a", "1", "b", "1\n")},
		"holds a service account ": {Files: file, ObjectVersion: versions("a", "v-"+marker)},
	} {
		testkit.Error(callFor(t).payload(m))(t, want)
	}
	last, err := callFor(t).payload(&v1alpha1.MountResponse{Files: file, ObjectVersion: versions("a", "1", "a", "2")})
	if err != nil || len(last.Versions) != 1 || last.Versions[0].Version != "2" {
		t.Errorf("an id with two versions: %v, %v, want the last word", last, err)
	}
}

// TestLenientAnswers are answers that other drivers accept.
func TestLenientAnswers(t *testing.T) {
	file := func(path, contents string) *v1alpha1.File {
		return &v1alpha1.File{Path: path, Contents: []byte(contents)}
	}
	payload := func(m *v1alpha1.MountResponse) *provider.Payload {
		t.Helper()
		return testkit.Value(callFor(t).payload(m))(t)
	}
	one := payload(&v1alpha1.MountResponse{Files: []*v1alpha1.File{file("a", "1"), file("b", "2")}, ObjectVersion: versions("", "", "b", "")})
	two := payload(&v1alpha1.MountResponse{Files: []*v1alpha1.File{file("b", "2"), file("a", "1")}, ObjectVersion: versions("b", "", "", "")})
	other := payload(&v1alpha1.MountResponse{Files: []*v1alpha1.File{file("b", "2"), file("a", "3")}, ObjectVersion: versions("b", "", "", "")})
	if len(one.Versions) != 2 || one.Versions[0].ID != "aws" || one.Versions[0].Version == "" || one.Versions[1].ID != "b" {
		t.Errorf("versions %v", one.Versions)
	}
	testkit.Equal(t, "the order of the answer changes the versions", one.Versions, two.Versions)
	for i := range other.Versions {
		if other.Versions[i].Version == one.Versions[i].Version {
			t.Errorf("other contents, the same version of %q", other.Versions[i].ID)
		}
	}
	same := payload(&v1alpha1.MountResponse{Files: []*v1alpha1.File{file("a", "1"), file("a", "1")}, ObjectVersion: versions("a", "1")})
	if len(same.Files) != 1 || len(same.Warnings) != 0 {
		t.Errorf("the same file twice: %d files, warnings %q", len(same.Files), same.Warnings)
	}
	twice := payload(&v1alpha1.MountResponse{Files: []*v1alpha1.File{file("a", "1"), file("b", "x"), file("a", "2")}, ObjectVersion: versions("a", "1")})
	if len(twice.Files) != 2 || string(twice.Files[0].Contents.Reveal()) != "2" || len(twice.Warnings) != 1 || !strings.Contains(twice.Warnings[0], `"a" twice`) {
		t.Errorf("two files of one name: %d files, warnings %q", len(twice.Files), twice.Warnings)
	}
}

// TestTokensForProviders: a provider is sent the tokens that it logs in with.
func TestTokensForProviders(t *testing.T) {
	tokens := identity.Tokens{}
	for _, audience := range []string{"vault", "sts.amazonaws.com", "my-project.svc.id.goog", "own", "esc"} {
		tokens[audience] = identity.Token{JWT: secret.NewString(audience)}
	}
	c := Config{BuiltIn: []string{"vault"}, Audiences: map[string][]string{"strict": {}, "pulumi": {"esc"}}}
	for _, tc := range []struct {
		name, audience string
		want           []string
	}{
		{"aws", "", []string{"sts.amazonaws.com"}},
		{"gcp", "", []string{"my-project.svc.id.goog"}},
		{"infisical", "own", []string{"own"}},
		{"pulumi", "", []string{"esc"}},
		{"strict", "", nil},
		{"unheard-of", "", []string{"esc", "my-project.svc.id.goog", "own", "sts.amazonaws.com"}},
	} {
		r := provider.Request{Tokens: tokens, Class: &class.Class{Parameters: map[string]string{"audience": tc.audience}}}
		testkit.Equal(t, "the tokens for "+tc.name, slices.Sorted(maps.Keys(c.tokensFor(tc.name, r))), tc.want)
	}
}

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
	l := testkit.Value(net.Listen("unix", filepath.Join(dir, "bytes.sock")))(t)
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
	r := testkit.Value(New(Config{Dirs: []string{dir}}))(t)
	return testkit.Value(r.Get("bytes"))(t)
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
	good := testkit.Value(proto.Marshal(most))(t)
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
