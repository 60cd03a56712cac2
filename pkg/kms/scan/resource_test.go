package scan_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestKeysOf(t *testing.T) {
	for key, want := range map[string]string{
		"/registry/secrets/shop/web":                                               "secrets shop/web",
		"/registry/services/specs/default/kubernetes":                              "services default/kubernetes",
		"/registry/services/endpoints/default/kubernetes":                          "endpoints default/kubernetes",
		"/registry/minions/node-a":                                                 "nodes node-a",
		"/registry/deployments/shop/web":                                           "deployments.apps shop/web",
		"/registry/ingress/shop/web":                                               "ingresses.networking.k8s.io shop/web",
		"/registry/example.com/widgets/shop/a":                                     "widgets.example.com shop/a",
		"/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.example": "customresourcedefinitions.apiextensions.k8s.io widgets.example",
		"/registry/masterleases/10.0.0.1":                                          "masterleases 10.0.0.1",
		"/registry/ranges/serviceips":                                              "ranges serviceips",
		"/registry/secrets/":                                                       "",
		"/registry/secrets":                                                        "",
		"/registry/":                                                               "",
		"/registry//a":                                                             "",
		"/registry/example.com/widgets/":                                           "",
		"compact_rev_key":                                                          "",
		"/other/secrets/shop/web":                                                  "",
	} {
		r, object, ok := scan.NewKeys("/registry").Of(key)
		got := r.String() + " " + object
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for patterns, want := range map[string]string{
		"secrets":                           "/registry/secrets/",
		"secrets configmaps secrets":        "/registry/configmaps/ /registry/secrets/",
		"services nodes":                    "/registry/minions/ /registry/services/specs/",
		"deployments.apps":                  "/registry/deployments/",
		"widgets.example.com":               "/registry/example.com/widgets/",
		"*.example.com":                     "/registry/example.com/",
		"widgets.example.com *.example.com": "/registry/example.com/",
		"*.batch":                           "/registry/cronjobs/ /registry/jobs/",
		"secrets *.*":                       "/registry/",
	} {
		got := scan.NewKeys("registry/").Prefixes(strings.Fields(patterns))
		if !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %q, want %q", patterns, got, want)
		}
	}
}

func TestSelection(t *testing.T) {
	secrets, widgets := scan.Resource{Name: "secrets"}, scan.Resource{Group: "example.com", Name: "widgets"}
	for _, tc := range []struct {
		pattern  string
		resource scan.Resource
		want     bool
	}{
		{"secrets", secrets, true},
		{"*.", secrets, true},
		{"*.*", secrets, true},
		{"*.", widgets, false},
		{"*.example.com", widgets, true},
		{"widgets.example.com", widgets, true},
		{"widgets", widgets, false},
		{"secrets.example.com", secrets, false},
	} {
		if got := (scan.Selection{tc.pattern}).Matches(tc.resource); got != tc.want {
			t.Errorf("%s matches %s: %v", tc.pattern, tc.resource, got)
		}
	}
	for _, bad := range []string{"", "*", "*s", "sec*ts", ".apps", "a/b", "se crets"} {
		if err := (scan.Selection{bad}).Check(); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	testkit.Must(t, (scan.Selection{"secrets", "*.", "*.*", "*.apps", "a.b.c"}).Check())
	if err := (scan.Selection{}).Check(); err == nil {
		t.Error("nothing was taken")
	}
}
