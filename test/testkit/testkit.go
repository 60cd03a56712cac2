// Package testkit has what tests of many packages need: a check of an error, a wait for a
// condition, a log that a test reads while a program writes it, a program that runs beside a test, a
// proxy before a store.
package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Patience is how long a test waits before it fails. It is far above what a busy machine needs, and
// a test waits that long only if it fails.
const Patience = 2 * time.Minute

// Must ends the test if err is not nil. Only the test's own goroutine may call
// it.
func Must(t interface {
	Helper()
	Fatal(args ...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Value returns what a call returned, and ends the test if the call failed:
//
//	text := testkit.Value(os.ReadFile(path))(t)
//
// As with Must, only the test's own goroutine may call it.
func Value[V any](v V, err error) func(interface {
	Helper()
	Fatal(args ...any)
}) V {
	return func(t interface {
		Helper()
		Fatal(args ...any)
	},
	) V {
		t.Helper()
		Must(t, err)
		return v
	}
}

// Check marks the test as failed if err is not nil, and lets it go on. Any goroutine may call it.
func Check(t interface {
	Helper()
	Error(args ...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// Eventually waits until ok returns true. It ends the test after Patience, with what as the reason.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not so after %s: %s", Patience, what)
		}
	}
}

// Poll asks again and again until done returns true or an error. If ctx ends before, it returns the cause.
func Poll(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// Receive waits for a value from a channel. It ends the test after Patience.
func Receive[V any](t testing.TB, from <-chan V, what string) V {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(Patience):
		t.Fatalf("nothing came within %s: %s", Patience, what)
		panic("unreachable")
	}
}

// Background runs a function until stop or the end of the test, and checks that it returns no error.
func Background(t testing.TB, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		Check(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// Log stores a program's output, and may be read meanwhile. Its zero value is ready to use.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is the output so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Count counts the occurrences of a text.
func (l *Log) Count(text string) int {
	return strings.Count(l.String(), text)
}

// FreeAddress returns a loopback address without a listener.
func FreeAddress(t testing.TB) string {
	t.Helper()
	return Value(Address())(t)
}

// Address returns a loopback address without a listener.
func Address() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// Page is the body of a URL's answer. An answer that is not 200 is an error.
func Page(ctx context.Context, url string) ([]byte, error) {
	code, body, err := Get(ctx, url)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("GET %s: %d: %s", url, code, body)
	}
	return body, err
}

// Get returns the status and the body of a URL's answer.
func Get(ctx context.Context, url string) (code int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(answer.Body)
	return answer.StatusCode, body, err
}

// Cleanup is what a program must end, in the order in which it started it.
type Cleanup []func() error

// Add adds the end of something that has started.
func (c *Cleanup) Add(end func() error) { *c = append(*c, end) }

// Close ends all, the last first. A second call does nothing.
func (c *Cleanup) Close() error {
	var errs []error
	for _, end := range slices.Backward(*c) {
		errs = append(errs, end())
	}
	*c = nil
	return errors.Join(errs...)
}

// Says checks that there is an error, and that it has all of the words.
func Says(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("there is no error, want one with %q", words)
		return
	}
	Has(t, err.Error(), words...)
}

// Error checks that a call failed, with all of the words:
//
//	testkit.Error(os.ReadFile(path))(t, "no such file")
func Error[V any](_ V, err error) func(t testing.TB, words ...string) {
	return func(t testing.TB, words ...string) {
		t.Helper()
		Says(t, err, words...)
	}
}

// Failure checks that a call failed, for a reason and with some words:
//
//	testkit.Failure(p.Fetch(ctx, request))(t, fault.NotFound, "was deleted")
func Failure[V any](_ V, err error) func(t testing.TB, reason fault.Reason, words ...string) {
	return func(t testing.TB, reason fault.Reason, words ...string) {
		t.Helper()
		Fails(t, err, reason, words...)
	}
}

// Fails checks an error's reason, and that it has all of the words.
func Fails(t testing.TB, err error, reason fault.Reason, words ...string) {
	t.Helper()
	if got := fault.Of(err); got != reason {
		t.Errorf("reason %q, want %q: %v", got, reason, err)
	}
	Says(t, err, words...)
}

// Has checks that a text has all of the words.
func Has(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is missing in:\n%s", word, text)
		}
	}
}

// Lacks checks that a text has none of the words.
func Lacks(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if strings.Contains(text, word) {
			t.Errorf("%q is in:\n%s", word, text)
		}
	}
}

// Is checks that an error is, or wraps, the wanted one.
func Is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

// Equal compares two values, pointers by what they point to. The failure begins with what was
// compared, or with what is wrong if they differ.
func Equal[V any](t testing.TB, what string, got, want V) {
	t.Helper()
	if reflect.DeepEqual(got, want) {
		return
	}
	switch any(got).(type) {
	case string, []string, map[string]string:
		t.Errorf("%s: got %q, want %q", what, any(got), any(want))
	default:
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

// Empty checks that a list has no element.
func Empty[V any](t testing.TB, what string, got []V) {
	t.Helper()
	if len(got) > 0 {
		t.Errorf("%s: got %+v, want none", what, got)
	}
}
