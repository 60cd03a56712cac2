package suite

import (
	"encoding/pem"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// gatewayOverTLS: the class's TLS parameters decide whether the gateway is trusted. Nothing reaches
// an untrusted one.
func gatewayOverTLS(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	double, err := url.Parse(w.URL())
	testkit.Must(t, err)
	front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(double))
	t.Cleanup(front.Close)
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}))
	for name, c := range map[string]struct {
		more []string
		says string // empty where the gateway is believed
	}{
		"its authority":       {[]string{"akeylessCACert", authority}, ""},
		"and its name":        {[]string{"akeylessCACert", authority, "akeylessTLSServerName", "example.com"}, ""},
		"verification off":    {[]string{"akeylessSkipTLSVerify", "true"}, ""},
		"another authority":   {nil, "certificate"},
		"another server name": {[]string{"akeylessCACert", authority, "akeylessTLSServerName", "other.test"}, "other.test"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			params := with(k8s(oneObject), append(c.more, "akeylessGatewayURL", front.URL)...)
			r := w.request(w.pod("web"), params)
			if c.says == "" {
				wantFile(t, w.fetch(r), "a", "value")
				return
			}
			got := w.counted(func() {
				if err := w.refuse(r, c.says); fault.Of(err) == fault.Denied {
					t.Errorf("reason %s: %v", fault.Of(err), err)
				}
			})
			w.wantCounts(got, nil)
		})
	}
}
