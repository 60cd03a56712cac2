//go:build e2e

package kmscluster

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
	"github.com/mayfly-csi/mayfly/test/controlplane"
)

// TestTwoServers has two API servers on different versions of the key, and then the key deleted,
// created again, and restored.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setUp()
	r.writeAsRoot("transit/keys/"+keyName+"/config", map[string]any{"exportable": true, "allow_plaintext_backup": true, "deletion_allowed": true})
	p1 := r.newPlugin("pollInterval: 1s")
	p2 := r.newPlugin("pollInterval: 10m") // longer than the test: it sees no rotation
	p1.healthy(1)
	p2.healthy(1)
	one, two := r.APIServer("one", p1.encryption()), r.APIServer("two", p2.encryption())
	one.Ready()
	two.Ready()
	secrets := map[string]string{}
	put := func(a *controlplane.APIServer, name string) int {
		t.Helper()
		secrets[name] = "the text of " + name
		r.must(a.PutSecret(t.Context(), name, secrets[name]))
		return r.version(name)
	}
	if put(one, "one-before") != 1 || put(two, "two-before") != 1 {
		t.Error("the first Secrets are not under version 1")
	}

	r.writeAsRoot("transit/keys/"+keyName+"/rotate", nil)
	p1.healthy(2)
	n := 0
	controlplane.Await(t, waitTimeout, "the first API server to write under version 2", func(ctx context.Context) error {
		_, _ = one.Get(ctx, "/readyz") // makes the API server ask the plugin for its status
		if n++; put(one, fmt.Sprintf("one-%d", n)) != 2 {
			return fmt.Errorf("it writes under version 1")
		}
		return nil
	})
	if put(two, "two-after") != 1 {
		t.Error("the second API server writes under another version than its plugin's")
	}
	for _, a := range []*controlplane.APIServer{one, two} {
		checkReadable(t, a, secrets)
	}
	bothFlags, oneFlags := r.clusterFlags(p1, one, two), r.clusterFlags(p1, one)
	r.tool("migrate", append(bothFlags, "--wait=3s")...).check(t, 2, "nothing was migrated", two.URL+" writes under another key id")
	r.tool("migrate", append(oneFlags, "--wait=3s")...).check(t, 2, "the API server of host two is not among those asked")
	r.tool("retire", append(bothFlags, "--without-backups")...).check(t, 1, "writes under another key id", "must stay at 1")

	p2.Stop()
	p2.Start()
	r.tool("migrate", append(bothFlags, "--method=patch")...).check(t, 0, "2 API servers", "all under mayfly")
	r.tool("retire", append(bothFlags, "--without-backups")...).check(t, 0, "may rise to 2")
	r.writeAsRoot("transit/keys/"+keyName+"/config", map[string]any{"min_decryption_version": 2})
	for _, a := range []*controlplane.APIServer{one, two} {
		a.Kill()
		a.Start()
		a.Ready()
		checkReadable(t, a, secrets)
	}
	r.replaceKey(p1, one, two, secrets)
}

// replaceKey deletes the key, makes another one with its name, and restores the first.
func (r *rig) replaceKey(p *plugin, one, two *controlplane.APIServer, secrets map[string]string) {
	t := r.t
	t.Helper()
	id := p.healthy(2)
	client := r.vault.Client().Logical()
	backup, err := client.ReadWithContext(t.Context(), "transit/backup/"+keyName)
	r.must(err)
	_, err = client.DeleteWithContext(t.Context(), "transit/keys/"+keyName)
	r.must(err)
	r.tool("doctor", "--config="+p.config).check(t, 1, "there is no key")
	r.writeAsRoot("transit/keys/"+keyName, map[string]any{"type": "aes256-gcm96"})
	r.writeAsRoot("transit/keys/"+keyName+"/rotate", nil)
	r.writeAsRoot("transit/keys/"+keyName+"/config", map[string]any{"deletion_allowed": true})
	controlplane.Await(t, waitTimeout, "the plugin to notice another key", func(ctx context.Context) error {
		s, err := p.status(ctx)
		if err != nil || s.KeyID != id || !strings.Contains(s.Health, "deleted and made again") {
			return fmt.Errorf("%+v, %v", s, err)
		}
		return nil
	})
	r.tool("doctor", "--config="+p.config).check(t, 1, "deleted and made again")
	checkReadable(t, one, secrets) // with the keys in the plugin's memory
	_, err = client.DeleteWithContext(t.Context(), "transit/keys/"+keyName)
	r.must(err)
	r.writeAsRoot("transit/restore/"+keyName, map[string]any{"backup": backup.Data["backup"]})
	p.healthy(2)
	for _, a := range []*controlplane.APIServer{one, two} {
		a.Kill()
		a.Start()
		a.Ready()
		checkReadable(t, a, secrets)
	}
}

// version is the version of the key of a Secret in etcd.
func (r *rig) version(name string) int {
	r.t.Helper()
	for _, value := range r.Raw("/registry/secrets/default/" + name) {
		v, err := stored.Parse(value)
		r.must(err)
		version, ok := scan.TransitVersion(v)
		if !ok {
			r.t.Fatalf("Secret %s is under %s %s", name, v.Provider, v.Name)
		}
		return version
	}
	r.t.Fatalf("Secret %s is not in etcd", name)
	return 0
}
