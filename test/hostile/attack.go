package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// attack is one action of the hostile tenant, with the rights of a namespace's editor: it makes
// classes and pods, and has servers.
type attack struct {
	name string
	does string // in one line
	// servers is how many of its own it has, before prepare.
	servers int
	// after is when it begins. Attacks that take memory begin after those that only need a few
	// volumes, so that both can happen.
	after time.Duration
	// prepare sets the answers of the servers. It runs before the driver does.
	prepare func(s *scene) error
	// run does it, until ctx ends or there is nothing left to do.
	run func(ctx context.Context, s *scene)
	// judge evaluates the attack after its end. Without it, only the run's figures show the attack.
	judge func(s *scene) verdict
}

// later is when attacks begin that take memory.
const later = armAfter + 2*time.Second

func attacks() []attack {
	var all []attack
	for _, group := range [][]attack{classAttacks(), answerAttacks(), contentAttacks(), fileAttacks(), storeAttacks(), lifeAttacks(), akeylessAttacks(), nodeAttacks()} {
		all = append(all, group...)
	}
	return all
}

// verdict is the result of an attack.
type verdict struct {
	through bool
	untried bool // the driver answered nothing at all
	text    string
}

func held(format string, args ...any) verdict { return verdict{text: fmt.Sprintf(format, args...)} }

// throughIf returns a verdict with one text for both outcomes.
func throughIf(broke bool, format string, args ...any) verdict {
	return verdict{through: broke, text: fmt.Sprintf(format, args...)}
}

// perMinute converts a number to one for a minute of the attack.
func (s *scene) perMinute(n int64) int64 {
	lasted := max(s.ended.Sub(s.began), time.Second)
	return int64(float64(n) * float64(time.Minute) / float64(lasted))
}

// verdict evaluates an attack: every attack's pods must be unpublished. If the driver unpublishes
// no pods at all, that is not this attack's effect.
func (s *scene) verdict(anybodyGoes bool) verdict {
	v := held("")
	if s.attack.judge != nil {
		v = s.attack.judge(s)
	}
	if s.stuck > 0 && anybodyGoes {
		v.through = true
		v.text = strings.TrimSuffix(fmt.Sprintf("%d of its pods cannot be unpublished; %s", s.stuck, v.text), "; ")
	}
	v.untried = !v.through && s.absent > 0 && s.once == 0 && s.refused == 0
	return v
}

// tried describes how many pods were mounted and how many calls refused.
func (s *scene) tried() string {
	if len(s.pods) == 0 && s.once == 0 {
		return ""
	}
	text := fmt.Sprintf("%d pods mounted", s.once)
	if len(s.pods) >= s.once {
		text = fmt.Sprintf("%d of %d pods mounted", s.once, len(s.pods))
	}
	if s.refused > 0 {
		text += fmt.Sprintf(", %d calls refused", s.refused)
	}
	if s.absent > 0 {
		text += fmt.Sprintf(", %d not answered", s.absent)
	}
	return text
}
