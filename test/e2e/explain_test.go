//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// row is a failure: how to cause it, and the finding that explain must report.
type row struct {
	// name is the pod's, and that of its class unless the class is given.
	name string
	// parameters and objects make the class; without objects another function makes it, or none.
	parameters map[string]string
	objects    []object
	pod        []func(*corev1.Pod)
	// kind is the kind to explain, pod if it is empty.
	kind string
	// code is the finding's code, level its level, error if it is empty.
	code  string
	level finding.Level
	// words are in the finding's message or remedy.
	words []string
	// developers is the code for a developer, if it differs; "-" if developers may not explain it.
	developers string
	// more are codes of further findings, link is in the chain.
	more []string
	link string
}

// explainCommand starts a pod for each row, all at once, and runs explain on each as an administrator
// and as a developer.
func explainCommand(c *tenant) {
	c.put("db", "one")
	c.account("leaving")
	c.account("other-account")
	rows := slices.Concat(c.kubeletRows(), c.classRows(), c.loginRows(), c.readRows(), c.addressRows(), c.containerRows())
	for _, r := range rows {
		if len(r.objects) > 0 {
			c.class(r.name, r.parameters, r.objects...)
		}
		if r.kind == "" {
			c.start(newPod(r.name, printOnce, slices.Concat([]func(*corev1.Pod){mounts(r.name)}, r.pod)...))
		}
	}
	c.createOtherObjects()
	developer := c.developer()
	// One deadline for all rows: they make progress while one is awaited.
	deadline := time.Now().Add(waitTimeout)
	for _, r := range rows {
		if r.code == "" {
			continue
		}
		c.awaitExplainedUntil(deadline, admin, r)
		if r.developers != "-" {
			c.awaitExplainedUntil(deadline, developer, r)
		}
	}
	c.explainFast()
}

// awaitExplainedUntil tries until the deadline, but at least once. A failure does not stop the test, so
// that the other rows are tried too.
func (c *tenant) awaitExplainedUntil(deadline time.Time, person string, r row) {
	ctx, cancel := context.WithTimeout(c.t.Context(), max(time.Until(deadline), attemptTimeout))
	defer cancel()
	testkit.Check(c.t, c.tryExplain(ctx, person, r))
}

// awaitExplained waits until explain reports the row's finding.
func (c *tenant) awaitExplained(person string, r row) {
	c.t.Helper()
	testkit.Must(c.t, c.tryExplain(c.t.Context(), person, r))
}

func (c *tenant) tryExplain(ctx context.Context, person string, r row) error {
	code := r.code
	if person != admin && r.developers != "" {
		code = r.developers
	}
	level := r.level
	if level == "" {
		level = finding.Error
	}
	target := r.kind + "/" + r.name
	if r.kind == "" {
		target = "pod/" + r.name
	}
	return c.poll(ctx, fmt.Sprintf("explain %s as %q to say %s", target, person, code), func(ctx context.Context) error {
		got, err := c.runExplain(ctx, person, target)
		if err != nil {
			return err
		}
		if !strings.Contains(got.text, r.link) {
			return fmt.Errorf("no %q in %s", r.link, got.text)
		}
		return got.check(code, level, r.words, r.more, person != admin)
	})
}

// check checks that the finding is the first error, that there are findings of the other codes, and the
// number of requests.
func (r *report) check(code string, level finding.Level, words, more []string, restricted bool) error {
	i := slices.IndexFunc(r.Findings, func(f finding.Finding) bool { return f.Code == code && f.Level == level })
	switch {
	case r.requests == 0 || r.requests > mostRequests:
		return fmt.Errorf("it made %d requests", r.requests)
	case i < 0 || level == finding.Error && i > 0:
		return fmt.Errorf("it printed %s", r.text)
	case (r.code == 1) != (r.Findings[0].Level == finding.Error):
		return fmt.Errorf("its exit code is %d: %s", r.code, r.text)
	}
	f := r.Findings[i]
	for _, word := range words {
		if !strings.Contains(f.Message+"\n"+f.Remedy, word) {
			return fmt.Errorf("no %q in %s\n%s", word, f.Message, f.Remedy)
		}
	}
	for _, one := range more {
		if !slices.ContainsFunc(r.Findings, func(f finding.Finding) bool { return f.Code == one }) {
			return fmt.Errorf("there is no %s: %s", one, r.text)
		}
	}
	unreadable := slices.ContainsFunc(r.Findings, func(f finding.Finding) bool { return f.Code == finding.CodeNotReadable })
	if unreadable && !restricted {
		return fmt.Errorf("explain could not read an object as the administrator: %s", r.text)
	}
	return nil
}

// explainFast checks the time and the requests that explain needs for a pod without failures.
func (c *tenant) explainFast() {
	c.awaitPod("healthy", isRunning)
	best := 0
	for range 3 {
		got := testkit.Value(c.runExplain(c.t.Context(), admin, "pod/healthy"))(c.t)
		if got.code != 0 || len(got.Findings) > 0 {
			c.t.Errorf("findings for a pod without failures: %s", got.text)
		}
		if best == 0 || got.millis < best {
			best = got.millis
		}
		if got.requests > mostRequests {
			c.t.Errorf("it made %d requests", got.requests)
		}
	}
	c.results.measured("explain of a pod without failures: %d ms", best)
	if best > 1000 {
		c.t.Errorf("it took %d ms", best)
	}
}

// kubeletRows are failures before kubelet calls the driver.
func (c *tenant) kubeletRows() []row {
	csi := func(change func(*corev1.CSIVolumeSource)) []func(*corev1.Pod) {
		return []func(*corev1.Pod){func(p *corev1.Pod) { change(p.Spec.Volumes[0].CSI) }}
	}
	db := c.object("password", "db")
	return []row{
		{name: "unscheduled", objects: []object{db}, pod: []func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"no": "such"} }},
			code: finding.CodeNotScheduled, words: []string{"didn't match"}},
		{name: "no-account", objects: []object{db}, pod: []func(*corev1.Pod){as("leaving"), withGate},
			code: finding.CodeNoAccount, words: []string{"kubectl create serviceaccount leaving"}},
		{name: "reference", objects: []object{db}, pod: csi(func(v *corev1.CSIVolumeSource) {
			v.NodePublishSecretRef = &corev1.LocalObjectReference{Name: "nothere"}
		}),
			code: finding.CodeNoPublishSecret, words: []string{"nothere"}},
		{name: "writable", objects: []object{db}, pod: csi(func(v *corev1.CSIVolumeSource) { v.ReadOnly = nil }),
			code: finding.CodeNotReadOnly, words: []string{"set readOnly: true"}},
		{name: "no-attribute", objects: []object{db}, pod: csi(func(v *corev1.CSIVolumeSource) { v.VolumeAttributes = map[string]string{"secretProviderClas": "db"} }),
			code: finding.CodeNoClass, words: []string{"write secretProviderClass"}},
		{name: "other-driver", objects: []object{db}, pod: csi(func(v *corev1.CSIVolumeSource) { v.Driver = "secret-store.csi.k8s.io" }),
			code: finding.CodeNoVolume, words: []string{`did you mean "` + driverName}},
		{name: "refused", kind: "deployment", code: finding.CodeNoPods, words: []string{`serviceaccount "never" not found`, "create the service account"}, developers: "-"},
		{name: "replicas", kind: "deployment", code: finding.CodeNoSuchClass, link: "the worst of 2; 2 of them are so", developers: "-"},
	}
}

// classRows are classes that cannot work.
func (c *tenant) classRows() []row {
	db := c.object("password", "db")
	climbs := db
	climbs.ObjectName = "../password"
	return []row{
		{name: "no-class", code: finding.CodeNoSuchClass, words: []string{`names the class "no-class"`}},
		{name: "orders-database", code: finding.CodeNoSuchClass, words: []string{`did you mean "order-database"?`}},
		{name: "elsewhere", code: finding.CodeOtherNamespace, words: []string{"elsewhere"}, developers: finding.CodeNoSuchClass},
		{name: "climbs", objects: []object{climbs}, code: finding.CodeRefused, words: []string{"spec.parameters.objects[0].objectName"}},
		{name: "strict", objects: []object{db}, parameters: map[string]string{"vaultMount": "k8s", "strict": "true"}, code: finding.CodeRefused, words: []string{"vaultMount"}},
		{name: "ceiling", objects: []object{db}, parameters: map[string]string{"volumeSizeLimit": "1Gi"}, code: finding.CodeNotAllowed, words: []string{"--max-volume-size-limit"}},
		{name: "hashicorp", code: finding.CodeNoProvider, words: []string{"hashicorp"}},
		{name: "aws", code: finding.CodeNoProvider, words: []string{"--provider-volume (chart: providerPlugins.enabled)"}},
		{name: "audience", objects: []object{db}, parameters: map[string]string{"audience": "nobody"}, code: finding.CodeAudience, words: []string{`"nobody"`, "tokenRequests"}},
		{name: "not-allowed", objects: []object{db}, parameters: map[string]string{"vaultAddress": "https://other.example:8200"}, code: finding.CodeNotAllowed, words: []string{"vault.allowedAddresses"}},
	}
}

// loginRows are logins that Vault's auth methods refuse.
func (c *tenant) loginRows() []row {
	db := []object{c.object("password", "db")}
	role := func(name string, change map[string]any) map[string]string {
		name = c.ns + "-" + name
		testkit.Must(c.t, c.vault.Bind(c.t.Context(), name, account, c.ns, c.ns, change))
		return map[string]string{"roleName": name}
	}
	bare := c.authMethod("kubernetes", "bare", nil)
	own := c.authMethod("kubernetes", "own", map[string]any{"kubernetes_host": c.node.Server(), "disable_local_ca_jwt": true, "disable_iss_validation": true, "kubernetes_ca_cert": c.clusterCA()})
	limited := c.authMethod("kubernetes", "limited", nil)
	c.exhaust(limited)
	jwt := c.jwtMethod()
	at := func(mount, role string) map[string]string {
		return map[string]string{"vaultAuthMountPath": mount, "roleName": role}
	}
	return []row{
		{name: "no-role", objects: db, parameters: map[string]string{"roleName": c.ns + "-none"}, code: finding.CodeNoRole,
			words: []string{"vault write auth/kubernetes/role/" + c.ns + "-none bound_service_account_names=web bound_service_account_namespaces=" + c.ns + " audience=vault"}},
		{name: "other-account", objects: db, pod: []func(*corev1.Pod){as("other-account")}, code: finding.CodeNotBound, words: []string{"bound_service_account_names=...,other-account"}},
		{name: "other-namespace", objects: db, parameters: role("far", map[string]any{"bound_service_account_namespaces": "far"}), code: finding.CodeNotBound,
			words: []string{"bound_service_account_namespaces=...," + c.ns}},
		{name: "other-audience", objects: db, parameters: map[string]string{"audience": "second"}, code: finding.CodeUnverified,
			words: []string{"vault write auth/kubernetes/role/" + c.ns + " audience=second"}},
		{name: "no-auth-method", objects: db, parameters: at("nothing-there", "web"), code: finding.CodeUnverified, words: []string{"vault auth list"}},
		{name: "own-reviewer", objects: db, parameters: at(own, "web"), code: finding.CodeUnverified, words: []string{"token_reviewer_jwt"}},
		{name: "bare-method", objects: db, parameters: at(bare, "web"), code: finding.CodeNoAuthMethod, words: []string{"vault write auth/" + bare + "/config"}},
		{name: "jwt-role", objects: db, parameters: at(jwt, "none"), code: finding.CodeNoRole, words: []string{"could not be found"}},
		{name: "jwt-audience", objects: db, parameters: at(jwt, "web"), code: finding.CodeUnverified, words: []string{"bound_audiences=vault"}},
		{name: "limited", objects: db, parameters: at(limited, "web"), code: finding.CodeRateLimited, words: []string{"quota"}},
	}
}

// readRows are reads that the store refuses.
func (c *tenant) readRows() []row {
	at := func(path, key string) []object {
		return []object{{ObjectName: "password", SecretPath: path, SecretKey: key}}
	}
	testkit.Must(c.t, c.vault.PutKV2(c.t.Context(), kvMount, c.ns+"/large", map[string]any{"password": strings.Repeat("x", 100<<10)}))
	return []row{
		{name: "no-policy", objects: at(kvMount+"/data/others/db", "password"), code: finding.CodePolicyDenies,
			words: []string{`path "` + kvMount + `/data/others/db" { capabilities = ["read"] }`, "vault read auth/kubernetes/role/" + c.ns}},
		{name: "without-data", objects: at(kvMount+"/"+c.ns+"/db", "password"), code: finding.CodeDataMissing, words: []string{`secretPath: "` + kvMount + "/data/" + c.ns + `/db"`}},
		{name: "nothing", objects: at(kvMount+"/data/"+c.ns+"/nothing", "password"), code: finding.CodeObjectNotFound, words: []string{"vault read " + kvMount + "/data/" + c.ns + "/nothing"}},
		{name: "other-key", objects: at(kvMount+"/data/"+c.ns+"/db", "pasword"), code: finding.CodeObjectNotFound, words: []string{`it has "password"`}},
		{name: "too-large", objects: at(kvMount+"/data/"+c.ns+"/large", "password"), parameters: map[string]string{"volumeSizeLimit": "16Ki"}, code: finding.CodeTooLarge, words: []string{"volumeSizeLimit"}},
		{name: "gateway", pod: []func(*corev1.Pod){as("other-account")}, code: finding.CodePolicyDenies, words: []string{"akeyless set-role-rule --role-name ROLE --path " + c.item("api")}},
	}
}

// addressRows are addresses where no Vault answers.
func (c *tenant) addressRows() []row {
	db := []object{c.object("password", "db")}
	at := func(address string) map[string]string { return map[string]string{"vaultAddress": address} }
	s := c.badAddresses
	return []row{
		{name: "nowhere", objects: db, parameters: at(nowhere), code: finding.CodeUnreachable, words: []string{nowhere + " (spec.parameters.vaultAddress of the class)", "kubectl debug"}},
		{name: "closed", objects: db, parameters: at(s.closed), code: finding.CodeUnreachable, words: []string{"connection refused"}},
		{name: "hanging", objects: db, parameters: at(s.hanging.URL), code: finding.CodeUnreachable, words: []string{s.hanging.URL}},
		{name: "unknown-authority", objects: db, parameters: at(s.tls.URL), code: finding.CodeTLS, words: []string{"x509", "vaultCACertPath"}},
		{name: "plain", objects: db, parameters: at(s.plain()), code: finding.CodeTLS, words: []string{"use https://"}},
		{name: "page", objects: db, parameters: at(s.page.URL), code: finding.CodeNotTheStore, words: []string{s.page.URL}},
	}
}

// containerRows are pods whose volumes are mounted.
func (c *tenant) containerRows() []row {
	db := []object{c.object("password", "db")}
	private, owner := c.object("password", "db"), 0o400
	private.FilePermission = &owner
	container := func(change func(*corev1.Container)) []func(*corev1.Pod) {
		return []func(*corev1.Pod){func(p *corev1.Pod) { change(&p.Spec.Containers[0]) }}
	}
	secret := corev1.EnvVar{Name: "P", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "made"}, Key: "p"}}}
	configMap := corev1.Volume{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}}}}
	losesPolicy := func(name string) map[string]string {
		testkit.Must(c.t, c.vault.Bind(c.t.Context(), c.ns+"-"+name, account, c.ns, c.ns+"-loses-policy", nil))
		return map[string]string{"roleName": c.ns + "-" + name}
	}
	testkit.Must(c.t, c.vault.Policy(c.t.Context(), c.ns+"-loses-policy", fmt.Sprintf(`path "%s/data/%s/*" { capabilities = ["read"] }`, kvMount, c.ns)))
	return []row{
		{name: "healthy", objects: db},
		{name: "variable", objects: db, pod: container(func(k *corev1.Container) { k.Env = []corev1.EnvVar{secret} }), code: finding.CodeNoSecret,
			words: []string{`secret "made" not found`, "secretObjects", "no volume of the pod mounts the class"}},
		{name: "config-map", objects: db, pod: []func(*corev1.Pod){func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, configMap)
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: configMap.Name, MountPath: "/config"})
		}}, code: finding.CodeOtherVolume,
			words: []string{`configmap "none" not found`}},
		{name: "unused", objects: db, pod: container(func(k *corev1.Container) { k.VolumeMounts = nil }), level: finding.Warning, code: finding.CodeVolumeUnused, words: []string{"no container mounts it"}},
		{name: "image", objects: db, pod: container(func(k *corev1.Container) { k.Image = "mayfly.test/none:1" }), code: finding.CodeContainerFails, words: []string{"ErrImageNeverPull"}},
		{name: "crash", objects: db, pod: container(func(k *corev1.Container) { k.Command = []string{"false"} }), code: finding.CodeContainerFails, words: []string{`container "main"`}},
		{name: "done", objects: db, pod: append(container(func(k *corev1.Container) { k.Command = []string{"true"} }), once), level: finding.Info, code: finding.CodePodEnded},
		{name: "sub-path", objects: db, pod: container(func(k *corev1.Container) { k.VolumeMounts[0].SubPath = "password" }), level: finding.Warning, code: finding.CodeSubPath, words: []string{"main"}},
		{name: "non-root", objects: []object{private}, pod: []func(*corev1.Pod){user(1000, 1000), withoutGroup}, code: finding.CodeContainerFails, more: []string{finding.CodeFileMode}},
		{name: "ignored", objects: db, parameters: map[string]string{"vaultMount": "k8s"}, pod: []func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.Volumes[0].CSI.VolumeAttributes["roleName"] = "admin" }},
			level: finding.Warning, code: finding.CodeClassWarning, words: []string{"vaultMount"}, more: []string{finding.CodeIgnoredAttribute}},
		{name: "fading", objects: db, parameters: losesPolicy("fading"), level: finding.Warning, code: finding.CodePolicyDenies, words: []string{"keeps its content"}},
		{name: "emptied", objects: db, parameters: withParameter(losesPolicy("emptied"), "onDenied", "empty"), code: finding.CodePolicyDenies, words: []string{"has been emptied"}, more: []string{finding.CodeVolumeEmptied}},
		{name: "both", objects: db, pod: []func(*corev1.Pod){mountsAt("more", "/more", "no-such")}, code: finding.CodeNoSuchClass, words: []string{`volume "more"`}},
	}
}

func withParameter(parameters map[string]string, key, value string) map[string]string {
	parameters[key] = value
	return parameters
}

// withGate adds a scheduling gate, which createOtherObjects removes.
func withGate(p *corev1.Pod) {
	off := false
	p.Spec.AutomountServiceAccountToken = &off
	p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "e2e.mayfly.dev/gate"}}
}

// createOtherObjects makes the objects that the fields of row do not describe.
func (c *tenant) createOtherObjects() {
	ctx := c.t.Context()
	db := c.object("password", "db")
	c.class("order-database", nil, db)
	other := c.newTenant(c.t)
	other.class("elsewhere", nil, db)
	for _, provider := range []string{"hashicorp", "aws"} {
		testkit.Must(c.t, c.createClass(ctx, map[string]any{"metadata": map[string]any{"name": provider}, "spec": map[string]any{"provider": provider, "parameters": map[string]any{}}}))
	}
	testkit.Must(c.t, c.createClass(ctx, map[string]any{
		"metadata": map[string]any{"name": "made"},
		"spec": map[string]any{
			"provider": "vault", "parameters": map[string]any{"roleName": c.ns, "objects": "- {objectName: password, secretPath: secret/data/x, secretKey: password}"},
			"secretObjects": []any{map[string]any{"secretName": "made", "type": "Opaque", "data": []any{map[string]any{"objectName": "password", "key": "p"}}}},
		},
	}))
	c.allowAtGateway()
	c.gateway.PutStatic(c.item("api"), marker+"one")
	c.gatewayClass("gateway", nil, map[string]any{"fileName": "password", "secretPath": c.item("api"), "secretType": "static"})
	c.replicas("refused", 1, newPod("", printOnce, as("never"), mounts("refused")))
	c.replicas("replicas", 2, newPod("", printOnce, mounts("replicas")))

	testkit.Must(c.t, c.api.CoreV1().ServiceAccounts(c.ns).Delete(ctx, "leaving", metav1.DeleteOptions{}))
	testkit.Value(c.api.CoreV1().Pods(c.ns).Patch(ctx, "no-account", types.JSONPatchType, []byte(`[{"op":"remove","path":"/spec/schedulingGates"}]`), metav1.PatchOptions{}))(c.t)
	for _, name := range []string{"fading", "emptied"} {
		c.awaitPod(name, isRunning)
	}
	testkit.Must(c.t, c.vault.Policy(ctx, c.ns+"-loses-policy", `path "sys/none" { capabilities = ["read"] }`))
}

func (c *tenant) replicas(name string, n int32, pod *corev1.Pod) {
	c.t.Helper()
	labels := map[string]string{"app": name}
	pod.Labels = labels
	testkit.Value(c.api.AppsV1().Deployments(c.ns).Create(c.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec}},
	}, metav1.CreateOptions{}))(c.t)
}

// authMethod enables an auth method for the tenant, with the role web if it is of type kubernetes.
func (c *tenant) authMethod(kind, name string, config map[string]any) string {
	c.t.Helper()
	ctx, path := c.t.Context(), c.ns+"-"+name
	testkit.Must(c.t, c.vault.Client().Sys().EnableAuthWithOptionsWithContext(ctx, path, &api.EnableAuthOptions{Type: kind}))
	if config != nil {
		testkit.Must(c.t, c.vault.Write(ctx, "auth/"+path+"/config", config))
	}
	if kind == "kubernetes" {
		testkit.Must(c.t, c.vault.Role(ctx, path, "web", map[string]any{"bound_service_account_names": account, "bound_service_account_namespaces": c.ns, "audience": "vault"}))
	}
	return path
}

// exhaust uses up an auth method's quota of logins for a day.
func (c *tenant) exhaust(mount string) {
	c.t.Helper()
	testkit.Must(c.t, c.vault.Write(c.t.Context(), "sys/quotas/rate-limit/"+mount, map[string]any{"path": "auth/" + mount + "/", "rate": 1, "interval": "24h"}))
	for range 3 {
		_, _ = c.vault.Client().Logical().WriteWithContext(c.t.Context(), "auth/"+mount+"/login", map[string]any{"role": "web", "jwt": "none"})
	}
}

// jwtMethod enables a jwt method with the keys of the node's API server, and a role that accepts no
// audience.
func (c *tenant) jwtMethod() string {
	c.t.Helper()
	keys := testkit.Value(c.api.CoreV1().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(c.t.Context()))(c.t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keys) }))
	c.t.Cleanup(server.Close)
	path := c.authMethod("jwt", "jwt", map[string]any{"jwks_url": server.URL})
	testkit.Must(c.t, c.vault.Role(c.t.Context(), path, "web", map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_subject": "system:serviceaccount:" + c.ns + ":" + account,
	}))
	return path
}

// clusterCA is the certificate authority of the API server.
func (c *tenant) clusterCA() string {
	c.t.Helper()
	config := testkit.Value(c.api.CoreV1().ConfigMaps(c.ns).Get(c.t.Context(), "kube-root-ca.crt", metav1.GetOptions{}))(c.t)
	return config.Data["ca.crt"]
}

// explainDriver changes the CSIDriver object and the DaemonSet under a pod.
func explainDriver(c *tenant) {
	ctx := c.t.Context()
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	defer func() { // an upgrade would not undo the patches
		ctx := context.WithoutCancel(ctx)
		testkit.Must(c.t, errors.Join(c.driver.uninstall(ctx), c.driver.install(ctx, nil)))
	}()
	developer := c.developer()

	change := func(patch any) {
		body := testkit.Value(json.Marshal(patch))(c.t)
		testkit.Value(c.api.StorageV1().CSIDrivers().Patch(ctx, driverName, types.MergePatchType, body, metav1.PatchOptions{}))(c.t)
	}
	change(map[string]any{"spec": map[string]any{"podInfoOnMount": false}})
	c.start(newPod("nameless", printOnce, mounts("db")))
	c.awaitExplained(admin, row{name: "nameless", code: finding.CodeDriverObject, words: []string{"podInfoOnMount"}})
	c.awaitExplained(developer, row{name: "nameless", code: finding.CodeDriverObject, words: []string{"podInfoOnMount"}})
	change(map[string]any{"spec": map[string]any{"podInfoOnMount": true}})

	daemonSet := func(patch string) {
		testkit.Value(c.api.AppsV1().DaemonSets(releaseNamespace).Patch(ctx, releaseName, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}))(c.t)
	}
	daemonSet(`{"spec":{"template":{"spec":{"containers":[{"name":"mayfly-node","image":"mayfly.test/none:1"}]}}}}`)
	c.awaitDriverUnready()
	c.start(newPod("imageless", printOnce, mounts("db")))
	c.awaitExplained(admin, row{name: "imageless", code: finding.CodeDriverNotReady, words: []string{"ErrImageNeverPull"}})
	c.awaitExplained(developer, row{name: "imageless", code: finding.CodeNotRegistered, words: []string{driverName}})
	daemonSet(`{"spec":{"template":{"spec":{"nodeSelector":{"no":"such"}}}}}`)
	c.until("the driver's pod to go", func(ctx context.Context) error {
		pods, err := c.driver.pods(ctx)
		if err == nil && len(pods) > 0 {
			err = fmt.Errorf("there are %d", len(pods))
		}
		return err
	})
	c.start(newPod("driverless", printOnce, mounts("db")))
	c.awaitExplained(admin, row{name: "driverless", code: finding.CodeDriverAbsent, words: []string{"nodeSelector of DaemonSet", "no=such"}})
	c.awaitExplained(developer, row{name: "driverless", code: finding.CodeNotRegistered, words: []string{driverName}})
}

// awaitDriverUnready waits until the DaemonSet has replaced its pod by one that does not start.
func (c *tenant) awaitDriverUnready() {
	c.t.Helper()
	c.until("a pod of the driver that does not run", func(ctx context.Context) error {
		pods, err := c.driver.pods(ctx)
		if err == nil && (len(pods) != 1 || isWaiting(&pods[0]) != nil) {
			err = fmt.Errorf("there are %d", len(pods))
		}
		return err
	})
}
