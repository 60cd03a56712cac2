package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// The targets, as docs/dev/performance.md has them.
const (
	targetMany    = 1.3  // of the floor
	targetOne     = 0.2  // of the floor
	targetP50     = 0.3  // milliseconds
	targetMemory  = 35e6 // bytes
	targetLarge   = 45e6 // bytes, with five times as many volumes
	targetLife    = 350  // milliseconds of CPU time
	targetReady   = 500  // milliseconds
	targetOverdue = 2000 // milliseconds beyond the interval
	targetRate    = 2.0  // requests a second to a store that is away
	targetFresh   = 5000 // milliseconds after its return
	targetPlugin  = 1.0  // milliseconds over the plugin's own time

	targetSynced         = 10.0 // percent of CPU time
	targetObserved       = 5.0  // percent of CPU time
	targetObservedMemory = 3e6  // bytes
)

// row is one line of the table. Without a target it is for information.
type row struct {
	What     string
	Measured string
	Target   string
	Met      bool
}

func (r row) verdict() string {
	switch {
	case r.Target == "":
		return ""
	case r.Met:
		return "yes"
	}
	return "no"
}

func (r *results) print(w io.Writer) error {
	switch {
	case r.config.json:
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case r.config.markdown:
		return r.printMarkdown(w)
	}
	return r.printText(w)
}

func (r *results) heading() string {
	text := fmt.Sprintf("%s. %d pods, %d at once, %d rounds (medians), %d unrelated classes in %s.",
		r.Machine, r.Size.Pods, r.Size.AtOnce, r.Size.Rounds, r.Size.Classes, r.Size.APIServer)
	if r.Size.Short {
		text += " Short form: too little work for numbers that mean much."
	}
	return text
}

func (r *results) printText(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.heading())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tMEASURED\tTARGET\tMET")
	for _, row := range r.rows() {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", row.What, row.Measured, row.Target, row.verdict())
	}
	return t.Flush()
}

func (r *results) printMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n| What | Measured | Target | Met |\n|---|---|---|---|\n", r.heading())
	for _, row := range r.rows() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", row.What, row.Measured, row.Target, row.verdict())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// machine describes the machine and the versions of the measurement.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memoryBytes"`
	Kernel string `json:"kernel"`
	Arch   string `json:"arch"`
	Go     string `json:"go"`
	Vault  string `json:"vault"`
	Mayfly string `json:"mayfly"`
	// Load is the load average of the last minute before the start: much more
	// than none means that others used the machine too.
	Load string `json:"loadAverage"`
}

func describe(ctx context.Context, w *world) (machine, error) {
	m := machine{Cores: runtime.NumCPU(), Arch: runtime.GOARCH, Go: runtime.Version(), CPU: "unknown"}
	// Not every architecture names its CPU, and none of this is worth failing.
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	if name := value(cpuinfo, "model name"); name != "" {
		m.CPU = name
	}
	meminfo, _ := os.ReadFile("/proc/meminfo")
	kilobytes, _ := strconv.ParseInt(strings.TrimSuffix(value(meminfo, "MemTotal"), " kB"), 10, 64)
	m.Memory = kilobytes * 1024
	load, _ := os.ReadFile("/proc/loadavg")
	m.Load, _, _ = strings.Cut(string(load), " ")
	var uname unix.Utsname
	if err := unix.Uname(&uname); err == nil {
		m.Kernel = unix.ByteSliceToString(uname.Release[:])
	}
	health, err := w.vault.Client().Sys().HealthWithContext(ctx)
	if err != nil {
		return m, fmt.Errorf("asking Vault for its version: %w", err)
	}
	m.Vault = health.Version
	out, err := exec.CommandContext(ctx, w.binary, "--version").Output()
	if err != nil {
		return m, fmt.Errorf("asking mayfly-node for its version: %w", err)
	}
	if fields := strings.Fields(string(out)); len(fields) > 1 {
		m.Mayfly = fields[1]
	}
	return m, nil
}

// value finds a line such as "key : value".
func value(text []byte, key string) string {
	for line := range strings.Lines(string(text)) {
		name, v, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %.0f GB, Linux %s, %s, %s, Vault %s, mayfly-node %s, load average %s at the start",
		m.CPU, m.Cores, float64(m.Memory)/1e9, m.Kernel, m.Arch, m.Go, m.Vault, m.Mayfly, m.Load)
}
