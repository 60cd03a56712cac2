// Package cli is the command line of mayfly-kms.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
)

// The exit codes.
const (
	exitDone     = 0
	exitFailed   = 1 // the command found something, or serve failed
	exitUnusable = 2 // the command line or the settings are invalid
)

// Streams are the input and output of a command.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Version  string
}

// failed ends a command that failed with valid settings.
type failed struct{ error }

func (f failed) Unwrap() error { return f.error }

// Run runs a command line and returns the exit code.
func Run(ctx context.Context, args []string, s Streams) int {
	root := newRoot(s)
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if text := printable(err.Error()); text != "" {
		fmt.Fprintf(s.Err, "mayfly-kms: %s\n", text)
	}
	var f failed
	if errors.As(err, &f) {
		return exitFailed
	}
	return exitUnusable
}

func newRoot(s Streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "mayfly-kms",
		Short: "Encrypt a cluster's Secrets in etcd with a key of Vault or OpenBao",
		Long: `Encrypt a cluster's Secrets in etcd with a key of Vault or OpenBao.

mayfly-kms serve is a KMS v2 plugin of kube-apiserver: it runs beside each API
server, and encrypts the seeds of its keys with Vault's Transit engine. The key
never leaves Vault.`,
		Example: `  # Serve with all settings in one file
  mayfly-kms serve --config=/etc/mayfly-kms/config.yaml

  # Serve with an AppRole; the secret id may be replaced in its file at any time
  mayfly-kms serve --vault-addr=https://vault-0:8200,https://vault-1:8200 \
    --auth-method=approle --role-id=$ROLE_ID --secret-id-file=/etc/mayfly-kms/secret-id \
    --transit-key=kubernetes --cluster-id=$CLUSTER_ID`,
		Version:       fmt.Sprintf("%s %s %s/%s", s.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("mayfly-kms {{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	root.AddCommand(newServe(s), newDoctor(s), newScan(s), newMigrate(s), newRetire(s))
	return root
}

// printable escapes what a terminal would interpret in an error.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, s)
}
