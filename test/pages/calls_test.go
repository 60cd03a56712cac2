package pages

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// programs are the programs of the pages' commands. The end-to-end test runs the first ones for
// real.
var programs = []string{
	"kubectl", "helm", "vault", "jq",
	"base64", "cat", "cut", "grep", "head", "sed", "sleep", "tail", "tr",
}

// stub replaces every program: it records how it was called.
const stub = `#!/bin/bash
name=$0
[ "${0%/*}" != "$STUBS" ] || name=${0##*/}
while IFS= read -r _; do :; done
printf '%s\0' $(($# + 1)) "$name" "$@" >>"$CALLS"
`

// reader runs shell blocks with stubs, to see which programs they call.
type reader struct {
	*Session
	dir string
}

// newReader has a directory like a checkout, as far as the pages use it.
func newReader(t *testing.T, scripts []string) *reader {
	t.Helper()
	r := &reader{dir: t.TempDir()}
	stubs, work := filepath.Join(r.dir, "bin"), filepath.Join(r.dir, "work")
	testkit.Must(t, os.MkdirAll(work, 0o755))
	paths := make([]string, 0, len(programs)+len(scripts))
	for _, name := range programs {
		paths = append(paths, filepath.Join(stubs, name))
	}
	for _, name := range scripts {
		paths = append(paths, filepath.Join(work, name))
	}
	for _, path := range paths {
		testkit.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		testkit.Must(t, os.WriteFile(path, []byte(stub), 0o755))
	}
	r.Session = testkit.Value(NewSession(r.dir, work, []string{"PATH=" + stubs, "STUBS=" + stubs, "CALLS=" + r.calls()}))(t)
	return r
}

func (r *reader) calls() string { return filepath.Join(r.dir, "calls") }

// read returns the calls of a block, each with its arguments.
func (r *reader) read(ctx context.Context, text string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := os.WriteFile(r.calls(), nil, 0o600); err != nil {
		return nil, err
	}
	if out, err := r.Run(ctx, text); err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace([]byte(out)))
	}
	data, err := os.ReadFile(r.calls())
	if err != nil {
		return nil, err
	}
	var calls [][]string
	for len(data) > 0 {
		count, rest, _ := bytes.Cut(data, []byte{0})
		n, err := strconv.Atoi(string(count))
		if err != nil {
			return nil, fmt.Errorf("reading the calls: %w", err)
		}
		var call []string
		for range n {
			var word []byte
			word, rest, _ = bytes.Cut(rest, []byte{0})
			call = append(call, string(word))
		}
		calls, data = append(calls, call), rest
	}
	return calls, nil
}

func TestReader(t *testing.T) {
	r := newReader(t, []string{"hack/x.sh"})
	got := testkit.Value(r.read(t.Context(), "kubectl get 'a b' | jq .\nhelm x \\\n  -y - <<EOF\nz\nEOF\nhack/x.sh\n"))(t)
	found := map[string]bool{}
	for _, call := range got {
		found[fmt.Sprintf("%q", call)] = true
	}
	for _, want := range []string{`["kubectl" "get" "a b"]`, `["jq" "."]`, `["helm" "x" "-y" "-"]`, `["hack/x.sh"]`} {
		if !found[want] {
			t.Errorf("no call %s in %q", want, got)
		}
	}
	for _, text := range []string{"aws iam list\n", "if true; then\n", "kubectl get 'a\n", "hack/y.sh\n", "helm upgrade … | az\n"} {
		if calls, err := r.read(t.Context(), text); err == nil {
			t.Errorf("%q runs: %q", text, calls)
		}
	}
}
