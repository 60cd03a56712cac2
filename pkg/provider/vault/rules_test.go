package vault

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/identity"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return epoch.Add(d) }

func TestDueAt(t *testing.T) {
	const slack = 2 * time.Second // after an announced change
	for _, tc := range []struct {
		name     string
		kind     kind
		life     time.Duration
		interval time.Duration
		chance   float64
		want     time.Duration
	}{
		{"polled", polled, 0, time.Minute, 0.9, time.Minute},
		{"lease at two thirds", leased, time.Hour, time.Minute, 0, 40 * time.Minute},
		{"lease, earlier by chance", leased, time.Hour, time.Minute, 1, 40*time.Minute - 288*time.Second},
		{"short lease", leased, 3 * time.Second, time.Minute, 1, 1760 * time.Millisecond},
		{"lease of a second", leased, time.Second, time.Minute, 1, 586666667},
		{"lease that says nothing", leased, 0, time.Minute, 0, time.Minute},
		{"certificate", certificate, 24 * time.Hour, time.Minute, 0, 16 * time.Hour},
		{"certificate that is over", certificate, -time.Hour, time.Minute, 0, time.Minute},
		{"static", static, time.Hour, time.Minute, 0, time.Hour + slack},
		{"static, spread", static, time.Hour, time.Minute, 1, time.Hour + slack + 10*time.Second},
		{"static in rotation", static, 0, time.Hour, 1, slack},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := dueAt(tc.kind, epoch, after(tc.life), pace{interval: tc.interval}, tc.chance).Sub(epoch); got.Round(time.Millisecond) != tc.want.Round(time.Millisecond) {
				t.Errorf("due after %s, want %s", got, tc.want)
			}
		})
	}
}

func TestRecentEnough(t *testing.T) {
	minute := after(time.Minute)
	for _, tc := range []struct {
		name string
		kind kind
		age  time.Duration
		own  bool
		want bool
	}{
		{"other's, young", polled, 29 * time.Second, false, true},
		{"other's, half the interval", polled, 30 * time.Second, false, false},
		{"own, before it is due", polled, 53 * time.Second, true, true},
		{"own, at the scheduler's earliest", polled, 57 * time.Second, true, false},
		{"own static until it is due", static, 59 * time.Second, true, true},
		{"own static, due", static, 60 * time.Second, true, false},
		{"other's static, half", static, 31 * time.Second, false, false},
	} {
		if got := recentEnough(tc.kind, epoch, minute, after(tc.age), tc.own); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestFellShort(t *testing.T) {
	for _, tc := range []struct {
		asked, granted time.Duration
		want           bool
	}{
		{time.Hour, time.Hour, false}, {time.Hour, 59 * time.Minute, false}, {time.Hour, 50 * time.Minute, true},
		{5 * time.Second, 4 * time.Second, false}, {5 * time.Second, 2 * time.Second, true}, {time.Hour, 0, true},
	} {
		if got := fellShort(tc.asked, tc.granted); got != tc.want {
			t.Errorf("%s of %s: %v", tc.granted, tc.asked, got)
		}
	}
}

func TestClassify(t *testing.T) {
	get := func(path string) *request { return &request{method: "GET", path: path} }
	post := func(path string) *request { return &request{method: "POST", path: path} }
	for _, tc := range []struct {
		name, body string
		r          *request
		want       kind
		life       time.Duration
	}{
		{"kv1", `{"lease_duration":2764800,"data":{"ttl":"5","expiration":1}}`, get("kv1/a"), polled, 0},
		{"kv that looks like a certificate", `{"mount_type":"kv","data":{"certificate":"x","serial_number":"1","expiration":1767229200}}`, get("kv1/a"), polled, 0},
		{"kv2", `{"data":{"data":{"ttl":1},"metadata":{"version":1,"created_time":"x"}}}`, get("kv2/data/a"), polled, 0},
		{"lease", `{"lease_id":"l","lease_duration":60,"data":{}}`, get("database/creds/a"), leased, time.Minute},
		{"static role", `{"data":{"ttl":90,"last_vault_rotation":"x","username":"u"}}`, get("database/static-creds/a"), static, 90 * time.Second},
		{"static role by path", `{"data":{"ttl":90,"username":"u"}}`, get("ldap/static-cred/a"), static, 90 * time.Second},
		{"identity token", `{"data":{"ttl":90,"token":"t"}}`, get("identity/oidc/token/a"), certificate, 90 * time.Second},
		{"issued certificate", `{"data":{"certificate":"x","expiration":1767229200,"serial_number":"1"}}`, post("pki/issue/a"), certificate, time.Hour},
		{"expiration as text", `{"data":{"expiration":"2026-01-01T01:00:00Z"}}`, post("x/y"), certificate, time.Hour},
		{"authority", `{"data":{"certificate":"x","revocation_time":0}}`, get("pki/cert/ca"), polled, 0},
		{"transit", `{"data":{"plaintext":"x"}}`, post("transit/datakey/plaintext/a"), once, 0},
		{"AppRole secret-id", `{"data":{"secret_id":"s","secret_id_ttl":3600}}`, post("auth/approle/role/a/secret-id"), certificate, time.Hour},
		{"secret-id without an end", `{"data":{"secret_id":"s","secret_id_ttl":0}}`, post("auth/approle/role/a/secret-id"), once, 0},
		{"lease_duration without a lease", `{"lease_id":"","lease_duration":3600,"mount_type":"aws","data":{"access_key":"a","secret_key":"s"}}`, get("aws/sts/a"), certificate, time.Hour},
		{"lease_duration alone", `{"lease_duration":3600,"mount_type":"other","data":{"k":"v"}}`, get("other/a"), certificate, time.Hour},
		{"token_ttl of a cloud", `{"data":{"token":"t","token_ttl":3600}}`, get("gcp/roleset/a/token"), certificate, time.Hour},
		{"expires_at_seconds", `{"data":{"token":"t","expires_at_seconds":1767229200,"token_ttl":1}}`, get("gcp/roleset/a/token"), certificate, time.Hour},
		{"expire_time", `{"data":{"token":"t","expire_time":"2026-01-01T01:00:00Z"}}`, get("x/a"), certificate, time.Hour},
		{"expires_in", `{"data":{"access_token":"t","expires_in":"3600"}}`, get("x/a"), certificate, time.Hour},
		{"lifetime as text", `{"data":{"access_token":"t","expires_in":"1h"}}`, get("x/a"), certificate, time.Hour},
		{"auth", `{"auth":{"client_token":"t","lease_duration":3600},"data":null}`, post("auth/token/create"), certificate, time.Hour},
		{"a role is no credential", `{"data":{"ttl":3600,"token_ttl":60}}`, get("pki/roles/a"), polled, 0},
		{"a certificate's role", `{"data":{"ttl":"1h","max_ttl":"2h"}}`, get("pki/roles/a"), polled, 0},
		{"kv1 with a password, of a Vault that names no mount", `{"lease_duration":2764800,"data":{"password":"p","ttl":"1h"}}`, get("kv1/a"), polled, 0},
		{"kv1 of a Vault that names no mount", `{"lease_duration":2764800,"data":{"k":"v"}}`, get("kv1/a"), polled, 0},
		{"data of another shape", `{"data":[1]}`, post("x"), polled, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, err := decodeAnswer([]byte(tc.body), "")
			if err != nil {
				t.Fatal(err)
			}
			got, end := classify(tc.r, a, epoch)
			if got != tc.want || (tc.life > 0 && !end.Equal(after(tc.life))) {
				t.Errorf("kind %d until %s, want %d until %s", got, end, tc.want, after(tc.life))
			}
		})
	}
}

func TestToken(t *testing.T) {
	info := func(ttl, kind string) authInfo {
		return authInfo{Token: "t", TTL: "3600", Renewable: true, Type: kind}
	}
	tok := newToken(login{}, info("3600", "service"), epoch, 0)
	if due, final := tok.isDue(after(37 * time.Minute)); due || final {
		t.Error("due too early")
	}
	if due, _ := tok.isDue(after(40 * time.Minute)); !due {
		t.Error("not due at two thirds")
	}
	if due, _ := tok.isDue(after(38 * time.Minute)); !due {
		t.Error("not due for a scheduler that comes 5 % early")
	}
	tok.extend(after(40*time.Minute), time.Hour, 0)
	if due, final := tok.isDue(after(77 * time.Minute)); due || final || !tok.alive(after(99*time.Minute)) {
		t.Error("a renewal did not extend it")
	}
	tok.extend(after(80*time.Minute), 20*time.Minute, 0)
	if due, final := tok.isDue(after(80 * time.Minute)); !due || !final {
		t.Error("a renewal that fell short must have it replaced at once")
	}
	if !tok.alive(after(99*time.Minute)) || tok.alive(after(100*time.Minute)) {
		t.Error("it lives as long as was granted")
	}
	batch := newToken(login{}, info("3600", "batch"), epoch, 0)
	if due, final := batch.isDue(after(40 * time.Minute)); !due || !final {
		t.Error("a batch token is replaced at two thirds, not renewed")
	}
	forever := newToken(login{}, authInfo{Token: "t", TTL: "0"}, epoch, 0)
	if due, _ := forever.isDue(after(1e6 * time.Hour)); due || !forever.alive(after(1e6*time.Hour)) {
		t.Error("a TTL of 0 is for ever")
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
		if got := (authInfo{Metadata: tc.metadata}).podBound(tc.sharing, pod, tc.uid); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
