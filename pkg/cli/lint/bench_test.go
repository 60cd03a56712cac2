package lint_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/cli/lint"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// benchFiles is how many files are linted at once; the limit is 200 ms.
const benchFiles = 100

// BenchmarkLint is a directory of files, each with a class and a deployment
// that mounts it: without a fault, and with many in every object.
func BenchmarkLint(b *testing.B) {
	for _, faulty := range []bool{false, true} {
		b.Run(fmt.Sprintf("faulty=%v", faulty), func(b *testing.B) {
			dir := b.TempDir()
			for i := range benchFiles {
				testkit.Must(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("app-%d.yaml", i)), []byte(benchFile(i, faulty)), 0o600))
			}
			for b.Loop() {
				o := &output.Flags{}
				root := &cobra.Command{SilenceUsage: true, SilenceErrors: true}
				o.Bind(root.PersistentFlags())
				root.AddCommand(lint.New(output.Streams{Out: io.Discard, Err: io.Discard, Getenv: os.Getenv}, o))
				root.SetArgs([]string{"lint", dir})
				if err := root.Execute(); err != nil && !faulty {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchFile(i int, faulty bool) string {
	text := fmt.Sprintf(`apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: app-%[1]d, namespace: shop}
spec:
  provider: vault
  parameters:
    roleName: app-%[1]d
    vaultAddress: https://vault.example:8200
    refreshInterval: 5m
    objects: |
`, i)
	for n := range 5 {
		text += fmt.Sprintf("      - objectName: key-%d\n        secretPath: secret/data/app-%d\n        secretKey: key-%d\n        filePermission: 0440\n", n, i, n)
	}
	text += fmt.Sprintf(`---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app-%[1]d, namespace: shop}
spec:
  selector: {matchLabels: {app: app-%[1]d}}
  template:
    metadata: {labels: {app: app-%[1]d}}
    spec:
      serviceAccountName: app-%[1]d
      securityContext: {runAsUser: 1000, fsGroup: 1000}
      containers:
      - name: app
        image: app
        volumeMounts:
        - {name: secrets, mountPath: /secrets, readOnly: true}
      volumes:
      - name: secrets
        csi:
          driver: secrets-store.csi.k8s.io
          readOnly: true
          volumeAttributes: {secretProviderClass: app-%[1]d}
`, i)
	if !faulty {
		return text
	}
	return strings.NewReplacer(
		"refreshInterval:", "refreshIntervall:", "vaultAddress:", "vaultAdress:", "secretKey:", "secretkey:", "filePermission:", "filePermissions:",
		"secret/data/", "secret/", ", fsGroup: 1000", "", "readOnly: true\n", "readOnly: false\n", "{secretProviderClass: app-", "{other: x, secretProviderClass: ap-",
	).Replace(text)
}
