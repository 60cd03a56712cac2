package retire_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mayfly-csi/mayfly/pkg/kms/apiserver"
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/retire"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// value is one of mayfly-kms under a version of the key.
func value(name, ciphertext string) []byte {
	b := []byte("k8s:enc:kms:v2:" + name + ":")
	for i, field := range []string{"sealed", "some-id", ciphertext} {
		b = protowire.AppendString(protowire.AppendTag(b, protowire.Number(i+1), protowire.BytesType), field)
	}
	return b
}

// source is etcd or a backup.
type source struct {
	name   string
	values []string // ciphertexts
	plain  bool
	err    error
}

func (s source) Each(_ context.Context, _ []string, visit func(string, []byte)) error {
	for i, c := range s.values {
		visit("/registry/secrets/a/"+string(rune('a'+i)), value("mayfly", c))
	}
	if s.plain {
		visit("/registry/secrets/a/plain", []byte("k8s\x00"))
	}
	return s.err
}

func (source) Revision() int64  { return 1 }
func (s source) String() string { return s.name }

const (
	under1 = "vault:v1:YWFh"
	under2 = "vault:v2:YWFh"
	under3 = "vault:v3:YWFh"
	id2    = "mayfly-1-v2-00000000000000000000000000000000"
	id3    = "mayfly-1-v3-00000000000000000000000000000000"
)

type cluster []apiserver.Writer

func (c cluster) Writers(context.Context, string) (apiserver.Writers, error) {
	return apiserver.Writers{Servers: c}, nil
}

func writer(id string) apiserver.Writer {
	return apiserver.Writer{URL: "https://a", Seen: apiserver.Seen{IDHash: "h", KeyIDHash: key.HashOf(id)}}
}

func TestRun(t *testing.T) {
	live := source{name: "etcd", values: []string{under2, under3}, plain: true}
	good := source{name: "backup", values: []string{under3}}
	for name, tc := range map[string]struct {
		change  func(o *retire.Options, c *cluster)
		may     bool
		verdict string
		want    string // in a finding
	}{
		"all in order":      {func(*retire.Options, *cluster) {}, true, "may rise to 2:\n  vault write transit/keys/k/config min_decryption_version=2", ""},
		"a live object":     {func(o *retire.Options, _ *cluster) { o.Live = source{name: "etcd", values: []string{under1}} }, false, "must stay at 1", "1 value of secrets under version 1"},
		"an odd ciphertext": {func(o *retire.Options, _ *cluster) { o.Live = source{name: "etcd", values: []string{"xx"}} }, false, "must stay at 1", "is not known"},
		"a backup": {func(o *retire.Options, _ *cluster) {
			o.Backups[0] = source{name: "old", values: []string{under1, under3}}
		}, false, "must stay at 1", "under version 1"},
		"a damaged backup":     {func(o *retire.Options, _ *cluster) { o.Backups[0] = source{name: "old", err: errors.New("damaged")} }, false, "must stay at 1", "damaged"},
		"no backup looked at":  {func(o *retire.Options, _ *cluster) { o.Backups = nil }, false, "must stay at 1", "no backup was looked at"},
		"no backup kept":       {func(o *retire.Options, _ *cluster) { o.Backups, o.WithoutBackups = nil, true }, true, "may rise to 2", ""},
		"a server behind":      {func(_ *retire.Options, c *cluster) { *c = append(*c, writer("other")) }, false, "must stay at 1", "writes under another key id"},
		"a server between":     {func(_ *retire.Options, c *cluster) { *c = append(*c, writer(id2)) }, true, "may rise to 2", ""},
		"a server is away":     {func(_ *retire.Options, c *cluster) { *c = append(*c, apiserver.Writer{Err: errors.New("refused")}) }, false, "must stay at 1", "cannot be asked: refused"},
		"it has risen already": {func(o *retire.Options, _ *cluster) { o.Key.MinDecryption = 2 }, true, "nothing to do", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := cluster{writer(id3)}
			o := retire.Options{
				Key:  transit.Key{Type: "aes256-gcm96", Latest: 3, MinDecryption: 1, Created: map[int]time.Time{}},
				Path: "transit/keys/k/config", To: 2, KeyIDs: []string{id2, id3}, Provider: "mayfly", Live: live, Backups: []scan.Source{good},
				Scan: scan.Options{Keys: scan.NewKeys("/registry"), Resources: scan.Selection{"secrets"}, Version: scan.TransitVersion,
					Want: func(scan.Resource) (scan.Want, bool) { return scan.Want{Name: "mayfly"}, true }},
			}
			tc.change(&o, &c)
			r := report.New()
			testkit.Must(t, retire.Run(t.Context(), c, r, o))
			if r.Clean(false) != tc.may || !strings.Contains(r.Verdict, tc.verdict) {
				t.Errorf("%q, %+v", r.Verdict, r.Checks)
			}
			found := slices.ContainsFunc(r.Checks, func(c report.Check) bool {
				return c.State != report.OK && c.Remedy != "" && strings.Contains(c.Detail, tc.want)
			})
			if tc.want != "" && !found {
				t.Errorf("%q is in none of %+v", tc.want, r.Checks)
			}
		})
	}
}

// TestRunRefuses: the needs of live objects must be known.
func TestRunRefuses(t *testing.T) {
	o := retire.Options{Key: transit.Key{Latest: 3, MinDecryption: 1}, To: 4}
	testkit.Says(t, retire.Run(t.Context(), cluster{}, report.New(), o), "the latest version of the key is 3")
	o.To, o.Live, o.Scan.Keys, o.Scan.Resources = 2, source{err: errors.New("no answer")}, scan.NewKeys("/registry"), scan.Selection{"secrets"}
	o.Scan.Want = func(scan.Resource) (scan.Want, bool) { return scan.Want{}, true }
	testkit.Says(t, retire.Run(t.Context(), cluster{}, report.New(), o), "no answer")
}
