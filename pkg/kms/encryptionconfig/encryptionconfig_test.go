package encryptionconfig_test

import (
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/kms/encryptionconfig"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"

const whole = head + `resources:
- resources: [events]
  providers:
  - identity: {}
- resources: [secrets, widgets.example.com]
  providers:
  - kms: {apiVersion: v2, name: mayfly, endpoint: "unix:///run/mayfly-kms/kms.sock", timeout: 5s}
  - aescbc: {keys: [{name: key1, secret: "the-static-key"}]}
  - identity: {}
- resources: ["*.*"]
  providers:
  - identity: {}
  - kms: {apiVersion: v2, name: other, endpoint: "unix:///run/other.sock"}
`

func TestParse(t *testing.T) {
	c := testkit.Value(encryptionconfig.Parse([]byte(whole)))(t)
	secrets, _ := c.For(scan.Resource{Name: "secrets"})
	if p := secrets.Providers[0]; len(secrets.Providers) != 3 || p.Kind != stored.KMSv2 || p.Name != "mayfly" || p.Timeout != 5*time.Second || p.CacheSize {
		t.Errorf("secrets: %+v", secrets)
	}
	if events, _ := c.For(scan.Resource{Name: "events"}); events.Providers[0].Kind != stored.Identity {
		t.Errorf("events: %+v", events)
	}
	if pods, _ := c.For(scan.Resource{Name: "pods"}); len(pods.Providers) != 2 || pods.Providers[1].Timeout != 3*time.Second {
		t.Errorf("pods: %+v", pods)
	}
	if name, err := c.Name("unix:///run/mayfly-kms/kms.sock"); name != "mayfly" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	testkit.Error(c.Name("unix:///elsewhere"))(t, "there are unix:///run/mayfly-kms/kms.sock, unix:///run/other.sock")
	testkit.Equal(t, "the resources of mayfly", strings.Join(c.Resources("mayfly"), " "), "secrets widgets.example.com")
	if want, ok := c.Want("mayfly")(scan.Resource{Name: "secrets"}); !ok || want.Name != "mayfly" {
		t.Errorf("%+v, %v", want, ok)
	}
	if _, ok := c.Want("mayfly")(scan.Resource{Name: "pods"}); ok {
		t.Error("pods are judged")
	}
	if !c.HasKeys || !strings.HasPrefix(c.Hash, "sha256:") {
		t.Errorf("%+v", c)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"another kind":       {"apiVersion: v1\nkind: Secret\n", "apiVersion and kind must be"},
		"nothing":            {head, "resources: it is empty"},
		"an unknown field":   {head + "resources: [{resource: [secrets]}]\n", "the API server would refuse it"},
		"a wrong resource":   {head + "resources: [{resources: ['*'], providers: [{identity: {}}]}]\n", `resources[0].resources: "*" is no resource`},
		"no provider":        {head + "resources: [{resources: [secrets]}]\n", "resources[0].providers: it is empty"},
		"an empty provider":  {head + "resources: [{resources: [secrets], providers: [{}]}]\n", "resources[0].providers[0]: must be one provider, not 0"},
		"two in one":         {head + "resources: [{resources: [secrets], providers: [{identity: {}, aesgcm: {keys: []}}]}]\n", "must be one provider, not 2"},
		"a time without end": {head + "resources: [{resources: [secrets], providers: [{kms: {name: a, timeout: soon}}]}]\n", "kms.timeout: must be a time"},
		"no YAML":            {head + "resources: [", "the API server would refuse it"},
		"large":              {strings.Repeat("#", 2<<20), "over"},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Error(encryptionconfig.Parse([]byte(tc.text)))(t, tc.want)
		})
	}
}

// FuzzParse: no file crashes the parser, and no static key is in an error.
func FuzzParse(f *testing.F) {
	f.Add(whole)
	f.Add(head + "resources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: {the-static-key: 1}}]}}]}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := encryptionconfig.Parse([]byte(text))
		if err != nil && strings.Contains(err.Error(), "the-static-key") && !strings.Contains(text, "the-static-key:") {
			t.Errorf("%v", err)
		}
		if err == nil && (len(c.Rules) == 0 || len(c.Rules[0].Providers) == 0) {
			t.Errorf("%+v", c)
		}
	})
}
