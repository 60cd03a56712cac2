package crash

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// crashes is how often the driver is killed; MAYFLY_CRASHES sets another number.
func crashes(t *testing.T) int {
	text := os.Getenv("MAYFLY_CRASHES")
	if text == "" {
		return 200
	}
	n, err := strconv.Atoi(text)
	testkit.Must(t, err)
	return n
}

const (
	podCount = 6
	// staying of them live through the whole run, and so through renewals and replacements of their
	// credentials.
	staying = 2
	// meanLife is the driver's, from its start to the kill.
	meanLife = 70 * time.Millisecond
	// checkpointEvery is how many kills there are between two checkpoints.
	checkpointEvery = 10
)

// TestKilledAtAnyInstant kills the driver while pods come and go, secrets rotate and leases expire.
// A reader in every live volume must see a whole payload at all times; the database must accept the
// credentials in the files.
func TestKilledAtAnyInstant(t *testing.T) {
	w := newWorld(t, shortRole)
	w.start()
	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	pods := make([]*pod, podCount)
	var wg sync.WaitGroup
	for i := range pods {
		pods[i] = w.newPod(i)
		wg.Go(func() { pods[i].live(ctx) })
		wg.Go(func() { pods[i].read(ctx) })
	}
	wg.Go(func() { w.rotateUntil(ctx) })
	logins := 0
	for i := range crashes(t) {
		w.letLive(pods)
		w.kill()
		if i%checkpointEvery == 0 {
			logins += checkpoint(pods)
		}
		w.start()
	}
	stop()
	wg.Wait()
	w.kill()
	logins += checkpoint(pods)
	w.start()
	w.wantRealWork(pods, logins, time.Since(began))
	for _, p := range pods {
		p.end()
	}
	w.wantNothingLeft(pods)
}

// letLive waits until the driver's next kill. Any instant is as likely as any other, unless some
// pod has starved: on a busy machine no driver would finish anything before it is killed.
func (w *world) letLive(pods []*pod) {
	for {
		time.Sleep(min(time.Duration(rand.ExpFloat64()*float64(meanLife)), 10*meanLife))
		if !slices.ContainsFunc(pods, (*pod).starves) {
			return
		}
	}
}

// checkpoint logs in to the database as every live pod could, and counts the
// logins. The driver is dead, so that the files stay as they are meanwhile.
func checkpoint(pods []*pod) int {
	var wg sync.WaitGroup
	var mu sync.Mutex
	n := 0
	for _, p := range pods {
		wg.Go(func() {
			if p.logIn() {
				mu.Lock()
				defer mu.Unlock()
				n++
			}
		})
	}
	wg.Wait()
	return n
}

// wantRealWork checks that enough has happened for the test to mean anything, and that restarts
// alone have issued no credentials.
func (w *world) wantRealWork(pods []*pod, logins int, took time.Duration) {
	w.t.Helper()
	counts, err := w.vault.CountRequests(w.t.Context(), w.began)
	testkit.Must(w.t, err)
	reads, published := 0, 0
	for _, p := range pods {
		reads += int(p.reads.Load())
		published += p.published
	}
	renewals, made := counts["sys/leases/renew"], counts[w.credentials()]
	w.t.Logf("%s: %d kills, %d publishes, %d whole payloads read; %d database credentials made, %d renewals, %d database logins",
		took.Round(time.Second), crashes(w.t), published, reads, made, renewals, logins)
	if published <= podCount || reads == 0 || renewals == 0 || logins == 0 {
		w.t.Error("nothing was tested")
	}
	for _, p := range pods[:staying] {
		// None is replaced before it is due, however often the driver starts.
		most := 2 + int(took/leaseShortest)
		for what, had := range map[string]int{"database users": len(p.users), "certificates": len(p.certificates)} {
			if had < 2 {
				w.t.Errorf("pod %s had %d %s in %s: a run must outlive a lease of %s", p.UID, had, what, took, shortMaxTTL)
			}
			if had > most {
				w.t.Errorf("pod %s had %d %s, want %d at the most", p.UID, had, what, most)
			}
		}
	}
}

// wantNothingLeft waits until the last login that a kill orphaned has expired, and with it its
// database users.
//
// A kill also interrupts a request, which Vault then drops half-way: it may have made a database
// user without a lease, or recorded half of a lease. No pod has ever seen such a user, and the
// database refuses it after its expiry; such a lease has no token any more.
func (w *world) wantNothingLeft(pods []*pod) {
	w.t.Helper()
	w.eventually("every record is gone", func() bool {
		left, err := filepath.Glob(filepath.Join(w.dir, "state/volumes/*"))
		return err == nil && len(left) == 0
	})
	w.eventually("every Vault token, lease and database user of a pod has ended", func() bool {
		return w.liveTokens() == 0 && w.liveLeases() <= w.halfLeases() && w.liveUsers() == 0
	})
	for _, p := range pods {
		if left := w.exist(p.users); left > 0 {
			w.t.Errorf("%d database users that pod %s had are left", left, p.UID)
		}
	}
	for _, m := range w.mounts() {
		if m != filepath.Join(w.dir, "state") {
			w.t.Errorf("a mount is left: %s", m)
		}
	}
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain until %s (%d tokens, %d leases, %d users)", what, w.liveTokens(), w.liveLeases(), w.liveUsers())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *world) rotateUntil(ctx context.Context) {
	for generation := 1; ctx.Err() == nil; generation++ {
		if err := w.rotate(generation); err != nil {
			w.t.Errorf("rotating: %v", err)
			return
		}
		w.rotated.Store(generation, time.Now())
		pause(ctx, 100*time.Millisecond)
	}
}

func pause(ctx context.Context, most time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(rand.Int64N(int64(most)))):
	}
}

// TestRestartMakesNothingNew: after kill -9 the driver goes on with its Vault tokens, certificates
// and database credentials.
func TestRestartMakesNothingNew(t *testing.T) {
	w := newWorld(t, longRole)
	w.start()
	pods := make([]*pod, podCount)
	for i := range pods {
		pods[i] = w.newPod(i)
		pods[i].begin(0)
		testkit.Must(t, pods[i].publish(t.Context()))
		pods[i].set(true)
	}
	// The first refresh after the publish is the first for which pods share a login.
	testkit.Must(t, w.rotate(1))
	w.eventually("every pod has looked again", func() bool { return holds(pods, 1) })
	before := payloads(t, pods)
	mark, err := w.vault.Mark()
	testkit.Must(t, err)
	for range 10 {
		w.kill()
		if n := checkpoint(pods); n != podCount {
			t.Errorf("%d of %d pods have a credential that the database takes", n, podCount)
		}
		w.start()
		for _, p := range pods {
			testkit.Must(t, p.publish(t.Context()))
		}
	}
	testkit.Must(t, w.rotate(7))
	w.eventually("the rotation goes on", func() bool { return holds(pods, 7) })
	counts, err := w.vault.CountRequests(t.Context(), mark)
	testkit.Must(t, err)
	for _, path := range []string{"auth/kubernetes/login", "pki/issue/web", w.credentials()} {
		if counts[path] != 0 {
			t.Errorf("ten restarts made %d requests to %s: %v", counts[path], path, counts)
		}
	}
	for i, after := range payloads(t, pods) {
		if after.certificate != before[i].certificate || after.user != before[i].user || after.password != before[i].password {
			t.Errorf("pod %s has another certificate or credential than before", pods[i].UID)
		}
	}
	for _, p := range pods {
		p.end()
		if _, err := os.Lstat(filepath.Dir(w.Target(p.Pod))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the pod's directory is left: %v", err)
		}
	}
	w.eventually("every Vault token, lease and database user has ended", func() bool {
		return w.liveTokens() == 0 && w.liveLeases() == 0 && w.postgres.Users(t) == 0
	})
}

func holds(pods []*pod, generation int) bool {
	for _, p := range pods {
		if got, err := readPayload(p.w.Target(p.Pod)); err != nil || got.generation != generation {
			return false
		}
	}
	return true
}

func payloads(t *testing.T, pods []*pod) []payload {
	t.Helper()
	all := make([]payload, len(pods))
	for i, p := range pods {
		var err error
		if all[i], err = readPayload(p.w.Target(p.Pod)); err != nil {
			t.Fatal(fmt.Errorf("pod %s read %w", p.UID, err))
		}
	}
	return all
}
