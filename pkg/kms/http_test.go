package kms_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/test/kmsrig"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	testkit.Must(t, err)
	r, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = r.Body.Close() }()
	body := testkit.Value(io.ReadAll(r.Body))(t)
	return r.StatusCode, string(body)
}

// Health is live while Vault is unavailable, and ready is not. The metrics say the same, and have
// the id that is also in the API server's.
func TestHealthAndMetrics(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	addr := testkit.FreeAddress(t)
	p := r.Start("--health-addr="+addr, "--metrics-addr="+addr, "--call-timeout=300ms")
	id := p.Ready()
	mustDecrypt(t, p, encrypt(t, p, "1"))
	want := func(metrics ...string) {
		t.Helper()
		_, text := get(t, "http://"+addr+"/metrics")
		for _, m := range metrics {
			if !strings.Contains(text, "\n"+m) {
				t.Errorf("the metrics lack %s:\n%s", m, text)
			}
		}
	}
	if code, text := get(t, "http://"+addr+"/readyz"); code != 200 || !strings.Contains(text, "[+] key ok") {
		t.Errorf("ready: %d %s", code, text)
	}
	want(`mayfly_kms_healthy 1`, `mayfly_kms_key_info{key_id="`+id+`",key_id_hash="`+key.HashOf(id)+`"} 1`, `mayfly_kms_local_key 1`,
		`mayfly_kms_calls_total{answered_by="local-key",code="OK",method="Encrypt"} 1`, `mayfly_kms_logins_total{result="ok"} 1`,
		`mayfly_kms_vault_requests_total{operation="encrypt",result="ok"} 1`, `mayfly_kms_key_problem{problem="replaced"} 0`,
		`mayfly_kms_policy_grants_create 0`, `process_resident_memory_bytes`)
	r.Gate.Shut()
	p.Eventually("it is not ready", func() bool { code, _ := get(t, "http://"+addr+"/readyz"); return code == 503 })
	if code, text := get(t, "http://"+addr+"/healthz"); code != 200 {
		t.Errorf("live: %d %s", code, text)
	}
	want(`mayfly_kms_healthy 0`, `mayfly_kms_vault_requests_total{operation="read-key",result="Unavailable"}`)
}

// An address in use does not stop the plugin.
func TestTakenHealthAddress(t *testing.T) {
	t.Parallel()
	l := testkit.Value(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer func() { _ = l.Close() }()
	p := kmsrig.New(t, vault).Start("--health-addr=" + l.Addr().String())
	p.Ready()
	p.Eventually("the log says so", func() bool { return strings.Contains(p.Log.String(), "--health-addr") })
}

// systemd is notified once the socket exists, not before.
func TestNotify(t *testing.T) {
	r := kmsrig.New(t, vault)
	path := t.TempDir() + "/notify"
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	testkit.Must(t, err)
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	r.Gate.Shut() // Vault is not waited for
	p := r.Start()
	buffer := make([]byte, 64)
	n, err := l.Read(buffer)
	if err != nil || string(buffer[:n]) != "READY=1" {
		t.Errorf("%q, %v", buffer[:n], err)
	}
	if _, err := net.Dial("unix", p.Config.Serve.Socket); err != nil {
		t.Error(err)
	}
}
