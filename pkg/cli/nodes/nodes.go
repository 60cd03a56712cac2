// Package nodes reads each node's status (docs/status.md) through a port-forward to the driver's
// pod.
package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/printable"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

const (
	// patience bounds the time for one node.
	patience = 10 * time.Second
	// atOnce is how many nodes are asked at the same time.
	atOnce = 6
	// maxIdle bounds the connections that stay open for the next request: each has compressors of
	// more than a megabyte.
	maxIdle = 6
	// maxAnswer bounds one page of a node's answer, in bytes.
	maxAnswer = 8 << 20
	// maxPages bounds the pages of one node.
	maxPages = 100
	// busyTries and busyPause are for a driver that is busy with other requests.
	busyTries = 5
	busyPause = time.Second
)

// Why a node does not answer.
var (
	ErrNoDriver = errors.New("no pod of the driver runs there")
	ErrOff      = errors.New("the driver's status is off (--status-address=off, the chart's status.address)")
)

// Nodes are the drivers of a cluster.
type Nodes struct {
	client *cluster.Client
	pods   map[string]*corev1.Pod // by node

	mu       sync.Mutex
	forwards map[string]*forward // by node
}

// Find finds the driver's pods. The CSIDriver object may be missing.
func Find(ctx context.Context, c *cluster.Client) (*Nodes, error) {
	driver, err := c.CSIDriver(ctx)
	if err != nil {
		driver = nil // the flag or the default may suffice
	}
	pods, err := c.DriverPods(ctx, c.DriverNamespace(driver), "")
	if err != nil {
		return nil, err
	}
	return Of(c, pods), nil
}

// Of returns the drivers of known pods. If a node has two, as during an upgrade, it uses the one
// that runs.
func Of(c *cluster.Client, pods []corev1.Pod) *Nodes {
	n := &Nodes{client: c, pods: map[string]*corev1.Pod{}, forwards: map[string]*forward{}}
	for i := range pods {
		p := &pods[i]
		if old := n.pods[p.Spec.NodeName]; p.Spec.NodeName != "" && serves(p, c.DriverName) && (old == nil || rank(p) > rank(old)) {
			n.pods[p.Spec.NodeName] = p
		}
	}
	return n
}

// serves reports whether a pod belongs to the driver of a name: two may run side by side.
func serves(p *corev1.Pod, driver string) bool {
	name, given := argument(p, "driver-name")
	return !given || name == driver
}

func rank(p *corev1.Pod) int {
	switch {
	case p.DeletionTimestamp != nil:
		return 0
	case p.Status.Phase != corev1.PodRunning:
		return 1
	}
	return 2
}

// argument is the value of a driver's flag.
func argument(p *corev1.Pod, flag string) (value string, given bool) {
	for _, c := range p.Spec.Containers {
		for _, arg := range c.Args {
			if rest, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), flag+"="); ok {
				value, given = rest, true
			}
		}
	}
	return value, given
}

// Names are the nodes that have a driver, sorted.
func (n *Nodes) Names() []string {
	var names []string
	for name := range n.pods {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Close closes the connections.
func (n *Nodes) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.forwards {
		f.close()
	}
	n.forwards = map[string]*forward{}
}

// Query selects a node's volumes; an empty field selects all.
type Query struct{ Namespace, Pod, Class string }

// Answer is one node's answer. Err is why there is none.
type Answer struct {
	Node   string
	Status statusz.Status
	Err    error
}

// Ask asks nodes, several at the same time, and passes on each answer as it arrives, one after the
// other.
func (n *Nodes) Ask(ctx context.Context, names []string, q Query, take func(Answer)) {
	places := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	var taking sync.Mutex
	for _, name := range names {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			a := Answer{Node: name}
			a.Status, a.Err = n.Status(ctx, name, q)
			taking.Lock()
			defer taking.Unlock()
			take(a)
		})
	}
	wg.Wait()
}

// Status reads all pages of one node.
func (n *Nodes) Status(ctx context.Context, node string, q Query) (statusz.Status, error) {
	var all statusz.Status
	values := url.Values{}
	for key, value := range map[string]string{"namespace": q.Namespace, "pod": q.Pod, "class": q.Class} {
		if value != "" {
			values.Set(key, value)
		}
	}
	for range maxPages {
		var page statusz.Status
		if err := n.exchange(ctx, node, http.MethodGet, statusz.StatusPath, values, &page); err != nil {
			return all, err
		}
		if page.APIVersion != statusz.APIVersion || page.Kind != statusz.Kind {
			return all, fmt.Errorf("it answers apiVersion %q and kind %q, and this command reads %s %s: use a kubectl-mayfly of the driver's version",
				printable.Text(page.APIVersion, 100), printable.Text(page.Kind, 100), statusz.APIVersion, statusz.Kind)
		}
		volumes := append(all.Volumes, page.Volumes...)
		if all.APIVersion == "" {
			all = page
		}
		all.Volumes, all.Total, all.Continue = volumes, page.Total, ""
		if page.Continue == "" {
			return all, nil
		}
		values.Set("continue", page.Continue)
	}
	return all, fmt.Errorf("it has more than %d pages", maxPages)
}

// Refresh refreshes a pod's volumes now.
func (n *Nodes) Refresh(ctx context.Context, node, namespace, pod string) (statusz.Refreshed, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out statusz.Refreshed
	err := n.exchange(ctx, node, http.MethodPost, statusz.RefreshPath, url.Values{"namespace": {namespace}, "pod": {pod}}, &out)
	return out, err
}

// exchange makes one request, and repeats it while the driver is busy, or if a reused connection
// has ended.
func (n *Nodes) exchange(ctx context.Context, node, method, path string, values url.Values, into any) error {
	for try := 1; ; try++ {
		f, reused, err := n.forward(ctx, node)
		if err != nil {
			return err
		}
		code, body, err := request(ctx, f, method, path, values)
		switch {
		case err != nil:
			n.drop(node, f)
			if !reused || try > 1 || ctx.Err() != nil {
				return fmt.Errorf("asking the driver: %w", err)
			}
		case code == http.StatusServiceUnavailable && try < busyTries:
			select {
			case <-time.After(busyPause):
			case <-ctx.Done():
				return errors.New("asking the driver: it answers for another driver name")
			}
		case code != http.StatusOK:
			return fmt.Errorf("the driver answers %d: %s", code, printable.Text(strings.TrimSpace(string(body)), 300))
		default:
			n.spare(node, f)
			if err := json.Unmarshal(body, into); err != nil {
				return fmt.Errorf("reading the driver's answer: %w", err)
			}
			return nil
		}
	}
}

// forward returns a connection to a node's driver, and whether it is a reused one.
func (n *Nodes) forward(ctx context.Context, node string) (f *forward, reused bool, err error) {
	n.mu.Lock()
	f = n.forwards[node]
	n.mu.Unlock()
	if f != nil {
		return f, true, nil
	}
	pod := n.pods[node]
	if pod == nil {
		return nil, false, ErrNoDriver
	}
	port, err := statusPort(pod)
	if err != nil {
		return nil, false, err
	}
	if f, err = dialForward(ctx, n.client, pod.Namespace, pod.Name, port); err != nil {
		return nil, false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forwards[node] = f
	return f, false, nil
}

// spare closes a connection if there are many.
func (n *Nodes) spare(node string, f *forward) {
	n.mu.Lock()
	many := len(n.forwards) > maxIdle
	n.mu.Unlock()
	if many {
		n.drop(node, f)
	}
}

func (n *Nodes) drop(node string, f *forward) {
	f.close()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.forwards[node] == f {
		delete(n.forwards, node)
	}
}

// statusPort is the port in the pod's command line.
func statusPort(pod *corev1.Pod) (int, error) {
	addr, given := argument(pod, "status-address")
	switch {
	case !given:
		return statusz.Port, nil
	case addr == "off" || addr == "":
		return 0, ErrOff
	}
	_, text, err := net.SplitHostPort(addr)
	if err == nil {
		var port int
		if port, err = strconv.Atoi(text); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("the driver's --status-address is %q, which has no port", printable.Text(addr, 100))
}

func request(ctx context.Context, f *forward, method, path string, values url.Values) (code int, body []byte, err error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return f.open() },
	}}
	address := url.URL{Scheme: "http", Host: net.JoinHostPort("localhost", strconv.Itoa(f.port)), Path: path, RawQuery: values.Encode()}
	r, err := http.NewRequestWithContext(ctx, method, address.String(), nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(r)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) {
			err = of.Err // without the address, which has no meaning here
		}
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("it has more than %d bytes", maxAnswer)
	}
	return resp.StatusCode, body, err
}
