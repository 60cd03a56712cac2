package wire

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// mistake is a user's mistake, and what the error must say; its last words say what to do.
type mistake struct {
	name string
	// parameters override those of a class that works; an empty one removes it.
	parameters map[string]string
	objects    string // of the class that works where it is empty
	provider   string
	pod        func(*kubelet.Pod)
	request    func(*kubelet.Kubelet, kubelet.Pod) error // in place of a publish
	noClass    bool
	want       []string
	// warns says that the publish succeeds, with a warning of the words in the log.
	warns bool
	code  codes.Code // not checked if it is OK
}

const goodObject = "- {objectName: password, secretPath: secret/data/db, secretKey: password}"

// TestMistakes makes mistakes of new users. Each error must name the field and the remedy, and no live
// volume may change.
func TestMistakes(t *testing.T) {
	r := newRig(t, func(c *node.Config) { c.Vault.AllowLocalAddresses = true })
	testkit.Must(t, r.vault.PutKV1(t.Context(), "kv1", "web", map[string]any{"a": strings.Repeat("x", 600<<10)}))
	testkit.Must(t, r.vault.Client().Sys().EnableAuthWithOptionsWithContext(t.Context(), "fresh", &api.EnableAuthOptions{Type: "kubernetes"}))
	testkit.Must(t, r.vault.Policy(t.Context(), "narrow", `path "secret/data/web/*" { capabilities = ["read"] }`))
	testkit.Must(t, r.vault.Bind(t.Context(), "narrow", "web", "shop", "narrow", map[string]any{"token_ttl": "10m"}))
	testkit.Must(t, r.vault.Role(t.Context(), "fresh", "web", map[string]any{"bound_service_account_names": "web", "bound_service_account_namespaces": "shop", "audience": "vault"}))
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tls.Close)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprint(w, "<html>Please log in</html>")
	}))
	t.Cleanup(page.Close)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	r.class("live")
	live := r.pod("live", "web", "live")
	r.publish(live)
	object := func(fields string) string { return "- {objectName: password, " + fields + "}" }
	for _, m := range []mistake{
		{name: "another role", parameters: map[string]string{"roleName": "wbe"}, want: []string{`invalid role name "wbe"`, "there is no auth/kubernetes/role/wbe: create it, or correct spec.parameters.roleName"}},
		{name: "another service account", pod: as(r, "other"), code: codes.PermissionDenied, want: []string{"failed to mount secrets store objects for pod shop/another-service-account", "service account name not authorized", "bound_service_account_names of auth/kubernetes/role/web must hold other"}},
		{name: "another audience", parameters: map[string]string{"audience": "vault-prod"}, want: []string{`no service account token for audience "vault-prod"`, `kubelet passed ["vault"]`, "the chart's tokenRequests"}},
		{name: "no tokens", pod: func(p *kubelet.Pod) { p.Tokens = "" }, code: codes.Unauthenticated, want: []string{`audience "vault"`, "tokenRequests of the CSIDriver object", "kubelet passed none", `add {audience: "vault"}`}},
		{name: "an expired token", pod: func(p *kubelet.Pod) {
			p.Tokens = r.issuer.CSITokensFor(-1e12, issuer.PodRef{Namespace: "shop", Pod: p.Name, ServiceAccount: "web"}, "vault")
		}, code: codes.Unauthenticated, want: []string{"expired"}},
		{name: "a token of another audience", pod: func(p *kubelet.Pod) {
			p.Tokens = r.issuer.CSITokens(issuer.PodRef{Namespace: "shop", Pod: p.Name, ServiceAccount: "web"}, "sts.amazonaws.com")
		}, code: codes.Unauthenticated, want: []string{`audience "vault"`, `"sts.amazonaws.com"`}},
		{name: "no class", noClass: true, code: codes.NotFound, want: []string{"failed to get secretproviderclass shop/"}},
		{name: "misspelt roleName", parameters: map[string]string{"roleName": "", "rolName": "web"}, want: []string{"spec.parameters.roleName: Required value"}},
		{name: "misspelt own parameter", parameters: map[string]string{"refreshIntervall": "1h"}, want: []string{"spec.parameters.refreshIntervall: unknown; did you mean refreshInterval?"}},
		{name: "own parameter in lower case", parameters: map[string]string{"onunavailable": "lastGood"}, want: []string{"did you mean onUnavailable?"}},
		{name: "misspelt parameter", parameters: map[string]string{"vaultAdress": "https://x"}, want: []string{"spec.parameters.vaultAdress: unknown; did you mean vaultAddress?"}},
		{name: "an unknown parameter", parameters: map[string]string{"vaultMount": "k8s"}, warns: true, want: []string{"spec.parameters.vaultMount: unknown, so ignored"}},
		{name: "misspelt secretKey", objects: object("secretPath: secret/data/db, secretkey: password"), want: []string{"objects[0].secretkey: unknown (line 1); did you mean secretKey?"}},
		{name: "misspelt permission", objects: object("secretPath: secret/data/db, secretKey: password, filePermissions: 0440"), want: []string{"objects[0].filePermissions: unknown (line 1); did you mean filePermission?"}},
		{name: "KV without data, a narrow policy", parameters: map[string]string{"roleName": "narrow"}, objects: object("secretPath: secret/web/db, secretKey: password"), want: []string{"403", `secretPath must be "secret/data/web/db"`}},
		{name: "KV without data, a broad policy", objects: object("secretPath: secret/db, secretKey: password"), want: []string{`secretPath must be "secret/data/db"`}},
		{name: "nothing there", objects: object("secretPath: secret/data/nothing, secretKey: password"), want: []string{`reading "secret/data/nothing"`, "404", "nothing is stored there"}},
		{name: "another key", objects: object("secretPath: secret/data/db, secretKey: pasword"), want: []string{`"secret/data/db" has no key "pasword"; it has "password"`}},
		{name: "a policy that denies", parameters: map[string]string{"roleName": "narrow"}, objects: object("secretPath: secret/data/other/db, secretKey: password"), want: []string{`the policies of role "narrow" must grant read on "secret/data/other/db"`}},
		{name: "no listener", parameters: map[string]string{"vaultAddress": closed.URL}, want: []string{"connecting to " + closed.URL, "connection refused"}},
		{name: "no such host", parameters: map[string]string{"vaultAddress": "https://vault.invalid:8200"}, want: []string{"no such host", "the DNS settings of the driver's pod"}},
		{name: "no scheme", parameters: map[string]string{"vaultAddress": "vault.example.com:8200"}, want: []string{"spec.parameters.vaultAddress", "must be a URL such as https://store.example.com:8200"}},
		{name: "the API's prefix", parameters: map[string]string{"vaultAddress": r.vault.Address + "/v1"}, want: []string{"spec.parameters.vaultAddress", "must not end in /v1"}},
		{name: "the user interface", parameters: map[string]string{"vaultAddress": r.vault.Address + "/ui/"}, want: []string{"is this the address of a Vault server?"}},
		{name: "an unknown authority", parameters: map[string]string{"vaultAddress": tls.URL}, want: []string{"x509", "set vaultCACertPath to the server's own, or have the operator give it with --vault-tls-ca-cert (chart: vault.tls.caConfigMap)"}},
		{name: "plain http to TLS", parameters: map[string]string{"vaultAddress": strings.Replace(tls.URL, "https", "http", 1)}, want: []string{"Client sent an HTTP request to an HTTPS server", "use https:// in the address"}},
		{name: "TLS to plain http", parameters: map[string]string{"vaultAddress": strings.Replace(r.vault.Address, "http", "https", 1)}, want: []string{"the server does not speak TLS here: use http:// in the address"}},
		{name: "a CA file outside of the directories", parameters: map[string]string{"vaultCACertPath": "/etc/passwd"}, want: []string{"spec.parameters.vaultCACertPath", "--class-file-dirs (chart: classFiles)"}},
		{name: "a word for a boolean", parameters: map[string]string{"vaultSkipTLSVerify": "yes"}, want: []string{"spec.parameters.vaultSkipTLSVerify", `must be "true" or "false"`}},
		{name: "another auth mount", parameters: map[string]string{"vaultAuthMountPath": "k8s-prod"}, want: []string{"permission denied", "is an auth method mounted at auth/k8s-prod"}},
		{name: "an auth method without configuration", parameters: map[string]string{"vaultAuthMountPath": "fresh"}, want: []string{"could not load backend configuration", "auth/fresh/config was never written"}},
		{name: "a login page", parameters: map[string]string{"vaultAddress": page.URL}, want: []string{"is not Vault's JSON (text/html"}},
		{name: "no such provider", provider: "hashicorp", want: []string{`no provider "hashicorp"`, `this node has ["akeyless" "openbao" "vault"]`}},
		{name: "a plugin while plugins are off", provider: "aws", want: []string{"others run as provider plugins, which are switched off here: --provider-volume (chart: providerPlugins.enabled)"}},
		{name: "one name twice", objects: goodObject + "\n" + goodObject, want: []string{"objects[1].objectName: Duplicate value", "objects[0] has this name too"}},
		{name: "too large", objects: "- {objectName: a, secretPath: kv1/web, secretKey: a}\n- {objectName: b, secretPath: kv1/web, secretKey: a}", want: []string{"the payload is", "the volume's limit is 1048576", "raise spec.parameters.volumeSizeLimit", "--volume-size-limit (chart: volume.sizeLimit)"}},
		{name: "no YAML", objects: "- {objectName: [}", want: []string{"spec.parameters.objects", "is not YAML"}},
		{name: "a mode that is not octal", objects: object("secretPath: secret/data/db, filePermission: 0999"), want: []string{"must be a file mode from 0001 to 0777"}},
		{name: "a name that climbs", objects: "- {objectName: ../etc/passwd, secretPath: secret/data/db}", code: codes.InvalidArgument, want: []string{"spec.parameters.objects[0].objectName", `it has a ".." element`}},
		{name: "an interval without a unit", parameters: map[string]string{"refreshInterval": "10"}, want: []string{"spec.parameters.refreshInterval", "must be a duration with a unit, such as 30s"}},
		{name: "overrides in the pod", pod: func(p *kubelet.Pod) { p.Attributes = map[string]string{"roleName": "admin"} }, warns: true, want: []string{`volumeAttributes [\"roleName\"] are ignored`}},
		{name: "misspelt attribute", pod: func(p *kubelet.Pod) { p.Attributes = map[string]string{"secretProviderclass": "x"}; p.Class = "" }, want: []string{"volumeAttributes.secretProviderclass: write secretProviderClass"}},
		{name: "readOnly is missing", request: func(k *kubelet.Kubelet, p kubelet.Pod) error {
			request := k.PublishRequest(p)
			request.Readonly = false
			_, err := k.Node.NodePublishVolume(t.Context(), request)
			return err
		}, want: []string{"readonly is false", "set readOnly: true"}},
	} {
		t.Run(m.name, func(t *testing.T) {
			r.makeMistake(t, m)
			r.wantFile(live, "one")
		})
	}
}

func as(r *rig, account string) func(*kubelet.Pod) {
	return func(p *kubelet.Pod) {
		p.ServiceAccount = account
		p.Tokens = r.issuer.CSITokens(issuer.PodRef{Namespace: "shop", Pod: p.Name, PodUID: p.UID, ServiceAccount: account}, "vault")
	}
}

func (r *rig) makeMistake(t *testing.T, m mistake) {
	name := strings.Map(func(c rune) rune {
		if c < 'a' || c > 'z' {
			return '-'
		}
		return c
	}, strings.ToLower(m.name))
	parameters := map[string]string{"roleName": "web"}
	maps.Copy(parameters, m.parameters)
	maps.DeleteFunc(parameters, func(_, value string) bool { return value == "" })
	var list []string
	for key, value := range parameters {
		list = append(list, fmt.Sprintf("%s: %q", key, value))
	}
	objects, provider := m.objects, m.provider
	if objects == "" {
		objects = goodObject
	}
	if provider == "" {
		provider = "vault"
	}
	if !m.noClass {
		r.writeClass(name, provider, objects, list)
	}
	pod := r.pod(name, "web", name)
	if m.pod != nil {
		m.pod(&pod)
	}
	publish := m.request
	if publish == nil {
		publish = func(k *kubelet.Kubelet, p kubelet.Pod) error { return k.Publish(t.Context(), p) }
	}
	err := publish(r.Kubelet, pod)
	text := fmt.Sprint(err)
	if m.warns {
		testkit.Must(t, err)
		testkit.Must(t, r.Unpublish(t.Context(), pod))
		text = r.log.String()
	} else {
		r.checkRefused(pod, err)
	}
	if m.code != codes.OK && status.Code(err) != m.code {
		t.Errorf("code %s, want %s: %v", status.Code(err), m.code, err)
	}
	testkit.Has(t, text, m.want...)
	if !m.warns && m.request == nil && !m.noClass && pod.Class != "" && !strings.Contains(text, "SecretProviderClass shop/"+name+": ") && !strings.Contains(text, "shop/"+name) {
		t.Errorf("the error does not name the class: %s", text)
	}
}

// TestProxyAnswersRemoveNothing: answers of a proxy before Vault neither empty a volume with onDenied:
// empty nor remove optional files.
func TestProxyAnswersRemoveNothing(t *testing.T) {
	r := newRig(t, allowLocalAddresses)
	b := testkit.NewProxy(t, r.vault.Address)
	testkit.Must(t, r.vault.PutKV1(t.Context(), "kv1", "app", map[string]any{"user": marker + "-user"}))
	r.manifest("secrets", `- {objectName: password, secretPath: secret/data/db, secretKey: password, optional: true}
- {objectName: whole, secretPath: kv1/app, optional: true}`, "onDenied: empty", "refreshInterval: 1s", "vaultAddress: "+b.URL)
	p := r.pod("web-0", "web", "secrets")
	r.publish(p)
	whole := r.file(p, "whole")
	for _, answer := range []struct {
		status            int
		contentType, body string
	}{
		{404, "text/html", "<html>default backend - 404"},
		{404, "application/json", `{"message":"no Route matched with those values","request_id":"1"}`},
		{403, "text/plain", "RBAC: access denied"},
		{401, "text/html", ""},
		{200, "application/json", `{"status":"maintenance"}`},
	} {
		before := b.Requests("")
		b.Answer(answer.status, answer.contentType, answer.body)
		r.eventually("two requests were answered by the proxy", func() bool { return b.Requests("") >= before+2 })
		r.wantFile(p, "one")
		if got := r.file(p, "whole"); got != whole {
			t.Errorf("%d %s: the file holds %q", answer.status, answer.body, got)
		}
	}
	b.Unseal()
	r.put("db", "two")
	r.eventually("the file is rotated", func() bool { return r.file(p, "password") == marker+"-two" })
	testkit.Must(t, r.vault.Policy(t.Context(), "web", `path "kv1/other" { capabilities = ["read"] }`))
	r.eventually("Vault's own denial empties the volume", func() bool { return strings.Contains(r.file(p, "password"), "no such file") })
	testkit.Has(t, r.log.String(), "a proxy, ingress or firewall before Vault")
}
