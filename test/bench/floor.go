package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/test/kubelet"
)

// floor does the bare work of first publishes: for each pod one login and its distinct reads, the
// reads in parallel, with no driver between.
type floor struct {
	atOnce int
	client *http.Client
	work   bareWork
}

// bareWork is one pod's requests to a store.
type bareWork interface {
	login(ctx context.Context, c *http.Client, jwt string) (token string, err error)
	// reads are the pod's distinct ones.
	reads(class string) []read
}

// read makes one request, and fails unless it gets data.
type read func(ctx context.Context, c *http.Client, token string) error

func newFloor(atOnce int, work bareWork) *floor {
	transport := &http.Transport{MaxIdleConns: 0, MaxIdleConnsPerHost: 4 * atOnce, IdleConnTimeout: 10 * time.Minute}
	return &floor{atOnce: atOnce, client: &http.Client{Transport: transport}, work: work}
}

func (f *floor) close() { f.client.CloseIdleConnections() }

func (f *floor) run(ctx context.Context, pods []kubelet.Pod) (time.Duration, error) {
	tokens := make([]string, len(pods))
	for i, p := range pods {
		token, err := serviceAccountToken(p)
		if err != nil {
			return 0, err
		}
		tokens[i] = token
	}
	return burst(ctx, f.atOnce, pods, func(ctx context.Context, i int) error { return f.pod(ctx, tokens[i], pods[i].Class) })
}

func (f *floor) pod(ctx context.Context, jwt, class string) error {
	token, err := f.work.login(ctx, f.client, jwt)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range f.work.reads(class) {
		g.Go(func() error { return r(ctx, f.client, token) })
	}
	return g.Wait()
}

// serviceAccountToken is the one that is for the store of the pod's class.
func serviceAccountToken(p kubelet.Pod) (string, error) {
	var byAudience map[string]struct{ Token string }
	if err := json.Unmarshal([]byte(p.Tokens), &byAudience); err != nil {
		return "", fmt.Errorf("reading the tokens of pod %s: %w", p.Name, err)
	}
	return byAudience[audience(p.Class)].Token, nil
}

// vaultFloor is the work at a Vault of that address.
type vaultFloor string

func (f vaultFloor) login(ctx context.Context, c *http.Client, jwt string) (string, error) {
	var answer struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		} `json:"auth"`
	}
	err := exchange(ctx, c, http.MethodPost, string(f)+"/v1/auth/kubernetes/login", "", map[string]any{"role": role, "jwt": jwt}, &answer)
	return answer.Auth.ClientToken, err
}

func (f vaultFloor) reads(class string) []read {
	var all []read
	for _, path := range secrets(class) {
		all = append(all, func(ctx context.Context, c *http.Client, token string) error {
			var secret struct {
				Data struct{ Data map[string]string }
			}
			err := exchange(ctx, c, http.MethodGet, string(f)+"/v1/kv/data/"+path, token, nil, &secret)
			if err == nil && len(secret.Data.Data) == 0 {
				err = fmt.Errorf("reading %q: no data", path)
			}
			return err
		})
	}
	return all
}

// akeylessFloor is the work at an Akeyless gateway of that URL.
type akeylessFloor string

func (f akeylessFloor) login(ctx context.Context, c *http.Client, jwt string) (string, error) {
	var answer struct{ Token string }
	err := exchange(ctx, c, http.MethodPost, string(f)+"/auth", "", map[string]any{
		"access-type": "k8s", "access-id": accessID, "k8s-auth-config-name": authConfig, "gateway-url": string(f),
		"k8s-service-account-token": base64.StdEncoding.EncodeToString([]byte(jwt)),
	}, &answer)
	return answer.Token, err
}

func (f akeylessFloor) reads(class string) []read {
	ask := func(path string, names any) read {
		return func(ctx context.Context, c *http.Client, token string) error {
			var answer map[string]any
			err := exchange(ctx, c, http.MethodPost, string(f)+path, "", map[string]any{"names": names, "token": token}, &answer)
			if err == nil && len(answer) == 0 {
				err = fmt.Errorf("reading %v: no data", names)
			}
			return err
		}
	}
	paths := secrets(class)
	return []read{ask("/get-secret-value", []string{"/" + paths[0]}), ask("/get-rotated-secret-value", "/"+paths[1])}
}

// exchange makes one request with a JSON body, if any, and reads the answer.
func exchange(ctx context.Context, c *http.Client, method, url, vaultToken string, body map[string]any, answer any) error {
	var sent []byte
	if body != nil {
		var err error
		if sent, err = json.Marshal(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(sent))
	if err != nil {
		return err
	}
	if vaultToken != "" {
		r.Header.Set("X-Vault-Token", vaultToken)
	}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %q: %w", method, url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %q: %s: %s", method, url, resp.Status, data)
	}
	return json.Unmarshal(data, answer)
}
