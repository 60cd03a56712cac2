package cli

import (
	"context"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/kms"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
)

func newServe(s Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve KMS v2 on a unix socket",
		Long: `Serve KMS v2 on a unix socket, for the API server of the same node.

The socket is there before the first login, and serve goes on trying while Vault
is away: start it before the API server. In the EncryptionConfiguration:

  resources:
  - resources: [secrets]
    providers:
    - kms:
        apiVersion: v2
        name: mayfly
        endpoint: unix:///run/mayfly-kms/kms.sock
    - identity: {}

Every setting is a flag, an environment variable, shown in brackets, or a line of
the file that --config names.`,
		Example: `  # With all settings in one file
  mayfly-kms serve --config=/etc/mayfly-kms/config.yaml

  # By the kubelet's client certificate, which is on every node
  mayfly-kms serve --vault-addr=https://vault.example.com:8200 --auth-method=cert \
    --vault-client-cert=/var/lib/kubelet/pki/kubelet-client-current.pem \
    --vault-client-key=/var/lib/kubelet/pki/kubelet-client-current.pem \
    --transit-key=kubernetes --cluster-id=$CLUSTER_ID

  # With the token that Vault Agent keeps in a file
  mayfly-kms serve --vault-addr=https://vault.example.com:8200 --auth-method=token-file \
    --token-file=/run/vault-agent/token --transit-key=kubernetes --cluster-id=$CLUSTER_ID`,
		Args: cobra.NoArgs,
	}
	options := config.Register(cmd.Flags())
	cmd.Flags().SortFlags = false
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := options.Load(s.Getenv)
		if err != nil {
			return err
		}
		return serve(cmd.Context(), c, s, newLogger(c.Serve, s))
	}
	return cmd
}

func newLogger(c config.Serve, s Streams) *slog.Logger {
	h := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(s.Err, h))
	}
	return slog.New(slog.NewJSONHandler(s.Err, h))
}

// serve runs until the context ends.
func serve(ctx context.Context, c config.Config, s Streams, log *slog.Logger) error {
	// Who reads the log or the audit trail may end. That must not end the plugin.
	signal.Ignore(syscall.SIGPIPE)
	if err := kms.Harden(log); err != nil {
		return failed{err}
	}
	kms.LimitMemory()
	server, err := kms.New(c, s.Version, s.Out, log)
	if err != nil {
		return err
	}
	if err := server.Run(ctx); err != nil {
		return failed{err}
	}
	log.Info("mayfly-kms stopped")
	return nil
}
