package apiserver

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// metricStatus has, for each provider and key id, when the API server last received the key id from
// the plugin's Status.
const metricStatus = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds"

// Seen is an API server's state of a KMS provider.
type Seen struct {
	// IDHash is the API server's hash.
	IDHash string
	// KeyIDHash is the hash of the last key id; empty for none.
	KeyIDHash string
	// Unready is why its KMS providers are not ready; empty if they are. An API server that is
	// ready has a seed under the last key id.
	Unready string
}

// Seen reads the key id that an API server writes with.
func (s *Server) Seen(ctx context.Context, provider string) (Seen, error) {
	metrics, err := s.ask(ctx, call{method: http.MethodGet, path: "/metrics"})
	if err != nil {
		return Seen{}, err
	}
	seen, err := parseSeen(metrics, provider)
	if err != nil {
		return Seen{}, fmt.Errorf("reading the metrics of %s: %w", s.URL, err)
	}
	_, err = s.ask(ctx, call{method: http.MethodGet, path: "/readyz/kms-providers"})
	switch {
	case Refused(err, http.StatusNotFound): // KMS v1 is configured too, or the API server is old
		_, err = s.ask(ctx, call{method: http.MethodGet, path: "/readyz"})
	}
	if err != nil {
		seen.Unready = err.Error()
	}
	return seen, nil
}

// parseSeen reads Prometheus' text format. The key id with the latest time wins.
func parseSeen(metrics []byte, provider string) (Seen, error) {
	var seen Seen
	latest := -1.0
	lines := bufio.NewScanner(bytes.NewReader(metrics))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), metricStatus+"{")
		if !ok {
			continue
		}
		labels, value, err := parseLabels(rest)
		if err != nil {
			return Seen{}, fmt.Errorf("%s: %w", metricStatus, err)
		}
		if labels["provider_name"] != provider {
			continue
		}
		at, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return Seen{}, fmt.Errorf("%s: %q is no time", metricStatus, value)
		}
		if at > latest {
			latest, seen.KeyIDHash, seen.IDHash = at, labels["key_id_hash"], labels["apiserver_id_hash"]
		}
	}
	return seen, lines.Err()
}

// parseLabels reads a="b",c="d"} 1.5 and returns the labels and the value.
func parseLabels(text string) (labels map[string]string, value string, err error) {
	labels = map[string]string{}
	for {
		name, rest, ok := strings.Cut(text, `="`)
		if !ok {
			return nil, "", fmt.Errorf("no labels in %.80q", text)
		}
		quoted, err := strconv.QuotedPrefix(`"` + rest)
		if err != nil {
			return nil, "", fmt.Errorf("no label's value in %.80q", text)
		}
		if labels[name], err = strconv.Unquote(quoted); err != nil {
			return nil, "", fmt.Errorf("no label's value in %.80q", text)
		}
		text = rest[len(quoted)-1:]
		if value, end := strings.CutPrefix(text, "} "); end {
			value, _, _ = strings.Cut(value, " ")
			return labels, value, nil
		}
		text = strings.TrimPrefix(text, ",")
	}
}
