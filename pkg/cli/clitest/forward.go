package clitest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

// driver is the answers of a node's driver. Its document is
//
//	{apiVersion: recorded, kind: NodeStatus, pod: NAMESPACE/NAME, status: {…}, refreshed: {…}}
//
// where refreshed is the status after a refresh of a pod, or an edit of a class.
type driver struct {
	status, refreshed *statusz.Status
	// refused is kubelet's error for the port.
	refused string
	done    bool
}

// Drive makes a pod of the driver answer with a status, over existing connections too.
func (a *API) Drive(pod string, status statusz.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := a.drivers[pod]; d != nil {
		d.status, d.refreshed = &status, nil
		return
	}
	a.drivers[pod] = &driver{status: &status}
}

// forwarded answers a port-forward to a driver's pod; it reports whether the request was one.
func (a *API) forwarded(w http.ResponseWriter, r *http.Request) bool {
	t, ok := parse(r.URL.Path)
	if !ok || t.resource != "pods" || t.sub != "portforward" {
		return false
	}
	a.mu.Lock()
	a.requests = append(a.requests, r.Method+" "+r.URL.RequestURI())
	d, denied, hung := a.drivers[t.namespace+"/"+t.name], a.denies(r, t), a.hung
	a.mu.Unlock()
	switch {
	case hung != nil:
		<-hung
	case denied != nil:
		fail(w, denied)
	case d == nil || !httpstream.IsUpgradeRequest(r):
		http.Error(w, "there is no such pod", http.StatusBadGateway)
	case r.Method != http.MethodPost:
		http.Error(w, "this server speaks only SPDY", http.StatusBadRequest)
	default:
		a.forward(w, r, d)
	}
	return true
}

func (a *API) forward(w http.ResponseWriter, r *http.Request, d *driver) {
	if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		return
	}
	failures := make(chan httpstream.Stream, 64)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
			failures <- s
			return nil
		}
		go a.serve(s, <-failures, d)
		return nil
	})
	if conn != nil {
		<-conn.CloseChan()
	}
}

// serve answers one request on a stream, as the driver behind its port does.
func (a *API) serve(data, failures httpstream.Stream, d *driver) {
	defer func() { _ = data.Close() }()
	defer func() { _ = failures.Close() }()
	if d.refused != "" {
		_, _ = io.WriteString(failures, d.refused)
		return
	}
	r, err := http.ReadRequest(bufio.NewReader(data))
	if err != nil {
		return
	}
	answer := httptest.NewRecorder()
	a.answer(answer, r, d)
	resp := answer.Result()
	resp.ContentLength = int64(answer.Body.Len())
	_ = resp.Write(data)
}

func (a *API) answer(w http.ResponseWriter, r *http.Request, d *driver) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, "node: "+r.Method+" "+r.URL.RequestURI())
	values := r.URL.Query()
	if d.done && d.refreshed != nil {
		d.status = d.refreshed
	}
	out := *d.status
	out.APIVersion, out.Kind = statusz.APIVersion, statusz.Kind
	out.Volumes = nil
	for _, v := range d.status.Volumes {
		if fits(values.Get("namespace"), v.Namespace) && fits(values.Get("pod"), v.Pod) && fits(values.Get("class"), v.Class) {
			out.Volumes = append(out.Volumes, v)
		}
	}
	out.Total = len(out.Volumes)
	var body any = out
	if r.Method == http.MethodPost {
		d.done = true
		ids := []string{}
		for _, v := range out.Volumes {
			ids = append(ids, v.ID)
		}
		body = statusz.Refreshed{APIVersion: statusz.APIVersion, Kind: statusz.RefreshedKind, Now: out.Now, Volumes: ids}
	}
	text, _ := json.Marshal(body)
	write(w, http.StatusOK, text)
}

func fits(want, have string) bool { return want == "" || want == have }

// loadDriver loads a NodeStatus document.
func (a *API) loadDriver(doc []byte) error {
	var d struct {
		Pod, Refused      string
		Status, Refreshed *statusz.Status
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		return err
	}
	if !strings.Contains(d.Pod, "/") || d.Status == nil && d.Refused == "" {
		return fmt.Errorf("NodeStatus of %q: pod must be NAMESPACE/NAME, and status or refused be given", d.Pod)
	}
	a.drivers[d.Pod] = &driver{status: d.Status, refreshed: d.Refreshed, refused: d.Refused}
	return nil
}

// Hang leaves all port-forwards without an answer from now on, until the server stops.
func (a *API) Hang() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hung = make(chan struct{})
}
