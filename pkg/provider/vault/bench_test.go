package vault_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const benchPods, benchAtOnce = 100, 50

// BenchmarkFloor is the bare work of 100 pods of 100 service accounts, 50 at
// once: a login and the reads, over warm connections.
func BenchmarkFloor(b *testing.B) {
	requests, w := benchRequests(b, 100)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * benchAtOnce}}
	do := func(method, path, token, body string) string {
		req, err := http.NewRequest(method, w.Address+"/v1/"+path, strings.NewReader(body))
		if err != nil {
			b.Error(err)
			return ""
		}
		req.Header.Set("X-Vault-Token", token)
		resp, err := client.Do(req)
		if err != nil {
			b.Error(err)
			return ""
		}
		defer func() { _ = resp.Body.Close() }()
		out, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Errorf("%s: %d %v", path, resp.StatusCode, err)
		}
		return string(out)
	}
	for b.Loop() {
		atOnce(requests, func(r provider.Request) {
			body := fmt.Sprintf(`{"role":"app","jwt":%q}`, r.Tokens["vault"].JWT.Reveal())
			_, token, _ := strings.Cut(do(http.MethodPost, "auth/kubernetes/login", "", body), `"client_token":"`)
			token, _, _ = strings.Cut(token, `"`)
			var wg sync.WaitGroup
			for _, path := range []string{"kv1/share", "kv2/data/share"} {
				wg.Go(func() { do(http.MethodGet, path, token, "") })
			}
			wg.Wait()
		})
	}
}

// BenchmarkFirstFetch is the same through the provider.
func BenchmarkFirstFetch(b *testing.B) {
	for _, accounts := range []int{100, 1} {
		b.Run(fmt.Sprintf("accounts=%d", accounts), func(b *testing.B) {
			requests, _ := benchRequests(b, accounts)
			p := newProvider(b, func(c *vault.Config) { c.DisableRevocation = true })
			for b.Loop() {
				atOnce(requests, func(r provider.Request) {
					if _, err := p.Fetch(b.Context(), r); err != nil {
						b.Error(err)
					}
				})
				for _, r := range requests {
					testkit.Must(b, p.Release(b.Context(), r.Volume))
				}
			}
		})
	}
}

// BenchmarkNothingDue is a Fetch that needs no request.
func BenchmarkNothingDue(b *testing.B) {
	requests, _ := benchRequests(b, 1)
	p := newProvider(b, nil)
	testkit.Value(p.Fetch(b.Context(), requests[0]))(b)
	for b.Loop() {
		testkit.Value(p.Fetch(b.Context(), requests[0]))(b)
	}
}

func benchRequests(b *testing.B, accounts int) ([]provider.Request, *world) {
	w := shared
	w.kv1(b, "share", map[string]any{"k": "v"})
	w.kv2(b, "share", map[string]any{"k": string(bytes.Repeat([]byte("x"), 1000))})
	var requests []provider.Request
	for i := range benchPods {
		r := w.request(b, w.pod(fmt.Sprintf("web-%d", i%accounts)), nil, two)
		r.Class.UID, r.Class.ResourceVersion = "uid", "1"
		requests = append(requests, r)
	}
	return requests, w
}

func atOnce(requests []provider.Request, fn func(provider.Request)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, benchAtOnce)
	for _, r := range requests {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			fn(r)
		})
	}
	wg.Wait()
}
