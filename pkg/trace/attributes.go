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

// Work describes a publish, a refresh or a release.
type Work struct {
	PodNamespace, PodName, PodUID string
	// Volume is the volume's id, Class the name of the SecretProviderClass.
	Volume, Class string
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

// Exchange is one request to a store or a plugin.
type Exchange struct {
	// Host and Port are the server's; Port is empty for a socket, and Host for a plugin.
	Host, Port string
	// Status is 0 if there was no answer.
	Status int
	// Correlation is the id of the request in the log of the other side; empty for none.
	Correlation string
	// Again is the number of earlier attempts of the same request.
	Again int
}

// Attributes calls yield for each attribute of the span, until that returns false.
func (s *Ended) Attributes(yield func(attribute.KeyValue) bool) {
	text := func(key attribute.Key, value string) bool { return value == "" || yield(key.String(value)) }
	number := func(key attribute.Key, value int) bool { return value == 0 || yield(key.Int(value)) }
	if w := s.Work; w != nil && !(text(KeyPodUID, w.PodUID) && text(KeyPodName, w.PodName) && text(KeyPodNamespace, w.PodNamespace) &&
		text(KeyVolume, w.Volume) && text(KeyClass, w.Class)) {
		return
	}
	if r := s.Result; r != nil && !(yield(attribute.Bool(KeyChanged, r.Changed)) && text(KeyProvider, r.Provider) &&
		(len(r.Asked) == 0 || yield(attribute.StringSlice(KeyAsked, r.Asked)))) {
		return
	}
	if x := s.Exchange; x != nil {
		port, _ := strconv.Atoi(x.Port)
		if !(text(KeyServer, x.Host) && number(KeyPort, port) && number(KeyStatus, x.Status) && text(KeyCorrelation, x.Correlation) && number(KeyResend, x.Again)) {
			return
		}
	}
	text(KeyReason, string(s.Reason))
}
