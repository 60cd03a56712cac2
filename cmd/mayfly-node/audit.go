package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
)

// auditCommand works on audit trails that were written.
const auditCommand = "audit"

const auditHelp = `mayfly-node audit verify FILE... shows whether lines of an audit trail were
changed, taken out, put in or moved since the driver wrote them.

Each line has a number and the hash of the line before (docs/audit.md, The
chain). Give all files of a node from the oldest to the newest; - is the standard
input. Files of kubelet (/var/log/pods) and what kubectl logs prints will do as
well, and lines of several nodes may be mixed. Lines that are of no audit trail
are left out and counted; a file of --audit-log has none.

It prints each place where a chain does not hold, as FILE:LINE with what is wrong,
and then the chains that it found. A chain cannot show what was cut off its end:
compare its last line with what you noted elsewhere. --reaches does so with the
metric mayfly_audit_last_line of the node.

The exit code is 0 where every chain holds, 1 where one does not, and 2 where it
could not look or there was no line of an audit trail.

Examples:
  mayfly-node audit verify /var/log/mayfly/audit.log.1 /var/log/mayfly/audit.log
  zcat audit-*.gz | mayfly-node audit verify -
  kubectl logs -n kube-system mayfly-x7k2p | mayfly-node audit verify --reaches 4711 -

Flags:
`

type verifyOptions struct {
	reaches uint64
	files   []string
}

// auditTool returns the exit code.
func auditTool(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parseVerify(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "mayfly-node %s: %v\nRun mayfly-node %s verify --help for what it does.\n", auditCommand, err, auditCommand)
		return 2
	}
	var v chain.Verifier
	for _, name := range o.files {
		if err := verifyFile(&v, name, stdin); err != nil {
			fmt.Fprintf(stderr, "mayfly-node %s verify: %v\n", auditCommand, err)
			return 2
		}
	}
	return printChains(&v, o, stdout, stderr)
}

func parseVerify(args []string, help io.Writer) (verifyOptions, error) {
	var o verifyOptions
	f := flag.NewFlagSet("mayfly-node "+auditCommand, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Uint64Var(&o.reaches, "reaches", 0, "the `number` that the last line in the files has at least; for files of one node")
	if len(args) > 0 && args[0] == "verify" {
		args = args[1:]
	} else if len(args) == 0 || args[0] != "--help" && args[0] != "-h" {
		return o, errors.New("the subcommand is missing: verify FILE, or more files")
	}
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(help, auditHelp)
		f.SetOutput(help)
		f.PrintDefaults()
	}
	if err == nil && f.NArg() == 0 {
		err = errors.New("no file is given; - is the standard input")
	}
	o.files = f.Args()
	return o, err
}

func verifyFile(v *chain.Verifier, name string, stdin io.Reader) error {
	if name == "-" {
		return v.Read("-", stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("opening the audit trail: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := v.Read(name, f); err != nil {
		return fmt.Errorf("reading the audit trail: %w", err)
	}
	return nil
}

func printChains(v *chain.Verifier, o verifyOptions, stdout, stderr io.Writer) int {
	code := 0
	for _, b := range v.Breaks {
		code = 1
		fmt.Fprintf(stdout, "%s: %s\n", b.Place, b.Why)
	}
	if v.More > 0 {
		fmt.Fprintf(stdout, "and %d more places like these\n", v.More)
	}
	chains := v.Chains()
	if len(chains) == 0 && code == 0 {
		fmt.Fprintf(stderr, "mayfly-node %s verify: no line with a place in a chain among %d lines of an audit trail\n", auditCommand, v.Lines)
		return 2
	}
	if v.Without > 0 {
		fmt.Fprintf(stdout, "%d lines before the first chain have no place in one: an older driver has written them\n", v.Without)
	}
	if v.Others > 0 {
		fmt.Fprintf(stdout, "%d lines are of no audit trail, and were left out\n", v.Others)
	}
	if v.Lost > 0 {
		fmt.Fprintf(stdout, "the driver says that it lost %d lines before it could write them\n", v.Lost)
	}
	nodes := map[string]bool{}
	for _, c := range chains {
		nodes[c.Node] = true
		begin := "which follow the line before them"
		switch {
		case c.Open:
			begin = "which follow a line that is in none of the files"
		case c.First == 1 && c.Fresh:
			begin = "which follow no line: the driver knew of none"
		}
		fmt.Fprintf(stdout, "node %s, chain %s: lines %d to %d, %s to %s, %s; hash of the last line: %s\n",
			c.Node, c.ID, c.First, c.Last, stamp(c.From), stamp(c.Until), begin, c.Hash)
	}
	if o.reaches > 0 {
		code = max(code, printReach(chains, len(nodes), o.reaches, stdout, stderr))
	}
	return code
}

// printReach compares the last line with what was noted elsewhere.
func printReach(chains []*chain.Chain, nodes int, reaches uint64, stdout, stderr io.Writer) int {
	if nodes > 1 {
		fmt.Fprintf(stderr, "mayfly-node %s verify: --reaches is about one node, and the files are of %d\n", auditCommand, nodes)
		return 2
	}
	if len(chains) == 0 {
		return 1
	}
	if last := chains[len(chains)-1]; last.Last < reaches {
		fmt.Fprintf(stdout, "the last line is line %d of its chain, and line %d was written: %d lines are missing at the end\n", last.Last, reaches, reaches-last.Last)
		return 1
	}
	return 0
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
