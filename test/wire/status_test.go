package wire

import (
	"bytes"
	"encoding/json"
	"image/png"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
	"github.com/mayfly-csi/mayfly/test/browser"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// hostileName has HTML, a terminal escape and a direction override.
const hostileName = `"><script>document.title='owned'</script><img src=x onerror=document.title='owned'>` + "\x1b[2J\u202e"

// statusRig is a node with fresh and failing volumes, one of a hostile name, and a pod whose publish
// failed.
func statusRig(t *testing.T) (r *rig, address string) {
	t.Helper()
	address = testkit.FreeAddress(t)
	r = newRig(t, func(c *node.Config) { c.StatusAddr = address })
	testkit.Must(t, r.vault.EnablePKI(t.Context(), "pki", "web"))
	testkit.Must(t, r.vault.Policy(t.Context(), "web", `path "secret/data/*" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["update"] }`))
	r.class("db")
	r.manifest("tls", `- {objectName: tls.crt, secretPath: pki/issue/web, secretKey: certificate, method: PUT, secretArgs: {common_name: web.example.com, ttl: 1h}}`)
	for _, name := range []string{"web-0", "web-1", hostileName} {
		p := r.pod(name, "web", "db")
		p.UID = "uid-" + strings.Map(func(c rune) rune {
			if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
				return c
			}
			return -1
		}, name)
		r.publish(p)
	}
	r.publish(r.pod("proxy-0", "web", "tls"))
	r.class("missing", "x: '1'")
	r.manifest("missing", "- {objectName: password, secretPath: secret/data/none, secretKey: password}")
	r.refuse(r.pod("job-0", "web", "missing"))
	r.publish(r.pod("api-0", "web", "db"))
	r.class("db", "vaultNamespace: ''", "refreshInterval: 1h") // an edit makes the driver refresh all volumes
	testkit.Must(t, r.vault.Policy(t.Context(), "web", `path "pki/issue/web" { capabilities = ["update"] }`))
	r.refresh <- os.Interrupt
	r.eventually("a volume fails", func() bool {
		s := r.status(address, "")
		return s.Node.Failing == 4
	})
	return r, address
}

func (r *rig) status(address, query string) statusz.Status {
	r.t.Helper()
	var s statusz.Status
	r.eventually("GET /status is answered", func() bool {
		code, body, err := testkit.Get(r.t.Context(), "http://"+address+statusz.StatusPath+query)
		testkit.Must(r.t, err)
		if code == http.StatusServiceUnavailable {
			return false
		}
		r.noSecretIn("the status", string(body))
		testkit.Must(r.t, json.Unmarshal(body, &s))
		return true
	})
	return s
}

func TestStatus(t *testing.T) {
	r, address := statusRig(t)
	s := r.status(address, "?namespace=shop&pod=web-0")
	if s.Total != 1 || len(s.Volumes) != 1 {
		t.Fatalf("%d volumes", s.Total)
	}
	v := s.Volumes[0]
	if v.State != statusz.Failing || v.Failure.Reason != "Denied" || !strings.Contains(v.Failure.Message, "permission denied") || v.Class != "db" || v.ServiceAccount != "web" {
		t.Errorf("%+v, %+v", v, v.Failure)
	}
	if len(v.Objects) != 1 || v.Objects[0].ID != "password" || v.Objects[0].Version != "1" || v.RefreshedAt.IsZero() || v.NextAt.IsZero() && !v.Refreshing {
		t.Errorf("%+v", v)
	}
	all := r.status(address, "")
	if len(all.Failures) != 1 || all.Failures[0].Pod != "job-0" || all.Failures[0].Reason == "" {
		t.Errorf("failures %+v", all.Failures)
	}
	if len(all.Stores) != 1 || all.Stores[0].Address != r.vault.Address || len(all.Queues) == 0 || len(all.Classes) != 2 {
		t.Errorf("stores %+v, queues %+v, classes %+v", all.Stores, all.Queues, all.Classes)
	}
	cert := r.status(address, "?class=tls").Volumes
	if len(cert) != 1 || cert[0].ExpiresAt.IsZero() || cert[0].Objects[0].ExpiresAt.IsZero() || cert[0].State != statusz.Fresh {
		t.Errorf("%+v", cert)
	}
	reads := len(r.reads("pki/issue/web"))
	resp := testkit.Value(http.Post("http://"+address+statusz.RefreshPath+"?namespace=shop&pod=web-0", "", nil))(t)
	_ = resp.Body.Close()
	failures := v.Failures
	r.eventually("the pod is refreshed", func() bool { return r.status(address, "?pod=web-0").Volumes[0].Failures > failures })
	if again := len(r.reads("pki/issue/web")); again != reads {
		t.Errorf("another pod's volume was refreshed: %d reads, then %d", reads, again)
	}
}

// reads returns the entries of Vault's audit log about a path.
func (r *rig) reads(path string) (found []string) {
	r.t.Helper()
	entries := testkit.Value(r.vault.AuditEntries(r.t.Context()))(r.t)
	for _, e := range entries {
		if e.Path == path {
			found = append(found, e.Path)
		}
	}
	return found
}

// TestStatusPage opens the page in a browser. MAYFLY_SCREENSHOTS=DIR stores the pictures.
func TestStatusPage(t *testing.T) {
	b := browser.Start(t)
	_, address := statusRig(t)
	keep := os.Getenv("MAYFLY_SCREENSHOTS")
	for _, c := range []struct {
		name, scheme string
		width        int
		dark         bool
	}{
		{"light", "light", 1280, false},
		{"dark", "dark", 1280, true},
		{"phone", "light", 390, false},
		{"phone-dark", "dark", 390, true},
	} {
		b.Open("http://"+address+statusz.PagePath, c.width, c.scheme)
		if got := b.Eval("document.title"); got != "node-1 · Mayfly" {
			t.Errorf("%s: the title is %q", c.name, got)
		}
		if got := b.Eval("document.documentElement.scrollWidth <= window.innerWidth"); got != "true" {
			t.Errorf("%s: the page is wider than the window: %s", c.name, b.Eval("document.documentElement.scrollWidth"))
		}
		if got := b.Eval("document.scripts.length + document.images.length"); got != "0" {
			t.Errorf("%s: %s scripts and images", c.name, got)
		}
		text := b.Eval("document.body.innerText")
		failed, first, fresh := strings.Index(text, "shop/job-0"), strings.Index(text, "Failing"), strings.Index(text, "shop/proxy-0")
		if failed < 0 || first < failed || fresh < first || !strings.Contains(text, "permission denied") || !strings.Contains(text, "<script>") {
			t.Errorf("%s: the page says\n%s", c.name, text)
		}
		picture := b.Screenshot()
		if keep != "" {
			testkit.Must(t, os.WriteFile(filepath.Join(keep, "statusz-"+c.name+".png"), picture, 0o600))
		}
		img := testkit.Value(png.Decode(bytes.NewReader(picture)))(t)
		if red, _, _, _ := img.At(2, 2).RGBA(); (red < 0x4000) != c.dark || (red > 0xc000) == c.dark {
			t.Errorf("%s: the background's red is %x", c.name, red)
		}
	}
	if problems := b.Problems(); len(problems) > 0 {
		t.Errorf("the browser reports %q", problems)
	}
}
