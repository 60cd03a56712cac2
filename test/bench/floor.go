package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/test/kubelet"
)

// floor does the bare work of first publishes: for each pod one login and its
// distinct reads, the reads in parallel, with nothing in between.
type floor struct {
	address string
	atOnce  int
	client  *http.Client
}

func newFloor(address string, atOnce int) *floor {
	transport := &http.Transport{MaxIdleConns: 0, MaxIdleConnsPerHost: 4 * atOnce, IdleConnTimeout: 10 * time.Minute}
	return &floor{address: address, atOnce: atOnce, client: &http.Client{Transport: transport}}
}

func (f *floor) close() { f.client.CloseIdleConnections() }

// run gives the time that all pods took together.
func (f *floor) run(ctx context.Context, pods []kubelet.Pod) (time.Duration, error) {
	tokens := make([]string, len(pods))
	for i, p := range pods {
		token, err := vaultToken(p)
		if err != nil {
			return 0, err
		}
		tokens[i] = token
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.atOnce)
	began := time.Now()
	for i, p := range pods {
		g.Go(func() error { return f.pod(ctx, tokens[i], p.Class) })
	}
	err := g.Wait()
	return time.Since(began), err
}

// vaultToken is the service account token that is for Vault.
func vaultToken(p kubelet.Pod) (string, error) {
	var byAudience map[string]struct{ Token string }
	if err := json.Unmarshal([]byte(p.Tokens), &byAudience); err != nil {
		return "", fmt.Errorf("reading the tokens of pod %s: %w", p.Name, err)
	}
	return byAudience["vault"].Token, nil
}

func (f *floor) pod(ctx context.Context, jwt, class string) error {
	body, err := json.Marshal(map[string]string{"role": role, "jwt": jwt})
	if err != nil {
		return err
	}
	var login struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		} `json:"auth"`
	}
	if err := f.do(ctx, http.MethodPost, "auth/kubernetes/login", "", body, &login); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, path := range secrets(class) {
		g.Go(func() error {
			var secret struct {
				Data struct{ Data map[string]string }
			}
			if err := f.do(ctx, http.MethodGet, "kv/data/"+path, login.Auth.ClientToken, nil, &secret); err != nil {
				return err
			}
			if len(secret.Data.Data) == 0 {
				return fmt.Errorf("reading %q: no data", path)
			}
			return nil
		})
	}
	return g.Wait()
}

func (f *floor) do(ctx context.Context, method, path, token string, body []byte, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, f.address+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if token != "" {
		r.Header.Set("X-Vault-Token", token)
	}
	resp, err := f.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %q: %w", method, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %q: %s: %s", method, path, resp.Status, data)
	}
	return json.Unmarshal(data, answer)
}
