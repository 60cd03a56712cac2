// Package health answers /healthz and /readyz with what is true: each named
// check runs when it is asked, and its failure is in the answer.
package health

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Check is one thing that must hold.
type Check struct {
	Name string
	Do   func(ctx context.Context) error
}

// Checks must all hold.
type Checks []Check

// timeout bounds all checks of one answer.
const timeout = 2 * time.Second

// Err is the first failure.
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
