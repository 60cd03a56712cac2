package volume_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// awayStore asks a server with a circuit breaker, as the in-process providers do. The server
// takes a while for each request, and can be away.
type awayStore struct {
	*fakeStore
	client   endpoint.Client
	server   endpoint.Endpoint
	returned chan struct{}

	mu       sync.Mutex
	away     bool
	requests int
	fresh    map[string]time.Time // of the last answer, by volume
}

const answerTime = 20 * time.Millisecond

func newAwayStore(t *testing.T, s *fakeStore) *awayStore {
	t.Helper()
	a := &awayStore{fakeStore: s, returned: make(chan struct{}, 1), fresh: map[string]time.Time{}}
	settings := &endpoint.Settings{OnReturn: func() {
		select {
		case a.returned <- struct{}{}:
		default:
		}
	}}
	testkit.Must(t, settings.Complete())
	a.client = endpoint.Client{Settings: settings}
	return a
}

func (a *awayStore) Fetch(ctx context.Context, r provider.Request) (*provider.Payload, error) {
	reply, err := a.client.Do(ctx, endpoint.Call{
		Pair: endpoint.Pair{First: &a.server}, Caller: endpoint.Caller{Tenant: r.Pod.Namespace}, Send: a.send,
		Refusal: func(*endpoint.Endpoint, *endpoint.Reply) error {
			return fault.New(fault.Unavailable, "Vault is sealed")
		},
		Outcome: func(_ *endpoint.Reply, failure error) endpoint.Outcome {
			if failure != nil {
				return endpoint.Outage
			}
			return endpoint.Answered
		},
	})
	if err != nil {
		return nil, err
	}
	reply.Release()
	a.mu.Lock()
	a.fresh[r.Volume] = time.Now()
	a.mu.Unlock()
	return a.fakeStore.Fetch(ctx, r)
}

func (a *awayStore) send(context.Context, *endpoint.Endpoint) (*http.Response, error) {
	time.Sleep(answerTime) // in the bubble's time
	a.mu.Lock()
	defer a.mu.Unlock()
	status := http.StatusOK
	if a.away {
		a.requests++
		status = http.StatusServiceUnavailable
	}
	return &http.Response{StatusCode: status, Body: http.NoBody}, nil
}

// sent are the requests since the last set.
func (a *awayStore) sent() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests
}

func (a *awayStore) set(away bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away, a.requests = away, 0
}

// stale are the volumes without an answer since a time.
func (a *awayStore) stale(since time.Time) (ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, at := range a.fresh {
		if at.Before(since) {
			ids = append(ids, id)
		}
	}
	return ids
}

// A node's volumes send a store that is away at most two requests a second, and save their records
// seldom. All of them are fresh within 5 s of its return, at whatever moment that is.
func TestReturnOfAStore(t *testing.T) {
	for _, volumes := range []int{1, 2, 110} {
		t.Run(fmt.Sprint(volumes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				store := newAwayStore(t, r.store)
				r.Providers, r.StoreReturned = provider.Registry{"fake": store}, store.returned
				defer r.background()()
				for i := range volumes {
					req := r.request(fmt.Sprint(i))
					req.Pod.Namespace = fmt.Sprint("tenant-", i%3)
					r.publish(req)
				}
				for i := range 4 {
					store.set(true)
					r.RefreshAll()
					failed := r.seen.count(volume.Refreshed, true)
					outage := time.Minute + time.Duration(i)*500*time.Millisecond
					time.Sleep(outage)
					if n := store.sent(); n > 120 || n < 15 {
						t.Errorf("%d requests in an outage of %s, want at most two a second, and some", n, outage)
					}
					if n := r.seen.count(volume.Refreshed, true) - failed; n > 60*(10+3) {
						t.Errorf("%d failed refreshes in an outage of %s, want about 10 a second, and those of a volume that asks", n, outage)
					}
					store.set(false)
					back := time.Now()
					time.Sleep(5 * time.Second)
					testkit.Empty(t, "volumes that are not fresh 5 s after the return", store.stale(back))
				}
			})
		})
	}
}

// A volume whose store was not asked is due when the store returns, also if that was during its
// refresh.
func TestStoreNotAsked(t *testing.T) {
	for name, during := range map[string]bool{"return after the refresh": false, "return during the refresh": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				returned := make(chan struct{}, 1)
				r.StoreReturned = returned
				defer r.background()()
				req, other := r.request("a"), r.request("b")
				r.publish(req)
				r.publish(other)
				gate := make(chan struct{})
				r.store.set(func(s *fakeStore) {
					s.gate, s.fail = gate, &fault.Error{Reason: fault.Unavailable, Err: context.DeadlineExceeded, RetryAfter: time.Hour, NotAsked: true}
				})
				r.RefreshAll()
				synctest.Wait()
				testkit.Must(t, r.Unpublish(t.Context(), other.ID, other.Target))
				if during {
					returned <- struct{}{}
					synctest.Wait()
				}
				close(gate)
				synctest.Wait()
				r.store.set(func(s *fakeStore) { s.fail = nil })
				if !during {
					returned <- struct{}{}
				}
				time.Sleep(time.Second) // in the bubble's time
				synctest.Wait()
				if n := r.seen.count(volume.Refreshed, false); n != 1 || r.Failing() != 0 {
					t.Errorf("%d refreshes have succeeded, want 1; %d volumes are failing", n, r.Failing())
				}
			})
		})
	}
}
