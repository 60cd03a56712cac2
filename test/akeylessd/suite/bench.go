package suite

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	benchPods    = 100
	benchAtOnce  = 50
	benchLatency = 5 * time.Millisecond
)

// Bench measures first publishes of 100 pods, 50 at once, against a double that
// takes 5 ms for every answer. The floor is one login and one read for each
// pod, over warm connections.
func Bench(b *testing.B) {
	for name, c := range map[string]struct {
		accounts int
		floor    bool
	}{
		"floor":               {benchPods, true},
		"each pod an account": {benchPods, false},
		"one account":         {1, false},
	} {
		b.Run(name, func(b *testing.B) {
			w := benchWorld(b)
			var bare *http.Client
			if c.floor {
				bare = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: benchAtOnce}}
			}
			w.publish(w.benchRequests(c.accounts), bare) // warms the connections
			warm := w.Counts()["/auth"]
			for b.Loop() {
				b.StopTimer()
				requests := w.benchRequests(c.accounts)
				b.StartTimer()
				w.publish(requests, bare)
			}
			b.ReportMetric(float64(w.Counts()["/auth"]-warm)/float64(b.N), "logins/op")
		})
	}
}

func benchWorld(b *testing.B) *world {
	w := newWorld(b, Options{latency: benchLatency}, func(c *akeyless.Config) { c.Logger, c.ShareByServiceAccount = nil, true })
	w.Allow(akeylessd.Rule{AccessID: k8sID, Prefix: "/app/"})
	w.PutStatic("/app/user", "u")
	w.PutStatic("/app/password", "p")
	return w
}

func (w *world) benchRequests(accounts int) []provider.Request {
	requests := make([]provider.Request, benchPods)
	run := w.pods.Load() // so that every run has identities of its own
	for i := range requests {
		requests[i] = w.request(w.pod(fmt.Sprintf("account-%d-%d", run, i%accounts)), k8s(`
- {secretPath: /app/user, fileName: user, secretType: static}
- {secretPath: /app/password, fileName: password, secretType: static}`))
	}
	return requests
}

func (w *world) publish(requests []provider.Request, floor *http.Client) {
	work := new(errgroup.Group)
	work.SetLimit(benchAtOnce)
	for _, r := range requests {
		work.Go(func() error {
			if floor != nil {
				return w.bare(floor, r)
			}
			_, err := w.provider.Fetch(context.Background(), r)
			return err
		})
	}
	testkit.Must(w.t, work.Wait())
}

// bare is the work that cannot be done without: log in, and read.
func (w *world) bare(c *http.Client, r provider.Request) error {
	jwt := base64.StdEncoding.EncodeToString([]byte(r.Tokens[audience].JWT.Reveal()))
	login, err := tryPost(c, w.URL()+"/auth", map[string]any{
		"access-type": "k8s", "access-id": k8sID, "k8s-auth-config-name": config, "gateway-url": w.URL(), "k8s-service-account-token": jwt,
	})
	if err == nil {
		_, err = tryPost(c, w.URL()+"/get-secret-value", map[string]any{"token": login["token"], "names": []string{"/app/user", "/app/password"}})
	}
	return err
}
