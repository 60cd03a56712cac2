package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// lifeAttacks are in the answers of the tenant's own servers about the lifetimes and sizes of
// tokens and credentials.
func lifeAttacks() []attack {
	return []attack{shortLivesAttack(), bigTokensAttack()}
}

func shortLivesAttack() attack {
	return attack{
		name: "short-lives", does: "tokens and 100 leases a volume that live for a second or two, so that all is renewed for ever", servers: 1,
		prepare: func(s *scene) error {
			s.servers[0].login = func(pod podOf) string { return loginAnswer(pod, rand.Text(), time.Second) }
			s.servers[0].read = func(w http.ResponseWriter, _ *http.Request) {
				s.add("asked", 1)
				answer(w, http.StatusOK, fmt.Sprintf(`{"request_id":"1","lease_id":"database/creds/web/%s","lease_duration":2,"renewable":true,"data":{"k":"v"}}`, rand.Text()))
			}
			return nil
		},
		run: func(ctx context.Context, s *scene) {
			s.put(s.name(), s.parameters(0, objects(100, "")))
			s.mount(ctx, s.podsOf(s.name(), 6, true)...)
		},
		judge: func(s *scene) verdict {
			return held("%d requests a second reached its server", s.perMinute(s.count("asked"))/60)
		},
	}
}

func bigTokensAttack() attack {
	return attack{
		name: "big-tokens", does: "tokens and lease ids of 256 KiB, which the driver's state holds", servers: 1, after: later,
		prepare: func(s *scene) error {
			big := strings.Repeat("t", 256<<10)
			s.servers[0].login = func(pod podOf) string { return loginAnswer(pod, rand.Text()+big, time.Hour) }
			body := fmt.Sprintf(`{"request_id":"1","lease_id":"database/creds/web/%s","lease_duration":3600,"renewable":true,"data":{"k":"v"}}`, big)
			s.servers[0].read = answering(http.StatusOK, body)
			return nil
		},
		run: func(ctx context.Context, s *scene) {
			s.put(s.name(), s.parameters(0, objects(10, "")))
			s.mount(ctx, s.podsOf(s.name(), 20, true)...)
		},
		judge: judgeState,
	}
}

// judgeState evaluates attacks that fill the driver's state.
func judgeState(s *scene) verdict {
	return throughIf(s.peakState > s.stateSize/2, "%s of the %s of the driver's state were in use at most", mib(s.peakState), mib(s.stateSize))
}
