package volume

import (
	"maps"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// republish is kubelet's repeated call for a live volume. It waits for nobody,
// and with nothing new it asks nobody anything. It answers false where it
// cannot vouch for a whole payload at the target: the caller finds out why.
func (p *Publisher) republish(e *entry, r Request) (done bool, err error) {
	known, ok := e.peek()
	if !ok {
		return false, nil
	}
	if err := sameVolume(known, r); err != nil {
		return true, err
	}
	info, err := p.Mounts.Inspect(r.Target)
	if err != nil {
		return false, nil
	}
	if had, err := p.contentOf(r.Target, info); err != nil || had != complete {
		return false, nil
	}
	if !e.hand(r) {
		return false, nil
	}
	p.settleNews(e)
	return true, nil
}

// handed is what kubelet passes with each call.
type handed struct {
	tokens identity.Tokens
	// inSecrets tells that the tokens came beside the secrets.
	inSecrets bool
	secrets   map[string]secret.String
}

func (h handed) equal(other handed) bool {
	return h.inSecrets == other.inSecrets && h.tokens.Equal(other.tokens) && maps.EqualFunc(h.secrets, other.secrets, sameSecret)
}

func sameSecret(a, b secret.String) bool { return a.Reveal() == b.Reveal() }

// peek gives what identifies a volume that is live and not about to go.
func (e *entry) peek() (*Record, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known, e.stays()
}

// hand leaves what kubelet passed for whoever works on the volume, if it is
// new. It answers false if the volume goes away.
func (e *entry) hand(r Request) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.stays() {
		return false
	}
	if now := (handed{r.Tokens, r.TokensInSecrets, r.Secrets}); !now.equal(e.heard) {
		e.heard, e.news.handed = now, true
	}
	return true
}

// stays needs the mutex.
func (e *entry) stays() bool { return e.known != nil && !e.gone && e.leaving == 0 }

// know takes from the record what others may ask for while somebody works on
// the volume. w is where the next refresh goes; it stays as it was where that
// is zero. The caller holds the lock.
func (e *entry) know(rec *Record, w Where) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.known = rec.public()
	if w.Store != "" {
		e.where = w
	}
	if !e.news.handed {
		e.heard = handed{rec.Tokens, rec.TokensInSecrets, rec.Secrets}
	}
}

// whereNow is where the next refresh goes.
func (e *entry) whereNow() Where {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.where
}

// news is what comes up for a record while somebody else may work on the
// volume. Whoever has the lock, or gets it, takes it in.
type news struct {
	// handed tells that heard is newer than the record.
	handed bool
	// ended are former providers that hold nothing any longer.
	ended []string
}

func (n news) any() bool { return n.handed || len(n.ended) > 0 }

func (e *entry) tellEnded(names []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.news.ended = append(e.news.ended, names...)
}

func (e *entry) hasNews() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.news.any()
}

func (e *entry) takeNews() (news, handed) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.news
	e.news = news{}
	return n, e.heard
}

// settleNews has the record learn what came up, unless somebody works on the
// volume: whoever does calls this after he has given the lock back, so nothing
// is left lying.
func (p *Publisher) settleNews(e *entry) {
	for e.hasNews() && e.tryLock() {
		p.adopt(e)
		e.unlock()
	}
}

// adopt takes the news into the record. The caller holds the lock.
func (p *Publisher) adopt(e *entry) {
	n, heard := e.takeNews()
	rec := e.rec
	if !n.any() || e.isGone() || !rec.published() {
		return
	}
	rec.dropFormer(n.ended...)
	if n.handed {
		rec.Tokens, rec.TokensInSecrets, rec.Secrets = heard.tokens, heard.inSecrets, heard.secrets
	}
	p.save(rec)
	if n.handed && rec.Failures > 0 { // what failed may have failed for want of these
		p.schedule.Set(rec.ID, e.whereNow(), time.Now())
	}
}
