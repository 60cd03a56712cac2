package trace

import (
	"strconv"

	"go.opentelemetry.io/otel/attribute"
)

// The attributes of spans. Those without the prefix mayfly are of OpenTelemetry's
// semantic conventions; kubelet's own spans have the same ones for the pod.
const (
	KeyPodUID       = "k8s.pod.uid"
	KeyPodName      = "k8s.pod.name"
	KeyPodNamespace = "k8s.namespace.name"
	KeyVolume       = "mayfly.volume"
	KeyClass        = "mayfly.class"
	KeyProvider     = "mayfly.provider"
	// KeyAsked has the correlation ids of all requests for a piece of work,
	// including those of another volume whose answer it shares. KeyCorrelation has
	// that of one request.
	KeyAsked       = "mayfly.correlation_ids"
	KeyCorrelation = "mayfly.correlation_id"
	KeyChanged     = "mayfly.changed"
	KeyReason      = "error.type"
	KeyServer      = "server.address"
	KeyPort        = "server.port"
	KeyStatus      = "http.response.status_code"
	KeyResend      = "http.request.resend_count"
)

// Keys returns all of them.
func Keys() []string {
	return []string{
		KeyPodUID, KeyPodName, KeyPodNamespace, KeyVolume, KeyClass, KeyProvider, KeyAsked, KeyCorrelation, KeyChanged, KeyReason,
		KeyServer, KeyPort, KeyStatus, KeyResend,
	}
}

// Result is the result of a piece of work, without its failure.
type Result struct {
	Provider string
	Asked    []string
	Changed  bool
}

// maxAsked bounds the ids of a span: a class decides how many requests there are, and
// a store how long its ids are. The audit trail and the log have more of them.
const maxAsked = 64

// Result records the result of the work.
func (s Span) Result(r Result) {
	if !s.On() {
		return
	}
	all := make([]attribute.KeyValue, 0, 3)
	all = append(all, attribute.Bool(KeyChanged, r.Changed))
	if r.Provider != "" {
		all = append(all, attribute.String(KeyProvider, r.Provider))
	}
	if len(r.Asked) > 0 {
		all = append(all, attribute.StringSlice(KeyAsked, r.Asked[:min(len(r.Asked), maxAsked)]))
	}
	s.s.set(all...)
}

// Correlation records the id of the request in the log of the other side; an empty
// id records nothing.
func (s Span) Correlation(id string) {
	if s.On() && id != "" {
		s.s.set(attribute.String(KeyCorrelation, id))
	}
}

// Exchange is one request to a store.
type Exchange struct {
	// Host and Port are the server's; Port is empty for a socket.
	Host, Port string
	// Status is 0 if there was no answer.
	Status int
	// Correlation is the id of the request in the store's log; empty for none.
	Correlation string
	// Again is the number of earlier attempts of the same request.
	Again int
}

// Exchange records the request.
func (s Span) Exchange(x Exchange) {
	if !s.On() {
		return
	}
	all := make([]attribute.KeyValue, 0, 5)
	all = append(all, attribute.String(KeyServer, x.Host))
	if port, err := strconv.Atoi(x.Port); err == nil {
		all = append(all, attribute.Int(KeyPort, port))
	}
	if x.Status != 0 {
		all = append(all, attribute.Int(KeyStatus, x.Status))
	}
	if x.Correlation != "" {
		all = append(all, attribute.String(KeyCorrelation, x.Correlation))
	}
	if x.Again > 0 {
		all = append(all, attribute.Int(KeyResend, x.Again))
	}
	s.s.set(all...)
}
