package kms

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	kmsapi "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/test/kmsrig"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// mostMemory is the resident memory that the real process may have.
const mostMemory = 20 << 20

// TestFigures measures the real process: the cost of 10,000 Secrets, its memory, and the time of a
// Status.
func TestFigures(t *testing.T) {
	const count = 10_000
	r := kmsrig.New(t, vault)
	p := r.StartProcess("--poll-interval=30s", "--metrics-addr=127.0.0.1:0")
	p.Ready()
	testkit.Eventually(t, "the process has given back what only its start needed", func() bool { return p.Bytes("RssFile") < 8<<20 })
	a := StartAPIServer(t, p.Socket)
	testkit.Eventually(t, "the API server's health check passes", func() bool { return a.Healthy() == nil })
	mark := r.Mark()
	all := make([][]byte, count)
	began := time.Now()
	for n := range all {
		all[n] = write(t, a, n)
	}
	wrote := time.Since(began)
	plain := len(fmt.Sprintf("%s-%d", marker, count-1))
	restarted := StartAPIServer(t, p.Socket)
	testkit.Eventually(t, "the API server's health check passes", func() bool { return restarted.Healthy() == nil })
	began = time.Now()
	for n := range all {
		read(t, restarted, n, all[n])
	}
	readTime := time.Since(began)
	got := r.Requests(mark)
	if got["encrypt"] > 1 || got["decrypt"] > 1 {
		t.Errorf("10,000 Secrets: %v", got)
	}

	// A node with 50 seeds, the most that old clusters have, and a burst of calls.
	burst(t, p, 50, 100)
	status := latency(t, p, 2000)
	resident := p.Bytes("VmRSS")
	if resident > mostMemory {
		t.Errorf("resident memory %d bytes, the most is %d", resident, int64(mostMemory))
	}
	fmt.Fprintf(os.Stdout, `mayfly-kms, the real process, with the API server's own envelope client
  requests to Vault for 10,000 Secrets written, and read after a restart   %d Encrypt, %d Decrypt
  written in, and read in                                                  %s, %s
  bytes more in etcd for each                                              %d
  resident memory (of the program file, peak)                              %.1f MB (%.1f MB, %.1f MB); the most is 20 MiB
  Status, p50 and p99, from memory                                         %s, %s
`, got["encrypt"], got["decrypt"], wrote.Round(time.Millisecond), readTime.Round(time.Millisecond), len(all[count-1])-plain,
		float64(resident)/1e6, float64(p.Bytes("RssFile"))/1e6, float64(p.Bytes("VmHWM"))/1e6, status[len(status)/2].Round(time.Microsecond), status[len(status)*99/100].Round(time.Microsecond))
}

// burst has seeds encrypted, and many callers ask for each.
func burst(t *testing.T, p *kmsrig.Process, seeds, callers int) {
	t.Helper()
	for range seeds {
		sealed, err := p.Client.Encrypt(t.Context(), &kmsapi.EncryptRequest{Plaintext: make([]byte, 32), Uid: "burst"})
		testkit.Must(t, err)
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				if _, err := p.Client.Decrypt(t.Context(), &kmsapi.DecryptRequest{Ciphertext: sealed.GetCiphertext(), KeyId: sealed.GetKeyId(), Annotations: sealed.GetAnnotations(), Uid: "burst"}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// latency measures Status, one after the other.
func latency(t *testing.T, p *kmsrig.Process, count int) []time.Duration {
	t.Helper()
	all := make([]time.Duration, count)
	for i := range all {
		began := time.Now()
		if _, err := p.Client.Status(t.Context(), &kmsapi.StatusRequest{}); err != nil {
			t.Fatal(err)
		}
		all[i] = time.Since(began)
	}
	slices.Sort(all)
	return all
}

// TestProcess: the real process hardens itself, ends cleanly, and replaces a dead one's socket.
func TestProcess(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	p := r.StartProcess()
	id := p.Ready()
	if limit, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(p.PID()), "limits")); err != nil || !coreIsOff(limit) {
		t.Errorf("core dumps are on (%v):\n%s", err, limit)
	}
	if p.Bytes("VmLck") == 0 && !strings.Contains(p.Stderr.String(), "memory is not locked") {
		t.Error("no memory is locked, and the log does not say so")
	}
	socket := p.Socket
	p.Kill()
	if _, err := os.Stat(socket); err != nil {
		t.Fatalf("kill -9 left no socket: %v", err)
	}
	again := r.StartProcess("--listen=unix://" + socket)
	if again.Ready() != id {
		t.Error("another key id after a restart")
	}
	if code := again.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
	// Vault away: the socket is there before the login, and the process stays.
	r.Gate.Shut()
	away := r.StartProcess("--listen=unix://" + socket)
	for range 5 {
		if _, err := away.Client.Status(t.Context(), &kmsapi.StatusRequest{}); err == nil {
			t.Error("healthy without Vault")
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.Gate.Open()
	if away.Ready() != id {
		t.Error("another key id after an outage")
	}
}

func coreIsOff(limits []byte) bool {
	for line := range strings.Lines(string(limits)) {
		var soft, hard int
		if n, _ := fmt.Sscanf(line, "Max core file size %d %d bytes", &soft, &hard); n == 2 {
			return soft == 0 && hard == 0
		}
	}
	return false
}
