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

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
	"github.com/mayfly-csi/mayfly/test/controlplane"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// lifecycle is a cluster that goes from plain text to encryption and back.
type lifecycle struct {
	*rig
	p       *plugin
	a       *controlplane.APIServer
	manager *controlplane.Process
	secrets map[string]string
	first   string // key id
	old     string // a backup under the first version
}

// TestLifecycle takes a cluster from plain text to encryption, through a rotation by Vault itself
// and a manual one, retires the old versions, and goes back. The Vault tokens expire every 40 s,
// and the secret id is replaced on the way.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	l := &lifecycle{rig: newRig(t), secrets: map[string]string{}}
	l.restoreOldKey()
	l.setUp()
	l.writeAsRoot("auth/approle/role/mayfly-kms", map[string]any{"token_period": 0, "token_ttl": 20, "token_max_ttl": 40})
	l.p = l.newPlugin("pollInterval: 1s")
	l.fromPlainText()
	l.rotate()
	l.retire()
	l.decryptAll()
}

func (l *lifecycle) put(n int, kind string) {
	l.t.Helper()
	for i := range n {
		name := fmt.Sprintf("%s-%d", kind, i)
		l.secrets[name] = "the-marker-of-" + name
		l.must(l.a.PutSecret(l.t.Context(), name, l.secrets[name]))
	}
}

func (l *lifecycle) file() string { return l.Path("server-encryption.yaml") }

// flags are a tool's flags for the plugin, the API server and etcd.
func (l *lifecycle) flags(more ...string) []string {
	return append(append(l.clusterFlags(l.p, l.a), "--encryption-config="+l.file()), more...)
}

func (l *lifecycle) fromPlainText() {
	t := l.t
	t.Helper()
	l.a = l.APIServer("plain", "")
	l.a.Ready()
	l.put(60, "plain")
	l.first = l.p.healthy(1)
	l.tool("scan", append(l.EtcdFlags(), "--names=3", "--socket=unix://"+l.p.socket)...).check(t, 1, "60 of 60 values are plain text", "default/plain-0", l.first)
	if len(l.inEtcd("the-marker-of-plain-0")) != 1 {
		t.Fatal("the test does not see plain text in etcd")
	}
	l.a.Stop()
	l.a = l.APIServer("server", l.p.encryption())
	l.a.Ready()
	l.put(5, "encrypted")
	if keys := l.inEtcd("the-marker-of-encrypted"); len(keys) > 0 {
		t.Errorf("plain text is in %v", keys)
	}
	l.tool("doctor", "--config="+l.p.config, "--encryption-config="+l.file()).check(t, 0, "allow_plaintext_backup", l.first)
	l.manager = l.ControllerManager(l.a, "*")
	l.tool("migrate", l.flags()...).check(t, 0, "by StorageVersionMigration v1", "all under mayfly")
	if keys := l.inEtcd("the-marker-of-"); len(keys) > 0 {
		t.Errorf("after the migration plain text is in %v", keys)
	}
	l.old = l.Path("old.db")
	l.Snapshot(l.old)
}

func (l *lifecycle) rotate() {
	t := l.t
	t.Helper()
	t.Log("rotation by auto_rotate_period")
	l.writeAsRoot("transit/keys/"+keyName+"/config", map[string]any{"auto_rotate_period": "1h"})
	l.must(l.vault.Seal(t.Context())) // Vault then looks for due rotations at once
	l.must(l.vault.Unseal(t.Context()))
	controlplane.Await(t, 2*time.Minute, "Vault to rotate the key", func(context.Context) error { return l.latest(2) })
	l.tool("migrate", l.flags()...).check(t, 0, "all under mayfly", l.p.healthy(2))

	t.Log("rotation by hand, with another secret id")
	last := l.p.secretID
	l.p.secretID = l.secretID(l.p.secretFile)
	l.writeAsRoot("auth/approle/role/mayfly-kms/secret-id/destroy", map[string]any{"secret_id": last})
	l.writeAsRoot("transit/keys/"+keyName+"/rotate", nil)
	l.tool("migrate", l.flags()...).check(t, 0, "all under mayfly", l.p.healthy(3))
	checkReadable(t, l.a, l.secrets)
}

func (l *lifecycle) retire() {
	t := l.t
	t.Helper()
	t.Log("retirement")
	fresh := l.Path("fresh.db")
	l.Snapshot(fresh)
	l.tool("retire", l.flags()...).check(t, 1, "no backup was looked at", "must stay at 1")
	l.tool("retire", l.flags("--snapshot="+l.old, "--snapshot="+fresh)...).check(t, 1, "under version 1", "must stay at 1")
	l.tool("retire", l.flags("--snapshot="+fresh)...).check(t, 0, "min_decryption_version may rise to 3")
	l.tool("scan", "--snapshot="+l.old, "--snapshot="+fresh).check(t, 0, l.first)
	l.writeAsRoot("transit/keys/"+keyName+"/config", map[string]any{"min_decryption_version": 3, "min_encryption_version": 3})
	l.a.Kill()
	l.a.Start()
	l.a.Ready()
	checkReadable(t, l.a, l.secrets)
	l.put(5, "after")
	l.p.Stop()
	l.p.Start()
	l.p.healthy(3)
	checkReadable(t, l.a, l.secrets)
	l.tool("retire", l.flags("--without-backups")...).check(t, 0, "nothing to do")
	if n := l.logins(l.p); n < 4 {
		t.Errorf("%d logins, though the tokens end every 40 s", n)
	}
}

func (l *lifecycle) decryptAll() {
	t := l.t
	t.Helper()
	t.Log("back out")
	l.manager.Stop()
	l.a.Stop()
	first := strings.Replace(strings.Replace(l.p.encryption(), "  - identity: {}\n", "", 1), "  providers:\n", "  providers:\n  - identity: {}\n", 1)
	l.a = l.APIServer("out", first)
	l.a.Ready()
	l.tool("doctor", "--config="+l.p.config, "--encryption-config="+l.Path("out-encryption.yaml")).check(t, 1, "identity is the first provider")
	l.tool("scan", append(l.EtcdFlags(), "--to-plain-text")...).check(t, 1, "70 of 70 values are encrypted still")
	back := append(l.clusterFlags(l.p, l.a), "--to-plain-text", "--method=patch", "--patches-per-second=500")
	l.tool("migrate", back...).check(t, 0, "by patches: 70 objects", "all plain text")
	l.a.Stop()
	l.p.Stop()
	l.a = l.APIServer("without", "")
	l.a.Ready()
	checkReadable(t, l.a, l.secrets)
}

// restoreOldKey makes a key whose first version is two hours old, by restoring an edited backup.
func (r *rig) restoreOldKey() {
	r.t.Helper()
	path := "transit/keys/" + keyName
	r.must(r.vault.EnableTransit(r.t.Context(), "transit", keyName))
	r.writeAsRoot(path+"/config", map[string]any{"exportable": true, "allow_plaintext_backup": true, "deletion_allowed": true})
	answer := testkit.Value(r.vault.Client().Logical().ReadWithContext(r.t.Context(), "transit/backup/"+keyName))(r.t)
	text := testkit.Value(base64.StdEncoding.DecodeString(answer.Data["backup"].(string)))(r.t)
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
	data := testkit.Value(json.Marshal(backup))(r.t)
	testkit.Value(r.vault.Client().Logical().DeleteWithContext(r.t.Context(), path))(r.t)
	r.writeAsRoot("transit/restore/"+keyName, map[string]any{"backup": base64.StdEncoding.EncodeToString(data)})
}

// latest returns an error if the key's latest version is not want.
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

func (r *rig) logins(p *plugin) int {
	r.t.Helper()
	data := testkit.Value(os.ReadFile(p.Log))(r.t)
	return strings.Count(string(data), "logged in to Vault")
}

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

	p.link.Shut()
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
	p.link.Open()
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
	backup := testkit.Value(client.ReadWithContext(t.Context(), "transit/backup/"+keyName))(r.t)
	testkit.Value(client.DeleteWithContext(t.Context(), "transit/keys/"+keyName))(r.t)
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
	testkit.Value(client.DeleteWithContext(t.Context(), "transit/keys/"+keyName))(r.t)
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
		v := testkit.Value(stored.Parse(value))(r.t)
		version, ok := scan.TransitVersion(v)
		if !ok {
			r.t.Fatalf("Secret %s is under %s %s", name, v.Provider, v.Name)
		}
		return version
	}
	r.t.Fatalf("Secret %s is not in etcd", name)
	return 0
}
