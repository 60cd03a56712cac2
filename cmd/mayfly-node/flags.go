package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/mayfly-csi/mayfly/pkg/node"
)

// options are the values of the command line and the environment.
type options struct {
	version   bool
	logFormat string
	logLevel  slog.Level
	config    node.Config

	auditLevel string
	pluginDir  string
	pluginDirs []string
}

// group is a heading of --help with its flags in order.
type group struct {
	title string
	flags []*flag.Flag
	env   map[string]string
}

// flagSet collects flags in groups. Each flag may also be set by its
// environment variable; the command line wins.
type flagSet struct {
	*flag.FlagSet
	groups []*group
}

func (f *flagSet) group(title string) {
	f.groups = append(f.groups, &group{title: title, env: map[string]string{}})
}

// add puts a flag that was just declared into the current group. fromEnv tries its environment
// variables in order: MAYFLY_<NAME>, then those given.
func (f *flagSet) add(name string, env ...string) {
	g := f.groups[len(f.groups)-1]
	g.flags = append(g.flags, f.Lookup(name))
	g.env[name] = strings.Join(append([]string{"MAYFLY_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))}, env...), " ")
}

// addWithoutEnv is for flags that do something else than serve.
func (f *flagSet) addWithoutEnv(name string) {
	g := f.groups[len(f.groups)-1]
	g.flags = append(g.flags, f.Lookup(name))
}

func (f *flagSet) str(p *string, name, value, usage string, env ...string) {
	f.StringVar(p, name, value, usage)
	f.add(name, env...)
}

func (f *flagSet) boolean(p *bool, name string, value bool, usage string, env ...string) {
	f.BoolVar(p, name, value, usage)
	f.add(name, env...)
}

func (f *flagSet) integer(p *int, name string, value int, usage string) {
	f.IntVar(p, name, value, usage)
	f.add(name)
}

func (f *flagSet) duration(p *time.Duration, name string, value time.Duration, usage string) {
	f.DurationVar(p, name, value, usage)
	f.add(name)
}

func (f *flagSet) value(v flag.Value, name, usage string, env ...string) {
	f.Var(v, name, usage)
	f.add(name, env...)
}

// fromEnv sets the flags that are not on the command line.
func (f *flagSet) fromEnv(getenv func(string) string) error {
	given := map[string]bool{}
	f.Visit(func(x *flag.Flag) { given[x.Name] = true })
	for _, g := range f.groups {
		for _, x := range g.flags {
			if given[x.Name] {
				continue
			}
			for _, name := range strings.Fields(g.env[x.Name]) {
				if text := getenv(name); text != "" {
					if err := x.Value.Set(text); err != nil {
						return fmt.Errorf("environment variable %s: %w", name, err)
					}
					break
				}
			}
		}
	}
	return nil
}

// quantity is a number of bytes or things, such as 16Mi.
type quantity struct{ p *int64 }

func (q quantity) String() string {
	if q.p == nil {
		return ""
	}
	return resource.NewQuantity(*q.p, resource.BinarySI).String()
}

func (q quantity) Set(text string) error {
	v, err := resource.ParseQuantity(text)
	if err != nil {
		return fmt.Errorf("%q is not a quantity such as 16Mi", text)
	}
	if *q.p = v.Value(); *q.p <= 0 {
		return fmt.Errorf("%q must be above zero", text)
	}
	return nil
}

// limit is a quantity, 0 for none or, if automatic is set, auto.
type limit struct {
	p         *int64
	automatic bool
}

func (l limit) String() string {
	switch {
	case l.p == nil:
		return ""
	case *l.p == node.Auto:
		return "auto"
	}
	return resource.NewQuantity(*l.p, resource.BinarySI).String()
}

func (l limit) Set(text string) error {
	if l.automatic && text == "auto" {
		*l.p = node.Auto
		return nil
	}
	v, err := resource.ParseQuantity(text)
	if err != nil || v.Sign() < 0 {
		kind := "a quantity such as 16Mi, or 0 for no limit"
		if l.automatic {
			kind = "auto, " + kind
		}
		return fmt.Errorf("%q is not %s", text, kind)
	}
	*l.p = v.Value()
	return nil
}

// list is a comma-separated list.
type list struct{ p *[]string }

func (l list) String() string {
	if l.p == nil {
		return ""
	}
	return strings.Join(*l.p, ",")
}

func (l list) Set(text string) error {
	*l.p = nil
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			*l.p = append(*l.p, item)
		}
	}
	return nil
}

// oneOf is one of a few words.
type oneOf struct {
	p     *string
	words []string
}

func (o oneOf) String() string {
	if o.p == nil {
		return ""
	}
	return *o.p
}

func (o oneOf) Set(text string) error {
	for _, w := range o.words {
		if text == w {
			*o.p = text
			return nil
		}
	}
	return fmt.Errorf("%q is not one of %s", text, strings.Join(o.words, ", "))
}

// float is a float32.
type float struct{ p *float32 }

func (f float) String() string {
	if f.p == nil {
		return ""
	}
	return strconv.FormatFloat(float64(*f.p), 'g', -1, 32)
}

func (f float) Set(text string) error {
	v, err := strconv.ParseFloat(text, 32)
	if err != nil || v <= 0 {
		return fmt.Errorf("%q must be a number above zero", text)
	}
	*f.p = float32(v)
	return nil
}

// help prints the introduction, then each flag with its default and variables.
func (f *flagSet) help(w io.Writer) {
	fmt.Fprint(w, introduction)
	for _, g := range f.groups {
		fmt.Fprintf(w, "\n%s:\n", g.title)
		for _, x := range g.flags {
			kind, usage := flag.UnquoteUsage(x)
			fmt.Fprintf(w, "  --%s", x.Name)
			if kind != "" {
				fmt.Fprintf(w, " %s", kind)
			}
			if x.DefValue != "" && x.DefValue != "false" {
				fmt.Fprintf(w, " (default %s)", x.DefValue)
			}
			fmt.Fprintf(w, "\n        %s\n", strings.ReplaceAll(usage, "\n", "\n        "))
			if env := strings.Fields(g.env[x.Name]); len(env) > 0 {
				fmt.Fprintf(w, "        [%s]\n", strings.Join(env, ", "))
			}
		}
	}
	fmt.Fprint(w, conclusion)
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
