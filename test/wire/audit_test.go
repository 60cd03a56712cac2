package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/audit"
	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// auditLine has the fields that docs/audit.md documents.
type auditLine struct {
	Event, Outcome, Reason, Error, Node, Provider, Volume string

	Pod            struct{ Namespace, Name, UID string }
	ServiceAccount struct{ Name, UID string }
	Class          struct{ Name, ResourceVersion string }
	Objects        []struct{ ID, Version string }
	Changed        bool
	Emptied        bool
	LastGood       *struct{ AgeSeconds float64 }
	RecordSetAside string
	CorrelationIDs []string
	Store          struct{ Address, Namespace, Mount, Role, Lease string }
	Tokens         []struct{ Audience, JTI string }
	DurationMS     float64
}

// auditRig is a rig whose driver has an audit trail of changes, and refreshes on a signal.
type auditRig struct {
	*rig
	demand chan os.Signal
}

func newAuditRig(t *testing.T) *auditRig {
	t.Helper()
	a := &auditRig{demand: make(chan os.Signal)}
	a.rig = newRig(t, func(c *node.Config) {
		c.AuditLevel, c.RefreshNow, c.LastGoodAge = audit.Changes, a.demand, time.Hour
	})
	return a
}

func (a *auditRig) lines(pod, event string) (found []auditLine) {
	a.t.Helper()
	text := testkit.Value(os.ReadFile(a.auditLog()))(a.t)
	for one := range strings.Lines(string(audittest.Whole(text))) {
		var l auditLine
		if err := json.Unmarshal([]byte(one), &l); err != nil {
			a.t.Fatalf("%v: %q", err, one)
		}
		if l.Pod.Name == pod && l.Event == event {
			found = append(found, l)
		}
	}
	return found
}

func (a *auditRig) line(pod, event string, n int) auditLine {
	a.t.Helper()
	a.eventually(fmt.Sprintf("line %d of %s on %s", n, event, pod), func() bool { return len(a.lines(pod, event)) >= n })
	return a.lines(pod, event)[n-1]
}

// inVault returns the entries of Vault's audit log on a path that have an id of the line.
func (a *auditRig) inVault(l auditLine, path string) (found []vaulttest.AuditEntry) {
	a.t.Helper()
	entries := testkit.Value(a.vault.AuditEntries(a.t.Context()))(a.t)
	for _, e := range entries {
		for _, id := range e.Headers["x-correlation-id"] {
			if slices.Contains(l.CorrelationIDs, id) && e.Path == path {
				found = append(found, e)
			}
		}
	}
	return found
}

func (a *auditRig) jti(p kubelet.Pod) string {
	tokens := testkit.Value(identity.ParseTokens(p.Tokens))(a.t)
	return tokens["vault"].Claims.ID
}

// finish stops the driver, and checks the trail for secrets and its mode.
func (a *auditRig) finish() {
	a.t.Helper()
	a.stop()
	text := testkit.Value(os.ReadFile(a.auditLog()))(a.t)
	a.noSecretIn("the audit trail", string(text))
	info := testkit.Value(os.Stat(a.auditLog()))(a.t)
	if info.Mode().Perm() != 0o600 {
		a.t.Errorf("the audit trail has mode %s", info.Mode())
	}
	if a.t.Failed() {
		a.t.Logf("the audit trail:\n%s", text)
	}
}

// TestAuditTrailJoinsWithVault: an audit line has ids that are also in Vault's audit log and in the
// service account token.
func TestAuditTrailJoinsWithVault(t *testing.T) {
	a := newAuditRig(t)
	a.class("secrets")
	first, second, intruder := a.pod("first", "web", "secrets"), a.pod("second", "web", "secrets"), a.pod("intruder", "other", "secrets")
	a.publish(first)
	a.publish(second)
	_ = a.refuse(intruder)

	l := a.line("first", "publish", 1)
	if l.Outcome != "success" || l.Node != "node-1" || l.Pod.Namespace != "shop" || l.Pod.UID != first.UID || l.Provider != "vault" || l.Volume != first.VolumeID() ||
		!l.Changed || l.Class.Name != "secrets" || l.Class.ResourceVersion == "" || l.DurationMS <= 0 {
		t.Errorf("the first pod's line is %+v", l)
	}
	if len(l.Objects) != 1 || l.Objects[0].ID != "password" || l.Objects[0].Version != "1" {
		t.Errorf("the first pod was given %+v", l.Objects)
	}
	if len(l.Tokens) != 1 || l.Tokens[0].Audience != "vault" || l.Tokens[0].JTI != a.jti(first) || l.Tokens[0].JTI == "" {
		t.Errorf("the first pod's tokens are %+v", l.Tokens)
	}
	reads := a.inVault(l, "secret/data/db")
	if len(reads) == 0 || reads[0].Metadata["service_account_uid"] != l.ServiceAccount.UID || l.ServiceAccount.Name != "web" {
		t.Errorf("Vault's audit log has %+v of the line's read, as %+v", reads, l.ServiceAccount)
	}
	if len(a.inVault(l, "auth/kubernetes/login")) == 0 {
		t.Error("Vault's audit log has no login of the line")
	}
	// The second pod shares the read of the first, and its line says so.
	if s := a.line("second", "publish", 1); !slices.Equal(s.CorrelationIDs, l.CorrelationIDs) || s.Tokens[0].JTI != a.jti(second) {
		t.Errorf("the second pod's line is %+v, the first one's %+v", s, l)
	}
	d := a.line("intruder", "publish", 1)
	if logins := a.inVault(d, "auth/kubernetes/login"); d.Outcome != "failure" || d.Reason != "Denied" || len(d.Objects) != 0 || len(logins) == 0 {
		t.Errorf("the intruder's line is %+v, Vault's %+v", d, logins)
	}

	testkit.Must(t, a.Unpublish(t.Context(), first))
	testkit.Must(t, a.Unpublish(t.Context(), second))
	a.line("first", "unpublish", 1)
	if r := a.line("second", "release", 1); r.Outcome != "success" || len(a.inVault(r, "auth/token/revoke-self")) == 0 {
		t.Errorf("the release's line is %+v", r)
	}
	_, metrics := a.get("/metrics")
	if !strings.Contains(metrics, "mayfly_audit_lines_total ") || strings.Contains(metrics, "mayfly_audit_lines_total 0\n") || !strings.Contains(metrics, "mayfly_audit_lost_lines_total 0\n") {
		t.Errorf("the metrics do not count the lines")
	}
	a.finish()
}

// TestAuditTrailOfLogins: at level all, logins and renewals have lines with ids of Vault's audit log.
func TestAuditTrailOfLogins(t *testing.T) {
	a := newAuditRig(t)
	a.stop()
	a.change = func(c *node.Config) { c.RefreshNow = a.demand }
	a.start()
	testkit.Must(t, a.vault.Bind(t.Context(), "web", "web", "shop", "web", map[string]any{"token_ttl": "3s", "token_max_ttl": "1h"}))
	a.class("secrets")
	p, intruder := a.pod("web-0", "web", "secrets"), a.pod("intruder", "other", "secrets")
	a.publish(p)
	_ = a.refuse(intruder)
	l := a.line("web-0", "login", 1)
	if l.Outcome != "success" || l.Store.Mount != "kubernetes" || l.Store.Role != "web" || l.Store.Address != a.vault.Address || l.Pod.UID != p.UID || len(a.inVault(l, "auth/kubernetes/login")) == 0 {
		t.Errorf("the login's line is %+v", l)
	}
	if l := a.line("intruder", "login", 1); l.Outcome != "failure" || l.Reason != "Denied" || len(a.inVault(l, "auth/kubernetes/login")) == 0 {
		t.Errorf("the intruder's login has the line %+v", l)
	}
	a.eventually("the Vault token is renewed", func() bool {
		a.demand <- unix.SIGHUP
		lines := a.lines("web-0", "renew")
		return len(lines) > 0 && lines[0].Outcome == "success" && lines[0].Store.Lease == "" && len(a.inVault(lines[0], "auth/token/renew-self")) > 0
	})
	a.finish()
}

// TestAuditRecipes runs the queries of docs/audit.md on the driver's and Vault's audit logs.
func TestAuditRecipes(t *testing.T) {
	a := newAuditRig(t)
	a.manifest("web-secrets", "- {objectName: db-password, secretPath: secret/data/db, secretKey: password}")
	p, other := a.pod("web-0", "web", "web-secrets"), a.pod("web-1", "web", "web-secrets")
	a.publish(p)
	_ = a.refuse(a.pod("intruder", "other", "web-secrets"))
	a.put("db", "two")
	a.demand <- unix.SIGHUP
	a.line("web-0", "refresh", 1)
	a.publish(other)
	a.line("web-1", "publish", 1)
	a.line("intruder", "publish", 1)
	a.stop()

	requests := filepath.Join(t.TempDir(), "audit.log")
	var made strings.Builder
	for _, jti := range []string{a.jti(p), a.jti(other)} {
		fmt.Fprintf(&made, `{"requestReceivedTimestamp":"2026-03-01T09:30:00.1Z","user":{"username":"system:node:n1"},"objectRef":{"namespace":"shop","name":"web"},"annotations":{"authentication.kubernetes.io/issued-credential-id":"JTI=%s"}}`+"\n", jti)
	}
	testkit.Must(t, os.WriteFile(requests, []byte(made.String()+"{}\n"), 0o600))
	files := map[string]string{"mayfly.log": a.auditLog(), "vault-audit.log": a.vault.AuditFile, "audit.log": requests}
	// The number of lines of each answer, and words in them.
	want := []struct {
		lines int
		words []string
	}{
		{3, []string{"shop/web-0\t1", "shop/web-0\t2", "shop/web-1\t2"}},
		{2, []string{"publish\tweb-secrets\tdb-password\t1", "refresh\tweb-secrets\tdb-password\t2"}},
		{3, []string{"web-0\tweb-secrets\tvault\tdb-password", "web-1\tweb-secrets\tvault\tdb-password"}},
		{1, []string{"Denied\t1\tintruder"}},
		{3, []string{"update\tauth/kubernetes/login\t", "read\tsecret/data/db\t"}},
		{1, []string{"system:node:n1\tshop/web\t" + a.jti(p)}},
	}
	recipes := audittest.Recipes(t, "audit.md", "recipes")
	if len(recipes) != len(want) {
		t.Fatalf("the page has %d queries: %q", len(recipes), recipes)
	}
	for i, w := range want {
		got := audittest.RunRecipe(t, recipes[i], files)
		all := strings.Join(got, "\n")
		if len(got) != w.lines {
			t.Errorf("%s\ngives %d lines, want %d:\n%s", recipes[i], len(got), w.lines, all)
		}
		testkit.Has(t, all, w.words...)
	}
	recipesAreHonest(t, recipes)
	a.finish()
}

// recipesAreHonest runs the first four queries on lines without a list of all objects, and on one of
// a volume that a denial has emptied.
func recipesAreHonest(t *testing.T, recipes []string) {
	t.Helper()
	const about = `"pod":{"namespace":"shop","name":"web-0","uid":"u"},"serviceAccount":{"name":"web"},"class":{"namespace":"shop","name":"web-secrets"},"provider":"vault"`
	lines := ""
	for i, more := range []string{
		`"event":"publish","outcome":"success","objects":[{"id":"a","version":"1"}],"objectsOmitted":7,"objectsDigest":"sha256:0","changed":true`,
		`"event":"refresh","outcome":"failure","reason":"Denied","changed":true,"objectsOmitted":8,"objectsDigest":"sha256:1","summary":{"refreshes":5,"changed":2,"failed":3}`,
		`"event":"refresh","outcome":"failure","reason":"Denied","changed":true,"emptied":true`,
	} {
		lines += fmt.Sprintf(`{"apiVersion":%q,"time":"2026-03-01T09:3%d:00.000Z",%s,%s}`+"\n", chain.Version, i, about, more)
	}
	file := filepath.Join(t.TempDir(), "mayfly.log")
	testkit.Must(t, os.WriteFile(file, []byte(lines), 0o600))
	for i, want := range []string{
		"2026-03-01T09:30:00.000Z\tshop/web-0\tperhaps: 7 objects are not listed\n2026-03-01T09:31:00.000Z\tshop/web-0\tperhaps: 8 objects are not listed",
		"2026-03-01T09:30:00.000Z\tpublish\tweb-secrets\ta\t1\n2026-03-01T09:30:00.000Z\tpublish\tweb-secrets\tand 7 more\tsha256:0\n2026-03-01T09:31:00.000Z\trefresh\tweb-secrets\tand 8 more\tsha256:1",
		"2026-03-01T09:30:00.000Z\tweb-0\tweb-secrets\tvault\ta,and 7 more\n2026-03-01T09:31:00.000Z\tweb-0\tweb-secrets\tvault\tand 8 more",
		"Denied\t4\tweb-0",
	} {
		if got := strings.Join(audittest.RunRecipe(t, recipes[i], map[string]string{"mayfly.log": file}), "\n"); got != want {
			t.Errorf("%s\ngives\n%s\nwant\n%s", recipes[i], got, want)
		}
	}
}

// TestAuditTrailOfALiveVolume: a rotation, an outage, last good content and a denial have lines.
func TestAuditTrailOfALiveVolume(t *testing.T) {
	a := newAuditRig(t)
	a.class("secrets", "onDenied: empty")
	a.class("late", "onUnavailable: lastGood", "refreshInterval: 1s")
	p := a.pod("web-0", "web", "secrets")
	a.publish(p)
	a.put("db", "two")
	a.demand <- unix.SIGHUP
	if l := a.line("web-0", "refresh", 1); l.Outcome != "success" || !l.Changed || l.Objects[0].Version != "2" || len(a.inVault(l, "secret/data/db")) == 0 {
		t.Errorf("the rotation's line is %+v", l)
	}

	testkit.Must(t, a.vault.Seal(t.Context()))
	late := 0
	a.eventually("a pod gets last good content", func() bool {
		late++
		name := fmt.Sprintf("late-%d", late)
		a.publish(a.pod(name, "web", "late"))
		l := a.line(name, "publish", 1)
		if l.Outcome != "success" || l.Objects[0].Version != "2" {
			t.Errorf("the line of the pod that started while Vault was away is %+v", l)
		}
		return l.LastGood != nil && l.LastGood.AgeSeconds <= 60
	})
	a.demand <- unix.SIGHUP
	if l := a.line("web-0", "refresh", 2); l.Outcome != "failure" || l.Reason != "Unavailable" || l.Emptied {
		t.Errorf("the outage's line is %+v", l)
	}
	testkit.Must(t, a.vault.Unseal(t.Context()))
	a.eventually("a refresh succeeds after the outage", func() bool {
		lines := a.lines("web-0", "refresh")
		return lines[len(lines)-1].Outcome == "success"
	})

	testkit.Must(t, a.vault.Policy(t.Context(), "web", `path "kv1/*" { capabilities = ["read"] }`))
	a.eventually("the denial has a line", func() bool {
		a.demand <- unix.SIGHUP
		lines := a.lines("web-0", "refresh")
		l := lines[len(lines)-1]
		return l.Reason == "Denied" && l.Emptied && l.Outcome == "failure" && len(l.Objects) == 0
	})
	a.finish()
}

// TestCorruptRecord: a record that cannot be read costs no pod its files. The driver reports it, and
// reads the store again at kubelet's next publish of the volume.
func TestCorruptRecord(t *testing.T) {
	a := newAuditRig(t)
	a.class("secrets")
	a.put("other", "one")
	a.manifest("other", "- {objectName: password, secretPath: secret/data/other, secretKey: password}")
	p, other := a.pod("web-0", "web", "secrets"), a.pod("other", "web", "other")
	a.publish(p)
	records := func() []string {
		return testkit.Value(filepath.Glob(filepath.Join(a.dir, "state/volumes/*.json")))(t)
	}
	record := records()[0]
	a.publish(other)
	a.stop()
	testkit.Must(t, os.WriteFile(record, []byte("not a record"), 0o600))
	a.put("db", "two")
	a.start()
	a.wantFile(p, "one")
	if l := a.line("", "set-aside", 1); l.Outcome != "failure" || l.Reason != "State" || l.RecordSetAside != record+".corrupt" || l.Node != "node-1" {
		t.Errorf("the record's line is %+v", l)
	}
	a.line("other", "recover", 1)
	if _, metrics := a.get("/metrics"); !strings.Contains(metrics, "mayfly_records_set_aside_total 1\n") || !strings.Contains(metrics, "mayfly_volumes 1\n") {
		t.Errorf("the metrics after the start:\n%s", metrics)
	}
	var before, after unix.Stat_t
	testkit.Must(t, unix.Stat(a.Target(p), &before))
	a.publish(p) // kubelet's next republish
	a.publish(other)
	a.wantFile(p, "two")
	testkit.Must(t, unix.Stat(a.Target(p), &after))
	if before.Dev != after.Dev {
		t.Error("the volume was mounted again under the pod")
	}
	if l := a.line("web-0", "publish", 2); l.RecordSetAside != record+".corrupt" || l.Outcome != "success" || l.Objects[0].Version != "2" {
		t.Errorf("the line of the volume that was published again is %+v", l)
	}
	if len(records()) != 2 {
		t.Errorf("records %q, want a new one", records())
	}
	testkit.Must(t, a.Unpublish(t.Context(), p))
	testkit.Must(t, a.Unpublish(t.Context(), other))
	if _, err := os.Lstat(filepath.Join(a.Root, "pods", p.UID)); !os.IsNotExist(err) {
		t.Errorf("the pod's directory is left: %v", err)
	}
	a.finish()
}

// refreshesADay are those of one volume at the default interval of two minutes.
const refreshesADay = 24 * 60 / 2

// TestAuditTrailSize measures the lines of a pod's life, and compares them with docs/audit.md.
func TestAuditTrailSize(t *testing.T) {
	a := newAuditRig(t)
	a.stop()
	a.change = func(c *node.Config) { c.RefreshNow = a.demand } // the rig's level is all
	a.start()
	a.manifest("checkout-secrets", `- {objectName: db-username, secretPath: secret/data/db, secretKey: username}
- {objectName: db-password, secretPath: secret/data/db, secretKey: password}
- {objectName: api-key, secretPath: secret/data/api, secretKey: key}`)
	put := func(value string) {
		testkit.Must(t, a.vault.PutKV2(t.Context(), "secret", "db", map[string]any{"username": marker, "password": marker + value}))
	}
	put("one")
	testkit.Must(t, a.vault.PutKV2(t.Context(), "secret", "api", map[string]any{"key": marker}))
	ref := issuer.PodRef{Namespace: "shop", Pod: "checkout-7d9c5b6f4d-x2x9q", PodUID: "c1a8f3f0-6a55-4f0e-9d5b-1f6c0f0f7a11", ServiceAccount: "web"}
	p := kubelet.Pod{Namespace: ref.Namespace, Name: ref.Pod, UID: ref.PodUID, ServiceAccount: ref.ServiceAccount, Class: "checkout-secrets", Tokens: a.issuer.CSITokens(ref, "vault")}

	a.publish(p)
	refresh := func(n int) auditLine {
		t.Helper()
		a.demand <- unix.SIGHUP
		return a.line(p.Name, "refresh", n)
	}
	const unchanged = 20
	for n := range unchanged {
		if l := refresh(n + 1); l.Changed || l.Outcome != "success" {
			t.Fatalf("refresh %d: %+v", n+1, l)
		}
	}
	put("two")
	if l := refresh(unchanged + 1); !l.Changed {
		t.Fatalf("the rotation: %+v", l)
	}
	testkit.Must(t, a.vault.Seal(t.Context()))
	if l := refresh(unchanged + 2); l.Outcome != "failure" {
		t.Fatalf("the outage: %+v", l)
	}
	testkit.Must(t, a.vault.Unseal(t.Context()))
	a.stop()
	a.start()
	a.line(p.Name, "recover", 1)
	testkit.Must(t, a.Unpublish(t.Context(), p))
	a.line(p.Name, "release", 1)
	a.stop()

	text := testkit.Value(os.ReadFile(a.auditLog()))(t)
	bytesOf := a.lineSizes(text)
	page := testkit.Value(os.ReadFile("../../docs/audit.md"))(t)
	_, section, ok := strings.Cut(string(page), "\n## How much it writes\n")
	if !ok {
		t.Fatal("docs/audit.md has no section \"How much it writes\"")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := regexp.MustCompile(`(?m)^\| (.+) \| ([0-9,]+) \|$`).FindAllStringSubmatch(section, -1)
	if len(rows) != len(bytesOf) {
		t.Errorf("docs/audit.md has %d kinds of lines, %d were written: %v", len(rows), len(bytesOf), bytesOf)
	}
	for _, row := range rows {
		about(t, row[1], row[2], float64(bytesOf[row[1]]))
	}
	life := float64(bytesOf["`publish`"] + bytesOf["`unpublish`"] + bytesOf["`release`"])
	rotation := float64(bytesOf["`refresh` with a change"])
	for what, value := range map[string]float64{
		`A pod that starts and ends has lines of ([0-9.]+) KB`:                            life / 1e3,
		`each rotation of its secrets one of ([0-9.]+) KB`:                                rotation / 1e3,
		`So 100 pods that start, see one rotation and end take ([0-9.]+) MB`:              100 * (life + rotation) / 1e6,
		"With `--audit-level=all` the lines of 100 volumes take about ([0-9.]+) MB a day": 100 * refreshesADay * float64(bytesOf["`refresh` without a change"]) / 1e6,
	} {
		found := regexp.MustCompile(what).FindStringSubmatch(section)
		if found == nil {
			t.Errorf("docs/audit.md has no sentence %q; it is %.2f", what, value)
			continue
		}
		about(t, what, found[1], value)
	}
}

// about checks that a rounded figure of the page is within 10 % of what was measured.
func about(t *testing.T, what, documented string, measured float64) {
	t.Helper()
	have := testkit.Value(strconv.ParseFloat(strings.ReplaceAll(documented, ",", ""), 64))(t)
	t.Logf("%s: %.3g, docs/audit.md has %s", what, measured, documented)
	if have < 0.9*measured || have > 1.1*measured {
		t.Errorf("%s: docs/audit.md has %s, it is %.3g", what, documented, measured)
	}
}

// lineSizes returns the bytes of the longest line of each kind, by its name in docs/audit.md.
func (a *auditRig) lineSizes(trail []byte) map[string]int {
	a.t.Helper()
	sizes := map[string]int{}
	for line := range bytes.Lines(audittest.Whole(trail)) {
		var l auditLine
		testkit.Must(a.t, json.Unmarshal(line, &l))
		kind := fmt.Sprintf("`%s`", l.Event)
		switch {
		case l.Event != "refresh":
		case l.Outcome != "success":
			kind += " that failed"
		case l.Changed:
			kind += " with a change"
		default:
			kind += " without a change"
		}
		sizes[kind] = max(sizes[kind], len(line))
	}
	return sizes
}
