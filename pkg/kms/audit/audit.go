// Package audit writes a JSON line for each Encrypt and Decrypt: the caller, the key id, and the
// ids in the audit logs of the API server and Vault.
//
// Observe returns at once: lines wait in a bounded queue for the one goroutine that writes. If the
// queue is full the line is lost; the next line has the count of lost lines.
package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/pkg/audit/sink"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/printable"
)

// apiVersion is the version of a line. The driver's audit trail has the same one, with other
// events.
const apiVersion = chain.Version

// Kind is a call that is logged.
type Kind string

// The kinds.
const (
	Encrypt Kind = "encrypt"
	Decrypt Kind = "decrypt"
)

// Peer is the process that called. Its pid is in the plugin's pid namespace.
type Peer struct {
	PID int32  `json:"pid"`
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// Event is one call.
type Event struct {
	Kind Kind
	// UID is the API server's id of the call.
	UID   string
	KeyID string
	Peer  Peer
	// By is what answered: vault, local-key or memory.
	By string
	// Correlation is the id in Vault's audit log.
	Correlation string
	Code        codes.Code
	Err         error
	Took        time.Duration
}

type line struct {
	APIVersion     string   `json:"apiVersion"`
	Time           string   `json:"time"`
	Event          Kind     `json:"event"`
	Outcome        string   `json:"outcome"`
	Reason         string   `json:"reason,omitempty"`
	Error          string   `json:"error,omitempty"`
	Node           string   `json:"node"`
	UID            string   `json:"uid"`
	KeyID          string   `json:"keyID,omitempty"`
	Peer           Peer     `json:"peer"`
	AnsweredBy     string   `json:"answeredBy,omitempty"`
	CorrelationIDs []string `json:"correlationIDs,omitempty"`
	DurationMS     float64  `json:"durationMS"`
	Lost           int      `json:"lost,omitempty"`
}

const (
	waiting = 4096
	maxText = 4 << 10
	// A failed write is retried after firstPause, then less often.
	firstPause = 250 * time.Millisecond
	maxPause   = 15 * time.Second
)

// Meter counts lines. It must not block.
type Meter interface {
	AuditWritten()
	AuditLost()
	AuditFailed()
}

// Log writes lines.
type Log struct {
	node  string
	out   *sink.Writer
	meter Meter
	log   *slog.Logger
	queue chan line

	mu   sync.Mutex
	lost int
}

// New opens the file, or uses stdout for "-". An empty path writes nothing.
func New(path string, stdout io.Writer, node string, meter Meter, log *slog.Logger) (*Log, error) {
	l := &Log{node: node, meter: meter, log: log, queue: make(chan line, waiting)}
	if path == "" {
		return l, nil
	}
	if path == "-" && stdout == nil {
		return nil, errors.New("audit: there is no standard output")
	}
	var err error
	l.out, err = sink.OpenChain(path, stdout, nil, log)
	return l, err
}

// Observe queues a line.
func (l *Log) Observe(e Event) {
	if l.out == nil {
		return
	}
	x := line{
		APIVersion: apiVersion, Time: chain.Time(time.Now()), Event: e.Kind, Outcome: "success", Node: l.node,
		UID: clip(e.UID), KeyID: clip(e.KeyID), Peer: e.Peer, AnsweredBy: e.By, DurationMS: float64(e.Took.Microseconds()) / 1000,
	}
	if e.Err != nil {
		x.Outcome, x.Reason, x.Error = "failure", string(fault.Of(e.Err)), clip(e.Err.Error())
	}
	if e.Correlation != "" {
		x.CorrelationIDs = []string{e.Correlation}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	x.Lost = l.lost
	select {
	case l.queue <- x:
		l.lost = 0
	default:
		l.lost++
		l.meter.AuditLost()
	}
}

func clip(s string) string { return printable.Cut(s, maxText) }

// Run writes until ctx ends, and then tries once to write what is waiting.
func (l *Log) Run(ctx context.Context) error {
	if l.out == nil {
		return nil
	}
	defer l.out.Close()
	for {
		select {
		case x := <-l.queue:
			l.put(ctx, x)
			continue
		case <-ctx.Done():
		}
		select {
		case x := <-l.queue:
			l.put(ctx, x)
		default:
			return nil
		}
	}
}

func (l *Log) put(ctx context.Context, x line) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(x) // texts and numbers always encode
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		_, err := l.out.Write(text.Bytes())
		if err == nil {
			l.meter.AuditWritten()
			return
		}
		l.meter.AuditFailed()
		if pause == firstPause {
			l.log.Error("writing the audit log fails; lines wait, and are lost once too many do", logkey.Error, err)
		}
		if ctx.Err() != nil {
			l.meter.AuditLost()
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}
