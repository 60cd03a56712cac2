package kms_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/test/kmsrig"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

func TestOutage(t *testing.T) {
	for _, away := range []string{"shut", "dead", "sealed"} {
		t.Run(away, func(t *testing.T) {
			v := vault
			if away == "sealed" { // all of a Vault is, so it has to be one of its own
				v = vaulttest.New(t, vaulttest.Options{})
				testkit.Must(t, kmsrig.Prepare(t.Context(), v))
			}
			r := kmsrig.New(t, v)
			p := r.Start("--call-timeout=300ms")
			id := p.Ready()
			old := encrypt(t, p, "1")
			switch away {
			case "shut":
				r.Gate.Shut()
			case "dead":
				r.Gate.Dead()
			case "sealed":
				testkit.Must(t, v.Seal(t.Context()))
			}
			p.Eventually("the outage shows in Status", func() bool {
				s, err := p.Status()
				return err == nil && strings.HasPrefix(s.GetHealthz(), "Vault cannot be used since") && s.GetKeyId() == id
			})
			s, _ := p.Status()
			if strings.Contains(s.GetHealthz(), "127.0.0.1") || strings.Contains(s.GetHealthz(), r.Key) {
				t.Errorf("Status names servers or keys: %s", s.GetHealthz())
			}
			mustDecrypt(t, p, old)
			mustDecrypt(t, p, encrypt(t, p, "2")) // a new seed, as after a restart of the API server
			switch away {
			case "sealed":
				testkit.Must(t, v.Unseal(t.Context()))
			default:
				r.Gate.Open()
			}
			if p.Ready() != id {
				t.Error("the outage changed the key id")
			}
		})
	}
}

// Without the local key a new seed needs Vault, and one that was opened does not.
func TestOutageWithoutLocalKey(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	p := r.Start("--local-key=false", "--call-timeout=300ms")
	p.Ready()
	old := encrypt(t, p, "1")
	r.Gate.Shut()
	mustDecrypt(t, p, old)
	_, err := p.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: seed(), Uid: "2"})
	wantCode(t, err, codes.Unavailable, "Vault cannot be used")
}
