//go:build e2e

package kmscluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/controlplane"
)

// outage is longer than the 3 minutes for which the API server writes after the last Status, plus the
// minute between two Status calls.
const outage = 4*time.Minute + 3*time.Second

// TestOutage makes Vault unavailable for more than four minutes, and then restarts the API server,
// kills the plugin, and restarts it, all without Vault.
func TestOutage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setUp()
	p := r.newPlugin("pollInterval: 1s")
	p.healthy(1)
	a := r.APIServer("server", p.encryption())
	a.Ready()
	secrets := map[string]string{}
	put := func(name string) error {
		secrets[name] = "the text of " + name
		return a.PutSecret(t.Context(), name, secrets[name])
	}
	r.must(put("before"))

	p.link.Cut()
	began := time.Now()
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	for n := 0; time.Since(began) < outage; n++ {
		if err := put(fmt.Sprintf("during-%d", n)); err != nil {
			t.Fatalf("%s after the connection to Vault was cut: %v", time.Since(began).Round(time.Second), err)
		}
		checkReadable(t, a, map[string]string{"before": secrets["before"]})
		<-ticker.C
	}
	s, err := p.status(t.Context())
	if err != nil || !strings.Contains(s.Health, "Vault cannot be used since") || strings.Contains(s.Health, "127.0.0.1") {
		t.Errorf("healthz %q, %v", s.Health, err)
	}

	r.withoutVault(p, a, secrets, put)

	t.Log("Vault is back")
	p.link.Up()
	p.healthy(1)
	a.Ready()
	checkReadable(t, a, secrets)
	r.must(put("at-the-end"))
	r.tool("scan", append(r.EtcdFlags(), "--socket=unix://"+p.socket)...).check(t, 0, fmt.Sprintf("%d values, all under mayfly", len(secrets)))
}

// withoutVault restarts the API server, the plugin, and both.
func (r *rig) withoutVault(p *plugin, a *controlplane.APIServer, secrets map[string]string, put func(string) error) {
	t := r.t
	t.Helper()
	t.Log("the API server restarts without Vault")
	a.Kill()
	a.Start()
	a.Live()
	controlplane.Await(t, waitTimeout, "a Secret to be read", func(ctx context.Context) error {
		_, err := a.ReadSecret(ctx, "before")
		return err
	})
	checkReadable(t, a, secrets)
	r.must(put("after-the-restart"))

	t.Log("the plugin is killed, and starts without Vault")
	p.Kill()
	p.Start()
	controlplane.Await(t, waitTimeout, "the plugin to answer at its socket", func(ctx context.Context) error {
		if _, err := p.status(ctx); err == nil || !strings.Contains(err.Error(), "no version of the key has passed a round trip yet") {
			return fmt.Errorf("status %v", err)
		}
		return nil
	})
	checkReadable(t, a, secrets) // the API server has its seeds in memory
	r.tool("doctor", "--config="+p.config).check(t, 1, "login at Vault", "no version of the key")

	t.Log("the API server restarts too, and has no seed then")
	a.Kill()
	a.Start()
	a.Live()
	if text, err := a.ReadSecret(t.Context(), "before"); err == nil {
		t.Errorf("a Secret reads %q without any key", text)
	}
}
