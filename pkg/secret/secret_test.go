package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const marker = "s3cr3t-marker"

type holder struct {
	Text   secret.String
	Raw    secret.Bytes
	hidden secret.String
	inner  []secret.Bytes
}

func newHolder() holder {
	raw := secret.NewBytes([]byte(marker))
	return holder{secret.NewString(marker), raw, secret.NewString(marker), []secret.Bytes{raw}}
}

func TestNothingPrintsASecret(t *testing.T) {
	h := newHolder()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s", "%T %v"} {
		for _, v := range []any{h, &h, h.Text, h.Raw, &h.Text, []any{h.Raw}, map[string]any{"k": h.Text}, h.hidden, h.inner} {
			if got := fmt.Sprintf(verb, v, v); leaks(got) {
				t.Errorf("%s of %T prints the secret: %s", verb, v, got)
			}
		}
	}
	if err := fmt.Errorf("reading: %v, %w", h, fmt.Errorf("%s", h.Text)); leaks(err.Error()) {
		t.Errorf("an error prints the secret: %v", err)
	}
}

func TestNothingMarshalsASecret(t *testing.T) {
	h := newHolder()
	out := testkit.Value(json.Marshal(map[string]any{"h": h, "t": h.Text, "b": h.Raw}))(t)
	if leaks(string(out)) || !strings.Contains(string(out), secret.Redacted) {
		t.Errorf("json: %s", out)
	}
}

func TestNothingLogsASecret(t *testing.T) {
	h := newHolder()
	var out bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("m", "text", h.Text, "raw", h.Raw, "holder", h, "group", slog.GroupValue(slog.Any("x", h.Raw)))
	}
	if leaks(out.String()) {
		t.Errorf("a log line holds the secret: %s", out.String())
	}
}

func TestReveal(t *testing.T) {
	h := newHolder()
	if h.Text.Reveal() != marker || string(h.Raw.Reveal()) != marker || h.Raw.Len() != len(marker) {
		t.Error("Reveal does not give back what was put in")
	}
	var zero secret.Bytes
	if zero.Reveal() != nil || !(secret.String{}).Empty() || secret.NewString("x").Empty() {
		t.Error("zero values must be empty")
	}
}

// leaks also looks for the hex form, which %x would print.
func leaks(s string) bool {
	return strings.Contains(s, marker) || strings.Contains(strings.ToLower(s), fmt.Sprintf("%x", marker))
}
