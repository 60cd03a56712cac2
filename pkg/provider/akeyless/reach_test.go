package akeyless

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// TestClassFiles: a class names files beneath the listed directories alone, and
// the operator's client certificate goes to the operator's gateway alone.
func TestClassFiles(t *testing.T) {
	own := endpoint.TLS{CACertFile: "/own/ca", ClientCertFile: "/own/cert", ClientKeyFile: "/own/key"}
	p := newProvider(t, Config{
		DefaultGateway: "https://own:8081", Servers: endpoint.Servers{DefaultTLS: own, ForbidSkipVerify: true}, Settings: endpoint.Settings{ClassFileDirs: []string{"/listed"}},
	})
	for name, c := range map[string]struct {
		params []string
		want   endpoint.TLS
		says   string
	}{
		"nothing":             {nil, own, ""},
		"another gateway":     {[]string{keyGateway, "https://other"}, own.WithoutClient(), ""},
		"another path":        {[]string{keyGateway, "https://own:8081/v2"}, own, ""},
		"listed authority":    {[]string{keyCAFile, "/listed/ca"}, endpoint.TLS{CACertFile: "/listed/ca", ClientCertFile: "/own/cert", ClientKeyFile: "/own/key"}, ""},
		"authority elsewhere": {[]string{keyCAFile, "/etc/ssl/x"}, endpoint.TLS{}, "spec.parameters.akeylessCACertPath"},
		"directory elsewhere": {[]string{keyCADir, "/listed/../etc"}, endpoint.TLS{}, "spec.parameters.akeylessCADirectory"},
		"pair elsewhere":      {[]string{keyClientCert, "/own/cert", keyClientKey, "/own/key"}, endpoint.TLS{}, "spec.parameters.akeylessTLSClientCertPath"},
		"own authority":       {[]string{keyCA, "PEM"}, endpoint.TLS{}, "spec.parameters.akeylessCACert: this node's operator does not allow skipping"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := p.newSpec(classOf(base(append([]string{keyGateway, "https://own:8081"}, c.params...)...)))
			switch {
			case c.says == "" && (err != nil || s.login.Target.TLS != c.want):
				t.Errorf("%+v, %v", s.login.Target, err)
			case c.says != "" && (fault.Of(err) != fault.NotAllowed || !strings.Contains(err.Error(), c.says)):
				t.Errorf("got %s: %v", fault.Of(err), err)
			}
		})
	}
	if _, err := New(Config{Settings: endpoint.Settings{ClassFileDirs: []string{filepath.Join("a", "b")}}}); err == nil {
		t.Error("a relative directory is taken")
	}
}

// TestLocalAddresses: a class reaches nothing on the node itself, and is told so
// at once.
func TestLocalAddresses(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer s.Close()
	p := newProvider(t, Config{Settings: endpoint.Settings{MaxRetries: 2}})
	r := provider.Request{
		Volume: "v", Pod: identity.Pod{Namespace: "shop", Name: "v", UID: "uid", ServiceAccount: "web"},
		Class: classOf(base(keyGateway, s.URL, keyAccessType, string(typeAccessKey), keyAccessKey, "key")),
	}
	_, err := p.Fetch(t.Context(), r)
	if fault.Of(err) != fault.NotAllowed || !strings.Contains(err.Error(), "127.0.0.1 is an address of the node itself") || asked > 0 {
		t.Errorf("asked %d times, %s: %v", asked, fault.Of(err), err)
	}
}
