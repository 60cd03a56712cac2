package class

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

func TestRolloutRestart(t *testing.T) {
	var many []string
	for i := range maxWorkloads + 1 {
		many = append(many, fmt.Sprintf("Deployment/w%d", i))
	}
	for name, tc := range map[string]struct{ value, want, err string }{
		"none":        {"", "[]", ""},
		"one":         {"Deployment/web", "[Deployment/web]", ""},
		"several":     {" Deployment/web,StatefulSet/db\nDaemonSet/a.b ", "[Deployment/web StatefulSet/db DaemonSet/a.b]", ""},
		"a Job":       {"Job/x", "", "must be kind/name"},
		"lower case":  {"deployment/web", "", "must be kind/name"},
		"no name":     {"Deployment/", "", "none that an object can have"},
		"bad name":    {"Deployment/Web", "", "none that an object can have"},
		"another one": {"Deployment/web/x", "", "none that an object can have"},
		"twice":       {"Deployment/web Deployment/web", "", "Duplicate"},
		"too many":    {strings.Join(many, ","), "", "Too many"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, err := Parse(&v1.SecretProviderClass{
				ObjectMeta: metav1.ObjectMeta{Name: "db"},
				Spec:       v1.SecretProviderClassSpec{Provider: "vault", Parameters: map[string]string{RolloutRestartKey: tc.value}},
			})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), "spec.parameters.rolloutRestart") || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || fmt.Sprint(c.RolloutRestart) != tc.want {
				t.Fatalf("%v, %v", c, err)
			}
		})
	}
}
