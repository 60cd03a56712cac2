package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
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

func (f *flagSet) boolean(p *bool, name, usage string, env ...string) {
	f.BoolVar(p, name, false, usage)
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

func (f *flagSet) value(v value, name, usage string, env ...string) {
	f.Func(name, usage, v.set)
	f.Lookup(name).DefValue = v.def
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

// value is a flag that a function reads, with its default as text.
type value struct {
	set func(text string) error
	def string
}

// quantity is a number of bytes or things, such as 16Mi.
func quantity(p *int64) value {
	return value{func(text string) error {
		v, err := resource.ParseQuantity(text)
		if err != nil {
			return fmt.Errorf("%q is not a quantity such as 16Mi", text)
		}
		if *p = v.Value(); *p <= 0 {
			return fmt.Errorf("%q must be above zero", text)
		}
		return nil
	}, textOf(*p)}
}

// limit is a quantity, or 0 for none.
func limit(p *int64) value {
	return value{func(text string) error { return setLimit(p, text, "a quantity such as 16Mi, or 0 for no limit") }, textOf(*p)}
}

// autoLimit is a limit, or auto, which is the default.
func autoLimit(p *int64) value {
	*p = node.Auto
	return value{func(text string) error {
		if text == "auto" {
			*p = node.Auto
			return nil
		}
		return setLimit(p, text, "auto, a quantity such as 16Mi, or 0 for no limit")
	}, "auto"}
}

func setLimit(p *int64, text, kind string) error {
	v, err := resource.ParseQuantity(text)
	if err != nil || v.Sign() < 0 {
		return fmt.Errorf("%q is not %s", text, kind)
	}
	*p = v.Value()
	return nil
}

func textOf(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }

// list is a comma-separated list.
func list(p *[]string) value {
	return value{func(text string) error {
		*p = nil
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*p = append(*p, item)
			}
		}
		return nil
	}, strings.Join(*p, ",")}
}

// oneOf is one of a few words.
func oneOf(p *string, words ...string) value {
	return value{func(text string) error {
		if !slices.Contains(words, text) {
			return fmt.Errorf("%q is not one of %s", text, strings.Join(words, ", "))
		}
		*p = text
		return nil
	}, *p}
}

// float is a number above zero.
func float(p *float32) value {
	return value{func(text string) error {
		v, err := strconv.ParseFloat(text, 32)
		if err != nil || v <= 0 {
			return fmt.Errorf("%q must be a number above zero", text)
		}
		*p = float32(v)
		return nil
	}, strconv.FormatFloat(float64(*p), 'g', -1, 32)}
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
