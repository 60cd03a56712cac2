package csi_test

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"log/slog"

	"github.com/mayfly-csi/mayfly/pkg/csi"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// staleSocket creates the socket file of a killed process.
func staleSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	testkit.Must(t, err)
	l.SetUnlinkOnClose(false)
	testkit.Must(t, l.Close())
}

func TestParseEndpoint(t *testing.T) {
	for _, tc := range []struct{ in, want, fail string }{
		{"unix:///csi/csi.sock", "/csi/csi.sock", ""},
		{"unix:/csi/csi.sock", "/csi/csi.sock", ""},
		{"/csi/csi.sock", "/csi/csi.sock", ""},
		{"tcp://127.0.0.1:10000", "", "only unix sockets"},
		{"unix://csi.sock", "", "absolute"},
		{"", "", "absolute"},
		{"/" + strings.Repeat("a", 200), "", "the kernel's limit"},
	} {
		got, err := csi.ParseEndpoint(tc.in)
		if got != tc.want || (err == nil) != (tc.fail == "") || (err != nil && !strings.Contains(err.Error(), tc.fail)) {
			t.Errorf("ParseEndpoint(%q) = %q, %v; want %q, %q", tc.in, got, err, tc.want, tc.fail)
		}
	}
}

func TestRegistration(t *testing.T) {
	r := serve(t, healthy)
	dir := filepath.Dir(r.socket)
	reg, server, err := csi.NewRegistration(dir, "secrets-store.csi.k8s.io", "/host/csi.sock", csi.Options{Logger: slog.New(slog.NewTextHandler(r.log, nil)), Grace: time.Second})
	testkit.Must(t, err)
	up := make(chan struct{})
	go func() { _ = server.Run(t.Context(), func() { close(up) }) }()
	<-up
	if err := reg.Ready(); err == nil || !strings.Contains(err.Error(), "not registered the driver yet") {
		t.Errorf("before kubelet came: %v", err)
	}
	socket := filepath.Join(dir, "secrets-store.csi.k8s.io-reg.sock")
	info, err := kubelet.Register(t.Context(), socket, nil)
	if err != nil || info.GetType() != "CSIPlugin" || info.GetName() != "secrets-store.csi.k8s.io" || info.GetEndpoint() != "/host/csi.sock" || len(info.GetSupportedVersions()) != 1 {
		t.Errorf("kubelet was told %v, %v", info, err)
	}
	if err := reg.Ready(); err != nil {
		t.Errorf("after the registration: %v", err)
	}
	if _, err := kubelet.Register(t.Context(), socket, errors.New("version mismatch")); err != nil {
		t.Fatal(err)
	}
	if err := reg.Ready(); err == nil || !strings.Contains(err.Error(), "version mismatch") {
		t.Errorf("after a refusal: %v", err)
	}
}
