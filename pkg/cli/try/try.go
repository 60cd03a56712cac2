// Package try finds out whether a class would work for a service account: it logs in to the store
// as a pod of the account would, and asks which rights it has.
package try

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	authv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/operator"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
)

const (
	// tokenSeconds is the shortest lifetime of a token that the API server accepts.
	tokenSeconds = 600
	// tryTimeout bounds all requests to the store.
	tryTimeout = 30 * time.Second
	// podName stands for the pod, which does not exist.
	podName = "kubectl-mayfly-try"
)

// command is one run.
type command struct {
	cluster cluster.Flags
	streams output.Streams
	flags   *output.Flags
	report  *finding.Report

	account string
	read    bool
	// How this machine reaches the store.
	vaultAddr, gateway, caCert, serverName, clientCert, clientKey string

	client *cluster.Client
	class  *class.Class
}

// New makes the command.
func New(s output.Streams, o *output.Flags) *cobra.Command {
	c := &command{streams: s, flags: o, report: &finding.Report{}}
	cmd := &cobra.Command{
		Use:   "try CLASS --serviceaccount NAME",
		Short: "Find out whether a class would work for a service account",
		Long: `Find out whether a class would work for a service account.

try requests a token of the service account from the API server, as kubelet does for
a pod: for the audience of the class, for ten minutes, and bound to no pod. You need
the right to create serviceaccounts/token. With the token it logs in to the store
with the driver's own code and flags, and checks what the login may do with each
object of the class. It prints the result for each object, with the store's message
and the commands that fix a failure. It reads no secret without --read, and never
prints one. At the end it revokes its login.

It calls the store from your machine, and not from the node. It does not test
firewalls, network policies, DNS and files of the node. You can reach a Vault in the
cluster through kubectl port-forward, with --vault-addr. It cannot test provider
plugins.`,
		Example: `  # May the pods of shop/web read the objects of the class db?
  kubectl mayfly try db -n shop --serviceaccount web

  # Vault is in the cluster, with a certificate of a private authority
  kubectl port-forward -n vault service/vault 8200 &
  kubectl mayfly try db -n shop --serviceaccount web --vault-addr https://127.0.0.1:8200 \
    --store-ca-cert vault-ca.pem

  # Read each object too, to check the keys; the values are not printed
  kubectl mayfly try db -n shop --serviceaccount web --read`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	c.cluster.Bind(flags)
	flags.StringVar(&c.account, "serviceaccount", "", "the service account to try as, of the class's namespace (required)")
	flags.BoolVar(&c.read, "read", false, "read and issue each object, as for a pod; leases are revoked at once")
	flags.StringVar(&c.vaultAddr, "vault-addr", "", "use the Vault at this address instead of the class's or the driver's")
	flags.StringVar(&c.gateway, "akeyless-gateway-url", "", "use this Akeyless gateway instead of the class's or the driver's")
	flags.StringVar(&c.caCert, "store-ca-cert", "", "a PEM file with the CA of the server's certificate, instead of the files on the node")
	flags.StringVar(&c.serverName, "store-server-name", "", "the name in the server's certificate (default for an address of this machine: that of the node's address)")
	flags.StringVar(&c.clientCert, "store-client-cert", "", "a PEM file of a client certificate, for a server that requires one")
	flags.StringVar(&c.clientKey, "store-client-key", "", "a PEM file of its key")
	_ = cmd.MarkFlagRequired("serviceaccount") // the flag is there
	return cmd
}

func (c *command) run(ctx context.Context, name string) error {
	if err := c.flags.Check(); err != nil {
		return err
	}
	if (c.clientCert == "") != (c.clientKey == "") {
		return fmt.Errorf("--store-client-cert and --store-client-key must be used together")
	}
	var err error
	if c.client, err = c.cluster.Connect(c.streams); err != nil {
		return err
	}
	object, err := c.client.Class(ctx, c.client.Namespace, name)
	if err != nil {
		return fmt.Errorf("reading SecretProviderClass %s/%s: %s", c.client.Namespace, name, cluster.Reason(err))
	}
	c.report.Objects++
	parsed, _, err := class.Parse(object)
	if err == nil {
		_, err = rendered.Check(parsed)
	}
	if err != nil {
		c.class = &class.Class{Ref: class.Ref{Namespace: object.Namespace, Name: object.Name}}
		c.refused(err)
		return c.flags.Finish(c.report, c.streams)
	}
	c.class = parsed
	c.try(ctx, operator.Look(ctx, c.client, c.report))
	return c.flags.Finish(c.report, c.streams)
}

func (c *command) try(ctx context.Context, op operator.Settings) {
	switch c.class.Provider {
	case vault.NameVault, vault.NameOpenBao:
		c.vault(ctx, op.Vault)
	case akeyless.Name:
		c.akeyless(ctx, op.Akeyless)
	default:
		c.report.Check("provider "+c.class.Provider, finding.Unknown, "it is a plugin")
		c.add(finding.CodeTryUnsupported, finding.Finding{
			Message: fmt.Sprintf("provider %q is a plugin on the nodes, which this command cannot call: it made no request", c.class.Provider),
		})
	}
}

// attempt is what differs between the stores.
type attempt struct {
	// address is where this machine reaches the store, empty for the address that the
	// node uses, which is named.
	address, named string
	// files are those on the node that the connection takes.
	files []string
	// audience is that of the service account token to log in with; empty for a login
	// without one.
	audience string
	// try tries the class, and reports what came of it.
	try func(ctx context.Context, instead endpoint.Target, r provider.Request) (session.Trial, error)
}

// attempt tries the class at its store.
func (c *command) attempt(ctx context.Context, a attempt) {
	instead, ok := c.instead(a.address, a.named, a.files)
	if !ok {
		return
	}
	var tokens identity.Tokens
	if a.audience != "" {
		c.audience(ctx, a.audience)
		if tokens, ok = c.token(ctx, a.audience); !ok {
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	trial, err := a.try(ctx, instead, c.request(tokens))
	if err == nil {
		return
	}
	reached := a.named
	if trial.Reached != "" {
		reached = trial.Reached
	}
	c.report.Check("the response of "+reached, finding.Unknown, "")
	c.stopped(fmt.Sprintf("this machine cannot reach the store, and the node may still reach it: %s", fault.Cause(err)), withDefault(fault.Hint(err), "use another connection: kubectl port-forward, and --vault-addr or --akeyless-gateway-url"))
}

// add adds a finding about the class.
func (c *command) add(code string, f finding.Finding) {
	f.Object = finding.Object{Kind: "SecretProviderClass", Namespace: c.class.Namespace, Name: c.class.Name}
	c.report.Add(code, f)
}

func (c *command) refused(err error) {
	c.report.Check("the class", finding.Bad, "the driver refuses it")
	c.add(finding.CodeTryRefused, finding.Finding{Message: fault.Cause(err), Remedy: fault.Hint(err)})
}

// unseen reports what could not be found out.
func (c *command) unseen(message, remedy string) {
	c.add(finding.CodeNotReadable, finding.Finding{Message: message, Remedy: remedy})
}

// stopped is unseen if nothing could be tried: then the command does not pass.
func (c *command) stopped(message, remedy string) {
	c.add(finding.CodeNotReadable, finding.Finding{Level: finding.Error, Message: message, Remedy: remedy})
}

func (c *command) accountName() string { return c.class.Namespace + "/" + c.account }

// audience checks whether pods get a token for an audience at all.
func (c *command) audience(ctx context.Context, audience string) {
	driver, err := c.client.CSIDriver(ctx)
	title := fmt.Sprintf("the CSIDriver %s requests audience %q", c.client.DriverName, audience)
	if err != nil {
		c.report.Check(title, finding.Unknown, "")
		cluster.NotSeen(c.report, finding.Object{Kind: "CSIDriver", Name: c.client.DriverName}, err)
		return
	}
	if driver == nil {
		c.report.Check(title, finding.Bad, "there is no such CSIDriver")
		c.add(finding.CodeTryAudience, finding.Finding{Message: fmt.Sprintf("there is no CSIDriver %q, so kubelet mounts nothing", c.client.DriverName), Remedy: "install the driver, or pass its name with --driver-name"})
		return
	}
	var have []string
	for _, r := range driver.Spec.TokenRequests {
		have = append(have, r.Audience)
		if r.Audience == audience || r.Audience == "" && audience == identity.APIServer {
			c.report.Check(title, finding.Good, "")
			return
		}
	}
	c.report.Check(title, finding.Bad, "")
	c.add(finding.CodeTryAudience, finding.Finding{
		Message: fmt.Sprintf("the class logs in with a token for audience %q, and the CSIDriver requests %q", audience, have),
		Remedy:  fmt.Sprintf("add {audience: %q} to spec.tokenRequests of the CSIDriver (the chart's tokenRequests)", audience),
	})
}

// token requests a token of the service account from the API server; false if it gets none.
func (c *command) token(ctx context.Context, audience string) (identity.Tokens, bool) {
	seconds := int64(tokenSeconds)
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	key := audience
	if audience == identity.APIServer {
		key = ""
	} else {
		request.Spec.Audiences = []string{audience}
	}
	title := fmt.Sprintf("a token of service account %s for audience %q", c.accountName(), audience)
	got, err := c.client.CoreV1().ServiceAccounts(c.class.Namespace).CreateToken(ctx, c.account, request, metav1.CreateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		c.report.Check(title, finding.Bad, "")
		c.add(finding.CodeTryNoAccount, finding.Finding{Message: fmt.Sprintf("there is no service account %s", c.accountName()), Remedy: fmt.Sprintf("kubectl create serviceaccount -n %s %s", c.class.Namespace, c.account)})
		return nil, false
	case err != nil:
		c.report.Check(title, finding.Unknown, "")
		remedy := "check whether kubectl reaches the cluster, and run the command again"
		if apierrors.IsForbidden(err) {
			remedy = fmt.Sprintf("you need the right to create serviceaccounts/token: kubectl create role try -n %s --verb=create --resource=serviceaccounts/token --resource-name=%s", c.class.Namespace, c.account)
		}
		c.stopped("the API server issues no token: "+cluster.Reason(err), remedy)
		return nil, false
	}
	tokens, err := identity.Plain{key: {Token: got.Status.Token, Expires: got.Status.ExpirationTimestamp.UTC().Format(time.RFC3339)}}.Tokens()
	if err != nil {
		c.report.Check(title, finding.Unknown, "")
		c.stopped("the API server issues no usable token: "+err.Error(), "run the command again")
		return nil, false
	}
	c.report.Check(title, finding.Good, "for ten minutes, bound to no pod")
	return tokens, true
}

// request is the request of a pod of the service account.
func (c *command) request(tokens identity.Tokens) provider.Request {
	return provider.Request{
		Volume: podName, Class: c.class, Tokens: tokens,
		Pod: identity.Pod{Namespace: c.class.Namespace, Name: podName, ServiceAccount: c.account},
	}
}

// instead is how this machine reaches the store, if that differs from the node, and what prevents
// it; named is the node's address.
func (c *command) instead(address, named string, files []string) (t endpoint.Target, ok bool) {
	if address != "" {
		a, err := endpoint.ParseAddress(address)
		if err != nil {
			c.stopped(fmt.Sprintf("the address %q cannot be used: %v", address, err), "pass an address such as https://127.0.0.1:8200")
			return t, false
		}
		t.Address = a
	}
	t.TLS = endpoint.TLS{CACertFile: c.caCert, ServerName: c.serverName, ClientCertFile: c.clientCert, ClientKeyFile: c.clientKey}
	if t.TLS.ServerName == "" && isHere(address) {
		if u, err := url.Parse(named); err == nil && u.Scheme == "https" {
			t.TLS.ServerName = u.Hostname()
		}
	}
	if t.TLS != (endpoint.TLS{}) {
		return t, true
	}
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			c.report.Check("the server's certificate", finding.Unknown, "")
			c.stopped(fmt.Sprintf("the connection needs the file %q of the driver's container, which this machine does not have", f), "pass a copy of it: --store-ca-cert for a CA, --store-client-cert and --store-client-key for a client certificate")
			return t, false
		}
	}
	return t, true
}

// isHere reports whether an address belongs to this machine, such as a port-forward's.
func isHere(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	host := u.Hostname()
	return host == "localhost" || host == "::1" || strings.HasPrefix(host, "127.")
}

// read is what came of the read of an object.
func read(t *session.Tried) string {
	if t.Files == 1 {
		return fmt.Sprintf("read, %d bytes", t.Size)
	}
	return fmt.Sprintf("read, %d files, %d bytes", t.Files, t.Size)
}

// unfit reports why the objects together make no volume; nil if they do.
func (c *command) unfit(err error) {
	if err != nil {
		c.report.Check("the files together", finding.Bad, fault.Cause(err))
		c.add(finding.CodeTryNotRead, finding.Finding{Message: fault.Cause(err), Remedy: fault.Hint(err)})
	}
}

// notTried reports what a trial from here leaves out.
func (c *command) notTried(reached, named string) {
	detail := "this command connects from this machine"
	if reached != named {
		detail += " to " + reached
	}
	c.report.Check("the network between the node and "+named, finding.Skipped, detail)
}

func withDefault(text, def string) string {
	if text == "" {
		return def
	}
	return text
}
