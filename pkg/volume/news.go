package volume

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
	n := e.takeNews()
	if !n.any() || e.isGone() || !e.rec.published() {
		return
	}
	e.rec.dropFormer(n.ended...)
	p.save(e.rec)
}
