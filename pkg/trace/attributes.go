package trace

import (
	"strconv"

	"go.opentelemetry.io/otel/attribute"
)

// The attributes of spans. Those without mayfly in front are of OpenTelemetry's
// semantic conventions; kubelet's own spans have the pod by the same.
const (
	KeyPodUID       = "k8s.pod.uid"
	KeyPodName      = "k8s.pod.name"
	KeyPodNamespace = "k8s.namespace.name"
	KeyVolume       = "mayfly.volume"
	KeyClass        = "mayfly.class"
	KeyProvider     = "mayfly.provider"
	// KeyAsked has the correlation ids of all requests of a piece of work, those of
	// answers included that it shares with another; KeyCorrelation that of one
	// request.
	KeyAsked       = "mayfly.correlation_ids"
	KeyCorrelation = "mayfly.correlation_id"
	KeyChanged     = "mayfly.changed"
	KeyReason      = "error.type"
	KeyServer      = "server.address"
	KeyPort        = "server.port"
	KeyStatus      = "http.response.status_code"
	KeyResend      = "http.request.resend_count"
)

// Keys are all of them.
func Keys() []string {
	return []string{
		KeyPodUID, KeyPodName, KeyPodNamespace, KeyVolume, KeyClass, KeyProvider, KeyAsked, KeyCorrelation, KeyChanged, KeyReason,
		KeyServer, KeyPort, KeyStatus, KeyResend,
	}
}

// Result is what came of a piece of work, beside its failure.
type Result struct {
	Provider string
	Asked    []string
	Changed  bool
}

// Result says what came of the work.
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
		all = append(all, attribute.StringSlice(KeyAsked, r.Asked))
	}
	s.s.SetAttributes(all...)
}

// Correlation says by what the other side knows the request; an empty id says
// nothing.
func (s Span) Correlation(id string) {
	if s.On() && id != "" {
		s.s.SetAttributes(attribute.String(KeyCorrelation, id))
	}
}

// Exchange is one request to a store.
type Exchange struct {
	// Host and Port are of the server; Port is empty for a socket.
	Host, Port string
	// Status is 0 where there was no answer.
	Status int
	// Correlation is by what the store knows the request; empty for none.
	Correlation string
	// Again counts the same request's earlier tries.
	Again int
}

// Exchange says what the request was.
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
	s.s.SetAttributes(all...)
}
