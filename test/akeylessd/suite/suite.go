package suite

import (
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/providertest"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
)

// Run tries everything.
func Run(t *testing.T, o Options) {
	for name, try := range map[string]func(*testing.T, Options){
		"conformance":               conformance,
		"login types":               loginTypes,
		"values":                    values,
		"versions":                  versions,
		"whole secrets":             wholeSecrets,
		"types detected":            typesDetected,
		"type is a hint":            typeIsHint,
		"optional":                  optional,
		"batching":                  batching,
		"poll by description":       pollByDescription,
		"poll without descriptions": pollWithoutDescriptions,
		"rotation announced":        rotationAnnounced,
		"certificates":              certificates,
		"pki":                       pkiCertificates,
		"dynamic":                   dynamicCredentials,
		"dynamic per account":       dynamicPerAccount,
		"dynamic after restart":     dynamicAfterRestart,
		"release retried":           releaseRetried,
		"release forbidden":         releaseForbidden,
		"release after class edit":  releaseAfterEdit,
		"sharing":                   sharing,
		"trail":                     trail,
		"session renewal":           sessionRenewal,
		"no login again":            noLoginAgain,
		"denied":                    denied,
		"missing token":             missingToken,
		"rate limit":                rateLimit,
		"second gateway":            secondGateway,
		"issue not repeated":        issueNotRepeated,
		"garbage":                   garbage,
		"foreign answers":           foreignAnswers,
		"redirect":                  redirect,
		"denial repeated":           denialRepeated,
		"nothing secret":            nothingSecret,
		"way out":                   wayOut,
		"gateway cache":             gatewayCache,
		"login not found":           loginNotFound,
		"release without a login":   releaseWithoutLogin,
		"release before an issue":   releaseBeforeMade,
		"caller gone at an issue":   callerGoneAtIssue,
		"any JSON from a producer":  anyJSON,
		"gateway over TLS":          gatewayOverTLS,
		"trial":                     trial,
	} {
		t.Run(name, func(t *testing.T) { try(t, o) })
	}
}

const twoObjects = `
- {secretPath: /app/user, fileName: user}
- {secretPath: /app/password, fileName: password, secretType: static}`

func conformance(t *testing.T, o Options) {
	w := newWorld(t, o, func(c *akeyless.Config) { c.RequestTimeout = time.Minute })
	changes := 0
	w.PutStatic("/app/user", "marker-user-17")
	w.PutStatic("/app/password", "marker-password-17")
	ask := func(account, objects string) func(*testing.T, string) provider.Request {
		return func(_ *testing.T, volume string) provider.Request {
			r := w.request(w.pod(account), k8s(objects))
			r.Volume = volume
			return r
		}
	}
	w.PutStatic("/app/a", "value")
	w.PutStatic("/app/refused", "marker-password-refused")
	w.PutDynamic("/app/db", time.Hour)
	providertest.Run(t, providertest.Harness{
		Provider: w.provider,
		Restart:  func(*testing.T) provider.Provider { return w.newProvider() },
		Allowed:  ask("web", twoObjects),
		Denied:   ask("intruder", twoObjects),
		Partial:  ask("web", twoObjects+"\n- {secretPath: /app/missing, fileName: missing, secretType: static}"),
		Credentials: &providertest.Credentials{
			Allowed: ask("web", staticAndDynamic),
			Made: func(*testing.T) int {
				made, _ := w.Credentials()
				return made
			},
			Edits: map[string]func(map[string]string){
				"the login":                  func(p map[string]string) { p["akeylessK8sAuthConfigName"] = "typo" },
				"an object more":             func(p map[string]string) { p["objects"] += "\n- {secretPath: /app/missing, fileName: missing}" },
				"the credential for another": func(p map[string]string) { p["objects"] = "[{secretPath: /app/missing, fileName: missing}]" },
			},
			Late: ask("web", staticAndDynamic+"\n- {secretPath: /app/late, fileName: late, secretType: static}"),
			Add:  func(*testing.T) { w.PutStatic("/app/late", "value") },
		},
		Refused: &providertest.Refused{
			One:   ask("web", twoObjects),
			Three: ask("web", twoObjects+"\n- {secretPath: /app/refused, fileName: x, secretType: static}\n- {secretPath: /app/later, fileName: y, secretType: static}"),
			Refuse: func(*testing.T) {
				w.PutStatic("/app/later", "value")
				w.Forbid()
				for _, item := range []string{"user", "password", "later"} {
					w.Allow(akeylessd.Rule{AccessID: k8sID, Prefix: "/app/" + item, Claims: map[string]string{"namespace": "shop", "service_account_name": "web"}})
				}
			},
		},
		Change: func(*testing.T) {
			changes++
			w.PutStatic("/app/password", fmt.Sprintf("marker-password-new-%d", changes))
		},
		Hang: func(*testing.T) <-chan struct{} {
			held := make(chan struct{}, 1)
			w.Disturb(akeylessd.Disturbance{Hang: true, Held: held})
			return held
		},
		Secrets: func() []string { return []string{"marker-user", "marker-password", "eyJ", "t-"} },
	})
}
