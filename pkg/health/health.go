// Package health answers /healthz and /readyz. It runs each named check at the time of the request,
// and reports a failure in the answer.
package health

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Check is one condition for health.
type Check struct {
	Name string
	Do   func(ctx context.Context) error
}

// Shared makes a check that runs once for all requests within age. It has a timeout of its own and
// does not end with one of the requests.
func Shared(c Check, age time.Duration) Check {
	turn := make(chan struct{}, 1)
	var at time.Time
	var last error
	return Check{Name: c.Name, Do: func(ctx context.Context) error {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-turn }()
		if !at.IsZero() && time.Since(at) < age {
			return last
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		last = c.Do(ctx)
		at = time.Now()
		return last
	}}
}

// Checks must all succeed.
type Checks []Check

// timeout bounds all checks of one answer.
const timeout = 2 * time.Second

// Err returns the first failure.
func (cs Checks) Err(ctx context.Context) error {
	for _, c := range cs {
		if err := c.Do(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

// ServeHTTP answers 200 or 503, with a line for each check.
func (cs Checks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	var text strings.Builder
	code := http.StatusOK
	for _, c := range cs {
		if err := c.Do(ctx); err != nil {
			code = http.StatusServiceUnavailable
			fmt.Fprintf(&text, "[-] %s: %v\n", c.Name, err)
		} else {
			fmt.Fprintf(&text, "[+] %s ok\n", c.Name)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text.String()))
}
