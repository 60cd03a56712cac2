package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/kubelet"
)

// The auth method of the double, which verifies service account tokens by a TokenReview as a
// gateway does.
const (
	accessID   = "p-bench0000001"
	authConfig = "bench"
)

// startAkeyless starts the double with the items of the class keyless.
func (w *world) startAkeyless(ctx context.Context) (err error) {
	w.akeyless, err = akeylessd.Start(ctx, akeylessd.Options{Issuer: w.issuer, Latency: w.akeylessLatency, CachedLatency: w.akeylessCached})
	if err != nil {
		return err
	}
	a := w.akeyless
	a.AuthMethod(accessID, akeylessd.Method{Type: "k8s", ConfigName: authConfig, Audience: audience(keyless)})
	a.Allow(akeylessd.Rule{AccessID: accessID, Prefix: "/" + keyless + "/", Claims: map[string]string{"namespace": namespace}})
	files, paths := wanted(keyless, "1"), secrets(keyless)
	a.PutStatic("/"+paths[0], map[string]any{"username": files["db/username"], "password": files["db/password"]})
	a.PutRotated("/"+paths[1], map[string]any{"key": files["api-key"]}, time.Now().Add(24*time.Hour))
	return nil
}

// measureAkeyless does the rounds of first publishes on the double, as a gateway
// of either kind. The pods of a service account share their login: the roles
// here go by no pod.
func measureAkeyless(ctx context.Context, w *world, r *results) (err error) {
	n := w.apiNode("akeyless")
	n.args = append(n.args, "--akeyless-share-by-service-account")
	n.store = akeylessStore{w.akeyless}
	if err := n.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	f := newFloor(n.atOnce, akeylessFloor(w.akeyless.URL()))
	defer f.close()
	source, err := akeyless.New(akeyless.Config{DefaultGateway: w.akeyless.URL()})
	if err != nil {
		return err
	}
	for _, g := range []struct {
		kind  string
		cache time.Duration
		into  *firstPublishes
	}{
		{"asks", 0, &r.Akeyless},
		{"caches", time.Hour, &r.AkeylessCached},
	} {
		say("first publishes with an Akeyless gateway that %s", g.kind)
		w.akeyless.SetCache(g.cache)
		if err := (rounds{n, f, keyless, g.kind, n.fetchAlone(source)}).run(ctx, g.into); err != nil {
			return fmt.Errorf("a gateway that %s: %w", g.kind, err)
		}
	}
	return nil
}

// fetchAlone does the provider package's part of first publishes, in this process.
func (n *node) fetchAlone(source *akeyless.Provider) func(context.Context, []kubelet.Pod) (time.Duration, error) {
	return func(ctx context.Context, pods []kubelet.Pod) (time.Duration, error) {
		asked, got := make([]provider.Request, len(pods)), make([]*provider.Payload, len(pods))
		for i, p := range pods {
			var err error
			if asked[i], err = fetchRequest(p, n.kubelet.Target(p), akeyless.Name, akeylessParameters(p.Class, n.akeyless.URL())); err != nil {
				return 0, err
			}
		}
		took, err := burst(ctx, n.atOnce, pods, func(ctx context.Context, i int) (err error) {
			got[i], err = source.Fetch(ctx, asked[i])
			return err
		})
		if err != nil {
			return 0, err
		}
		for i, p := range pods {
			if have, want := files(got[i]), wanted(p.Class, "1"); !maps.Equal(have, want) {
				return 0, fmt.Errorf("pod %s was given %v, not %v", p.Name, have, want)
			}
			if err := source.Release(ctx, asked[i].Volume); err != nil {
				return 0, err
			}
		}
		return took, nil
	}
}
