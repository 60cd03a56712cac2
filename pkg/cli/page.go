package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

const pageHead = "# kubectl mayfly\n\n" +
	"`kubectl mayfly` finds out why a secret does not arrive. It is one static binary: `make build` makes `bin/kubectl-mayfly`, and kubectl finds it anywhere in `PATH`. It builds for Linux, macOS and Windows: `GOOS=darwin go build ./cmd/kubectl-mayfly`. Releases have an archive for each, and krew's manifest.\n\n" +
	"<!-- not run: it changes your PATH's directories -->\n\n" +
	"    make build\n    sudo install bin/kubectl-mayfly /usr/local/bin/\n    kubectl mayfly --help\n\n" +
	"`kubectl mayfly completion kubectl` prints what kubectl runs to complete its commands, flags and names; [completion](#completion) has the rest.\n\n" +
	"What it finds is printed as text, JSON or SARIF, which all show the same. Each finding has a code; [findings](findings.md) explains them, and shows a pre-commit hook and a GitHub Action. In a terminal errors are red and warnings yellow, unless `NO_COLOR` is set or `TERM` is `dumb`.\n\n" +
	"| Exit code | |\n|---|---|\n" +
	"| 0 | nothing was found at the level of the flag `fail-on` or above it |\n" +
	"| 1 | something was |\n" +
	"| 2 | the command could not run: a wrong flag, a file that cannot be opened |\n\n" +
	"The rest of this page is the help of the commands, made by `go test ./pkg/cli -update`.\n"

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
