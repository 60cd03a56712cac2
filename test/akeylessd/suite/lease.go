package suite

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const dynamicObjects = `
- {secretPath: /app/db, fileName: user, secretKey: user, secretType: dynamic}
- {secretPath: /app/db, fileName: password, secretKey: password, secretType: dynamic}`

func (w *world) wantCredentials(issued, alive int) {
	w.t.Helper()
	if m, a := w.Credentials(); m != issued || a != alive {
		w.t.Errorf("%d credentials made and %d alive, want %d and %d", m, a, issued, alive)
	}
}

func (w *world) release(r provider.Request) {
	w.t.Helper()
	if err := w.provider.Release(w.t.Context(), r.Volume); err != nil {
		w.t.Errorf("Release: %v", err)
	}
}

func dynamicCredentials(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutDynamic("/app/db", time.Hour)
	pod := w.pod("web")
	r := w.request(pod, k8s(dynamicObjects))
	first := w.fetch(r)
	w.wantCredentials(1, 1) // both files are of one credential
	if len(first.Leases) != 2 || first.Leases[0].ID == "" {
		t.Errorf("leases %+v", first.Leases)
	}
	for range 3 { // neither polls nor a fresh read issue a credential
		w.clock.advance(10 * time.Minute)
		r = w.request(pod, k8s(dynamicObjects))
		r.Fresh = true
		if p := w.fetch(r); files(p)["user"] != files(first)["user"] || p.Versions[0] != first.Versions[0] {
			t.Errorf("the credential changed after %d minutes", 10)
		}
	}
	w.wantCredentials(1, 1)
	w.clock.advance(12 * time.Minute) // past two thirds
	r = w.request(pod, k8s(dynamicObjects))
	if p := w.fetch(r); files(p)["user"] == files(first)["user"] {
		t.Error("the credential was not replaced at two thirds of its life")
	}
	w.wantCredentials(2, 2) // the old one may be in use
	w.release(r)
	w.wantCredentials(2, 0)
	w.release(r)
}

func dynamicPerAccount(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutDynamic("/app/db", time.Hour)
	shared := func() provider.Request {
		r := w.request(w.pod("web"), with(k8s(dynamicObjects), "sessionSharing", "serviceAccount"))
		r.Class.CredentialScope = class.ScopeServiceAccount
		return r
	}
	a, b := shared(), shared()
	if pa, pb := w.fetch(a), w.fetch(b); files(pa)["user"] != files(pb)["user"] {
		t.Error("pods of one service account have different credentials")
	}
	w.wantCredentials(1, 1)
	w.release(a)
	w.wantCredentials(1, 1)
	w.release(b)
	w.wantCredentials(1, 0)
}

// dynamicAfterRestart: the Akeyless token has expired, and kubelet's has not, so another process can
// still revoke the credential.
func dynamicAfterRestart(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutDynamic("/app/db", time.Hour)
	r := w.request(w.pod("web"), k8s(dynamicObjects))
	w.fetch(r)
	state := w.provider.Export(r.Volume)
	w.provider = w.newProvider()
	testkit.Must(t, w.provider.Import(r.Volume, state))
	w.Revoke()
	w.release(r)
	w.wantCredentials(1, 0)
}

func releaseRetried(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutDynamic("/app/db", time.Hour)
	r := w.request(w.pod("web"), k8s(dynamicObjects))
	w.fetch(r)
	w.Disturb(akeylessd.Disturbance{Path: "/dynamic-secret-tmp-creds-delete", Status: 503, Body: `{"error":"gateway is starting"}`})
	err := w.provider.Release(t.Context(), r.Volume)
	if err == nil {
		t.Fatal("Release succeeded though the credential lives")
	}
	wantWords(t, err, "gateway is starting", "/app/db")
	state := w.provider.Export(r.Volume)
	w.Heal()
	w.provider = w.newProvider() // also over a restart
	testkit.Must(t, w.provider.Import(r.Volume, state))
	w.release(r)
	w.wantCredentials(1, 0)
}

func releaseForbidden(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.Forbid()
	w.Allow(akeylessd.Rule{AccessID: k8sID, Prefix: "/app/", NoEnd: true})
	w.PutDynamic("/app/db", time.Hour)
	r := w.request(w.pod("web"), k8s(dynamicObjects))
	w.fetch(r)
	w.release(r) // to try again would not help
	w.wantCredentials(1, 1)
	if text := w.logs.String(); !strings.Contains(text, "could not be ended") || !strings.Contains(text, "/app/db") {
		t.Errorf("nobody is told that the credential lives on: %s", text)
	}
}

func releaseAfterEdit(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutDynamic("/app/db", time.Hour)
	w.PutStatic("/app/a", "value")
	pod := w.pod("web")
	w.fetch(w.request(pod, k8s(dynamicObjects)))
	// The class changes its login, and no longer asks for the credential.
	r := w.request(pod, map[string]string{"akeylessAccessType": "jwt", "akeylessAccessID": jwtID, "objects": `[{secretPath: /app/a, fileName: a, secretType: static}]`})
	w.fetch(r)
	w.wantCredentials(1, 1)
	w.release(r)
	w.wantCredentials(1, 0)
}

func certificates(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	put := func(name string) {
		cert, key, err := w.Certificate(name, 24*time.Hour)
		testkit.Must(t, err)
		w.PutCertificate("/app/tls", cert, key)
	}
	put("one")
	r := w.request(w.pod("web"), k8s(`
- {secretPath: /app/tls, fileName: tls.crt, secretKey: certificate_pem, secretType: certificate}
- {secretPath: /app/tls, fileName: tls.key, secretKey: private_key_pem, secretType: certificate}
- {secretPath: /app/tls, fileName: tls.json, secretType: certificate}`))
	check := func(want string) *provider.Payload {
		t.Helper()
		p := w.fetch(r)
		if got := certificateOf(t, p, "tls.crt", "tls.key").Subject.CommonName; got != want {
			t.Errorf("the certificate is for %q, want %q", got, want)
		}
		return p
	}
	p := check("one")
	if len(p.Leases) != 3 || p.Leases[0].Expires.Sub(w.clock.now()) < 23*time.Hour {
		t.Errorf("leases %+v", p.Leases)
	}
	put("two")
	w.clock.advance(3 * time.Minute)
	check("two")
}

// certificateOf checks that a certificate and a key belong together.
func certificateOf(t *testing.T, p *provider.Payload, cert, key string) *x509.Certificate {
	t.Helper()
	all := files(p)
	if _, err := tls.X509KeyPair([]byte(all[cert]), []byte(all[key])); err != nil {
		t.Fatalf("certificate and key do not match: %v", err)
	}
	block, _ := pem.Decode([]byte(all[cert]))
	c, err := x509.ParseCertificate(block.Bytes)
	testkit.Must(t, err)
	return c
}

func pkiCertificates(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutIssuer("/app/issuer", 24*time.Hour)
	const objects = `
- &tls
  secretPath: /app/issuer
  fileName: tls.crt
  secretKey: certificate_pem
  secretType: pki
  secretArgs: {commonName: web.shop, altNames: [web.shop.svc, 10.1.2.3], uri-sans: "spiffe://shop/web", ttl: 3600}
- {<<: *tls, fileName: tls.key, secretKey: private_key_pem}
- {<<: *tls, fileName: ca.crt, secretKey: parent_cert}
- {<<: *tls, fileName: rsa.crt, secretArgs: {commonName: other, keyType: rsa2048}}
- {<<: *tls, fileName: rsa.key, secretKey: private_key_pem, secretArgs: {commonName: other, keyType: rsa2048}}`
	pod := w.pod("web")
	r := w.request(pod, k8s(objects))
	p := w.fetch(r)
	if n := w.Certificates(); n != 2 {
		t.Errorf("%d certificates, want one for each set of arguments", n)
	}
	c := certificateOf(t, p, "tls.crt", "tls.key")
	if c.Subject.CommonName != "web.shop" || len(c.DNSNames) != 1 || len(c.IPAddresses) != 1 || len(c.URIs) != 1 {
		t.Errorf("the certificate is for %v %v %v %v", c.Subject, c.DNSNames, c.IPAddresses, c.URIs)
	}
	certificateOf(t, p, "rsa.crt", "rsa.key")
	if !strings.Contains(files(p)["ca.crt"], "BEGIN CERTIFICATE") {
		t.Error("no authority")
	}
	w.clock.advance(30 * time.Minute) // many intervals, and less than two thirds
	r = w.request(pod, k8s(objects))
	r.Fresh = true
	w.fetch(r)
	if n := w.Certificates(); n != 2 {
		t.Errorf("a poll had certificates made anew: %d", n)
	}
	w.clock.advance(12 * time.Minute)
	again := w.fetch(w.request(pod, k8s(objects)))
	if files(again)["tls.crt"] == files(p)["tls.crt"] || files(again)["rsa.crt"] != files(p)["rsa.crt"] {
		t.Error("at two thirds of the hour the one certificate must be new, and the other not")
	}
	certificateOf(t, again, "tls.crt", "tls.key")
	long := `[{secretPath: /app/issuer, fileName: x, secretType: pki, secretArgs: {commonName: x, ttl: 9999999}}]`
	if err := w.refuse(w.request(w.pod("web"), k8s(long)), "ttl must be less"); fault.Of(err) != fault.Rejected {
		t.Errorf("reason %s", fault.Of(err))
	}
}
