package health

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestAnswer(t *testing.T) {
	good := Check{"good", func(context.Context) error { return nil }}
	bad := Check{"bad", func(context.Context) error { return errors.New("out of order") }}
	for _, c := range []struct {
		checks Checks
		code   int
		text   string
	}{
		{Checks{good}, http.StatusOK, "[+] good ok\n"},
		{Checks{good, bad}, http.StatusServiceUnavailable, "[+] good ok\n[-] bad: out of order\n"},
	} {
		w := httptest.NewRecorder()
		c.checks.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
		if w.Code != c.code || w.Body.String() != c.text {
			t.Errorf("%d %q, want %d %q", w.Code, w.Body, c.code, c.text)
		}
	}
	testkit.Says(t, (Checks{good, bad}).Err(t.Context()), "bad: out of order")
}

// However many clients ask, the check runs once within its age, and a client that disconnects does
// not affect the answer of the others.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs, fail := 0, error(nil)
		c := Shared(Check{"slow", func(ctx context.Context) error {
			runs++
			time.Sleep(500 * time.Millisecond) // in the bubble's time
			return errors.Join(fail, ctx.Err())
		}}, time.Second)
		ask := func(want error) {
			t.Helper()
			gone, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			go func() { _ = c.Do(gone) }() // the check outlives this request
			synctest.Wait()
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					testkit.Is(t, c.Do(t.Context()), want)
				})
			}
			all.Wait()
		}
		ask(nil)
		fail = errors.New("out of order")
		ask(nil) // still the last answer
		testkit.Equal(t, "runs", runs, 1)
		time.Sleep(time.Second)
		ask(fail)
		testkit.Equal(t, "runs", runs, 2)
	})
}

func TestSharedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Shared(Check{"hangs", func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}}, time.Second)
		testkit.Is(t, c.Do(t.Context()), context.DeadlineExceeded)
	})
}
