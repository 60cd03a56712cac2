// Package policy prints the least rights that classes need in their store, and compares them with
// those in the store.
package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// The formats in addition to those of a report.
const (
	formatHCL       = "hcl"
	formatCommands  = "commands"
	formatTerraform = "terraform"
)

// command is one run.
type command struct {
	cluster  cluster.Flags
	streams  output.Streams
	flags    *output.Flags
	report   *finding.Report
	files    []string
	all      bool
	everyNS  bool
	check    bool
	accounts []string
	options  access.Options
	// defaults are the operator's settings, for classes that leave them out.
	address, namespace, mount, audience, gateway string
	caCert                                       string
}

// New makes the command.
func New(s output.Streams, o *output.Flags) *cobra.Command {
	c := &command{streams: s, flags: o, report: &finding.Report{}}
	cmd := &cobra.Command{
		Use:   "policy CLASS...|--all|-f FILE|DIR|-",
		Short: "Print the least policy and role that classes need in their store",
		Long: `Print the least policy and role that classes need in their store.

In a cluster it uses the named classes, or all classes of a namespace, and the
service accounts of the pods that mount them. With -f it uses the classes in files,
and the service accounts of the pods and workloads in them. It prints each role's
policy as HCL, with -o commands as commands of the program vault, and with
-o terraform as resources. A policy has each path of an object, with the capability
that its method needs, and nothing else. Vault's default policy, which tokens have
unless their role excludes it, lets a token renew and revoke itself and renew its
leases. For Akeyless it prints the commands that give a role its rules. The output
replaces the whole policy, so name all classes of a role together.

With --check it changes nothing. It reads the roles and policies of the store, with
$VAULT_TOKEN at $VAULT_ADDR (with $AKEYLESS_TOKEN for Akeyless), and reports what is
missing, and what is granted but not needed by these classes. It does not see the
policies that Vault adds by identity, those of a pod's entity and its groups: whether
a pod has a right from there, kubectl mayfly try tells.`,
		Example: `  # From files, without a cluster
  kubectl mayfly policy -f deploy/ -o commands

  # What one class of a cluster needs, for a service account that has no pod yet
  kubectl mayfly policy db -n shop --serviceaccount web

  # Does Vault give all classes of the cluster what they need, and no more?
  kubectl mayfly policy --all -A --check`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	flags := cmd.Flags()
	c.cluster.Bind(flags)
	flags.StringArrayVarP(&c.files, "filename", "f", nil, "read classes and pods from a file, a directory or - (may be repeated)")
	flags.BoolVar(&c.all, "all", false, "use every class of the namespace")
	flags.BoolVarP(&c.everyNS, "all-namespaces", "A", false, "with --all, use the classes of every namespace")
	flags.BoolVar(&c.check, "check", false, "compare with the store's roles and policies")
	flags.StringArrayVar(&c.accounts, "serviceaccount", nil, "a service account that mounts the classes, as NAME or NAMESPACE/NAME, in place of those of the pods (may be repeated)")
	flags.StringVar(&c.options.Method, "auth-method", "", "the kind of the auth method: kubernetes or jwt (default jwt if its path contains jwt, else kubernetes)")
	flags.BoolVar(&c.options.NoDefaultPolicy, "no-default-policy", false, "plan for tokens without Vault's default policy")
	flags.BoolVar(&c.options.Versions, "versions", false, "also let the driver read the versions of KV version 2 secrets, so that a refresh does not read an unchanged secret")
	flags.StringVar(&c.options.APIAudience, "api-audience", "", "the API server's own audience, for classes with audience: apiserver")
	flags.StringVar(&c.address, "vault-addr", "", "the server of classes without one (default the driver's, if you may read its DaemonSet)")
	flags.StringVar(&c.namespace, "vault-namespace", "", "the Vault namespace of classes without one (default the driver's)")
	flags.StringVar(&c.mount, "vault-mount", "", "the auth method of classes without one (default the driver's, else kubernetes)")
	flags.StringVar(&c.audience, "vault-audience", "", "the audience of classes without one (default the driver's, else the provider's name)")
	flags.StringVar(&c.gateway, "akeyless-gateway-url", "", "the gateway of classes without one (default the driver's)")
	flags.StringVar(&c.caCert, "store-ca-cert", "", "with --check, a PEM file of the CA of the server's certificate (default $VAULT_CACERT)")
	return cmd
}

func (c *command) run(ctx context.Context, args []string) error {
	if err := c.checkFlags(args); err != nil {
		return err
	}
	in, err := c.gather(ctx, args)
	if err != nil {
		return err
	}
	judges, err := c.judges(in)
	if err != nil {
		return err
	}
	vaults, gateways := c.needs(in, judges)
	if c.check { // include every right that a token may ever use
		c.options.NoDefaultPolicy, c.options.Versions = true, true
	}
	grants := access.Plan(vaults, c.options, c.report)
	rules := access.PlanAkeyless(gateways, c.options.Versions)
	if c.check {
		c.compare(ctx, grants, rules)
		return c.flags.Finish(c.report, c.streams)
	}
	return c.print(grants, rules)
}

func (c *command) checkFlags(args []string) error {
	var more []string
	if !c.check {
		more = []string{formatHCL, formatCommands, formatTerraform}
	}
	if err := c.flags.Check(more...); err != nil {
		return err
	}
	switch {
	case len(c.files) == 0 && len(args) == 0 && !c.all:
		return errors.New("name classes, or pass --all or --filename")
	case len(c.files) > 0 && c.all, len(args) > 0 && c.all:
		return errors.New("--all: cannot be combined with names or --filename")
	case c.everyNS && !c.all:
		return errors.New("--all-namespaces needs --all")
	case !slices.Contains([]string{"", access.Kubernetes, access.JWT}, c.options.Method):
		return fmt.Errorf("--auth-method: must be kubernetes or jwt, not %q", c.options.Method)
	}
	return nil
}

// judges are the providers that know what a class needs.
type judges struct {
	vaults   map[string]*vault.Provider
	akeyless *akeyless.Provider
}

// unknownAddress stands for the operator's server if it is unknown.
const unknownAddress = "https://vault.invalid"

func (c *command) judges(in *input) (*judges, error) {
	j := &judges{vaults: map[string]*vault.Provider{}}
	for _, name := range []string{vault.NameVault, vault.NameOpenBao} {
		k := in.operator.Vault
		k.Name = name
		if c.address != "" {
			k.DefaultAddress, k.DefaultFallback = c.address, ""
		}
		set(&k.DefaultNamespace, c.namespace)
		set(&k.DefaultAuthMount, c.mount)
		set(&k.DefaultAudience, c.audience)
		if k.DefaultAddress == "" {
			k.DefaultAddress, k.DefaultFallback = unknownAddress, ""
		}
		// Files are on the nodes, and this makes no request.
		k.DefaultTLS = k.DefaultTLS.WithoutClient()
		var err error
		if j.vaults[name], err = vault.New(k); err != nil {
			return nil, err
		}
	}
	k := in.operator.Akeyless
	if c.gateway != "" {
		k.DefaultGateway, k.DefaultFallback = c.gateway, ""
	}
	k.DefaultTLS = k.DefaultTLS.WithoutClient()
	var err error
	j.akeyless, err = akeyless.New(k)
	return j, err
}

func set(to *string, value string) {
	if value != "" {
		*to = value
	}
}

// print writes what is needed to the output, and the findings beside it.
func (c *command) print(grants []access.Grant, rules []access.Rules) error {
	c.report.Sort()
	var err error
	switch c.flags.Format {
	case output.JSON:
		err = output.EncodeJSON(c.streams.Out, result{
			Version: 1, Vault: append([]access.Grant{}, grants...), Akeyless: append([]access.Rules{}, rules...),
			Findings: append([]finding.Finding{}, c.report.Findings...),
		})
	case output.SARIF:
		return c.flags.Finish(c.report, c.streams)
	default:
		err = c.printText(grants, rules)
	}
	if err != nil {
		return fmt.Errorf("writing the policies: %w", err)
	}
	return c.flags.Verdict(c.report)
}

// result is the JSON of the command.
type result struct {
	// Version counts the changes of this form that break readers.
	Version  int               `json:"version"`
	Vault    []access.Grant    `json:"vault"`
	Akeyless []access.Rules    `json:"akeyless"`
	Findings []finding.Finding `json:"findings"`
}

func (c *command) printText(grants []access.Grant, rules []access.Rules) error {
	write := map[string]func([]access.Grant) string{formatCommands: access.Commands, formatTerraform: access.Terraform}[c.flags.Format]
	if write == nil {
		write = access.HCL
	}
	text := write(grants)
	if commands := access.AkeylessCommands(rules, c.flags.Format != formatCommands); commands != "" {
		if text != "" {
			text += "\n"
		}
		text += commands
	}
	if len(c.report.Findings) > 0 {
		// To standard error, so that the data can be piped on.
		said := *c.flags
		said.Format = output.Text
		beside := c.streams
		beside.Out = c.streams.Err
		if err := said.Finish(c.report, beside); err != nil && !errors.Is(err, output.ErrFindings) {
			return err
		}
	}
	_, err := io.WriteString(c.streams.Out, text)
	return err
}
