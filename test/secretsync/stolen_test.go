//go:build e2e

package secretsync

import (
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/secretsync"
	"github.com/mayfly-csi/mayfly/test/compat"
	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// testStolen does with the driver's account what its program does not.
func testStolen(t *testing.T, r *rig) {
	n := r.node("node-a")
	n.follow(n.mount(r.class("stolen", nil), "a", password("x")))
	theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "precious"}, Data: map[string][]byte{"mine": []byte("precious")}}
	testkit.Value(r.Client.CoreV1().Secrets(namespace).Create(t.Context(), theirs, metav1.CreateOptions{}))(t)
	on := func(node string) kubernetes.Interface {
		config := r.config(node)
		if node == "" {
			config.Impersonate.Extra = nil
		}
		return testkit.Value(kubernetes.NewForConfig(config))(t)
	}
	thief := on("node-b").CoreV1().Secrets(namespace)
	dry := []string{metav1.DryRunAll}
	labels := `"labels":{"mayfly.dev/class":"stolen","secrets-store.csi.k8s.io/managed":"true"}`
	ours := `,"annotations":{"mayfly.dev/node-name":"node-b"}`
	patch := func(name, body string, dryRun []string) error {
		_, err := thief.Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{DryRun: dryRun})
		return err
	}
	apply := func(name, meta, rest string) error {
		_, err := thief.Patch(t.Context(), name, types.ApplyPatchType,
			[]byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"`+name+`"`+meta+`}`+rest+`}`), metav1.PatchOptions{FieldManager: "thief"})
		return err
	}
	for name, tc := range map[string]struct {
		do   func() error
		want string
	}{
		"read":                  {func() error { _, err := thief.Get(t.Context(), "precious", metav1.GetOptions{}); return err }, "cannot get"},
		"list":                  {func() error { _, err := thief.List(t.Context(), metav1.ListOptions{}); return err }, "cannot list"},
		"delete":                {func() error { return thief.Delete(t.Context(), "stolen", metav1.DeleteOptions{}) }, "cannot delete"},
		"read by a patch":       {func() error { return patch("precious", `{}`, nil) }, "has not made"},
		"read by a dry run":     {func() error { return patch("precious", `{}`, dry) }, "has not made"},
		"take over by a label":  {func() error { return patch("precious", `{"metadata":{`+labels+`}}`, nil) }, "has not made"},
		"give to another class": {func() error { return patch("stolen", `{"metadata":{"labels":{"mayfly.dev/class":"other"}}}`, nil) }, "stays so"},
		"write as another node": {func() error { return patch("stolen", `{"data":{"p":"eQ=="}}`, nil) }, "mayfly.dev/node-name"},
		"make without labels":   {func() error { return apply("made", "", "") }, "with the labels"},
		"make as another node":  {func() error { return apply("made", ","+labels, "") }, "mayfly.dev/node-name"},
		"make a service account's": {func() error {
			return apply("made", ","+labels+`,"annotations":{"mayfly.dev/node-name":"node-b","kubernetes.io/service-account.name":"default"}`, `,"type":"kubernetes.io/service-account-token"`)
		}, "credentials for the cluster's API server"},
		"make a bootstrap token": {func() error { return apply("made", ","+labels+ours, `,"type":"bootstrap.kubernetes.io/token"`) }, "credentials for the cluster's API server"},
		"own by another kind": {func() error {
			return apply("made", ","+labels+ours+`,"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"y"}]`, "")
		}, "goes with"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.do(); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
	if _, err := on("").CoreV1().Secrets(namespace).Patch(t.Context(), "stolen", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{}); err == nil || !strings.Contains(err.Error(), "names no node") {
		t.Errorf("a token of no node: %v", err)
	}
	r.holds("stolen", "p", "x")
	r.holds("precious", "mine", "precious")
	if r.read("made") != nil {
		t.Error("a Secret was made")
	}
}

// testNoData: an answer of the API server has no data in it.
func testNoData(t *testing.T, r *rig) {
	var bodies strings.Builder
	config := r.config("node-a")
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return recorder{rt, &bodies} })
	api := testkit.Value(secretsync.NewAPI(config))(t)
	n := r.node("node-a")
	n.Syncer.API = api
	nodata := r.class("nodata", nil)
	n.follow(n.mount(nodata, "a", password("hunter2-secret")))
	second := r.node("node-b")
	second.Syncer.API = api
	second.follow(second.mount(nodata, "b", password("hunter2-secret")))
	const encoded = "aHVudGVyMi1zZWNyZXQ="
	if got := bodies.String(); strings.Contains(got, encoded) || !strings.Contains(got, "PartialObjectMetadata") {
		t.Errorf("answers: %s", got)
	}
}

type recorder struct {
	http.RoundTripper
	to *strings.Builder
}

func (r recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	answer, err := r.RoundTripper.RoundTrip(q)
	if err != nil {
		return answer, err
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	r.to.Write(body)
	answer.Body = io.NopCloser(strings.NewReader(string(body)))
	return answer, err
}

// testField plays the manifests of package compat, from which docs/compatibility.md is made.
func testField(t *testing.T, r *rig) {
	cases := testkit.Value(compat.LoadSecrets("../compat/secrets"))(t)
	pair := newPair(t)
	for _, c := range cases {
		if c.Class == "" {
			continue // a test of this name shows it
		}
		t.Run(c.Name, func(t *testing.T) { playField(t, r.in(t), c, pair) })
	}
}

func playField(t *testing.T, r *rig, c compat.SecretCase, pair *strings.Replacer) {
	spc := &v1.SecretProviderClass{}
	testkit.Must(t, yaml.UnmarshalStrict([]byte(c.Class), spc))
	for name, text := range c.Files {
		c.Files[name] = pair.Replace(text)
	}
	n := r.node("node-a")
	f := n.mount(r.put(http.MethodPost, classPath(namespace), spc), "a", c.Files)
	if len(c.Refused) > 0 {
		n.refused(f, c.Refused...)
		if got := r.read(c.Name); got != nil {
			t.Errorf("Secret %+v", got)
		}
		return
	}
	n.follow(f)
	for name, want := range c.Want {
		got := r.read(name)
		if got == nil {
			t.Fatalf("no Secret %s\n%s", name, n.log)
		}
		if string(got.Type) != want.Type || len(got.Data) != len(want.Data) {
			t.Errorf("Secret %s of type %s with %d keys", name, got.Type, len(got.Data))
		}
		for key, text := range want.Data {
			if string(got.Data[key]) != pair.Replace(text) {
				t.Errorf("key %s of Secret %s is %q", key, name, got.Data[key])
			}
		}
		for what, maps := range map[string][2]map[string]string{"labels": {got.Labels, want.Labels}, "annotations": {got.Annotations, want.Annotations}} {
			if !contains(maps[0], maps[1]) {
				t.Errorf("%s of Secret %s: %v, want %v", what, name, maps[0], maps[1])
			}
		}
	}
}

func contains(all, some map[string]string) bool {
	merged := maps.Clone(all)
	maps.Copy(merged, some)
	return maps.Equal(all, merged)
}

// newPair replaces the words for a certificate and its private key, both as PEM.
func newPair(t *testing.T) *strings.Replacer {
	t.Helper()
	authority, _, err := pki.NewAuthority("field")
	testkit.Must(t, err)
	pair := testkit.Value(authority.Issue(pki.Identity{Name: "ingress"}))(t)
	return strings.NewReplacer("$CERTIFICATE", string(pair.Cert), "$KEY", string(pair.Key))
}
