package params_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// maxAllocated bounds the total allocations for reading a class, however it is written.
const maxAllocated = 64 << 20

func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// readAll reads a list as a provider does, every field in every way.
func readAll(text string) (said int) {
	s, objects := list(text)
	for _, o := range objects {
		for _, f := range o.Fields {
			f.Unknown([]string{"objectName", "secretPath", "secretKey"})
			f.Text()
			if f.Name == "m" {
				f.Map()
			}
		}
	}
	for _, e := range s.Errs {
		said += len(e.Error())
	}
	for _, w := range s.Warnings {
		said += len(w)
	}
	return said
}

func numbered(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func bombs() map[string]string {
	nested := "- m:\n    a0: &a0 {x: 1, y: 2}\n"
	for i := range 30 {
		nested += fmt.Sprintf("    a%d: &a%d {x: *a%d, y: *a%d}\n", i+1, i+1, i, i)
	}
	return map[string]string{
		"merges":          "- &a\n" + numbered("  k%d: v\n", 6000) + strings.Repeat("- <<: *a\n", 200),
		"merges in one":   "- &a\n" + numbered("  k%d: v\n", 6000) + "- x: 1\n" + strings.Repeat("  <<: *a\n", 900),
		"merge lists":     "- &a\n" + numbered("  k%d: v\n", 6000) + "- <<: [" + strings.Repeat("*a, ", 900) + "*a]\n",
		"merges in maps":  "- &a\n" + numbered("  k%d: v\n", 6000) + strings.Repeat("- m: {<<: *a}\n", 200),
		"aliases":         nested,
		"one large value": "- &a {m: &m {v: " + strings.Repeat("x", 400<<10) + "}}\n" + strings.Repeat("- m: *m\n", 900),
		"large key":       "- &a {? &k " + strings.Repeat("x", 400<<10) + " : 1}\n" + strings.Repeat("- {*k : 1}\n", 900),
		"deep":            "- m: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"unknown":         "- " + strings.TrimSpace(numbered("  secretPth%d: 1\n", 15_000)),
		"small nodes":     "[" + strings.Repeat("{},", 100_000) + "]",
		"comments":        strings.Repeat("- a: b #c\n", 40_000),
		"directives":      numbered("%%TAG !a%d! x\n", 30_000) + "--- []",
		"wide line break": "- a: 1\n" + strings.Repeat("-\u0085", 100_000),
		"unknown anchor":  "- *" + strings.Repeat("a", 300<<10),
	}
}

// TestBombs: no class takes much memory, or produces much output, whatever its shape.
func TestBombs(t *testing.T) {
	for name, text := range bombs() {
		t.Run(name, func(t *testing.T) {
			said := 0
			if bytes := allocated(func() { said = readAll(text) }); bytes > maxAllocated || said > 32<<10 {
				t.Errorf("%d KiB of YAML take %d MiB of memory, and bring mistakes and warnings of %d bytes", len(text)>>10, bytes>>20, said)
			}
		})
	}
}

// FuzzBombs looks for YAML that takes too much memory.
func FuzzBombs(f *testing.F) {
	for _, text := range bombs() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if bytes := allocated(func() { readAll(text) }); bytes > 2*maxAllocated {
			t.Errorf("%d bytes of YAML take %d MiB of memory", len(text), bytes>>20)
		}
	})
}
