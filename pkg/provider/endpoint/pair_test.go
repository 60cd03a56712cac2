package endpoint_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// side is one address of a store: answers with a status, or does not answer at all.
type side struct {
	*httptest.Server
	status atomic.Int64 // 0 hangs until the client gives up
	asked  atomic.Int64
}

func newSide(t *testing.T, status int) *side {
	t.Helper()
	s := &side{}
	s.status.Store(int64(status))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		status := int(s.status.Load())
		if status == 0 {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return s
}

// pairRig makes calls at two sides.
type pairRig struct {
	first, second *side
	pair          endpoint.Pair
	client        endpoint.Client
	now           time.Time
}

func newPairRig(t *testing.T, first, second int) *pairRig {
	t.Helper()
	r := &pairRig{first: newSide(t, first), second: newSide(t, second), now: time.Now()}
	settings := &endpoint.Settings{
		RequestTimeout: 200 * time.Millisecond, MaxRetries: 3, RetryBase: time.Millisecond,
		Now: func() time.Time { return r.now }, Jitter: func() float64 { return 0.5 },
	}
	testkit.Must(t, settings.Complete())
	files := testkit.Value(endpoint.NewFiles(nil))(t)
	pool := &endpoint.Pool{Logger: slog.New(slog.DiscardHandler), Files: files, AllowLocal: true}
	r.client = endpoint.Client{Settings: settings, Pool: pool}
	r.pair = testkit.Value(pool.GetPair(t.Context(), target(t, r.first.URL), target(t, r.second.URL), r.now))(t)
	return r
}

func target(t *testing.T, url string) endpoint.Target {
	t.Helper()
	a := testkit.Value(endpoint.ParseAddress(url))(t)
	return endpoint.Target{Address: a}
}

func (r *pairRig) call(op endpoint.Operation, issues bool) endpoint.Call {
	return endpoint.Call{
		Pair: r.pair, Operation: op, Issues: issues, Caller: endpoint.Caller{Tenant: "shop", Path: "db"},
		Send: func(ctx context.Context, e *endpoint.Endpoint) (*http.Response, error) {
			q, err := http.NewRequestWithContext(ctx, http.MethodPost, e.Address.URL("/").String(), strings.NewReader("x"))
			if err != nil {
				return nil, err
			}
			return e.Transport().RoundTrip(q)
		},
		Refusal: func(e *endpoint.Endpoint, reply *endpoint.Reply) error {
			switch {
			case reply.Status == 429:
				return reply.Refused(e, fault.RateLimited, "slow down")
			case reply.Status >= 500:
				return reply.Refused(e, fault.Unavailable, "away")
			}
			return reply.Refused(e, fault.Denied, "no")
		},
		Repeat: func(reply *endpoint.Reply) bool { return reply.Status == 503 && !issues },
		Outcome: func(reply *endpoint.Reply, _ error) endpoint.Outcome {
			switch reply.Status {
			case 503, 429:
				return endpoint.Outage
			case 500:
				return endpoint.BrokenPath
			case 502:
				return endpoint.Unanswered
			}
			return endpoint.Answered
		},
		Scrub: func(words string) string { return words },
	}
}

const gone = -1 // the server does not listen

func TestPair(t *testing.T) {
	for name, tc := range map[string]struct {
		first, second int
		issues        bool
		op            endpoint.Operation
		asked         string // how often first and second were
		fails         fault.Reason
	}{
		"the first answers":                       {200, 200, false, endpoint.OpRead, "1 0", ""},
		"a denial is an answer":                   {403, 200, false, endpoint.OpRead, "1 0", fault.Denied},
		"so is a missing secret":                  {404, 200, false, endpoint.OpRead, "1 0", fault.Denied},
		"so is a rate limit":                      {429, 200, false, endpoint.OpRead, "1 0", fault.RateLimited},
		"so is what is broken behind it":          {500, 200, false, endpoint.OpRead, "1 0", fault.Unavailable},
		"it is sealed":                            {503, 200, false, endpoint.OpRead, "1 1", ""},
		"it is sealed, for a credential":          {503, 200, true, endpoint.OpIssue, "1 1", ""},
		"a proxy before it":                       {502, 200, false, endpoint.OpRead, "1 1", ""},
		"a proxy, which may have passed an issue": {502, 200, true, endpoint.OpIssue, "1 0", fault.Unavailable},
		"it hangs":                                {0, 200, false, endpoint.OpRead, "1 1", ""},
		"it hangs with an issue":                  {0, 200, true, endpoint.OpIssue, "1 0", fault.Timeout},
		"it hangs with a login":                   {0, 200, true, endpoint.OpLogin, "1 1", ""},
		"it is down":                              {gone, 200, true, endpoint.OpIssue, "0 1", ""},
		"the second denies":                       {503, 403, false, endpoint.OpRead, "1 1", fault.Denied},
		"both are away":                           {503, 503, false, endpoint.OpRead, "1 1", fault.Unavailable},
		"both are down":                           {gone, gone, false, endpoint.OpRead, "0 0", fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			r := newPairRig(t, max(tc.first, 0), max(tc.second, 0))
			for s, status := range map[*side]int{r.first: tc.first, r.second: tc.second} {
				if status == gone {
					s.Close()
				}
			}
			reply, err := r.client.Do(t.Context(), r.call(tc.op, tc.issues))
			if asked := strings.Join([]string{itoa(r.first.asked.Load()), itoa(r.second.asked.Load())}, " "); asked != tc.asked {
				t.Errorf("asked %s times, want %s", asked, tc.asked)
			}
			switch {
			case tc.fails == "" && err != nil, tc.fails != "" && fault.Of(err) != tc.fails:
				t.Errorf("%v, want %q", err, tc.fails)
			case tc.fails == "" && tc.asked != "1 0" && reply.From != r.pair.Second.Address:
				t.Errorf("answered by %s", reply.From)
			case strings.HasPrefix(name, "both") && !(strings.Contains(err.Error(), r.pair.First.Address.String()) && strings.Contains(err.Error(), r.pair.Second.Address.String())):
				t.Errorf("%v does not name both addresses", err)
			}
		})
	}
}

func itoa(n int64) string { return string(rune('0' + n)) }

// While the first address is away its circuit breaker has it tried now and then, and the first answer
// ends that.
func TestPairReturnsToTheFirst(t *testing.T) {
	r := newPairRig(t, 503, 200)
	do := func() endpoint.Address {
		t.Helper()
		reply := testkit.Value(r.client.Do(t.Context(), r.call(endpoint.OpRead, false)))(t)
		return reply.From
	}
	for range 20 {
		do()
	}
	if n := r.first.asked.Load(); n > 4 {
		t.Errorf("the first address was asked %d times in a moment", n)
	}
	r.first.status.Store(200)
	testkit.Equal(t, "the address that answers before the next probe", do(), r.pair.Second.Address)
	r.now = r.now.Add(time.Minute)
	for range 2 {
		testkit.Equal(t, "the address that answers once the first is back", do(), r.pair.First.Address)
	}
}

// What began at an address ends there. The other's success counts while that is away, its refusal
// does not.
func TestPairEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		first, second int
		began         bool // at the second
		asked         string
		fails         fault.Reason
	}{
		"at the first":                     {204, 204, false, "1 0", ""},
		"at the second":                    {204, 204, true, "0 1", ""},
		"the first refuses":                {403, 204, false, "1 0", fault.Denied},
		"away, and the other knows it":     {503, 204, false, "1 1", ""},
		"away, and the other does not":     {503, 403, false, "1 1", fault.Unavailable},
		"the second is away, and the rest": {403, 503, true, "1 1", fault.Unavailable},
	} {
		r := newPairRig(t, tc.first, tc.second)
		began := r.pair.First.Address
		if tc.began {
			began = r.pair.Second.Address
		}
		_, err := r.client.End(t.Context(), began, r.call(endpoint.OpRevoke, false))
		if asked := itoa(r.first.asked.Load()) + " " + itoa(r.second.asked.Load()); asked != tc.asked || (tc.fails == "") != (err == nil) || err != nil && fault.Of(err) != tc.fails {
			t.Errorf("%s: asked %s times, %v; want %s, %q", name, asked, err, tc.asked, tc.fails)
		}
	}
}

// An ended context says nothing about the first address.
func TestPairOfACanceledCall(t *testing.T) {
	r := newPairRig(t, 0, 200)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.client.Do(ctx, r.call(endpoint.OpRead, false)); !errors.Is(err, context.Canceled) || r.second.asked.Load() > 0 {
		t.Errorf("%v, and the second was asked %d times", err, r.second.asked.Load())
	}
}
