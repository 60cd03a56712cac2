//go:build e2e

package kmscluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/controlplane"
)

// TestLifecycle takes a cluster from plain text to encryption, through a rotation
// by Vault itself and one by hand, retires the old versions, and goes back. The
// Vault tokens end every 40 s, and the secret id is replaced on the way.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.agedKey()
	r.setUp()
	r.root("auth/approle/role/mayfly-kms", map[string]any{"token_period": 0, "token_ttl": 20, "token_max_ttl": 40})
	p := r.newPlugin("pollInterval: 1s")
	a := r.APIServer("plain", "")
	a.Ready()
	secrets := map[string]string{}
	put := func(s *controlplane.APIServer, n int, kind string) {
		t.Helper()
		for i := range n {
			name := fmt.Sprintf("%s-%d", kind, i)
			secrets[name] = "the-marker-of-" + name
			if err := s.PutSecret(t.Context(), name, secrets[name]); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(a, 60, "plain")
	first := p.healthy(1)
	r.tool("scan", append(r.EtcdFlags(), "--names=3", "--socket=unix://"+p.socket)...).ends(t, 1, "60 of 60 values are plain text", "default/plain-0", first)
	if len(r.inEtcd("the-marker-of-plain-0")) != 1 {
		t.Fatal("the test does not see plain text in etcd")
	}

	a.Stop()
	a = r.APIServer("server", p.encryption())
	a.Ready()
	put(a, 5, "encrypted")
	if keys := r.inEtcd("the-marker-of-encrypted"); len(keys) > 0 {
		t.Errorf("plain text is in %v", keys)
	}
	file := r.Path("server-encryption.yaml")
	r.tool("doctor", "--config="+p.config, "--encryption-config="+file).ends(t, 0, "allow_plaintext_backup", first)

	manager := r.ControllerManager(a, "*")
	flags := append(r.clusterFlags(p, a), "--encryption-config="+file)
	r.tool("migrate", flags...).ends(t, 0, "by StorageVersionMigration v1", "all under mayfly")
	if keys := r.inEtcd("the-marker-of-"); len(keys) > 0 {
		t.Errorf("after the migration plain text is in %v", keys)
	}
	old := r.Path("old.db")
	r.Snapshot(old)

	t.Log("rotation by auto_rotate_period")
	r.root("transit/keys/"+keyName+"/config", map[string]any{"auto_rotate_period": "1h"})
	r.must(r.vault.Seal(t.Context())) // and with that, the hour until Vault's next look is over
	r.must(r.vault.Unseal(t.Context()))
	controlplane.Await(t, 2*time.Minute, "Vault to rotate the key", func(context.Context) error {
		return r.latest(2)
	})
	r.tool("migrate", flags...).ends(t, 0, "all under mayfly", p.healthy(2))

	t.Log("rotation by hand, with another secret id")
	last := p.secretID
	p.secretID = r.secretID(p.secretFile)
	r.root("auth/approle/role/mayfly-kms/secret-id/destroy", map[string]any{"secret_id": last})
	r.root("transit/keys/"+keyName+"/rotate", nil)
	r.tool("migrate", flags...).ends(t, 0, "all under mayfly", p.healthy(3))
	readable(t, a, secrets)

	t.Log("retirement")
	fresh := r.Path("fresh.db")
	r.Snapshot(fresh)
	r.tool("retire", flags...).ends(t, 1, "no backup was looked at", "must stay at 1")
	r.tool("retire", append(flags, "--snapshot="+old, "--snapshot="+fresh)...).ends(t, 1, "under version 1", "must stay at 1")
	r.tool("retire", append(flags, "--snapshot="+fresh)...).ends(t, 0, "min_decryption_version may rise to 3")
	r.tool("scan", "--snapshot="+old, "--snapshot="+fresh).ends(t, 0, first)
	r.root("transit/keys/"+keyName+"/config", map[string]any{"min_decryption_version": 3, "min_encryption_version": 3})
	a.Kill()
	a.Start()
	a.Ready()
	readable(t, a, secrets)
	put(a, 5, "after")
	p.Stop()
	p.Start()
	p.healthy(3)
	readable(t, a, secrets)
	r.tool("retire", append(flags, "--without-backups")...).ends(t, 0, "nothing to do")
	if n := r.logins(p); n < 4 {
		t.Errorf("%d logins, though the tokens end every 40 s", n)
	}

	t.Log("back out")
	manager.Stop()
	a.Stop()
	out := r.APIServer("out", strings.Replace(strings.Replace(p.encryption(), "  - identity: {}\n", "", 1), "  providers:\n", "  providers:\n  - identity: {}\n", 1))
	out.Ready()
	r.tool("doctor", "--config="+p.config, "--encryption-config="+r.Path("out-encryption.yaml")).ends(t, 1, "identity is the first provider")
	back := append(r.clusterFlags(p, out), "--to-plain-text")
	r.tool("scan", append(r.EtcdFlags(), "--to-plain-text")...).ends(t, 1, "70 of 70 values are encrypted still")
	r.tool("migrate", append(back, "--method=patch", "--patches-per-second=500")...).ends(t, 0, "by patches: 70 objects", "all plain text")
	out.Stop()
	p.Stop()
	plain := r.APIServer("without", "")
	plain.Ready()
	readable(t, plain, secrets)
}

// agedKey makes a key whose first version is two hours old, by way of a backup.
func (r *rig) agedKey() {
	r.t.Helper()
	path := "transit/keys/" + keyName
	r.must(r.vault.EnableTransit(r.t.Context(), "transit", keyName))
	r.root(path+"/config", map[string]any{"exportable": true, "allow_plaintext_backup": true, "deletion_allowed": true})
	answer, err := r.vault.Client().Logical().ReadWithContext(r.t.Context(), "transit/backup/"+keyName)
	r.must(err)
	text, err := base64.StdEncoding.DecodeString(answer.Data["backup"].(string))
	r.must(err)
	var backup map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	r.must(decoder.Decode(&backup))
	made := time.Now().Add(-2 * time.Hour)
	age := func(version any) {
		if v, ok := version.(map[string]any); ok {
			v["creation_time"], v["time"] = made.Unix(), made.Format(time.RFC3339Nano)
		}
	}
	age(backup["policy"].(map[string]any)["keys"].(map[string]any)["1"])
	for _, version := range backup["archived_keys"].(map[string]any)["keys"].([]any) {
		age(version)
	}
	data, err := json.Marshal(backup)
	r.must(err)
	_, err = r.vault.Client().Logical().DeleteWithContext(r.t.Context(), path)
	r.must(err)
	r.root("transit/restore/"+keyName, map[string]any{"backup": base64.StdEncoding.EncodeToString(data)})
}

// latest wants a latest version of the key.
func (r *rig) latest(want int) error {
	answer, err := r.vault.Client().Logical().ReadWithContext(r.t.Context(), "transit/keys/"+keyName)
	if err != nil {
		return err
	}
	if got := answer.Data["latest_version"]; got != json.Number(fmt.Sprint(want)) {
		return fmt.Errorf("the latest version is %v", got)
	}
	return nil
}

// logins counts the logins of a plugin.
func (r *rig) logins(p *plugin) int {
	r.t.Helper()
	data, err := os.ReadFile(p.Log)
	r.must(err)
	return strings.Count(string(data), "logged in to Vault")
}
