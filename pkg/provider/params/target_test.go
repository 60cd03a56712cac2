package params_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

var targetKeys = params.TargetKeys{
	Address: "url", CACertFile: "caFile", CACertDir: "caDir", CACert: "ca", ServerName: "name",
	ClientCertFile: "cert", ClientKeyFile: "key", SkipVerify: "skip",
}

func targetSet(raw map[string]string) *params.Set {
	return params.New(raw, params.Known{
		Keys: []string{"url", "caFile", "caDir", "ca", "name", "cert", "key", "skip"}, Long: []string{"ca"},
		Names: map[string][]string{"caFile": {"storeCAFile"}},
	})
}

func address(t *testing.T, text string) endpoint.Address {
	t.Helper()
	a, err := endpoint.ParseAddressOrSocket(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
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
		if got := s.Target(targetKeys, def); got != c.want || len(s.Errs)+len(s.Warnings) > 0 {
			t.Errorf("%s: %+v, want %+v; %s %q", name, got, c.want, errs(s), s.Warnings)
		}
	}
	s := targetSet(map[string]string{"url": "http://plain", "name": "m"})
	s.Target(targetKeys, def)
	if len(s.Warnings) != 1 || s.Warnings[0] != "spec.parameters.url: is a plain http address, so the class's TLS parameters have no effect" {
		t.Errorf("warnings %q", s.Warnings)
	}
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
		target := s.Target(targetKeys, endpoint.Target{})
		err := s.Check(params.Policy{}, targetKeys, target)
		if fault.Of(err) != fault.InvalidClass || !strings.Contains(errs(s), want) || strings.Contains(errs(s), "marker") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	socket := targetKeys
	socket.Socket = true
	s := targetSet(map[string]string{"url": "unix:///s"})
	if got := s.Target(socket, endpoint.Target{}).Address; got != address(t, "unix:///s") || len(s.Errs) > 0 {
		t.Errorf("socket %s, %s", got, errs(s))
	}
}

func TestPolicy(t *testing.T) {
	allowed, err := endpoint.ParseAllowlist([]string{"https://good"}, endpoint.Address{})
	if err != nil {
		t.Fatal(err)
	}
	files, err := endpoint.NewFiles([]string{"/listed"})
	if err != nil {
		t.Fatal(err)
	}
	policy := params.Policy{Allowed: allowed, ForbidSkipVerify: true, Files: files, Operator: endpoint.TLS{
		CACertFile: "/own/ca", CACertDir: "/own/cas", ClientCertFile: "/own/cert", ClientKeyFile: "/own/key",
	}}
	for _, raw := range []map[string]string{
		{"storeCAFile": "/listed/a/../ca"}, {"storeCAFile": "/own/ca"}, {"caDir": "/own/cas"}, {"cert": "/listed/c", "key": "/listed/k"}, {"caDir": "/listed"},
	} {
		raw["url"] = "https://good"
		s := targetSet(raw)
		if err := s.Check(policy, targetKeys, s.Target(targetKeys, endpoint.Target{})); err != nil {
			t.Errorf("%q: %v", raw, err)
		}
	}
	for want, raw := range map[string]map[string]string{
		`spec.parameters.storeCAFile: "/listed/../etc/shadow" leads to no file`:  {"url": "https://good", "storeCAFile": "/listed/../etc/shadow"},
		`spec.parameters.storeCAFile: "ca" leads to no file`:                     {"url": "https://good", "storeCAFile": "ca"},
		`spec.parameters.caDir: "/listedtoo" leads to no file`:                   {"url": "https://good", "caDir": "/listedtoo"},
		`spec.parameters.cert: "/own/cert" leads to no file`:                     {"url": "https://good", "cert": "/own/cert", "key": "/own/key"},
		"--class-file-dirs, where classes may name files (have the file mounted": {"url": "https://good", "cert": "/listed/c", "key": "/own/ca"},
		"spec.parameters.ca: this node's operator does not allow skipping":       {"url": "https://good", "ca": "PEM"},
		"": {"url": "https://good/x", "skip": "false"},
		"spec.parameters.url: this node's operator does not allow the address https://bad:443 (leave": {"url": "https://bad"},
		"spec.parameters.skip: this node's operator does not allow skipping":                          {"url": "https://good", "skip": "true"},
		"name the authority with spec.parameters.storeCAFile instead":                                 {"url": "https://good", "skip": "true"},
	} {
		s := targetSet(raw)
		err := s.Check(policy, targetKeys, s.Target(targetKeys, endpoint.Target{}))
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
	if want := (endpoint.Names{
		Place: "spec.parameters.", CACertFile: "bCA", CACertDir: "caDir", CACert: "ca", ServerName: "name", ClientCertFile: "cert", ClientKeyFile: "key",
	}); n != want {
		t.Errorf("%+v, want %+v", n, want)
	}
}

// TestCache parses once per state of the object, and a failure each time.
func TestCache(t *testing.T) {
	var cache params.Cache[int]
	calls, failure := 0, errors.New("bad")
	get := func(uid, version string, fail error) int {
		got, err := cache.Get(&class.Class{Ref: class.Ref{Name: "c"}, UID: uid, ResourceVersion: version}, func(*class.Class) (int, error) {
			calls++
			return calls, fail
		})
		if !errors.Is(err, fail) {
			t.Errorf("error %v, want %v", err, fail)
		}
		return got
	}
	for i, got := range []int{
		get("u", "1", failure), get("u", "1", nil), get("u", "1", nil), get("u", "2", nil), get("v", "2", nil), get("u", "", nil), get("u", "", nil), get("u", "1", nil),
	} {
		if want := []int{1, 2, 2, 3, 4, 5, 6, 2}[i]; got != want {
			t.Errorf("get %d gives %d, want %d", i, got, want)
		}
	}
	for i := range 2000 {
		get(strings.Repeat("x", i), "1", nil)
	}
	if before := calls; get(strings.Repeat("x", 1999), "1", nil) > before || get("u", "1", nil) <= before {
		t.Error("the newest must be there, and the oldest gone")
	}
}
