//go:build e2e

package kmscluster

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

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
	mark, err := r.vault.Mark()
	r.must(err)
	a := r.APIServer("server", p.encryption())
	a.Ready()
	forEachSecret(t, func(ctx context.Context, name string) error { return a.PutSecret(ctx, name, "the text of "+name) })
	a.Stop()
	a.Start()
	a.Ready()
	readMany(t, a)
	encrypts, decrypts := p.calls()
	counts := r.requests(mark)
	t.Logf("%d Secrets written, and read after a restart: %d Encrypt and %d Decrypt of the API server; of Vault %d encrypt, %d decrypt",
		manySecrets, encrypts, decrypts, counts["transit/encrypt/"+keyName], counts["transit/decrypt/"+keyName])
	// One Encrypt for each start. The API server asks for a seed once for each read
	// that comes before the answer to the first.
	if encrypts != 2 || decrypts < 1 || decrypts > workers || counts["transit/encrypt/"+keyName] > 1 || counts["transit/decrypt/"+keyName] > 1 {
		t.Errorf("%v", counts)
	}

	mark, err = r.vault.Mark()
	r.must(err)
	time.Sleep(time.Minute) // measures a rate
	idle := r.requests(mark).Under("")
	memory := p.memory()
	t.Logf("idle: %d requests a minute, %.1f MiB resident", idle, float64(memory)/(1<<20))
	if idle > mostIdle || memory > mostMemory {
		t.Errorf("idle: at most %d requests a minute and %d bytes are allowed, not %d and %d", mostIdle, mostMemory, idle, memory)
	}

	t.Log("without a local key, each seed is one encrypt and one decrypt of Vault")
	p.set("localKey: false")
	p.Stop()
	p.Start()
	p.healthy(1)
	mark, err = r.vault.Mark()
	r.must(err)
	a.Stop()
	a.Start()
	a.Ready()
	readMany(t, a)
	counts = r.requests(mark)
	t.Logf("of Vault %d encrypt, %d decrypt", counts["transit/encrypt/"+keyName], counts["transit/decrypt/"+keyName])
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
	counts, err := r.vault.CountRequests(r.t.Context(), since)
	r.must(err)
	return counts
}

// calls counts the API server's Encrypt and Decrypt calls in the plugin's audit log.
func (p *plugin) calls() (encrypts, decrypts int) {
	p.rig.t.Helper()
	file, err := os.Open(filepath.Join(filepath.Dir(p.config), "audit.log"))
	p.rig.must(err)
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

// memory is the plugin's resident memory in bytes.
func (p *plugin) memory() int {
	p.rig.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	p.rig.must(err)
	_, after, _ := strings.Cut(string(data), "VmRSS:")
	var kib int
	if _, err := fmt.Sscan(after, &kib); err != nil {
		p.rig.t.Fatal(err)
	}
	return kib << 10
}

// set adds a line to the plugin's settings.
func (p *plugin) set(line string) {
	p.rig.t.Helper()
	data, err := os.ReadFile(p.config)
	p.rig.must(err)
	p.rig.must(os.WriteFile(p.config, append(data, line+"\n"...), 0o600))
}
