package endpoint_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

func TestReadBody(t *testing.T) {
	const limit = 10
	for name, c := range map[string]struct {
		body   string
		length int64
		want   error // nil: the body
		other  bool  // any error
	}{
		"of known length":        {"0123456789", 10, nil, false},
		"of unknown length":      {"0123456789", -1, nil, false},
		"empty":                  {"", 0, nil, false},
		"too short":              {"0123", 10, io.ErrUnexpectedEOF, false},
		"nothing":                {"", 10, io.EOF, false},
		"longer than it says":    {"0123", 3, nil, true},
		"too large":              {"0123456789a", 11, endpoint.ErrTooLarge, false},
		"too large, unknown":     {"0123456789a", -1, endpoint.ErrTooLarge, false},
		"says that it is large":  {"0123", 1 << 40, nil, false},
		"too large, and says so": {"0123456789a", 1 << 40, endpoint.ErrTooLarge, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Response{ContentLength: c.length, Body: io.NopCloser(strings.NewReader(c.body))}
			endpoint.Bound(r, limit)
			got, err := endpoint.ReadBody(r, nil)
			switch {
			case c.other && err != nil:
			case !errors.Is(err, c.want), err == nil && (string(got) != c.body || c.other):
				t.Errorf("got %q, %v; want %v", got, err, c.want)
			case err == nil && c.length == limit && cap(got) != len(got):
				t.Errorf("%d bytes of room for %d", cap(got), len(got))
			}
		})
	}
}
