package endpoint

import (
	"cmp"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/clock"
)

// Operation is what a request to a store is for.
type Operation string

// The operations.
const (
	OpLogin  Operation = "login"
	OpRead   Operation = "read"
	OpIssue  Operation = "issue"  // of a credential or certificate
	OpCheck  Operation = "check"  // of a version, a lease, a token or a mount
	OpRenew  Operation = "renew"  // of a lease or a token
	OpRevoke Operation = "revoke" // of a lease or a token
)

// Operations are all of them.
func Operations() []Operation {
	return []Operation{OpLogin, OpRead, OpIssue, OpCheck, OpRenew, OpRevoke}
}

// Settings are what the operator decides for every in-process provider alike;
// the zero value works.
type Settings struct {
	// RequestTimeout bounds each request; 0 means 10 s.
	RequestTimeout time.Duration
	// MaxRetries is how often a request is made again; 0 or less means never.
	MaxRetries int
	// RetryBase is the first pause before a retry, which doubles; 0 means 250 ms.
	RetryBase time.Duration
	// DefaultInterval is how often secrets without a lifetime are read again
	// where the class has no interval; 0 means 2 minutes.
	DefaultInterval time.Duration
	// MinInterval is the shortest that an object of a class may have; 0 for no
	// bound. The caller holds that of the class to it.
	MinInterval time.Duration
	// MaxResponseBytes bounds one answer; 0 means 16 MiB.
	MaxResponseBytes int64
	// Budget is the memory that answers and parsed classes are charged to; nil
	// refuses nothing.
	Budget *budget.Budget

	// ClassFileDirs are the directories beneath which classes may name files;
	// none stands for endpoint.DefaultClassFileDir.
	ClassFileDirs []string
	// AllowLocalAddresses lets classes have the driver connect to addresses of
	// the node itself, its links and its cloud's metadata. The operator's own
	// server and those that the operator lists may be there in any case.
	AllowLocalAddresses bool

	// ReleaseTimeout bounds the end of one volume's credentials; 0 means 5 s.
	ReleaseTimeout time.Duration
	// DisableRevocation does not revoke the credentials of unpublished volumes,
	// which then expire by their TTL.
	DisableRevocation bool

	// OnRequest is called after each request to a store with its operation, the
	// status of the response (0 for none) and the time until it was read. It runs on
	// the goroutine of the request, so it must not block. It may be nil.
	OnRequest func(o Operation, status int, took time.Duration)

	// OnShared is told of each login and each read that a volume needed, and
	// whether another volume's served it, so that the store was not asked. It is
	// called in the way of the work; nil is told nothing.
	OnShared func(o Operation, shared bool)

	// OnReturn is called when a store, or a part of it, answers again after requests
	// were held back. It must not block. It may be nil.
	OnReturn func()

	UserAgent string
	// Logger gets debug lines and errors that no caller gets; nil discards them.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Boot has the moments in a volume's state outlive a step of the wall clock
	// over a restart; nil for none.
	Boot clock.Boot
	// Jitter is a source of numbers from 0 to 1; nil is a random one.
	Jitter func() float64
}

// Complete fills in the defaults and refuses what cannot work.
func (s *Settings) Complete() error {
	if s.RequestTimeout < 0 || s.RetryBase < 0 || s.DefaultInterval < 0 || s.ReleaseTimeout < 0 || s.MaxResponseBytes < 0 {
		return errors.New("timeouts, intervals and limits must not be negative")
	}
	s.RequestTimeout = cmp.Or(s.RequestTimeout, 10*time.Second)
	s.RetryBase = cmp.Or(s.RetryBase, 250*time.Millisecond)
	s.DefaultInterval = cmp.Or(s.DefaultInterval, 2*time.Minute)
	s.ReleaseTimeout = cmp.Or(s.ReleaseTimeout, 5*time.Second)
	s.MaxResponseBytes = cmp.Or(s.MaxResponseBytes, 16<<20)
	s.UserAgent = cmp.Or(s.UserAgent, "mayfly")
	s.Logger = cmp.Or(s.Logger, slog.New(slog.DiscardHandler))
	if s.OnRequest == nil {
		s.OnRequest = func(Operation, int, time.Duration) {}
	}
	if s.OnShared == nil {
		s.OnShared = func(Operation, bool) {}
	}
	if s.OnReturn == nil {
		s.OnReturn = func() {}
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Jitter == nil {
		s.Jitter = mathrand.Float64
	}
	return nil
}

// Stamp is now, for what is kept over a restart.
func (s *Settings) Stamp() clock.Stamp { return clock.At(s.Now(), s.Boot) }
