package suite

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
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
	w, r := newDynamic(t, o, nil)
	w.fetch(r)
	state := w.provider.Export(r.Volume)
	w.provider = w.newProvider()
	testkit.Must(t, w.provider.Import(r.Volume, state))
	w.Revoke()
	w.release(r)
	w.wantCredentials(1, 0)
}

func releaseRetried(t *testing.T, o Options) {
	w, r := newDynamic(t, o, nil)
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
	w, r := newDynamic(t, o, nil)
	w.Forbid()
	w.Allow(akeylessd.Rule{AccessID: k8sID, Prefix: "/app/", NoEnd: true})
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
	return testkit.Value(x509.ParseCertificate(block.Bytes))(t)
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
	testkit.Fails(t, w.refuse(w.request(w.pod("web"), k8s(long)), "ttl must be less"), fault.Rejected)
}

// gatewayCache: an answer from the gateway's cache never counts as the version that was just
// described.
func gatewayCache(t *testing.T, o Options) {
	o.cache = time.Hour
	for _, objects := range []string{
		`[{secretPath: /app/a, fileName: a, secretType: static}]`,
		`[{secretPath: /app/a, fileName: a}]`,
	} {
		w := newWorld(t, o, nil)
		w.PutStatic("/app/a", "one")
		r := w.request(w.pod("web"), k8s(objects))
		wantFile(t, w.fetch(r), "a", "one")
		w.clock.advance(3 * time.Minute)
		wantFile(t, w.fetch(r), "a", "one")
		w.PutStatic("/app/a", "two")
		w.clock.advance(3 * time.Minute)
		wantFile(t, w.fetch(r), "a", "two")
		// Nor is it by a pod that comes when the cache still has the old one.
		wantFile(t, w.fetch(w.request(w.pod("web"), k8s(objects))), "a", "two")
	}
}

// withoutLogin removes the auth config of a logged in pod.
func (w *world) withoutLogin() {
	w.Revoke()
	w.AuthMethod(k8sID, akeylessd.Method{Type: "k8s", ConfigName: "renamed", Audience: audience})
}

// loginNotFound: a login without its auth config says nothing about the items, so an optional one
// does not vanish from a running pod.
func loginNotFound(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "there")
	r := w.request(w.pod("web"), k8s(`[{secretPath: /app/a, fileName: a, secretType: static, optional: true}]`))
	wantFile(t, w.fetch(r), "a", "there")
	w.withoutLogin()
	w.clock.advance(3 * time.Minute)
	testkit.Fails(t, w.refuse(r, "logging in", "auth config"), fault.Rejected)
}

// releaseWithoutLogin: a credential that cannot be revoked without a login is reported.
func releaseWithoutLogin(t *testing.T, o Options) {
	w, r := newDynamic(t, o, nil)
	w.fetch(r)
	w.withoutLogin()
	w.release(r)
	w.wantCredentials(1, 1)
	if text := w.logs.String(); !strings.Contains(text, "lives out its time") {
		t.Errorf("nothing was logged of it: %s", text)
	}
}

// slowMint delays the answers of requests that issue credentials, which take effect, until the test
// releases them.
func slowMint(o Options) (slow Options, made chan struct{}, answer chan struct{}) {
	made, answer = make(chan struct{}, 10), make(chan struct{})
	before := o.Wrap
	o.Wrap = func(next http.Handler) http.Handler {
		if before != nil {
			next = before(next)
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/get-dynamic-secret-value" {
				next.ServeHTTP(w, r)
				return
			}
			had := httptest.NewRecorder()
			next.ServeHTTP(had, r)
			made <- struct{}{}
			<-answer
			w.Header().Set("Content-Type", had.Header().Get("Content-Type"))
			w.WriteHeader(had.Code)
			_, _ = w.Write(had.Body.Bytes())
		})
	}
	return o, made, answer
}

// releaseBeforeMade: a slow producer delays neither the fetch that is canceled nor the release, and
// its credential is revoked all the same: by the next attempt, or with the next volume of the same
// id.
func releaseBeforeMade(t *testing.T, o Options) {
	for name, next := range map[string]func(w *world, r provider.Request){
		"tried again":     func(w *world, r provider.Request) { w.release(r) },
		"published again": func(w *world, r provider.Request) { w.fetch(r); w.release(r) },
	} {
		t.Run(name, func(t *testing.T) {
			slow, made, answer := slowMint(o)
			w, r := newDynamic(t, slow, func(c *akeyless.Config) { c.ReleaseTimeout = time.Second })
			ctx, cancel := context.WithCancel(t.Context())
			fetched := make(chan error, 1)
			go func() { _, err := w.provider.Fetch(ctx, r); fetched <- err }()
			<-made
			cancel()
			testkit.Fails(t, <-fetched, fault.Canceled)
			testkit.Fails(t, w.provider.Release(t.Context(), r.Volume), fault.Timeout)
			close(answer)
			next(w, r)
			testkit.Eventually(t, "what the producer made is revoked", func() bool { _, alive := w.Credentials(); return alive == 0 })

		})
	}
}

// callerGoneAtIssue: the caller goes while the credential is being issued; the next one gets it.
func callerGoneAtIssue(t *testing.T, o Options) {
	slow, made, answer := slowMint(o)
	w, r := newDynamic(t, slow, nil)
	ctx, cancel := context.WithCancel(t.Context())
	fetched := make(chan error, 1)
	go func() { _, err := w.provider.Fetch(ctx, r); fetched <- err }()
	<-made
	cancel()
	close(answer)
	<-fetched
	w.fetch(r)
	w.wantCredentials(1, 1)
	w.release(r)
	w.wantCredentials(1, 0)
}

// anyJSON: producers that people write themselves may answer with a bare text.
func anyJSON(t *testing.T, o Options) {
	o.Wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/get-dynamic-secret-value" {
				next.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(httptest.NewRecorder(), r)
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode("just a text")
		})
	}
	w := newWorld(t, o, nil)
	w.PutDynamic("/app/db", time.Hour)
	r := w.request(w.pod("web"), k8s(`[{secretPath: /app/db, fileName: a, secretType: dynamic}]`))
	for range 3 {
		wantFile(t, w.fetch(r), "a", "just a text")
	}
	w.wantCredentials(1, 1)
}

const staticAndDynamic = `
- {secretPath: /app/a, fileName: a, secretType: static}
- {secretPath: /app/db, fileName: user, secretKey: user, secretType: dynamic}`
