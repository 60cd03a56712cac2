package statusz_test

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/statusz"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestDocumented: docs/status.md names every field and state.
func TestDocumented(t *testing.T) {
	text := testkit.Value(os.ReadFile("../../docs/status.md"))(t)
	fields := map[string]bool{statusz.APIVersion: true, statusz.Kind: true, statusz.RefreshedKind: true}
	for _, state := range []string{statusz.Publishing, statusz.Fresh, statusz.FromMemory, statusz.Failing, statusz.Emptied, statusz.Unpublishing} {
		fields[state] = true
	}
	addFields(fields, reflect.TypeFor[statusz.Status]())
	addFields(fields, reflect.TypeFor[statusz.Refreshed]())
	if len(fields) < 60 {
		t.Errorf("%d fields", len(fields))
	}
	for name := range fields {
		testkit.Has(t, string(text), "`"+name+"`")
	}
}

func addFields(to map[string]bool, of reflect.Type) {
	for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() {
		return
	}
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		to[name] = true
		addFields(to, of.Field(i).Type)
	}
}
