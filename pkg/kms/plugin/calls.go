package plugin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/localkey"
	"github.com/mayfly-csi/mayfly/pkg/kms/opened"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
)

const (
	// maxSeed is far above the API server's 32 bytes, and leaves space for the overhead of a
	// ciphertext, which may have 1024.
	maxSeed = 512
	// maxCiphertext and maxID are the API server's own limits.
	maxCiphertext = 1024
	maxID         = 1024
)

// By is what answered a call.
type By string

// The values of By.
const (
	ByVault  By = "vault"
	ByLocal  By = "local-key"
	ByMemory By = "memory"
)

// Trace says how a call was answered, for the audit trail.
type Trace struct {
	By By
	// Correlation is the id in Vault's audit log of the request behind the answer: the uid of a
	// call, or an id of the plugin's own for its round trip with the local key.
	Correlation string
}

// Sealed is an encrypted seed, as the API server stores it.
type Sealed struct {
	ID          string
	Ciphertext  []byte
	Annotations map[string][]byte
}

// Encrypt encrypts a seed with the announced version of the key.
func (p *Plugin) Encrypt(ctx context.Context, seed []byte, correlation string) (Sealed, Trace, error) {
	if len(seed) == 0 || len(seed) > maxSeed {
		return Sealed{}, Trace{}, fault.New(fault.InvalidArgument, "the plaintext has %d bytes, and must have 1 to %d", len(seed), maxSeed)
	}
	p.mu.Lock()
	now, problem, failure, expired := p.current, p.state.problem, p.state.failure, p.expired(time.Now())
	local := bytes.Clone(now.local)
	p.mu.Unlock()
	defer clear(local)
	switch {
	case now.id == "":
		return Sealed{}, Trace{}, unavailable(nothingProven, failure)
	case problem != nil:
		return Sealed{}, Trace{}, fault.New(fault.Conflict, "%w", &Safe{"the Transit key was " + problemWords(problem.Kind) + ", so nothing is encrypted that could not be opened later; see the log of mayfly-kms"})
	case expired, p.useLocal && local == nil:
		return Sealed{}, Trace{}, unavailable(limitOver, failure)
	}
	associated := p.name.Associated(key.Seed, now.id)
	if p.useLocal {
		sealed, err := localkey.Seal(local, seed, associated)
		if err != nil {
			return Sealed{}, Trace{}, fault.New(fault.Internal, "sealing the seed: %w", err)
		}
		return Sealed{now.id, sealed, map[string][]byte{key.AnnotationLocalKey: []byte(now.wrapped)}}, Trace{ByLocal, now.correlation}, nil
	}
	ciphertext, err := p.transit.Encrypt(ctx, now.version.Number, seed, associated, correlation)
	if err != nil {
		p.lookSoon()
		return Sealed{}, Trace{ByVault, correlation}, err
	}
	if len(ciphertext) > maxCiphertext {
		return Sealed{}, Trace{ByVault, correlation}, fault.New(fault.BadAnswer, "the ciphertext has %d bytes, and the API server takes %d at most", len(ciphertext), maxCiphertext)
	}
	// This process does not need to ask Vault for what it has encrypted itself.
	p.cache.Put(p.cacheKey(key.Seed, now.id, ciphertext), opened.Value{Plaintext: seed, Version: now.version.Number, Correlation: correlation})
	return Sealed{now.id, []byte(ciphertext), nil}, Trace{ByVault, correlation}, nil
}

// Decrypt opens what Encrypt has sealed, here or on any other node. The caller wipes the seed.
func (p *Plugin) Decrypt(ctx context.Context, s Sealed, correlation string) ([]byte, Trace, error) {
	wrapped, err := s.check()
	if err != nil {
		return nil, Trace{}, err
	}
	if wrapped == "" {
		value, by, err := p.open(ctx, key.Seed, s.ID, string(s.Ciphertext), correlation)
		return value.Plaintext, Trace{by, value.Correlation}, err
	}
	local, by, err := p.open(ctx, key.Local, s.ID, wrapped, correlation)
	trace := Trace{by, local.Correlation}
	if err != nil {
		return nil, trace, err
	}
	defer local.Wipe()
	if by == ByMemory {
		trace.By = ByLocal
	}
	seed, err := localkey.Open(local.Plaintext, s.Ciphertext, p.name.Associated(key.Seed, s.ID))
	if err != nil {
		return nil, trace, fault.New(fault.InvalidArgument, "opening the seed: %w", err)
	}
	return seed, trace, nil
}

// check refuses what cannot be this plugin's before any request to Vault. It returns the wrapped
// local key, if there is one.
func (s Sealed) check() (wrapped string, err error) {
	bad := func(what string) error {
		return fault.New(fault.InvalidArgument, "%s: the value was changed, or is of another plugin", what)
	}
	version, ok := key.VersionOf(s.ID)
	switch {
	case len(s.ID) > maxID || !ok:
		return "", bad("the key id is not one of this plugin")
	case len(s.Ciphertext) == 0 || len(s.Ciphertext) > maxCiphertext:
		return "", bad("the ciphertext is empty or too long")
	}
	for name, value := range s.Annotations {
		if name != key.AnnotationLocalKey {
			return "", bad("there is an annotation that is not known")
		}
		wrapped = string(value)
		if wrapped == "" {
			return "", bad("the annotation of the local key is empty")
		}
	}
	transited := wrapped
	if transited == "" {
		transited = string(s.Ciphertext)
	}
	of, ok := transit.Version(transited)
	switch {
	case !ok:
		return "", bad("there is no ciphertext of Transit in it")
	case of != version:
		return "", bad("the key id and the ciphertext name different versions of the key")
	}
	return wrapped, nil
}

func (p *Plugin) cacheKey(purpose key.Purpose, id, ciphertext string) opened.Key {
	return sha256.Sum256(append(p.name.Associated(purpose, id), ciphertext...))
}

// open decrypts what Transit has encrypted, or finds it in memory. Concurrent callers for the same
// ciphertext share one request to Vault.
func (p *Plugin) open(ctx context.Context, purpose key.Purpose, id, ciphertext, correlation string) (opened.Value, By, error) {
	k := p.cacheKey(purpose, id, ciphertext)
	if v, ok := p.fromMemory(k, purpose, id, ciphertext); ok {
		return v, ByMemory, nil
	}
	if err := p.refused.of(k); err != nil {
		return opened.Value{}, ByMemory, err
	}
	_, _, err := p.flights.DoDetached(ctx, k, time.Now, func() (struct{}, error) {
		return struct{}{}, p.ask(context.WithoutCancel(ctx), k, purpose, id, ciphertext, correlation)
	})
	if err != nil {
		return opened.Value{Correlation: correlation}, ByVault, err
	}
	v, ok := p.cache.Get(k)
	if !ok {
		return opened.Value{}, ByVault, fault.New(fault.Unavailable, "what Vault has decrypted was wiped before it could be given")
	}
	return v, ByVault, nil
}

// fromMemory finds what may be answered without Vault.
func (p *Plugin) fromMemory(k opened.Key, purpose key.Purpose, id, ciphertext string) (opened.Value, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.expired(time.Now()):
		return opened.Value{}, false
	case purpose == key.Local && p.current.local != nil && p.current.id == id && p.current.wrapped == ciphertext:
		return opened.Value{Plaintext: bytes.Clone(p.current.local), Version: p.current.version.Number, Correlation: p.current.correlation}, true
	}
	return p.cache.Get(k)
}

// ask lets Vault decrypt. It caches the result, and a refusal for a moment. The store's client
// bounds its time.
func (p *Plugin) ask(ctx context.Context, k opened.Key, purpose key.Purpose, id, ciphertext, correlation string) error {
	plaintext, err := p.transit.Decrypt(ctx, ciphertext, p.name.Associated(purpose, id), correlation)
	defer clear(plaintext)
	switch {
	case err != nil:
		p.refused.note(k, err)
		p.lookSoon()
		return err
	case purpose == key.Local && len(plaintext) != localkey.Size, len(plaintext) > maxSeed:
		return fault.New(fault.BadAnswer, "what Vault has decrypted has %d bytes, which this plugin never encrypts", len(plaintext))
	}
	version, _ := transit.Version(ciphertext)
	p.cache.Put(k, opened.Value{Plaintext: plaintext, Version: version, Correlation: correlation})
	return nil
}

// refusals caches Vault's refusals to decrypt. An API server that reads ten thousand objects of a
// lost seed asks as often.
type refusals struct {
	mu    sync.Mutex
	known map[opened.Key]refusal
}

type refusal struct {
	err   error
	until time.Time
}

const (
	refusalStays = 5 * time.Second
	maxRefusals  = 1024
)

func (r *refusals) of(k opened.Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x, ok := r.known[k]; ok && time.Now().Before(x.until) {
		return x.err
	}
	return nil
}

func (r *refusals) note(k opened.Key, err error) {
	if fault.Of(err) != fault.Rejected {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= maxRefusals {
		r.known = map[opened.Key]refusal{}
	}
	r.known[k] = refusal{err, time.Now().Add(refusalStays)}
}

// CorrelationFor converts a call's uid to a header; empty for one that cannot be a header.
func CorrelationFor(uid string) string {
	const most = 128
	if len(uid) > most || strings.ContainsFunc(uid, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	return uid
}
