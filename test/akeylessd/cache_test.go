package akeylessd

import (
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestAskedOfTheService: every login makes the gateway ask Akeyless' service, and so does every
// read that its cache cannot answer.
func TestAskedOfTheService(t *testing.T) {
	now := time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)
	s := testkit.Value(Start(t.Context(), Options{Now: func() time.Time { return now }}))(t)
	defer func() {
		testkit.Check(t, s.Close())
	}()
	const id = "p-cached000001"
	s.AuthMethod(id, Method{Type: "access_key", Key: "key"})
	s.Allow(Rule{AccessID: id, Prefix: "/"})
	s.PutStatic("/a", "value")
	login := map[string]any{"access-type": "access_key", "access-id": id, "access-key": "key"}
	ask := func(path string, body map[string]any) answer {
		t.Helper()
		data := testkit.Value(json.Marshal(body))(t)
		r := httptest.NewRequestWithContext(t.Context(), "POST", path, nil)
		return s.answer(r, data)
	}
	token := ask("/auth", login).body.(map[string]any)["token"]
	read := map[string]any{"names": []string{"/a"}, "token": token}
	fresh := map[string]any{"names": []string{"/a"}, "token": token, "ignore-cache": "true"}
	for _, c := range []struct {
		what   string
		do     func()
		path   string
		body   map[string]any
		cached bool
	}{
		{"without a cache", nil, "/get-secret-value", read, false},
		{"without a cache, again", nil, "/get-secret-value", read, false},
		{"the first with a cache", func() { s.SetCache(time.Minute) }, "/get-secret-value", read, false},
		{"the second", nil, "/get-secret-value", read, true},
		{"one that passes by the cache", nil, "/get-secret-value", fresh, false},
		{"a login", nil, "/auth", login, false},
		{"a description", nil, "/describe-item", map[string]any{"name": "/a", "token": token}, false},
		{"a denied read", nil, "/get-secret-value", map[string]any{"names": []string{"/a"}, "token": "t-none"}, false},
		{"one after the cache's time", func() { now = now.Add(2 * time.Minute) }, "/get-secret-value", read, false},
	} {
		if c.do != nil {
			c.do()
		}
		if got := ask(c.path, c.body); got.cached != c.cached {
			t.Errorf("%s: cached is %t: %+v", c.what, got.cached, got)
		}
	}
}
