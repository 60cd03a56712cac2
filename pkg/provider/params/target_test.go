package params_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var targetKeys = params.TargetKeys{
	Address: "url", Fallback: "second", CACertFile: "caFile", CACertDir: "caDir", CACert: "ca", ServerName: "name",
	ClientCertFile: "cert", ClientKeyFile: "key", SkipVerify: "skip",
}

func targetSet(raw map[string]string) *params.Set {
	return params.New(raw, params.Known{
		Keys: []string{"url", "caFile", "caDir", "ca", "name", "cert", "key", "skip", "second"}, Long: []string{"ca"},
		Names: map[string][]string{"caFile": {"storeCAFile"}},
	})
}

func address(t *testing.T, text string) endpoint.Address {
	t.Helper()
	return testkit.Value(endpoint.ParseAddressOrSocket(text))(t)
}

// TestTarget: settings that belong together are replaced together.
func TestTarget(t *testing.T) {
	def := endpoint.Target{Address: address(t, "https://own"), TLS: endpoint.TLS{
		CACertDir: "/authorities", ServerName: "n", ClientCertFile: "/c", ClientKeyFile: "/k", SkipVerify: true,
	}}
	with := func(change func(*endpoint.Target)) endpoint.Target {
		other := def
		change(&other)
		return other
	}
	for name, c := range map[string]struct {
		raw  map[string]string
		want endpoint.Target
	}{
		"nothing": {nil, def},
		"address": {map[string]string{"url": "https://a/b"}, with(func(o *endpoint.Target) {
			o.Address, o.TLS = address(t, "https://a/b"), def.TLS.WithoutClient()
		})},
		"address and pair": {map[string]string{"url": "https://a", "cert": "/x", "key": "/y"}, with(func(o *endpoint.Target) {
			o.Address, o.TLS.ClientCertFile, o.TLS.ClientKeyFile = address(t, "https://a"), "/x", "/y"
		})},
		"path": {map[string]string{"url": "https://own/b"}, with(func(o *endpoint.Target) { o.Address = address(t, "https://own/b") })},
		"port": {map[string]string{"url": "https://own:1"}, with(func(o *endpoint.Target) {
			o.Address, o.TLS = address(t, "https://own:1"), def.TLS.WithoutClient()
		})},
		"authorities": {map[string]string{"storeCAFile": "/ca"}, with(func(o *endpoint.Target) { o.TLS.CACertFile, o.TLS.CACertDir = "/ca", "" })},
		"inline":      {map[string]string{"ca": "PEM\n"}, with(func(o *endpoint.Target) { o.TLS.CACert, o.TLS.CACertDir = "PEM\n", "" })},
		"pair":        {map[string]string{"cert": "/x", "key": "/y"}, with(func(o *endpoint.Target) { o.TLS.ClientCertFile, o.TLS.ClientKeyFile = "/x", "/y" })},
		"the others":  {map[string]string{"name": "m", "skip": "false"}, with(func(o *endpoint.Target) { o.TLS.ServerName, o.TLS.SkipVerify = "m", false })},
	} {
		s := targetSet(c.raw)
		if got := s.Target(targetKeys, endpoint.Operator{Target: def}); got != c.want || len(s.Errs)+len(s.Warnings) > 0 {
			t.Errorf("%s: %+v, want %+v; %s %q", name, got, c.want, errs(s), s.Warnings)
		}
	}
	s := targetSet(map[string]string{"url": "http://plain", "name": "m"})
	s.Target(targetKeys, endpoint.Operator{Target: def})
	testkit.Equal(t, "warnings", s.Warnings, []string{"spec.parameters.url: is a plain http address, so the class's TLS parameters have no effect"})
}

func TestTargetRefused(t *testing.T) {
	for want, raw := range map[string]map[string]string{
		"spec.parameters.url: Required value: neither the class nor the driver":       nil,
		`spec.parameters.url: Invalid value: "store:1"`:                               {"url": "store:1"},
		`spec.parameters.url: Invalid value: "unix:///s"`:                             {"url": "unix:///s"},
		`spec.parameters.url: Invalid value: "[redacted]": must be a URL`:             {"url": "https://u:marker@store"},
		`spec.parameters.url: Invalid value: "[redacted]": must be at most`:           {"url": "https://u:marker@store\n"},
		"spec.parameters.key: Required value: a client certificate and its key":       {"url": "https://a", "cert": "/c"},
		"spec.parameters.cert: Required value: a client certificate and its key":      {"url": "https://a", "key": "/k"},
		`spec.parameters.ca: Invalid value: "[redacted]": is too long`:                {"url": "https://a", "ca": strings.Repeat("marker\n", 1<<16)},
		`spec.parameters.skip: Invalid value: "maybe": must be "true" or "false"`:     {"url": "https://a", "skip": "maybe"},
		`spec.parameters.name: Invalid value: "a\u2028b": must be at most 4096 bytes`: {"url": "https://a", "name": "a\u2028b"},
	} {
		s := targetSet(raw)
		target := s.Target(targetKeys, endpoint.Operator{})
		err := s.Check(params.Policy{}, targetKeys, target, endpoint.Target{})
		if fault.Of(err) != fault.InvalidClass || !strings.Contains(errs(s), want) || strings.Contains(errs(s), "marker") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	socket := targetKeys
	socket.Socket = true
	s := targetSet(map[string]string{"url": "unix:///s"})
	if got := s.Target(socket, endpoint.Operator{}).Address; got != address(t, "unix:///s") || len(s.Errs) > 0 {
		t.Errorf("socket %s, %s", got, errs(s))
	}
}

// The second address is verified as the first is, and the operator judges it too. The operator's
// client certificate goes to the operator's own servers alone, whichever address that is. The
// operator's second address is for the operator's first alone, and a class's own goes before it.
func TestFallback(t *testing.T) {
	tls := endpoint.TLS{CACertDir: "/authorities", ClientCertFile: "/c", ClientKeyFile: "/k"}
	one := endpoint.Operator{Target: endpoint.Target{Address: address(t, "https://own"), TLS: tls}}
	two := one
	two.Fallback = address(t, "https://own-dr:1/x")
	none, own, foreign := endpoint.Target{}, endpoint.Target{Address: two.Fallback, TLS: tls}, func(second string, serverName string) endpoint.Target {
		f := endpoint.Target{Address: address(t, second), TLS: tls.WithoutClient()}
		f.TLS.ServerName = serverName
		return f
	}
	for name, c := range map[string]struct {
		def  endpoint.Operator
		raw  map[string]string
		want endpoint.Target
	}{
		"none":                             {one, nil, none},
		"the class's":                      {one, map[string]string{"second": "https://b"}, foreign("https://b", "")},
		"the operator's server":            {one, map[string]string{"url": "https://a", "second": "https://own"}, one.Target},
		"another port of it":               {one, map[string]string{"second": "https://own:1"}, foreign("https://own:1", "")},
		"with the class's settings":        {one, map[string]string{"url": "https://a", "second": "https://c", "name": "n"}, foreign("https://c", "n")},
		"the operator's":                   {two, nil, own},
		"the operator's, first spelled":    {two, map[string]string{"url": "https://OWN:443/"}, own},
		"the class's before it":            {two, map[string]string{"second": "https://b"}, foreign("https://b", "")},
		"the class names the operator's":   {two, map[string]string{"url": "https://a", "second": "https://own-dr:1/x"}, own},
		"another store has not its second": {two, map[string]string{"url": "https://a"}, none},
		"nor another path":                 {two, map[string]string{"url": "https://own/b"}, none},
		"nor the second as the first":      {two, map[string]string{"url": "https://own-dr:1/x"}, none},
	} {
		s := targetSet(c.raw)
		first := s.Target(targetKeys, c.def)
		if got := s.Fallback(targetKeys, c.def, first); got != c.want || len(s.Errs) > 0 {
			t.Errorf("%s: %+v, want %+v; %s", name, got, c.want, errs(s))
		}
		if c.def.Owns(first.Address) != (first.TLS.ClientCertFile != "") {
			t.Errorf("%s: %s gets the client certificate %q", name, first.Address, first.TLS.ClientCertFile)
		}
	}
	for second, want := range map[string]string{
		"https://own/x":       "is the server of the first address too",
		"http://b":            "must be https as the first address is",
		"b":                   "the scheme must be http or https",
		"https://u:marker@b":  "[redacted]",
		"https://not-allowed": "spec.parameters.second: this node's operator does not allow the address https://not-allowed:443",
	} {
		s := targetSet(map[string]string{"second": second})
		first := s.Target(targetKeys, two)
		allowed, err := endpoint.ParseAllowlist([]string{"https://b"}, two.Address, two.Fallback)
		testkit.Must(t, err)
		err = s.Check(params.Policy{Pool: &endpoint.Pool{Allowed: allowed}, Servers: &endpoint.Servers{}}, targetKeys, first, s.Fallback(targetKeys, two, first))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "spec.parameters.second") || strings.Contains(err.Error(), "marker") {
			t.Errorf("%s: %v, want %s", second, err, want)
		}
	}
}

func TestPolicy(t *testing.T) {
	allowed := testkit.Value(endpoint.ParseAllowlist([]string{"https://good"}))(t)
	files := testkit.Value(endpoint.NewFiles([]string{"/listed"}))(t)
	policy := params.Policy{Pool: &endpoint.Pool{Allowed: allowed, Files: files}, Servers: &endpoint.Servers{ForbidSkipVerify: true, DefaultTLS: endpoint.TLS{
		CACertFile: "/own/ca", CACertDir: "/own/cas", ClientCertFile: "/own/cert", ClientKeyFile: "/own/key",
	}}}
	for _, raw := range []map[string]string{
		{"storeCAFile": "/listed/a/../ca"}, {"storeCAFile": "/own/ca"}, {"caDir": "/own/cas"}, {"cert": "/listed/c", "key": "/listed/k"}, {"caDir": "/listed"},
	} {
		raw["url"] = "https://good"
		s := targetSet(raw)
		if err := s.Check(policy, targetKeys, s.Target(targetKeys, endpoint.Operator{}), endpoint.Target{}); err != nil {
			t.Errorf("%q: %v", raw, err)
		}
	}
	for want, raw := range map[string]map[string]string{
		`spec.parameters.storeCAFile: "/listed/../etc/shadow" leads to no file`:                      {"url": "https://good", "storeCAFile": "/listed/../etc/shadow"},
		`spec.parameters.storeCAFile: "ca" leads to no file`:                                         {"url": "https://good", "storeCAFile": "ca"},
		`spec.parameters.caDir: "/listedtoo" leads to no file`:                                       {"url": "https://good", "caDir": "/listedtoo"},
		`spec.parameters.cert: "/own/cert" leads to no file`:                                         {"url": "https://good", "cert": "/own/cert", "key": "/own/key"},
		"--class-file-dirs (chart: classFiles), where classes may name files (have the file mounted": {"url": "https://good", "cert": "/listed/c", "key": "/own/ca"},
		"spec.parameters.ca: this node's operator does not allow skipping":                           {"url": "https://good", "ca": "PEM"},
		"": {"url": "https://good/x", "skip": "false"},
		"spec.parameters.url: this node's operator does not allow the address https://bad:443 (leave": {"url": "https://bad"},
		"spec.parameters.skip: this node's operator does not allow skipping":                          {"url": "https://good", "skip": "true"},
		"name the authority with spec.parameters.storeCAFile instead":                                 {"url": "https://good", "skip": "true"},
	} {
		s := targetSet(raw)
		err := s.Check(policy, targetKeys, s.Target(targetKeys, endpoint.Operator{}), endpoint.Target{})
		switch {
		case want == "" && err != nil:
			t.Error(err)
		case want != "" && (fault.Of(err) != fault.NotAllowed || !strings.Contains(err.Error(), want)):
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestTargetNames(t *testing.T) {
	n := params.TargetNames(targetKeys, params.Known{Names: map[string][]string{"caFile": {"bCA", "aCA"}}})
	testkit.Equal(t, "the names", n, endpoint.Names{
		Place: "spec.parameters.", CACertFile: "bCA", CACertDir: "caDir", CACert: "ca", ServerName: "name", ClientCertFile: "cert", ClientKeyFile: "key",
	})
}

type made int

func (made) Size() int64 { return 100 }

// TestCache parses once for each state of a class, and caches the last state that volumes use.
func TestCache(t *testing.T) {
	b := budget.New(budget.Limits{Node: 250})
	cache := params.Cache[made]{Budget: b}
	calls, failure := 0, errors.New("bad")
	get := func(volume, uid, version string, fail error) made {
		got, err := cache.Get(volume, &class.Class{Ref: class.Ref{Name: "c"}, UID: uid, ResourceVersion: version}, func(*class.Class) (made, error) {
			calls++
			return made(calls), fail
		})
		testkit.Is(t, err, fail)
		return got
	}
	for i, step := range []struct {
		volume, uid, version string
		fail                 error
		want                 made
		bytes                int64
	}{
		{"1", "u", "1", failure, 1, 0}, // not kept
		{"1", "u", "1", nil, 2, 100},
		{"2", "u", "1", nil, 2, 100},
		{"2", "u", "2", nil, 3, 100}, // an edit takes the place
		{"1", "u", "3", failure, 4, 100},
		{"1", "u", "2", nil, 3, 100},
		{"3", "u", "", nil, 5, 100}, // not kept
		{"3", "u", "", nil, 6, 100},
		{"3", "v", "1", nil, 7, 200}, // made anew
		{"4", "w", "1", nil, 8, 200}, // the oldest goes: u
		{"3", "v", "1", nil, 7, 200},
		{"1", "u", "2", nil, 9, 200}, // w
	} {
		testkit.Equal(t, fmt.Sprintf("step %d", i), get(step.volume, step.uid, step.version, step.fail), step.want)
		testkit.Equal(t, fmt.Sprintf("bytes charged after step %d", i), b.Usage().Total, step.bytes)
	}
	for _, volume := range []string{"1", "1", "none", "3", "4"} {
		cache.Leave(volume)
	}
	if before := calls; get("2", "u", "2", nil) != 9 || calls != before {
		t.Error("what a volume still uses is gone")
	}
	get("2", "v", "1", nil) // a volume of another class leaves the first
	cache.Leave("2")
	testkit.Equal(t, "bytes are kept for no volume", b.Usage().Total, 0)
	full := params.Cache[made]{Budget: budget.New(budget.Limits{Node: 99})}
	for range 2 {
		if got, err := full.Get("1", &class.Class{ResourceVersion: "1"}, func(*class.Class) (made, error) { calls++; return made(calls), nil }); err != nil || got != made(calls) {
			t.Errorf("without room: %d, %v", got, err)
		}
	}
}
