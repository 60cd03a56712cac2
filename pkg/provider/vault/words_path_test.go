package vault

import "testing"

func TestJSONPath(t *testing.T) {
	for path, want := range map[string]string{
		"pki/ca": "pki/cert/ca", "pki/ca/pem": "pki/cert/ca", "a/b/ca_chain": "a/b/cert/ca_chain", "pki/crl/pem": "pki/cert/crl", "pki/crl/delta": "pki/cert/delta-crl",
		"pki/cert/ca/raw": "pki/cert/ca", "pki/cert/ca/raw/pem": "pki/cert/ca", "a/b/cert/17:3f/raw/pem": "a/b/cert/17:3f",
		"pki/issuer/default/pem": "pki/issuer/default/json", "pki/issuer/default/der": "pki/issuer/default/json",
		"pki/issuer/default/crl/pem": "pki/issuer/default/crl", "pki/issuer/x/crl/der": "pki/issuer/x/crl",
		"": "", "ca": "", "pki/cert/ca": "", "pki/cert/ca_chain": "", "pki/cert/crl": "", "pki/issue/web": "", "cert/ca/raw": "", "issuer/x/pem": "",
		"secret/data/raw": "", "secret/data/pem": "", "secret/raw/pem": "", "raw": "", "pem": "", "a/pem": "",
	} {
		if got := jsonPath(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
