//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	gatewayAccessID = "p-e2e"
	gatewayConfig   = "e2e"
	gatewayAudience = "akeyless"
	// printVolume prints the static files, and then does the same as printChanges.
	printVolume = `cd /secrets && cat json && echo && cat db/user && echo && cat db/password && echo || exit 1
` + printChanges
)

// gateway is a double of Akeyless, outside of the cluster as its gateways may be.
type gateway struct{ *akeylessd.Server }

func startGateway(ctx context.Context) (*gateway, error) {
	server, err := akeylessd.Start(ctx, akeylessd.Options{})
	if err != nil {
		return nil, fmt.Errorf("starting the Akeyless double: %w", err)
	}
	return &gateway{server}, nil
}

// trust has the gateway ask the API server about service account tokens.
func (g *gateway) trust(ctx context.Context, w *world) error {
	token, err := reviewerToken(ctx, w)
	if err != nil {
		return fmt.Errorf("making the gateway's service account: %w", err)
	}
	ca, err := os.ReadFile(w.node.CAFile())
	if err != nil {
		return fmt.Errorf("reading the API server's CA: %w", err)
	}
	g.AuthMethod(gatewayAccessID, akeylessd.Method{
		Type: "k8s", ConfigName: gatewayConfig, Audience: gatewayAudience,
		Cluster: &akeylessd.Cluster{Host: w.node.Server(), CA: ca, ReviewerToken: token},
	})
	return nil
}

// item is the name of an item of the tenant's own.
func (c *tenant) item(name string) string { return "/" + c.ns + "/" + name }

// admitToGateway allows only the tenant's service account to read its items.
func (c *tenant) admitToGateway() {
	c.gateway.Allow(akeylessd.Rule{
		AccessID: gatewayAccessID, Prefix: c.item(""),
		Claims: map[string]string{"namespace": c.ns, "service_account_name": account},
	})
}

func (c *tenant) gatewayClass(name string, change map[string]string, objects ...map[string]any) {
	c.t.Helper()
	list, err := json.Marshal(objects) // which is YAML too
	testkit.Must(c.t, err)
	parameters := map[string]string{
		"akeylessGatewayURL": c.gateway.URL(), "akeylessAccessType": "k8s", "akeylessAccessID": gatewayAccessID,
		"akeylessK8sAuthConfigName": gatewayConfig, "objects": string(list),
	}
	for key, value := range change {
		parameters[key] = value
	}
	testkit.Must(c.t, c.createClass(c.t.Context(), map[string]any{
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"provider": "akeyless", "parameters": parameters},
	}))
}

// akeylessReads has a pod with a static secret, a key of a JSON secret and dynamic credentials,
// which are issued once and revoked after the pod.
func akeylessReads(c *tenant) {
	c.admitToGateway()
	c.gateway.PutStatic(c.item("api"), marker+"one")
	c.gateway.PutStatic(c.item("config"), `{"db":{"password":"`+marker+`json"}}`)
	c.gateway.PutDynamic(c.item("db"), time.Hour)
	c.gatewayClass("akeyless", nil,
		map[string]any{"fileName": "password", "secretPath": c.item("api")},
		map[string]any{"fileName": "json", "secretPath": c.item("config"), "secretKey": "db.password"},
		map[string]any{"fileName": "db/user", "secretPath": c.item("db"), "secretType": "dynamic", "secretKey": "user"},
		map[string]any{"fileName": "db/password", "secretPath": c.item("db"), "secretType": "dynamic", "secretKey": "password"},
	)
	issuedBefore, aliveBefore := c.gateway.Credentials()
	pod := c.run(newPod("reader", printVolume, mounts("akeyless")))
	dynamic := c.filesOf(pod, "db/user", "db/password")
	want := marker + "json\n" + dynamic + marker + "one\n"
	c.awaitLog("reader", want)
	for _, value := range []string{"two", "three"} {
		c.gateway.PutStatic(c.item("api"), marker+value)
		want += marker + value + "\n"
		c.awaitLog("reader", want)
	}
	if now := c.filesOf(pod, "db/user", "db/password"); now != dynamic {
		c.t.Error("the dynamic credentials are others after a rotation of another secret")
	}
	if issued, alive := c.gateway.Credentials(); issued != issuedBefore+1 || alive != aliveBefore+1 {
		c.t.Errorf("%d dynamic credentials were made and %d live, want one", issued-issuedBefore, alive-aliveBefore)
	}
	c.delete("reader")
	c.awaitNothing(pod)
	c.until("the dynamic credentials to end", func(context.Context) error {
		issued, alive := c.gateway.Credentials()
		return errors.Join(wantCount(issued, nil)(issuedBefore+1), wantCount(alive, nil)(aliveBefore))
	})
}

// filesOf is the content of files of the pod's volume, a line each.
func (c *tenant) filesOf(pod *corev1.Pod, names ...string) string {
	c.t.Helper()
	var text strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(c.volume(pod, volumeName), name))
		testkit.Must(c.t, err)
		if len(data) == 0 {
			c.t.Errorf("%s is empty", name)
		}
		text.Write(data)
		text.WriteByte('\n')
	}
	return text.String()
}

// akeylessRefuses has a pod whose service account no rule allows, and one whose
// token is for another audience than the API server is asked for.
func akeylessRefuses(c *tenant) {
	c.admitToGateway()
	c.account("intruder")
	c.gateway.PutStatic(c.item("api"), marker+"one")
	password := map[string]any{"fileName": "password", "secretPath": c.item("api"), "secretType": "static"}
	c.gatewayClass("akeyless", nil, password)
	c.gatewayClass("foreign", map[string]string{"audience": "second"}, password)
	c.start(newPod("intruder", printOnce, as("intruder"), mounts("akeyless")))
	c.start(newPod("foreign", printOnce, mounts("foreign")))
	for pod, words := range map[string][]string{
		"intruder": {"access to item " + c.item("api") + " is denied"},
		"foreign":  {"unauthorized", `token audiences ["second"] is invalid for the target audiences ["akeyless"]`},
	} {
		c.awaitEvent(pod, mountFailed, words...)
		c.awaitEvent(pod, failedMount, append(words, "failed to mount secrets store objects for pod "+c.ns+"/"+pod)...)
		if pod := c.awaitPod(pod, isWaiting); pod.Status.ContainerStatuses[0].RestartCount > 0 {
			c.t.Errorf("the container of %s ran without its secrets", pod.Name)
		}
	}
	c.run(newPod("allowed", printOnce, mounts("akeyless")))
	c.awaitLog("allowed", marker+"one\n")
}
