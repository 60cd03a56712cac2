package atomicdir

import (
	"fmt"
	"testing"
)

func tenFiles(body string) []File {
	files := make([]File, 10)
	for i := range files {
		files[i] = file(fmt.Sprintf("secret-%d", i), body)
	}
	return files
}

func BenchmarkWriteUnchanged(b *testing.B) {
	d := open(b, newVolume(b))
	files := tenFiles("0")
	mustWrite(b, d, Options{}, files...)
	b.ReportAllocs()
	for b.Loop() {
		if mustWrite(b, d, Options{}, files...) {
			b.Fatal("changed")
		}
	}
}

func BenchmarkWriteChanged(b *testing.B) {
	d := open(b, newVolume(b))
	payloads := [][]File{tenFiles("0"), tenFiles("1")}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		if !mustWrite(b, d, Options{}, payloads[n%2]...) {
			b.Fatal("not changed")
		}
	}
}
