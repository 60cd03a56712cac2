package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func kubeconfigOf(t *testing.T, url string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: \"" + url + "\"}}]\ncontexts: [{name: a, context: {cluster: a}}]\ncurrent-context: a\n"
	testkit.Must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestMounted(t *testing.T) {
	var selector string
	code := http.StatusOK
	var statuses []v1.SecretProviderClassPodStatus
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		selector = r.URL.Query().Get("labelSelector")
		list := v1.SecretProviderClassPodStatusList{Items: statuses}
		list.APIVersion, list.Kind = v1.GroupVersion().String(), "SecretProviderClassPodStatusList"
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(list)
	}))
	defer server.Close()
	kubeconfig := kubeconfigOf(t, server.URL)
	count := func(args ...string) (int, string) {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"mounted", "--kubeconfig", kubeconfig}, args...), os.Getenv, &out, &out)
		return code, out.String()
	}
	of := func(namespace string, mounted bool) v1.SecretProviderClassPodStatus {
		s := v1.SecretProviderClassPodStatus{}
		s.Namespace, s.Status.Mounted = namespace, mounted
		return s
	}
	if got, text := count(); got != 0 || !strings.Contains(text, "no volume of driver "+defaultDriver) || selector != "mayfly.dev/driver="+defaultDriver {
		t.Errorf("none: %d, %s, selector %q", got, text, selector)
	}
	statuses = []v1.SecretProviderClassPodStatus{of("shop", true), of("bank", true), of("shop", true), of("shop", false)}
	if got, text := count("--driver-name", "mayfly.dev"); got != 1 || !strings.Contains(text, "3 in all") ||
		!strings.Contains(text, "  namespace bank: 1\n  namespace shop: 2\n") || selector != "mayfly.dev/driver=mayfly.dev" {
		t.Errorf("three: %d, %s, selector %q", got, text, selector)
	}
	code = http.StatusForbidden
	if got, text := count(); got != 2 || !strings.Contains(text, "listing secretproviderclasspodstatuses") {
		t.Errorf("refused: %d, %s", got, text)
	}
	if got, text := count("--nope"); got != 2 || !strings.Contains(text, "mounted --help") {
		t.Errorf("a wrong flag: %d, %s", got, text)
	}
	if got, text := count("all"); got != 2 || !strings.Contains(text, `unexpected argument "all"`) {
		t.Errorf("an argument: %d, %s", got, text)
	}
	if got, text := count("--help"); got != 0 || !strings.Contains(text, "exit code") || !strings.Contains(text, "-driver-name") {
		t.Errorf("help: %d, %s", got, text)
	}
}
