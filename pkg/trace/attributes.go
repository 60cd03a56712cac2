package trace

import "strconv"

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

// Attributes receives what there is to say of a span.
type Attributes interface {
	Text(key, value string)
	Texts(key string, values []string)
	Number(key string, value int)
	Flag(key string, value bool)
}

// Describe says what there is to say of the span, without empty texts and zeros.
func (s *Ended) Describe(to Attributes) {
	text := func(key, value string) {
		if value != "" {
			to.Text(key, value)
		}
	}
	number := func(key string, value int) {
		if value != 0 {
			to.Number(key, value)
		}
	}
	if w := s.Work; w != nil {
		text(KeyPodUID, w.PodUID)
		text(KeyPodName, w.PodName)
		text(KeyPodNamespace, w.PodNamespace)
		text(KeyVolume, w.Volume)
		text(KeyClass, w.Class)
	}
	if r := s.Result; r != nil {
		to.Flag(KeyChanged, r.Changed)
		text(KeyProvider, r.Provider)
		if len(r.Asked) > 0 {
			to.Texts(KeyAsked, r.Asked)
		}
	}
	if x := s.Exchange; x != nil {
		port, _ := strconv.Atoi(x.Port)
		text(KeyServer, x.Host)
		number(KeyPort, port)
		number(KeyStatus, x.Status)
		text(KeyCorrelation, x.Correlation)
		number(KeyResend, x.Again)
	}
	text(KeyReason, string(s.Reason))
}
