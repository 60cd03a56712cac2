package main

import (
	"fmt"
	"os"
	"runtime"
)

// sizeOf measures the program. It strips one that was built here, as releases are.
func sizeOf(w *world) (binary, error) {
	info, err := os.Stat(w.binary)
	if err != nil {
		return binary{}, fmt.Errorf("measuring the binary: %w", err)
	}
	return binary{Bytes: info.Size(), Arch: runtime.GOARCH, Given: w.config.driver != ""}, nil
}
