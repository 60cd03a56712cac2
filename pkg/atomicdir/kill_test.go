package atomicdir

import (
	"bufio"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

const killChildEnv = "ATOMICDIR_TEST_KILL_DIR"

// killChild is the child process: it writes one generation after the other, and reports each, until
// it is killed.
func killChild(dir string) {
	d, err := Open(dir)
	n := 0
	if err == nil {
		n, err = liveGeneration(dir)
	}
	for err == nil {
		n++
		if _, err = d.Write(generation(n), Options{}); err == nil {
			fmt.Println(n)
		}
	}
	fmt.Println("error:", err)
	os.Exit(1)
}

// liveGeneration returns the number of the payload, which is -1 before the
// first one, and an error if the payload is not whole.
func liveGeneration(dir string) (int, error) {
	got, err := readLive(dir)
	if err != nil || got == nil {
		return -1, err
	}
	fields := strings.Fields(got["stable"]) // mode, user, group, number, filling
	if len(fields) < 4 {
		return 0, fmt.Errorf("payload is not whole: %q", got)
	}
	n, err := strconv.Atoi(fields[3])
	if err == nil && !maps.Equal(got, treeOf(generation(n)...)) {
		err = fmt.Errorf("payload is a mix: %q", got)
	}
	return n, err
}

// TestKill kills a writing process 50 times, at any instant.
func TestKill(t *testing.T) {
	path := newVolume(t)
	exe, err := os.Executable()
	testkit.Must(t, err)
	remains := 0
	last := -1
	for round := range 50 {
		said := killOnce(t, exe, path)
		n, err := liveGeneration(path)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		// A reported generation is there; the next one may be.
		if n < said || n > said+1 || n < last {
			t.Fatalf("round %d: generation %d is live, the writer said %d", round, n, said)
		}
		for _, name := range []string{"stable", "d/stable"} {
			if err := readLink(path+"/"+name, max(n, 1)); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if hasRemains(t, path, generation(n)) {
			remains++
		}
		if last = n; round%2 == 1 {
			continue // the next child recovers
		}
		d := open(t, path)
		last++
		mustWrite(t, d, Options{}, generation(last)...)
		sweep(t, d)
		checkExact(t, path, treeOf(generation(last)...))
		testkit.Must(t, d.Close())
	}
	if remains == 0 {
		t.Error("no kill left any remains: no Write was interrupted")
	}
	t.Logf("%d of 50 kills interrupted a Write; %d generations", remains, last)
}

// hasRemains reports whether a Write was interrupted: a payload is not open to readers yet, there
// is a temporary entry, or a link is missing or left over.
func hasRemains(t *testing.T, path string, files []File) bool {
	links := 0
	for _, name := range list(t, path) {
		switch {
		case name == dataTmp || name == linksTmp:
			return true
		case isPayloadName(name) && stat(t, path, name).Mode&0o077 == 0:
			return true
		case !strings.HasPrefix(name, ".."):
			links++
		}
	}
	return links != len(treeOf(files...).tops())
}

// killOnce starts a writer, kills it after a random number of Writes and a random moment, and
// returns the last generation that it reported.
func killOnce(t *testing.T, exe, path string) int {
	t.Helper()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), killChildEnv+"="+path)
	out, err := cmd.StdoutPipe()
	testkit.Must(t, err)
	testkit.Must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	var killing sync.WaitGroup
	said, killAt := 0, 1+rand.IntN(10)
	for i := 1; lines.Scan(); i++ {
		if said, err = strconv.Atoi(lines.Text()); err != nil {
			t.Errorf("writer: %s", lines.Text())
			break
		}
		if i == killAt {
			killing.Go(func() { killSoon(cmd) })
		}
	}
	_ = cmd.Process.Kill()
	killing.Wait()
	_ = cmd.Wait() // reports the kill
	return said
}

// killSoon spins for a random time. A timer would fire when this process wakes up, just after a
// report of the writer, so the writer would always die at the same step.
func killSoon(cmd *exec.Cmd) {
	for start, wait := time.Now(), time.Duration(rand.IntN(3000))*time.Microsecond; time.Since(start) < wait; {
	}
	_ = cmd.Process.Kill()
}
