package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// akeylessAttacks are attacks by provider akeyless that others make by vault: the same limits must
// hold for both.
func akeylessAttacks() []attack {
	return []attack{akeylessSlowAttack(), akeylessAnswersAttack(), akeylessEndsAttack()}
}

func akeylessSlowAttack() attack {
	return attack{
		name: "akeyless-slow", does: "12 volumes at 2 gateways that answer after 6 s, at an interval of 1 s", servers: 2,
		prepare: func(s *scene) error {
			for _, server := range s.servers {
				server.read = gateway(func(w http.ResponseWriter, r *http.Request) {
					if s.count("armed") > 0 {
						hang(r, slowAnswer)
					}
					answer(w, http.StatusOK, `{"/evil/0":"{\"k\":\"v\"}"}`)
				})
			}
			return nil
		},
		run: func(ctx context.Context, s *scene) {
			for i := range s.servers {
				s.put(s.name(i), s.akeylessParameters(i, 1, "static"))
				s.mount(ctx, s.podsOf(s.name(i), 6, true)...)
			}
			s.awaitMounted(ctx, armAfter)
			s.add("armed", 1)
		},
	}
}

func akeylessAnswersAttack() attack {
	return attack{
		name: "akeyless-answers", does: "volumes that ask a gateway for 16 answers of 15 MiB at once, of which they use one byte", servers: 1, after: later,
		prepare: func(s *scene) error {
			s.servers[0].read = gateway(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				var names []string
				for i := range 16 {
					names = append(names, fmt.Sprintf(`"/evil/%d":"{\"k\":\"v\"}"`, i))
				}
				fmt.Fprintf(w, `{%s,"/junk":"`, strings.Join(names, ","))
				if writeFill(w, 15<<20) == nil {
					_, _ = io.WriteString(w, `"}`)
				}
			})
			return nil
		},
		run: func(ctx context.Context, s *scene) {
			s.put(s.name(), s.akeylessParameters(0, 16, "static"))
			s.mount(ctx, s.podsOf(s.name(), 3, true)...)
		},
	}
}

func akeylessEndsAttack() attack {
	return attack{
		name: "akeyless-ends", does: "pods that come and go, whose dynamic credentials' end hangs", servers: 1,
		prepare: func(s *scene) error {
			s.servers[0].read = gateway(func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, fmt.Sprintf(`{"id":%q,"k":"v","ttl_in_minutes":"60"}`, rand.Text()))
			})
			return nil
		},
		run: func(ctx context.Context, s *scene) {
			s.put(s.name(), s.akeylessParameters(0, 4, "dynamic"))
			s.comeAndGo(ctx, s.name(), 6)
		},
		judge: func(s *scene) verdict {
			return throughIf(s.slowestEnd > publishLimit, "%d pods came and went, the slowest unpublish took %s", s.count("gone"), s.slowestEnd.Round(10*time.Millisecond))
		},
	}
}

// gateway answers logins, has no descriptions, and never revokes credentials.
func gateway(values http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/auth":
			answer(w, http.StatusOK, fmt.Sprintf(`{"token":"t-%s"}`, rand.Text()))
		case "/describe-item":
			answer(w, http.StatusUnauthorized, `{"error":"Unauthorized: item is not accessible"}`)
		case "/dynamic-secret-tmp-creds-delete":
			hang(r, longestHang)
		default:
			values(w, r)
		}
	}
}

// akeylessParameters of a class that leads to one of the tenant's gateways.
func (s *scene) akeylessParameters(server, items int, kind string) map[string]string {
	var b strings.Builder
	for i := range items {
		fmt.Fprintf(&b, "- {fileName: f%d, secretPath: /evil/%d, secretType: %s, secretKey: k}\n", i, i, kind)
	}
	return map[string]string{
		"akeylessGatewayURL": s.servers[server].URL, "akeylessAccessType": "k8s", "akeylessAccessID": "p-evil",
		"akeylessK8sAuthConfigName": "prod", "refreshInterval": "1s", "objects": b.String(),
	}
}
