// Package audittest holds every line of an audit trail that a test writes to what
// docs/audit.schema.json promises to its readers, and to its place in the chain.
package audittest

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
)

// Check looks at the lines of an audit trail in logs, the oldest first, and gives
// how many there are.
func Check(t testing.TB, logs ...[]byte) int {
	t.Helper()
	CheckLines(t, logs...)
	var v chain.Verifier
	for i, log := range logs {
		if err := v.Read(fmt.Sprintf("log %d", i), bytes.NewReader(Whole(log))); err != nil {
			t.Error(err)
		}
	}
	for _, b := range v.Breaks {
		t.Errorf("the chain of the audit trail does not hold: %s: %s", b.Place, b.Why)
	}
	if v.Without > 0 {
		t.Errorf("%d lines of the audit trail have no place in the chain", v.Without)
	}
	return v.Lines
}

// CheckLines looks at each line alone.
func CheckLines(t testing.TB, logs ...[]byte) {
	t.Helper()
	s, err := schema()
	if err != nil {
		t.Error(err)
		return
	}
	for _, log := range logs {
		err := chain.Lines(bytes.NewReader(Whole(log)), func(number int, text []byte) {
			if !bytes.HasPrefix(text, []byte(`{"apiVersion":"`+chain.Version)) {
				return
			}
			if err := validate(s, text); err != nil {
				t.Errorf("line %d of the audit trail is not as docs/audit.schema.json says: %v\n%s", number, err, text)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// Whole gives the lines of a log without one that is being written.
func Whole(log []byte) []byte { return log[:bytes.LastIndexByte(log, '\n')+1] }

// Valid tells what is wrong with one line; nil for nothing.
func Valid(line []byte) error {
	s, err := schema()
	if err != nil {
		return err
	}
	return validate(s, line)
}

func validate(s *jsonschema.Schema, text []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(value)
}

var schema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	return jsonschema.NewCompiler().Compile(Path())
})

// Path is where the schema lies.
func Path() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../../docs/audit.schema.json")
}
