package vault

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return epoch.Add(d) }

func TestClassify(t *testing.T) {
	get := func(path string) *request { return &request{method: "GET", path: path} }
	post := func(path string) *request { return &request{method: "POST", path: path} }
	for _, tc := range []struct {
		name, body string
		r          *request
		want       session.Kind
		life       time.Duration
	}{
		{"kv1", `{"lease_duration":2764800,"data":{"ttl":"5","expiration":1}}`, get("kv1/a"), session.Polled, 0},
		{"kv that looks like a certificate", `{"mount_type":"kv","data":{"certificate":"x","serial_number":"1","expiration":1767229200}}`, get("kv1/a"), session.Polled, 0},
		{"kv2", `{"data":{"data":{"ttl":1},"metadata":{"version":1,"created_time":"x"}}}`, get("kv2/data/a"), session.Polled, 0},
		{"lease", `{"lease_id":"l","lease_duration":60,"data":{}}`, get("database/creds/a"), session.Leased, time.Minute},
		{"static role", `{"data":{"ttl":90,"last_vault_rotation":"x","username":"u"}}`, get("database/static-creds/a"), session.Static, 90 * time.Second},
		{"static role by path", `{"data":{"ttl":90,"username":"u"}}`, get("ldap/static-cred/a"), session.Static, 90 * time.Second},
		{"identity token", `{"data":{"ttl":90,"token":"t"}}`, get("identity/oidc/token/a"), session.Certificate, 90 * time.Second},
		{"issued certificate", `{"data":{"certificate":"x","expiration":1767229200,"serial_number":"1"}}`, post("pki/issue/a"), session.Certificate, time.Hour},
		{"expiration as text", `{"data":{"expiration":"2026-01-01T01:00:00Z"}}`, post("x/y"), session.Certificate, time.Hour},
		{"authority", `{"data":{"certificate":"x","revocation_time":0}}`, get("pki/cert/ca"), session.Polled, 0},
		{"transit", `{"data":{"plaintext":"x"}}`, post("transit/datakey/plaintext/a"), session.Once, 0},
		{"AppRole secret-id", `{"data":{"secret_id":"s","secret_id_ttl":3600}}`, post("auth/approle/role/a/secret-id"), session.Certificate, time.Hour},
		{"secret-id without an end", `{"data":{"secret_id":"s","secret_id_ttl":0}}`, post("auth/approle/role/a/secret-id"), session.Once, 0},
		{"lease_duration without a lease", `{"lease_id":"","lease_duration":3600,"mount_type":"aws","data":{"access_key":"a","secret_key":"s"}}`, get("aws/sts/a"), session.Certificate, time.Hour},
		{"lease_duration alone", `{"lease_duration":3600,"mount_type":"other","data":{"k":"v"}}`, get("other/a"), session.Certificate, time.Hour},
		{"token_ttl of a cloud", `{"data":{"token":"t","token_ttl":3600}}`, get("gcp/roleset/a/token"), session.Certificate, time.Hour},
		{"expires_at_seconds", `{"data":{"token":"t","expires_at_seconds":1767229200,"token_ttl":1}}`, get("gcp/roleset/a/token"), session.Certificate, time.Hour},
		{"expire_time", `{"data":{"token":"t","expire_time":"2026-01-01T01:00:00Z"}}`, get("x/a"), session.Certificate, time.Hour},
		{"expires_in", `{"data":{"access_token":"t","expires_in":"3600"}}`, get("x/a"), session.Certificate, time.Hour},
		{"lifetime as text", `{"data":{"access_token":"t","expires_in":"1h"}}`, get("x/a"), session.Certificate, time.Hour},
		{"auth", `{"auth":{"client_token":"t","lease_duration":3600},"data":null}`, post("auth/token/create"), session.Certificate, time.Hour},
		{"a role is no credential", `{"data":{"ttl":3600,"token_ttl":60}}`, get("pki/roles/a"), session.Polled, 0},
		{"a certificate's role", `{"data":{"ttl":"1h","max_ttl":"2h"}}`, get("pki/roles/a"), session.Polled, 0},
		{"kv1 with a password, of a Vault that names no mount", `{"lease_duration":2764800,"data":{"password":"p","ttl":"1h"}}`, get("kv1/a"), session.Polled, 0},
		{"kv1 of a Vault that names no mount", `{"lease_duration":2764800,"data":{"k":"v"}}`, get("kv1/a"), session.Polled, 0},
		{"data of another shape", `{"data":[1]}`, post("x"), session.Polled, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := testkit.Value(decodeAnswer([]byte(tc.body), ""))(t)
			got, end := classify(tc.r.method, tc.r.path, a, epoch)
			if got != tc.want || (tc.life > 0 && !end.Equal(after(tc.life))) {
				t.Errorf("kind %d until %s, want %d until %s", got, end, tc.want, after(tc.life))
			}
		})
	}
}

func TestPodBound(t *testing.T) {
	pod := identity.Pod{Namespace: "ns", Name: "web", UID: "pod-uid", ServiceAccount: "web"}
	described := func(uid, name, namespace, secret string) map[string]string {
		return map[string]string{"role": "web", metaUID: uid, metaName: name, metaNamespace: namespace, metaSecret: secret}
	}
	kube := described("sa-uid", "web", "ns", "")
	for _, tc := range []struct {
		name     string
		metadata map[string]string
		sharing  sharing
		uid      string
		want     bool
	}{
		{"kubernetes method", kube, shareAuto, "sa-uid", false},
		{"another name", described("sa-uid", "other", "ns", ""), shareAuto, "sa-uid", true},
		{"another namespace", described("sa-uid", "web", "other", ""), shareAuto, "sa-uid", true},
		{"with a secret", described("sa-uid", "web", "ns", "s"), shareAuto, "sa-uid", true},
		{"without a word on the secret", map[string]string{metaUID: "sa-uid", metaName: "web", metaNamespace: "ns"}, shareAuto, "sa-uid", true},
		{"the UID alone", map[string]string{metaUID: "sa-uid"}, shareAuto, "sa-uid", true},
		{"kubernetes method, told pod", kube, sharePod, "sa-uid", true},
		{"other service account of the name", kube, shareAuto, "other-uid", true},
		{"UID unknown", kube, shareAuto, "", true},
		{"UID unknown, told otherwise", kube, shareServiceAccount, "", true},
		{"jwt method", map[string]string{"role": "web"}, shareAuto, "sa-uid", true},
		{"jwt method, told", map[string]string{"role": "web"}, shareServiceAccount, "sa-uid", false},
		{"jwt method with the pod's UID, told", map[string]string{"p": "pod-uid"}, shareServiceAccount, "sa-uid", true},
		{"jwt method with the pod's name, told", map[string]string{"p": "web"}, shareServiceAccount, "sa-uid", true},
	} {
		testkit.Equal(t, tc.name+": bound to the pod", isPodBound(authInfo{Metadata: tc.metadata}, tc.sharing, pod, tc.uid), tc.want)
	}
}

// sshCertificate has the form of one of OpenSSH's, with fields for its key.
func sshCertificate(kind string, fields int, before uint64) string {
	var b []byte
	add := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	add(kind)
	add("nonce")
	for range fields {
		add("key")
	}
	b = binary.BigEndian.AppendUint64(b, 7)
	b = binary.BigEndian.AppendUint32(b, 1)
	add("name")
	add("")
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, before)
	return kind + " " + base64.StdEncoding.EncodeToString(b) + " comment\n"
}

func TestValidBefore(t *testing.T) {
	const end = 1767229200
	for kind, fields := range map[string]int{
		"ssh-ed25519-cert-v01@openssh.com": 1, "ssh-rsa-cert-v01@openssh.com": 2, "ecdsa-sha2-nistp256-cert-v01@openssh.com": 2,
		"sk-ssh-ed25519-cert-v01@openssh.com": 2, "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com": 3, "ssh-dss-cert-v01@openssh.com": 4,
	} {
		text := sshCertificate(kind, fields, end)
		testkit.Equal(t, "the end of "+kind, validBefore(text).Unix(), end)
		if got := validBefore(sshCertificate(kind, fields, math.MaxUint64)); !got.IsZero() {
			t.Errorf("%s has no end, not %s", kind, got)
		}
		raw, _ := base64.StdEncoding.DecodeString(strings.Fields(text)[1])
		for n := range raw {
			if got := validBefore(kind + " " + base64.StdEncoding.EncodeToString(raw[:n])); !got.IsZero() {
				t.Errorf("%d bytes of %s end at %s", n, kind, got)
			}
		}
	}
	for _, text := range []string{"", "ssh-ed25519", "ssh-ed25519 !", sshCertificate("ssh-ed25519", 1, end)} {
		if got := validBefore(text); !got.IsZero() {
			t.Errorf("%q ends at %s", text, got)
		}
	}
}

func FuzzValidBefore(f *testing.F) {
	f.Add(sshCertificate("ssh-ed25519-cert-v01@openssh.com", 1, 1767229200))
	f.Fuzz(func(t *testing.T, text string) {
		if end := validBefore(text); end.Year() > 9999 {
			t.Errorf("ends at %s", end)
		}
	})
}

// TestOverdue has static roles at the moment of their schedule.
func TestOverdue(t *testing.T) {
	at := func(d time.Duration) *session.Reading {
		return &session.Reading{Kind: session.Static, At: after(d), End: after(d)}
	}
	announced := &session.Reading{Kind: session.Static, At: after(-time.Hour), End: epoch}
	for _, tc := range []struct {
		name    string
		before  *session.Reading
		now     *session.Reading
		rotated time.Time
		want    bool
	}{
		{"the password is the old one", announced, at(time.Second), after(-time.Hour), true},
		{"by hand before the moment", announced, at(time.Second), after(-time.Minute), true},
		{"rotated", announced, at(time.Second), epoch, false},
		{"rotated, rounded", announced, at(time.Second), after(-time.Second), false},
		{"before the moment", announced, at(-time.Minute), after(-time.Hour), false},
		{"too long ago", announced, at(time.Hour), after(-time.Hour), false},
		{"first answer", nil, at(time.Second), after(-time.Hour), false},
		{"does not say", announced, at(time.Second), time.Time{}, false},
	} {
		if end, got := overdue(tc.before, tc.now, tc.rotated); got != tc.want || got && !end.Equal(epoch) {
			t.Errorf("%s: %v until %s", tc.name, got, end)
		}
	}
}

// TestDeletionTime has a secret with delete_version_after: its versions have a
// deletion time from the start.
func TestDeletionTime(t *testing.T) {
	for _, tc := range []struct {
		name, at string
		deleted  bool
	}{
		{"none", "", false},
		{"to come", after(time.Hour).Format(time.RFC3339Nano), false},
		{"now", epoch.Format(time.RFC3339Nano), true},
		{"past", after(-time.Second).Format(time.RFC3339Nano), true},
		{"of another form", "tomorrow", true},
	} {
		body := fmt.Appendf(nil, `{"data":{"current_version":2,"versions":{"2":{"created_time":"c","deletion_time":%q,"destroyed":false}}}}`, tc.at)
		if got := currentVersion(body, epoch); got.Known() == tc.deleted {
			t.Errorf("%s: the current version is %v", tc.name, got)
		}
		read := fmt.Appendf(nil, `{"data":{"data":null,"metadata":{"version":2,"deletion_time":%q}}}`, tc.at)
		if got := deletedVersion(&endpoint.Reply{Body: read}, epoch); (got != "") != (tc.deleted && tc.name != "of another form") {
			t.Errorf("%s: a read is explained with %q", tc.name, got)
		}
	}
}

// docs/vault.md lists the parameters and fields that exist, and no others.
func TestDocumentedParameters(t *testing.T) {
	doc := testkit.Value(os.ReadFile("../../../docs/vault.md"))(t)
	want := objectFields()
	want = append(want, plainKeys()...)
	for _, key := range prefixedKeys() {
		want = append(want, "vault"+key)
	}
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|").FindAllSubmatch(doc, -1) {
		got = append(got, string(m[1]))
	}
	slices.Sort(want)
	slices.Sort(got)
	testkit.Equal(t, "docs/vault.md, and the code", got, want)
}

// Each flavour is told the names that its classes use.
func TestSettingNames(t *testing.T) {
	for flavour, want := range map[string]string{NameVault: "vaultCACertPath", NameOpenBao: "baoCACertPath"} {
		if got := settingNames(flavour).CACertFile; got != want {
			t.Errorf("%s: %s, want %s", flavour, got, want)
		}
	}
}
