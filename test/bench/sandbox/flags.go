package sandbox

import (
	"errors"
	"flag"
	"fmt"
	"os"
)

// Parse reads a program's flags. It ends the process after --help, which prints usage and the flags, and
// after a mistake; check looks for mistakes between flags, of which it is told which were given.
func Parse(name, usage string, declare func(*flag.FlagSet), check func(given map[string]bool) error) {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	declare(f)
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	err := f.Parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if err == nil && check != nil {
		given := map[string]bool{}
		f.Visit(func(f *flag.Flag) { given[f.Name] = true })
		err = check(given)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(2)
	}
}
