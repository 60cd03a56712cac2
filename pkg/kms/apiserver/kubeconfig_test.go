package apiserver

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	testkit.Must(t, os.WriteFile(path, []byte(text), 0o700))
	return path
}

func config(cluster, user string) string {
	return fmt.Sprintf("{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: https://a:6443%s}}], users: [{name: u, user: {%s}}]}", cluster, user)
}

func TestLoadAccess(t *testing.T) {
	ca, caCert, err := pki.NewAuthority("ca")
	testkit.Must(t, err)
	pair, err := ca.Issue(pki.Identity{Name: "admin"})
	testkit.Must(t, err)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "ca.crt"), string(caCert))
	writeFile(t, filepath.Join(dir, "token"), "from-a-file\n")
	helper := writeFile(t, filepath.Join(dir, "helper"), "#!/bin/sh\necho '{\"status\":{\"token\":\"from-'$WHO'\"}}'\n")
	data := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	for name, tc := range map[string]struct{ text, token, want string }{
		"a token":         {config("", "token: abc"), "abc", ""},
		"a token's file":  {config(", certificate-authority: ca.crt", "tokenFile: token"), "from-a-file", ""},
		"a certificate":   {config(", certificate-authority-data: "+data(caCert), "client-certificate-data: "+data(pair.Cert)+", client-key-data: "+data(pair.Key)), "", ""},
		"exec":            {config("", "exec: {command: "+helper+", apiVersion: client.authentication.k8s.io/v1, env: [{name: WHO, value: exec}]}"), "from-exec", ""},
		"exec fails":      {config("", "exec: {command: /absent}"), "", "exec: running /absent"},
		"a lone key":      {config("", "client-key-data: "+data(pair.Key)), "", "client-certificate and client-key"},
		"an absent file":  {config(", certificate-authority: absent.crt", ""), "", "certificate-authority: open"},
		"no authority":    {config(", certificate-authority: token", ""), "", "there is no certificate in it"},
		"a password":      {config("", "username: a"), "", "username and auth-provider are not known here"},
		"no such context": {strings.Replace(config("", ""), "current-context: a", "current-context: b", 1), "", `has no context "b"`},
		"no such cluster": {strings.Replace(config("", ""), "cluster: c", "cluster: d", 1), "", `has no cluster "d"`},
		"not YAML":        {"{", "", "it is not YAML of a kubeconfig"},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, filepath.Join(dir, "kubeconfig"), tc.text)
			a, err := loadAccess(t.Context(), file, "", "")
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
			if err == nil && (a.token != tc.token || a.server != "https://a:6443") {
				t.Errorf("%+v", a)
			}
		})
	}
}

// TestLoadAccessOfAList: of $KUBECONFIG the first file that has a name counts, and
// one that is absent does not matter.
func TestLoadAccessOfAList(t *testing.T) {
	dir := t.TempDir()
	first := writeFile(t, filepath.Join(dir, "1"), "{contexts: [{name: a, context: {cluster: c, user: u}}], users: [{name: u, user: {token: first}}]}")
	second := writeFile(t, filepath.Join(dir, "2"), config("", "token: second"))
	a, err := loadAccess(t.Context(), "", strings.Join([]string{first, filepath.Join(dir, "absent"), second}, ":"), "")
	if err != nil || a.token != "first" || a.server != "https://a:6443" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := loadAccess(t.Context(), filepath.Join(dir, "absent"), second, ""); err == nil {
		t.Error("an absent file was taken")
	}
}
