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
	return testkit.Value(strconv.Atoi(text))(t)
}

const (
	podCount  = 6
	longLived = 2 // of them run until the end, so their credentials are renewed and replaced
	// meanLife is the driver's, from its start to the kill.
	meanLife = 70 * time.Millisecond
	// checkpointEvery is how many kills there are between two checkpoints.
	checkpointEvery = 10
)

// TestKilledAtAnyInstant kills the driver while pods come and go, secrets rotate and leases expire.
// A reader in every live volume must see a whole payload at all times; the database must accept the
// credentials in the files.
func TestKilledAtAnyInstant(t *testing.T) {
	env := newEnvironment(t, shortRole)
	env.start()
	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	pods := make([]*pod, podCount)
	var wg sync.WaitGroup
	for i := range pods {
		pods[i] = env.newPod(i)
		wg.Go(func() { pods[i].run(ctx) })
		wg.Go(func() { pods[i].read(ctx) })
	}
	wg.Go(func() { env.rotateUntil(ctx) })
	logins := 0
	for i := range crashes(t) {
		env.awaitNextKill(pods)
		env.kill()
		if i%checkpointEvery == 0 {
			logins += checkpoint(pods)
		}
		env.start()
	}
	stop()
	wg.Wait()
	env.kill()
	logins += checkpoint(pods)
	env.start()
	env.checkWorkDone(pods, logins, time.Since(began))
	for _, p := range pods {
		p.end()
	}
	env.checkNothingLeft(pods)
}

// awaitNextKill waits for a random time, and longer while a pod waits too long: on a busy machine no
// driver would finish a publish before it is killed.
func (env *environment) awaitNextKill(pods []*pod) {
	for {
		time.Sleep(min(time.Duration(rand.ExpFloat64()*float64(meanLife)), 10*meanLife))
		if !slices.ContainsFunc(pods, (*pod).waitsTooLong) {
			return
		}
	}
}

// checkpoint logs in to the database with the files of every pod, and counts the logins. The driver does
// not run, so the files do not change meanwhile.
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

// checkWorkDone checks that publishes, renewals and logins happened, and that restarts alone issued no
// credentials.
func (env *environment) checkWorkDone(pods []*pod, logins int, took time.Duration) {
	env.t.Helper()
	counts := testkit.Value(env.vault.CountRequests(env.t.Context(), env.began))(env.t)
	reads, published := 0, 0
	for _, p := range pods {
		reads += int(p.reads.Load())
		published += p.published
	}
	renewals, made := counts["sys/leases/renew"], counts[env.credentials()]
	env.t.Logf("%s: %d kills, %d publishes, %d whole payloads read; %d database credentials made, %d renewals, %d database logins",
		took.Round(time.Second), crashes(env.t), published, reads, made, renewals, logins)
	if published <= podCount || reads == 0 || renewals == 0 || logins == 0 {
		env.t.Error("no publish, read, renewal or login happened")
	}
	for _, p := range pods[:longLived] {
		// A restart replaces no credential before it is due.
		most := 2 + int(took/leaseShortest)
		for what, had := range map[string]int{"database users": len(p.users), "certificates": len(p.certificates)} {
			if had < 2 {
				env.t.Errorf("pod %s had %d %s in %s: a run must outlive a lease of %s", p.UID, had, what, took, shortMaxTTL)
			}
			if had > most {
				env.t.Errorf("pod %s had %d %s, want %d at the most", p.UID, had, what, most)
			}
		}
	}
}

// checkNothingLeft waits until no record, Vault token, lease or database user is left. A login without
// a record, because of a kill, expires after tokenTTL with its database users. A kill also interrupts
// requests: Vault may have made a database user without a lease, which no pod has seen and which
// expires, or recorded half of a lease, which has no token.
func (env *environment) checkNothingLeft(pods []*pod) {
	env.t.Helper()
	env.eventually("every record is gone", func() bool {
		left, err := filepath.Glob(filepath.Join(env.dir, "state/volumes/*"))
		return err == nil && len(left) == 0
	})
	env.eventually("every Vault token, lease and database user of a pod has ended", func() bool {
		return env.liveTokens() == 0 && env.liveLeases() <= env.halfLeases() && env.liveUsers() == 0
	})
	for _, p := range pods {
		if left := env.exist(p.users); left > 0 {
			env.t.Errorf("%d database users that pod %s had are left", left, p.UID)
		}
	}
	for _, m := range env.mounts() {
		if m != filepath.Join(env.dir, "state") {
			env.t.Errorf("a mount is left: %s", m)
		}
	}
}

func (env *environment) eventually(what string, ok func() bool) {
	env.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			env.t.Fatalf("timed out waiting until %s (%d tokens, %d leases, %d users)", what, env.liveTokens(), env.liveLeases(), env.liveUsers())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (env *environment) rotateUntil(ctx context.Context) {
	for generation := 1; ctx.Err() == nil; generation++ {
		if err := env.rotate(generation); err != nil {
			env.t.Errorf("rotating: %v", err)
			return
		}
		env.rotated.Store(generation, time.Now())
		pause(ctx, 100*time.Millisecond)
	}
}

func pause(ctx context.Context, most time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(rand.Int64N(int64(most)))):
	}
}

// TestRestartReusesCredentials: after kill -9 the driver uses its Vault tokens, certificates and
// database credentials again.
func TestRestartReusesCredentials(t *testing.T) {
	env := newEnvironment(t, longRole)
	env.start()
	pods := make([]*pod, podCount)
	for i := range pods {
		pods[i] = env.newPod(i)
		pods[i].begin(0)
		testkit.Must(t, pods[i].publish(t.Context()))
		pods[i].set(true)
	}
	// Pods share a login from the first refresh after the publish on.
	testkit.Must(t, env.rotate(1))
	env.eventually("every pod has been refreshed", func() bool { return allHave(pods, 1) })
	before := payloads(t, pods)
	mark := testkit.Value(env.vault.Mark())(t)
	for range 10 {
		env.kill()
		if n := checkpoint(pods); n != podCount {
			t.Errorf("%d of %d pods have a credential that the database accepts", n, podCount)
		}
		env.start()
		for _, p := range pods {
			testkit.Must(t, p.publish(t.Context()))
		}
	}
	testkit.Must(t, env.rotate(7))
	env.eventually("every pod has the rotated secret", func() bool { return allHave(pods, 7) })
	counts := testkit.Value(env.vault.CountRequests(t.Context(), mark))(t)
	for _, path := range []string{"auth/kubernetes/login", "pki/issue/web", env.credentials()} {
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
		if _, err := os.Lstat(filepath.Dir(env.Target(p.Pod))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the pod's directory is left: %v", err)
		}
	}
	env.eventually("every Vault token, lease and database user has ended", func() bool {
		return env.liveTokens() == 0 && env.liveLeases() == 0 && env.postgres.Users(t) == 0
	})
}

func allHave(pods []*pod, generation int) bool {
	for _, p := range pods {
		if got, err := readPayload(p.env.Target(p.Pod)); err != nil || got.generation != generation {
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
		if all[i], err = readPayload(p.env.Target(p.Pod)); err != nil {
			t.Fatal(fmt.Errorf("pod %s read %w", p.UID, err))
		}
	}
	return all
}
