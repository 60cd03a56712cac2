package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/bench/driver"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// node is one driver and its simulated kubelet.
type node struct {
	*world
	name    string
	args    []string
	env     []string
	store   store
	driver  *driver.Process
	kubelet *kubelet.Kubelet
}

// apiNode reads classes from the API server, dirNode from a directory.
func (w *world) apiNode(name string, flags ...string) *node {
	return &node{world: w, name: name, store: vaultStore{w}, args: append(flags, "--kubeconfig="+w.kubeconfig())}
}

func (w *world) dirNode(name string) *node {
	return &node{world: w, name: name, store: vaultStore{w}, args: []string{"--class-dir=" + w.classDir()}}
}

// start starts the driver, also after a kill.
func (n *node) start(ctx context.Context) (err error) {
	dir := filepath.Join(n.dir, n.name)
	n.driver, err = driver.Start(ctx, driver.Options{
		Binary: n.binary, Dir: dir, Args: append([]string{"--log-level=warn", "--allow-local-addresses"}, n.args...), Env: n.env,
	})
	if err != nil {
		return err
	}
	n.kubelet, err = kubelet.Dial(filepath.Join(dir, "kubelet"), n.driver.Socket)
	return err
}

// while starts the driver, works, and stops it.
func (n *node) while(ctx context.Context, work func() error) error {
	if err := n.start(ctx); err != nil {
		return err
	}
	return errors.Join(work(), n.stop())
}

// inOrder does one step after the other, up to the first that fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) stop() error {
	return errors.Join(n.kubelet.Close(), n.driver.Stop())
}

func (n *node) kill() error {
	return errors.Join(n.kubelet.Close(), n.driver.Kill())
}

func (n *node) publish(ctx context.Context, pods []kubelet.Pod) error {
	_, err := n.timedPublishes(ctx, pods)
	return err
}

// timedPublishes publishes all pods, atOnce at a time, and returns how long it took. It makes the pods'
// directories, which are kubelet's work, before.
func (n *node) timedPublishes(ctx context.Context, pods []kubelet.Pod) (time.Duration, error) {
	for _, p := range pods {
		if err := os.MkdirAll(filepath.Dir(n.kubelet.Target(p)), 0o750); err != nil {
			return 0, fmt.Errorf("making the directory of pod %s: %w", p.Name, err)
		}
	}
	return n.each(ctx, pods, "publishing", n.kubelet.Publish)
}

func (n *node) unpublish(ctx context.Context, pods []kubelet.Pod) error {
	_, err := n.each(ctx, pods, "unpublishing", n.kubelet.Unpublish)
	return err
}

// unpublishGood unpublishes volumes that still have their first values.
func (n *node) unpublishGood(ctx context.Context, pods []kubelet.Pod) error {
	if err := n.check(pods, "1"); err != nil {
		return err
	}
	return n.unpublish(ctx, pods)
}

func (n *node) each(ctx context.Context, pods []kubelet.Pod, doing string, do func(context.Context, kubelet.Pod) error) (time.Duration, error) {
	return burst(ctx, n.atOnce, pods, func(ctx context.Context, i int) error {
		if err := do(ctx, pods[i]); err != nil {
			return fmt.Errorf("%s the volume of pod %s: %w", doing, pods[i].Name, err)
		}
		return nil
	})
}

// burst does the work of each pod, atOnce at a time, and returns how long it took.
func burst(ctx context.Context, atOnce int, pods []kubelet.Pod, do func(ctx context.Context, i int) error) (time.Duration, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	began := time.Now()
	for i := range pods {
		g.Go(func() error { return do(ctx, i) })
	}
	err := g.Wait()
	return time.Since(began), err
}

// republishAll repeats the publish of every volume, one at a time, and returns the sorted times of
// the calls.
func (n *node) republishAll(ctx context.Context, pods []kubelet.Pod, times int) ([]time.Duration, error) {
	took := make([]time.Duration, 0, len(pods)*times)
	for range times {
		for _, p := range pods {
			request := n.kubelet.PublishRequest(p)
			began := time.Now()
			if _, err := n.kubelet.Node.NodePublishVolume(ctx, request); err != nil {
				return nil, fmt.Errorf("republishing the volume of pod %s: %w", p.Name, err)
			}
			took = append(took, time.Since(began))
		}
	}
	slices.Sort(took)
	return took, nil
}

// emptyCalls returns the sorted times of as many calls that do nothing but answer.
func (n *node) emptyCalls(ctx context.Context, calls int) ([]time.Duration, error) {
	took := make([]time.Duration, calls)
	for i := range took {
		began := time.Now()
		if _, err := n.kubelet.Node.NodeGetCapabilities(ctx, &csipb.NodeGetCapabilitiesRequest{}); err != nil {
			return nil, fmt.Errorf("a call that does nothing: %w", err)
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took, nil
}

func (n *node) check(pods []kubelet.Pod, value string) error {
	for _, p := range pods {
		got, err := n.kubelet.Read(p)
		if err != nil {
			return fmt.Errorf("reading the volume of pod %s: %w", p.Name, err)
		}
		if want := wanted(p.Class, value); !maps.Equal(got, want) {
			return fmt.Errorf("the volume of pod %s holds %v, not %v", p.Name, got, want)
		}
	}
	return nil
}

// waitNew waits until all volumes have a value.
func (n *node) waitNew(ctx context.Context, limit time.Duration, pods []kubelet.Pod, value string) error {
	missing := slices.Clone(pods)
	err := poll(ctx, limit, "not", 5*time.Millisecond, func() (bool, error) {
		var unreadable error
		missing = slices.DeleteFunc(missing, func(p kubelet.Pod) bool {
			got, err := n.kubelet.Read(p)
			unreadable = errors.Join(unreadable, err)
			return maps.Equal(got, wanted(p.Class, value))
		})
		return len(missing) == 0, unreadable
	})
	if len(missing) > 0 {
		return fmt.Errorf("%d volumes are not new: %w", len(missing), err)
	}
	return err
}

// poll asks again and again until done says so or fails. missing is the error's text, before the limit.
func poll(ctx context.Context, limit time.Duration, missing string, every time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s within %s", missing, limit))
	defer cancel()
	return testkit.Poll(ctx, every, done)
}

// tmpfsBytes is the size of the volumes and the driver's state.
func (n *node) tmpfsBytes(pods podList) (int64, error) {
	places := []string{filepath.Join(n.dir, n.name, "state")}
	for _, p := range pods {
		places = append(places, n.kubelet.Target(p))
	}
	total := int64(0)
	for _, place := range places {
		var st unix.Statfs_t
		if err := unix.Statfs(place, &st); err != nil {
			return 0, fmt.Errorf("measuring %q: %w", place, err)
		}
		total += int64(st.Blocks-st.Bfree) * st.Bsize
	}
	return total, nil
}
