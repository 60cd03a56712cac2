package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

const pageHead = "# kubectl mayfly\n\n" +
	"`kubectl mayfly` finds out why a pod does not get a secret, and checks classes, policies and clusters. It is one static binary: `make build` builds `bin/kubectl-mayfly`, and kubectl finds it anywhere in `PATH`. It builds for Linux, macOS and Windows: `GOOS=darwin go build ./cmd/kubectl-mayfly`. Releases have an archive for each, and krew's manifest.\n\n" +
	"<!-- not run: it changes your PATH's directories -->\n\n" +
	"    make build\n    sudo install bin/kubectl-mayfly /usr/local/bin/\n    kubectl mayfly --help\n\n" +
	"`kubectl mayfly completion kubectl` prints the script that kubectl runs to complete commands, flags and names; see [completion](#completion).\n\n" +
	"The commands print findings as text, JSON or SARIF, with the same content. Each finding has a code; [findings](findings.md) explains them, and shows a pre-commit hook and a GitHub Action. In a terminal errors are red and warnings yellow, unless `NO_COLOR` is set or `TERM` is `dumb`.\n\n" +
	"| Exit code | |\n|---|---|\n" +
	"| 0 | no finding at or above the level of the flag `fail-on` |\n" +
	"| 1 | at least one such finding |\n" +
	"| 2 | the command could not run: a wrong flag, a file that cannot be opened |\n\n" +
	"The rest of this page is the help of the commands, written by `go test ./pkg/cli -update`.\n"

// Page is docs/cli.md, generated from the commands' help.
func Page() string {
	var b strings.Builder
	b.WriteString(pageHead)
	for _, c := range newRoot(output.Streams{}).Commands() {
		if c.Hidden || !c.IsAvailableCommand() {
			continue
		}
		writeHelp(&b, c)
	}
	return b.String()
}

func writeHelp(b *strings.Builder, c *cobra.Command) {
	c.InitDefaultHelpFlag()
	fmt.Fprintf(b, "\n## %s\n\n<!-- not run: the command's help -->\n```\n%s\n\n%s```\n", c.Name(), strings.TrimSpace(c.Long), c.UsageString())
}
