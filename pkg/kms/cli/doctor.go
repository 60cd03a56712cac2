package cli

import (
	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/kms/doctor"
)

func newDoctor(s Streams) *cobra.Command {
	var o output
	var file string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what is wrong with the login, the key, the plugin or the API server's file",
		Long: `Find out what is wrong with the login, its policy, the key, the plugin that runs
on this node, or the API server's EncryptionConfiguration. Each finding says what
to do. It takes the settings of serve from the same file, environment or flags,
and changes nothing.

` + exitCodes,
		Example: `  mayfly-kms doctor --config=/etc/mayfly-kms/config.yaml --encryption-config=/etc/kubernetes/encryption.yaml`,
		Args:    cobra.NoArgs,
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&file, "encryption-config", "", "`file` of the API server's EncryptionConfiguration")
	o.bind(f)
	options := settings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		c, err := options.Load(s.Getenv)
		if err != nil {
			return err
		}
		r, err := doctor.Run(cmd.Context(), doctor.Options{Config: c, EncryptionConfig: file, Log: quiet(s)})
		if err != nil {
			return err
		}
		return o.finish(r, s)
	}
	return cmd
}
