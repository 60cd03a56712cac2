// Package page serves the node's status: GET /status for programs, GET /statusz for people, and
// POST /refresh, which refreshes a pod's volumes now. It shows no secret and escapes everything.
package page

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/statusz"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// Volumes are the node's volumes.
type Volumes interface {
	Statuses() []volume.Status
	Overview() volume.Overview
	// RefreshPod makes a pod's volumes due now, and returns their ids.
	RefreshPod(namespace, name string) []string
}

// Source is the data of the answers. Every field is needed.
type Source struct {
	Volumes  Volumes
	Failures *Failures
	Node     func() statusz.Node
	Stores   func() []statusz.Store
	Plugins  func() []statusz.Plugin
	// Loopback says that only this host, or a client that forwards a port to it, may ask.
	Loopback bool
}

const (
	// maxAnswers bounds the answers that are made or sent at once.
	maxAnswers = 4
	// restShare is how long the handler pauses after an answer, as a multiple of the time that the
	// answer took: a client that asks without a pause gets a tenth of one CPU.
	restShare = 9
	// patience is how long a request waits for the handler.
	patience = 5 * time.Second
)

// Handler serves the source.
func Handler(s *Source) http.Handler {
	h := &handler{Source: s, places: make(chan struct{}, maxAnswers), turn: make(chan struct{}, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusz.StatusPath, h.answerWith("application/json", h.json))
	mux.HandleFunc("GET "+statusz.PagePath, h.answerWith("text/html; charset=utf-8", h.html))
	mux.HandleFunc("POST "+statusz.RefreshPath, h.answerWith("application/json", h.refresh))
	mux.Handle("GET /{$}", http.RedirectHandler(statusz.PagePath, http.StatusFound))
	// A web page that a person has open must not reach the driver through a port that the same
	// person forwards: neither by a cross-origin request, nor by a host name of the page's author
	// that resolves to this host.
	return h.guard(http.NewCrossOriginProtection().Handler(mux))
}

type handler struct {
	*Source
	places chan struct{}
	turn   chan struct{} // one slot, for the request whose answer is made
}

func (h *handler) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", contentPolicy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		if h.Loopback && !namesHost(r.Host) {
			http.Error(w, "this address is served as localhost only", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// namesHost reports whether a request names an IP address or localhost.
func namesHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}

// errBusy asks the client to retry.
var errBusy = errors.New("other requests for the status are being answered: try again in a second")

// answerWith makes the whole answer in memory, of bounded size, and sends it while the next one may
// already be made.
func (h *handler) answerWith(kind string, build func(w *bytes.Buffer, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case h.places <- struct{}{}:
			defer func() { <-h.places }()
		default:
			refuse(w, errBusy)
			return
		}
		var answer bytes.Buffer
		if err := h.inTurn(r.Context(), func() error { return build(&answer, r) }); err != nil {
			refuse(w, err)
			return
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Content-Length", strconv.Itoa(answer.Len()))
		_, _ = w.Write(answer.Bytes())
	}
}

// inTurn runs one piece of work at a time, and pauses after each.
func (h *handler) inTurn(ctx context.Context, work func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return errBusy
	}
	began := time.Now()
	defer func() { time.AfterFunc(restShare*time.Since(began), func() { <-h.turn }) }()
	return work()
}

func refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, errBusy) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	http.Error(w, err.Error(), http.StatusBadRequest)
}

func (h *handler) json(w *bytes.Buffer, r *http.Request) error {
	values := r.URL.Query()
	q := query{namespace: values.Get("namespace"), pod: values.Get("pod"), class: values.Get("class"), after: values.Get("continue"), limit: maxVolumes}
	if given := values.Get("limit"); given != "" {
		n, err := strconv.Atoi(given)
		if err != nil || n < 1 {
			return fmt.Errorf("limit: must be a number from 1; an answer has at most %d volumes", maxVolumes)
		}
		q.limit = min(n, maxVolumes)
	}
	return encode(w, h.answer(q))
}

func encode(w *bytes.Buffer, v any) error {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}

func (h *handler) refresh(w *bytes.Buffer, r *http.Request) error {
	values := r.URL.Query()
	namespace, pod := values.Get("namespace"), values.Get("pod")
	if namespace == "" || pod == "" {
		return errors.New("namespace and pod: both must be given")
	}
	now := time.Now()
	ids := append([]string{}, h.Volumes.RefreshPod(namespace, pod)...)
	return encode(w, statusz.Refreshed{APIVersion: statusz.APIVersion, Kind: statusz.RefreshedKind, Now: now.UTC(), Volumes: ids})
}
