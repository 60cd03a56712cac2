package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

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

	text, err := os.ReadFile(a.auditLog())
	testkit.Must(t, err)
	bytesOf := a.lineSizes(text)
	page, err := os.ReadFile("../../docs/audit.md")
	testkit.Must(t, err)
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
	have, err := strconv.ParseFloat(strings.ReplaceAll(documented, ",", ""), 64)
	testkit.Must(t, err)
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
