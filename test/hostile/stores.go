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

// slowAnswer is less than the driver's timeout for a request.
const slowAnswer = 6 * time.Second

// armAfter is how long an attack, whose store fails once its volumes are
// mounted, waits for them.
const armAfter = 5 * time.Second

// storeAttacks are stores that behave badly: the tenant's own servers, and its paths of
// the shared Vault.
func storeAttacks() []attack {
	return []attack{slowStoresAttack(), slowStartsAttack(), tricklingBodiesAttack(), slowRevocationsAttack(), brokenPathsAttack(), flappingAttack()}
}

func slowStoresAttack() attack {
	return attack{
		name: "slow-stores", does: "24 volumes at 4 servers that answer after 6 s, at an interval of 1 s", servers: 4,
		prepare: reads(func(s *scene, w http.ResponseWriter, r *http.Request) {
			if s.count("armed") > 0 {
				hang(r, slowAnswer)
			}
			answer(w, http.StatusOK, oneSecret)
		}),
		run: thenArm(volumes(6, oneObject)),
	}
}

func slowStartsAttack() attack {
	return attack{
		name: "slow-starts", does: "30 new pods whose first login and read hang", servers: 2,
		prepare: reads(func(_ *scene, _ http.ResponseWriter, r *http.Request) { hang(r, longestHang) }),
		run:     volumes(15, objects(20, "")),
	}
}

func tricklingBodiesAttack() attack {
	return attack{
		name: "trickling-bodies", does: "8 volumes at 2 servers whose answers come a byte at a time, for ever", servers: 2,
		prepare: reads(func(s *scene, w http.ResponseWriter, r *http.Request) {
			if s.count("armed") > 0 {
				trickle(w, r, 300*time.Millisecond)
				return
			}
			answer(w, http.StatusOK, oneSecret)
		}),
		run: thenArm(volumes(4, oneObject)),
	}
}

func slowRevocationsAttack() attack {
	return attack{
		name: "slow-revocations", does: "pods that come and go, whose tokens' revocation takes 4 s, at own servers and at the shared Vault", servers: 2,
		prepare: func(s *scene) error {
			for _, server := range s.servers {
				server.revoke = func(w http.ResponseWriter, r *http.Request) {
					hang(r, slowRevocation)
					s.add("revoked", 1)
					w.WriteHeader(http.StatusNoContent)
				}
			}
			return nil
		},
		run: slowRevocations,
		judge: func(s *scene) verdict {
			return held("%d pods came and went, %d revocations ended", s.count("gone"), s.count("revoked"))
		},
	}
}

func brokenPathsAttack() attack {
	return attack{
		name: "broken-paths", does: "the tenant's own paths, logins' renewals and revocations at the shared Vault hang or fail, for 12 service accounts",
		run: brokenPaths,
	}
}

func flappingAttack() attack {
	return attack{
		name: "flapping", does: "10 volumes whose store fails every other second", servers: 1,
		prepare: reads(func(_ *scene, w http.ResponseWriter, _ *http.Request) {
			if time.Now().Unix()%2 == 0 {
				answer(w, http.StatusOK, oneSecret)
				return
			}
			answer(w, http.StatusForbidden, fmt.Sprintf(`{"errors":["permission denied at %d"]}`, time.Now().UnixNano()))
		}),
		run: volumes(10, oneObject),
		judge: func(s *scene) verdict {
			const perPod = 6
			n := s.perMinute(int64(s.api.Written.Writes(evil, "events", s.name())))
			return throughIf(n > int64(perPod*max(len(s.pods), 1)), "%d writes of Events a minute for %d pods", n, len(s.pods))
		},
	}
}

// sharedParameters of a class that leads to the Vault of all tenants.
func (s *scene) sharedParameters(objects string) map[string]string {
	return map[string]string{"vaultAddress": s.proxy.URL, "roleName": evil, "refreshInterval": "1s", "sessionSharing": "pod", "objects": objects}
}

// slowRevocations has a dozen pods at a time.
func slowRevocations(ctx context.Context, s *scene) {
	if err := s.vault.PutKV2(ctx, "kv", evil+"/a", map[string]any{"k": "v"}); err != nil {
		return // the run is being interrupted
	}
	for i := range s.servers {
		s.put(s.name(i), s.parameters(i, oneObject, "refreshInterval", "1m"))
		s.comeAndGo(ctx, s.name(i), 4)
	}
	s.put(s.name("shared"), s.sharedParameters(fmt.Sprintf("[{objectName: a, secretPath: kv/data/%s/a, secretKey: k}]", evil)))
	s.comeAndGo(ctx, s.name("shared"), 4)
}

// brokenPaths uses what the proxy before the shared Vault does with the tenant's paths once it is
// armed.
func brokenPaths(ctx context.Context, s *scene) {
	const paths = 6
	for _, kind := range []string{"hang", "broken"} {
		var b strings.Builder
		for i := range paths {
			path := fmt.Sprintf("%s/%s%d", evil, kind, i)
			if err := s.vault.PutKV2(ctx, "kv", path, map[string]any{"k": "v"}); err != nil {
				return // the run is being interrupted
			}
			fmt.Fprintf(&b, "- {objectName: f%d, secretPath: kv/data/%s, secretKey: k}\n", i, path)
		}
		s.put(s.name(kind), s.sharedParameters(b.String()))
		s.mount(ctx, s.podsOf(s.name(kind), 6, true)...)
	}
	s.awaitMounted(ctx, armAfter)
	s.proxy.arm()
}

// akeylessAttacks are attacks by provider akeyless that others make by vault: the same limits must
// hold for both.
func akeylessAttacks() []attack {
	return []attack{akeylessSlowAttack(), akeylessAnswersAttack(), akeylessEndsAttack()}
}

func akeylessSlowAttack() attack {
	return attack{
		name: "akeyless-slow", does: "12 volumes at 2 gateways that answer after 6 s, at an interval of 1 s", servers: 2,
		prepare: gateways(func(s *scene, w http.ResponseWriter, r *http.Request) {
			if s.count("armed") > 0 {
				hang(r, slowAnswer)
			}
			answer(w, http.StatusOK, `{"/evil/0":"{\"k\":\"v\"}"}`)
		}),
		run: thenArm(func(ctx context.Context, s *scene) {
			for i := range s.servers {
				s.put(s.name(i), s.akeylessParameters(i, 1, "static"))
				s.mount(ctx, s.podsOf(s.name(i), 6, true)...)
			}
		}),
	}
}

func akeylessAnswersAttack() attack {
	return attack{
		name: "akeyless-answers", does: "volumes that ask a gateway for 16 answers of 15 MiB at once, of which they use one byte", servers: 1, after: later,
		prepare: gateways(func(_ *scene, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			var names []string
			for i := range 16 {
				names = append(names, fmt.Sprintf(`"/evil/%d":"{\"k\":\"v\"}"`, i))
			}
			fmt.Fprintf(w, `{%s,"/junk":"`, strings.Join(names, ","))
			if writeFill(w, 15<<20) == nil {
				_, _ = io.WriteString(w, `"}`)
			}
		}),
		run: func(ctx context.Context, s *scene) {
			s.put(s.name(), s.akeylessParameters(0, 16, "static"))
			s.mount(ctx, s.podsOf(s.name(), 3, true)...)
		},
	}
}

func akeylessEndsAttack() attack {
	return attack{
		name: "akeyless-ends", does: "pods that come and go, whose dynamic credentials' end hangs", servers: 1,
		prepare: gateways(func(_ *scene, w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusOK, fmt.Sprintf(`{"id":%q,"k":"v","ttl_in_minutes":"60"}`, rand.Text()))
		}),
		run: func(ctx context.Context, s *scene) {
			s.put(s.name(), s.akeylessParameters(0, 4, "dynamic"))
			s.comeAndGo(ctx, s.name(), 6)
		},
		judge: func(s *scene) verdict {
			return throughIf(s.slowestEnd > publishLimit, "%d pods came and went, the slowest unpublish took %s", s.count("gone"), s.slowestEnd.Round(10*time.Millisecond))
		},
	}
}

// gateways answer logins, have no descriptions, and never revoke credentials.
func gateways(values func(s *scene, w http.ResponseWriter, r *http.Request)) func(*scene) error {
	return reads(func(s *scene, w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/auth":
			answer(w, http.StatusOK, fmt.Sprintf(`{"token":"t-%s"}`, rand.Text()))
		case "/describe-item":
			answer(w, http.StatusUnauthorized, `{"error":"Unauthorized: item is not accessible"}`)
		case "/dynamic-secret-tmp-creds-delete":
			hang(r, longestHang)
		default:
			values(s, w, r)
		}
	})
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
