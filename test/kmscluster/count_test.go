//go:build e2e

package kmscluster

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/kms/probe"
	"github.com/mayfly-csi/mayfly/test/controlplane"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const (
	manySecrets = 10_000
	workers     = 16
	// mostMemory is the plugin's, in bytes.
	mostMemory = 20 << 20
	// mostIdle is how many requests a minute an idle plugin may make.
	mostIdle = 4
)

// TestCount writes and reads 10,000 Secrets, and counts the calls.
func TestCount(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setUp()
	p := r.newPlugin()
	p.healthy(1)
	mark := testkit.Value(r.vault.Mark())(r.t)
	a := r.APIServer("server", p.encryption())
	a.Ready()
	forEachSecret(t, func(ctx context.Context, name string) error { return a.PutSecret(ctx, name, "the text of "+name) })
	a.Stop()
	a.Start()
	a.Ready()
	readMany(t, a)
	encrypts, decrypts := p.calls()
	counts := r.requests(mark)
	t.Logf("%d Secrets written, and read after a restart: %d Encrypt and %d Decrypt of the API server; at Vault %d encrypt, %d decrypt",
		manySecrets, encrypts, decrypts, counts["transit/encrypt/"+keyName], counts["transit/decrypt/"+keyName])
	// One Encrypt for each start. The API server asks for a seed once for each read
	// that comes before the answer to the first.
	if encrypts != 2 || decrypts < 1 || decrypts > workers || counts["transit/encrypt/"+keyName] > 1 || counts["transit/decrypt/"+keyName] > 1 {
		t.Errorf("%v", counts)
	}

	p.checkHardened()
	t.Logf("Status, p50: %s", p.exercise())
	mark = testkit.Value(r.vault.Mark())(r.t)
	time.Sleep(time.Minute) // measures a rate
	idle := r.requests(mark).Under("")
	memory := p.memory("VmRSS")
	t.Logf("idle: %d requests a minute, %.1f MiB resident", idle, float64(memory)/(1<<20))
	if idle > mostIdle || memory > mostMemory {
		t.Errorf("idle: at most %d requests a minute and %d bytes are allowed, not %d and %d", mostIdle, mostMemory, idle, memory)
	}

	t.Log("without a local key, each seed is one encrypt and one decrypt of Vault")
	p.set("localKey: false")
	p.Stop()
	if _, err := os.Stat(p.socket); p.ExitCode() != 0 || !os.IsNotExist(err) {
		t.Errorf("after SIGTERM: exit code %d, the socket: %v", p.ExitCode(), err)
	}
	p.Start()
	p.healthy(1)
	mark = testkit.Value(r.vault.Mark())(r.t)
	a.Stop()
	a.Start()
	a.Ready()
	readMany(t, a)
	counts = r.requests(mark)
	t.Logf("at Vault %d encrypt, %d decrypt", counts["transit/encrypt/"+keyName], counts["transit/decrypt/"+keyName])
	// The plugin's periodic round trip may come between.
	if n := counts["transit/encrypt/"+keyName]; n < 1 || n > 2 {
		t.Errorf("%d encrypts", n)
	}
	if n := counts["transit/decrypt/"+keyName]; n < 1 || n > 3 {
		t.Errorf("%d decrypts", n)
	}
}

// forEachSecret calls do for each name, with several workers.
func forEachSecret(t *testing.T, do func(ctx context.Context, name string) error) {
	t.Helper()
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(workers)
	for i := range manySecrets {
		g.Go(func() error { return do(ctx, fmt.Sprintf("secret-%d", i)) })
	}
	testkit.Must(t, g.Wait())
}

func readMany(t *testing.T, a *controlplane.APIServer) {
	t.Helper()
	forEachSecret(t, func(ctx context.Context, name string) error {
		text, err := a.ReadSecret(ctx, name)
		if err == nil && text != "the text of "+name {
			err = fmt.Errorf("Secret %s reads %q", name, text)
		}
		return err
	})
}

// requests counts those to Vault since a mark.
func (r *rig) requests(since vaulttest.Mark) vaulttest.Counts {
	r.t.Helper()
	return testkit.Value(r.vault.CountRequests(r.t.Context(), since))(r.t)
}

// calls counts the API server's Encrypt and Decrypt calls in the plugin's audit log.
func (p *plugin) calls() (encrypts, decrypts int) {
	p.rig.t.Helper()
	file := testkit.Value(os.Open(filepath.Join(filepath.Dir(p.config), "audit.log")))(p.rig.t)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var line map[string]any
		p.rig.must(json.Unmarshal(lines.Bytes(), &line))
		switch {
		case strings.Contains(lines.Text(), `"Encrypt"`), strings.Contains(lines.Text(), `"encrypt"`):
			encrypts++
		case strings.Contains(lines.Text(), `"Decrypt"`), strings.Contains(lines.Text(), `"decrypt"`):
			decrypts++
		}
	}
	return encrypts, decrypts
}

// exercise has the plugin encrypt and decrypt 50 seeds, the most that old clusters have, and returns
// the median time of a Status.
func (p *plugin) exercise() time.Duration {
	p.rig.t.Helper()
	client := testkit.Value(probe.Dial("unix://" + p.socket))(p.rig.t)
	defer func() { _ = client.Close() }()
	for range 50 {
		_, _, _, err := client.RoundTrip(p.rig.t.Context(), "exercise")
		p.rig.must(err)
	}
	took := make([]time.Duration, 1000)
	for i := range took {
		s := testkit.Value(client.Status(p.rig.t.Context()))(p.rig.t)
		took[i] = s.Took
	}
	slices.Sort(took)
	return took[len(took)/2].Round(time.Microsecond)
}

// checkHardened checks that core dumps are off, and that memory is locked or the log says that it is
// not.
func (p *plugin) checkHardened() {
	p.rig.t.Helper()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.Pid()))
	if err != nil || !regexp.MustCompile(`(?m)^Max core file size +0 +0 +bytes`).Match(limits) {
		p.rig.t.Errorf("core dumps are on (%v):\n%s", err, limits)
	}
	log := testkit.Value(os.ReadFile(p.Log))(p.rig.t)
	if p.memory("VmLck") == 0 && !strings.Contains(string(log), "memory is not locked") {
		p.rig.t.Error("no memory is locked, and the log does not say so")
	}
}

// memory is a field of the process's status in /proc, in bytes.
func (p *plugin) memory(field string) int {
	p.rig.t.Helper()
	data := testkit.Value(os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid())))(p.rig.t)
	_, after, _ := strings.Cut(string(data), field+":")
	var kib int
	testkit.Value(fmt.Sscan(after, &kib))(p.rig.t)
	return kib << 10
}

// set adds a line to the plugin's settings.
func (p *plugin) set(line string) {
	p.rig.t.Helper()
	data := testkit.Value(os.ReadFile(p.config))(p.rig.t)
	p.rig.must(os.WriteFile(p.config, append(data, line+"\n"...), 0o600))
}
