package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/kubelet"
)

// synced compares publishes of a class that has a template and a Kubernetes Secret with those of the
// same class without, on one driver, in turn. The sets with the same index were measured right after
// each other, and are compared as those of observed.
type synced struct {
	Without []float64 `json:"withoutCPUMS"`
	With    []float64 `json:"withCPUMS"`
	// API is the requests about the Secret, of all sets with one.
	API map[string]int `json:"requestsToAPIServer"`
}

// measureSynced lets sets of pods be published. The first of each warms the driver up and is not
// counted.
func measureSynced(ctx context.Context, n *node, r *results) error {
	before, err := n.api.Requests()
	if err != nil {
		return err
	}
	s := &r.Synced
	for i := range 2*n.config.rounds + 1 {
		order := []string{steady, made}
		if i%2 == 1 { // what the one leaves to collect, the other pays for
			slices.Reverse(order)
		}
		for _, class := range order {
			cpu, err := n.publishedCPU(ctx, fmt.Sprintf("synced-%s-%d", class, i), class)
			if err != nil {
				return err
			}
			switch {
			case i == 0:
			case class == made:
				s.With = append(s.With, cpu)
			default:
				s.Without = append(s.Without, cpu)
			}
		}
	}
	since, err := n.apiSince(before)
	if err != nil {
		return err
	}
	s.API = map[string]int{}
	for what, count := range since {
		if what == "secret look" || what == "secret apply" {
			s.API[what] = count
		}
	}
	say("%d publishes with a template and a Secret: %.1f ms of CPU time, without %.1f ms", n.config.pods, median(s.With), median(s.Without))
	return nil
}

// publishedCPU is the driver's CPU time for the publishes of a set of pods alone.
func (n *node) publishedCPU(ctx context.Context, label, class string) (float64, error) {
	pods := n.pods(label, class, n.config.pods)
	if err := errors.Join(n.waitUntilIdle(ctx), n.waitForStatuses(ctx, 0)); err != nil {
		return 0, err
	}
	s, err := n.spending(ctx, func() error { return n.publish(ctx, pods) })
	if err != nil {
		return 0, err
	}
	return s.CPU, n.unpublishGood(ctx, pods)
}

func (r *results) syncedRow() row {
	s := r.Synced
	all := more(s.With, s.Without)
	return row{
		What: fmt.Sprintf("%d first publishes of a class with a template and a Kubernetes Secret, against the class without, %d sets of each", r.Size.Pods, len(s.With)),
		Measured: fmt.Sprintf("CPU time %+.1f %% (%s), %.0f against %.0f ms; %s in all sets",
			median(all), spreadText(all), median(s.With), median(s.Without), verbs(s.API)),
		Target: fmt.Sprintf("<= %.0f %%", targetSynced),
		Met:    median(all) <= targetSynced,
	}
}

// store is a store as far as the measurements need it.
type store interface {
	// begin starts to count; the function that it returns counts the requests since then.
	begin() (func(context.Context) (requests, error), error)
	// rest waits until the store is idle.
	rest(ctx context.Context) error
}

// waitUntilIdle waits until the store is idle: the late work of one round, such as revoking its logins,
// must not slow the next.
func (n *node) waitUntilIdle(ctx context.Context) error {
	err := n.store.rest(ctx)
	runtime.GC() // ours, so that it does not run while a round is measured
	return err
}

// vaultStore counts in Vault's audit log.
type vaultStore struct{ *world }

func (s vaultStore) begin() (func(context.Context) (requests, error), error) {
	mark, err := s.vault.Mark()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (requests, error) {
		entries, err := s.vault.AuditEntriesSince(ctx, mark)
		return countRequests(entries), err
	}, nil
}

func (s vaultStore) rest(ctx context.Context) error {
	return waitQuiet(ctx, quiet, quietTimeout, s.vault.Mark)
}

// akeylessStore counts at the double itself.
type akeylessStore struct{ double *akeylessd.Server }

func (s akeylessStore) begin() (func(context.Context) (requests, error), error) {
	before := s.double.Counts()
	return func(context.Context) (requests, error) {
		return countCalls(subtract(s.double.Counts(), before)), nil
	}, nil
}

func (s akeylessStore) rest(ctx context.Context) error {
	return waitQuiet(ctx, quiet, quietTimeout, func() (string, error) { return fmt.Sprint(s.double.Counts()), nil })
}

// countCalls sorts the calls of Akeyless' API by path.
func countCalls(calls map[string]int) requests {
	r := requests{OtherPaths: map[string]int{}}
	for path, n := range calls {
		switch path {
		case "/auth":
			r.Logins += n
		case "/get-secret-value", "/get-rotated-secret-value":
			r.Reads += n
		case "/describe-item":
			r.Checks += n
		default:
			r.Other += n
			r.OtherPaths[path] += n
		}
	}
	return r
}

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
func measureAkeyless(ctx context.Context, n *node, r *results) error {
	n.store = akeylessStore{n.akeyless}
	f := newFloor(n.atOnce, akeylessFloor(n.akeyless.URL()))
	defer f.close()
	source, err := akeyless.New(akeyless.Config{DefaultGateway: n.akeyless.URL()})
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
		n.akeyless.SetCache(g.cache)
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
