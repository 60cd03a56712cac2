package suite

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func loginTypes(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	const objects = `[{secretPath: /app/a, fileName: a, secretType: static}]`
	for name, c := range map[string]struct {
		params  map[string]string
		secrets map[string]secret.String
	}{
		"k8s":                {params: k8s(objects)},
		"k8s, type inferred": {params: with(k8s(objects), "akeylessAccessType", "")},
		"jwt":                {params: map[string]string{"akeylessAccessType": "jwt", "akeylessAccessID": jwtID, "objects": objects}},
		"access key in the class": {params: map[string]string{
			"akeylessAccessID": keyID, "akeylessAccessKey": accessKey, "objects": objects,
		}},
		"access key in a Secret": {
			params:  map[string]string{"akeylessAccessType": "access_key", "akeylessAccessID": keyID, "objects": objects},
			secrets: map[string]secret.String{"akeylessAccessKey": secret.NewString(accessKey)},
		},
		"universal identity": {
			params:  map[string]string{"akeylessAccessType": "universal_identity", "objects": objects},
			secrets: map[string]secret.String{"akeylessUIDInitToken": secret.NewString(uidToken)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.request(w.pod("web"), c.params)
			r.Secrets = c.secrets
			p := testkit.Value(w.provider.Fetch(t.Context(), r))(t)
			wantFile(t, p, "a", "value")
		})
	}
	t.Run("no access key anywhere", func(t *testing.T) {
		w := w.in(t)
		err := w.refuse(w.request(w.pod("web"), map[string]string{"akeylessAccessID": keyID, "objects": objects}), "akeylessAccessKey", "nodePublishSecretRef")
		testkit.Fails(t, err, fault.InvalidClass)
	})
	t.Run("wrong access key after the right one", func(t *testing.T) {
		w := w.in(t)
		r := w.request(w.pod("web"), map[string]string{"akeylessAccessID": keyID, "akeylessAccessKey": "another-key", "objects": objects})
		testkit.Fails(t, w.refuse(r, keyID), fault.Denied)
	})
}

func values(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/text", "plain <text> & more\n")
	w.PutStatic("/app/json-text", `{"db":{"user":"joe","port":5432}}`)
	w.PutStatic("/app/json", map[string]any{"db": map[string]any{"user": "ann", "hosts": []string{"a", "b"}}})
	w.PutStatic("/app/login", map[string]any{"username": "u", "password": "p<&>"})
	w.PutStatic("/app/base64", "aGVsbG8=")
	w.PutRotated("/app/rotated", map[string]any{"username": "root", "payload": `{"token":"deep"}`}, time.Time{})
	p := w.fetch(w.request(w.pod("web"), k8s(`
- {secretPath: app/text, fileName: text, secretType: static, filePermission: 0400}
- {secretPath: /app/json-text, fileName: port, secretKey: db.port, secretType: static}
- {secretPath: /app/json-text, fileName: raw, secretType: static}
- {secretPath: /app/json, fileName: dir/user, secretKey: db.user, secretType: static}
- {secretPath: /app/json, fileName: dir/hosts, secretKey: db.hosts, secretType: static}
- {secretPath: /app/login, fileName: login, secretType: static}
- {secretPath: /app/base64, fileName: decoded, encoding: base64, secretType: static}
- {secretPath: /app/rotated, fileName: root, secretKey: username, secretType: rotated}
- {secretPath: /app/rotated, fileName: token, secretKey: token, secretType: rotated}
- {secretPath: /app/rotated, fileName: rotated, secretType: rotated}`)))
	for name, want := range map[string]string{
		"text": "plain <text> & more\n", "port": "5432", "raw": `{"db":{"user":"joe","port":5432}}`, "dir/user": "ann",
		"dir/hosts": `["a","b"]`, "login": `{"password":"p<&>","username":"u"}`, "decoded": "hello", "root": "root",
		"token": "deep", "rotated": `{"payload":"{\"token\":\"deep\"}","username":"root"}`,
	} {
		wantFile(t, p, name, want)
	}
	if mode := p.Files[0].Mode; mode != 0o400 {
		t.Errorf("mode %o", mode)
	}
	w.refuse(w.request(w.pod("web"), k8s(`[{secretPath: /app/json, fileName: x, secretKey: nope, secretType: static}]`)), `no key "nope"`, `"db"`)
	w.refuse(w.request(w.pod("web"), k8s(`[{secretPath: /app/text, fileName: x, encoding: hex, secretType: static}]`)), "spec.parameters.objects[0].encoding")
	w.refuse(w.request(w.pod("web"), k8s(`[{secretPath: /app/text, fileName: x, secretKey: k, secretType: static}]`)), "no JSON object")
}

func versions(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "one")
	w.PutStatic("/app/a", "two")
	w.PutStatic("/app/b", "other")
	p := w.fetch(w.request(w.pod("web"), k8s(`
- {secretPath: /app/a, fileName: old, secretVersion: 1, secretType: static}
- {secretPath: /app/a, fileName: new, secretType: static}
- {secretPath: /app/b, fileName: b, secretType: static}`)))
	wantFile(t, p, "old", "one")
	wantFile(t, p, "new", "two")
	wantFile(t, p, "b", "other")
	if v := p.Versions[0].Version; !strings.HasPrefix(v, "1-") {
		t.Errorf("version of the pinned object: %q", v)
	}
	w.refuse(w.request(w.pod("web"), k8s(`[{secretPath: /app/a, fileName: a, secretVersion: 9, secretType: static}]`)), "version 9", "404")
}

func typesDetected(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/s", "static")
	w.PutRotated("/app/r", map[string]any{"password": "rotated"}, time.Time{})
	w.PutDynamic("/app/d", time.Hour)
	const objects = `
- {secretPath: /app/s, fileName: s}
- {secretPath: /app/r, fileName: r, secretKey: password}
- {secretPath: /app/d, fileName: d, secretKey: user}`
	r := w.request(w.pod("web"), k8s(objects))
	var p *provider.Payload
	w.wantCounts(w.counted(func() { p = w.fetch(r) }), map[string]int{
		"/auth": 1, "/describe-item": 3, "/get-secret-value": 1, "/get-rotated-secret-value": 1, "/get-dynamic-secret-value": 1,
	})
	wantFile(t, p, "s", "static")
	wantFile(t, p, "r", "rotated")
	if !strings.HasPrefix(files(p)["d"], "tmp_") {
		t.Errorf("dynamic user %q", files(p)["d"])
	}
	// The next pod's provider knows the types.
	got := w.counted(func() { w.fetch(w.request(w.pod("web"), k8s(objects))) })
	if got["/describe-item"] != 0 {
		t.Errorf("the types were asked for again: %v", got)
	}
	// The next refresh notices an item that changed its type.
	w.PutStatic("/app/r", "now static")
	r.Fresh, r.Current = true, p.Versions
	testkit.Fails(t, w.partial(r, "/app/r"), fault.Rejected)
	r.Class.Parameters["objects"] = `[{secretPath: /app/r, fileName: r}]`
	wantFile(t, w.fetch(r), "r", "now static")
}

// typeIsHint: a wrong secretType costs a request, and a warning says so. The description decides,
// unless arguments were meant for the other type.
func typeIsHint(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/s", "static")
	w.PutRotated("/app/r", map[string]any{"password": "rotated"}, time.Time{})
	w.PutDynamic("/app/d", time.Hour)
	r := w.request(w.pod("web"), k8s(`
- {secretPath: /app/s, fileName: s, secretType: rotated}
- {secretPath: /app/r, fileName: r, secretType: static, secretKey: password}
- {secretPath: /app/d, fileName: d, secretType: static, secretKey: user}
- {secretPath: /app/s, fileName: s2, secretType: dynamic}
- {secretPath: /app/s, fileName: s3, secretType: secret}`))
	p := w.fetch(r)
	wantFile(t, p, "s", "static")
	wantFile(t, p, "s2", "static")
	wantFile(t, p, "s3", "static")
	wantFile(t, p, "r", "rotated")
	if !strings.HasPrefix(files(p)["d"], "tmp_") {
		t.Errorf("dynamic user %q", files(p)["d"])
	}
	w.wantCredentials(1, 1)
	said := strings.Join(p.Warnings, "\n")
	wantWords(t, errors.New(said), `objects[0] "s": secretType is rotated, and the item is of type static`,
		"of type rotated", "of type dynamic", `objects[4].secretType: line 6: "secret" is not static, rotated`)
	r.Current = p.Versions
	if again := w.fetch(r); !slices.Equal(again.Versions, p.Versions) {
		t.Errorf("versions %v, before %v", again.Versions, p.Versions)
	}
	w.wantCredentials(1, 1)
	w.refuse(w.request(w.pod("web"), k8s(`[{secretPath: /app/s, fileName: s, secretType: pki, secretArgs: {common-name: x}}]`)),
		"is of type static", "secretType", "secretArgs")
	w.refuse(w.request(w.pod("web"), k8s(`[{secretPath: /app/missing, fileName: s, secretType: rotated}]`)), "/app/missing", "there is no such item")
}

func optional(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "there")
	r := w.request(w.pod("web"), k8s(`
- {secretPath: /app/a, fileName: a, secretType: static}
- {secretPath: /app/gone, fileName: gone, secretType: static, optional: true}
- {secretPath: /app/cert, fileName: cert, secretType: certificate, optional: true}
- {secretPath: /app/dyn, fileName: dyn, secretType: dynamic, optional: true}`))
	if p := w.fetch(r); len(p.Files) != 1 || files(p)["a"] != "there" {
		t.Errorf("files %v", files(p))
	}
	w.PutStatic("/app/gone", "back")
	w.clock.advance(3 * time.Minute)
	wantFile(t, w.fetch(r), "gone", "back")
}

func batching(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	var objects strings.Builder
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		w.PutStatic("/app/"+name, "value of "+name)
		objects.WriteString("\n- {secretPath: /app/" + name + ", fileName: " + name + ", secretType: static}")
	}
	r := w.request(w.pod("web"), k8s(objects.String()))
	var held []provider.Version
	w.wantCounts(w.counted(func() { held = w.fetch(r).Versions }), map[string]int{"/auth": 1, "/get-secret-value": 1})
	w.wantCounts(w.counted(func() { w.fetch(r) }), nil)
	w.clock.advance(3 * time.Minute)
	w.wantCounts(w.counted(func() { w.fetch(r) }), map[string]int{"/get-secret-value": 1})
	// A name that makes the batch fail does not affect the others.
	w.Delete("/app/c")
	w.clock.advance(3 * time.Minute)
	r.Current = held
	err := w.partial(r, `spec.parameters.objects[2] "c"`, "/app/c was not found")
	if strings.Contains(err.Error(), "objects[1]") {
		t.Errorf("the error blames others: %v", err)
	}
}

func pollByDescription(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "one")
	pod := w.pod("web")
	r := w.request(pod, k8s(`[{secretPath: /app/a, fileName: a, secretType: static}]`))
	w.fetch(r)
	poll := func(want map[string]int) *provider.Payload {
		t.Helper()
		w.clock.advance(3 * time.Minute)
		var p *provider.Payload
		w.wantCounts(w.counted(func() { p = w.fetch(r) }), want)
		return p
	}
	both := map[string]int{"/describe-item": 1, "/get-secret-value": 1}
	poll(both) // the first learns which state was read
	poll(map[string]int{"/describe-item": 1})
	p := poll(map[string]int{"/describe-item": 1})
	wantFile(t, p, "a", "one")
	w.PutStatic("/app/a", "two")
	wantFile(t, poll(both), "a", "two")
	poll(map[string]int{"/describe-item": 1})
	// Once in an hour it is read all the same: the role may now allow only the description.
	reads := 0
	for range 40 { // of 3 minutes each
		w.clock.advance(3 * time.Minute)
		r.Tokens = w.request(pod, r.Class.Parameters).Tokens
		got := w.counted(func() { w.fetch(r) })
		if reads += got["/get-secret-value"]; got["/describe-item"] != 1 {
			t.Errorf("requests %v, want a look at the description in each", got)
		}
	}
	if reads != 2 {
		t.Errorf("%d reads in two hours, want 2", reads)
	}
	// The role may allow the value alone from now on.
	w.Forbid()
	w.Allow(akeylessd.Rule{AccessID: k8sID, Prefix: "/app/", NoDescribe: true})
	poll(map[string]int{"/auth": 1, "/describe-item": 2, "/get-secret-value": 1}) // it may have been the token
	poll(map[string]int{"/get-secret-value": 1})
}

func pollWithoutDescriptions(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.Forbid()
	w.Allow(akeylessd.Rule{AccessID: k8sID, Prefix: "/app/", NoDescribe: true})
	w.PutStatic("/app/a", "one")
	r := w.request(w.pod("web"), k8s(`[{secretPath: /app/a, fileName: a}]`))
	wantFile(t, w.fetch(r), "a", "one") // of no known type, so taken for static
	w.PutStatic("/app/a", "two")
	w.clock.advance(3 * time.Minute)
	w.wantCounts(w.counted(func() { wantFile(t, w.fetch(r), "a", "two") }), map[string]int{"/get-secret-value": 1})
	w.clock.advance(3 * time.Minute)
	w.wantCounts(w.counted(func() { w.fetch(r) }), map[string]int{"/get-secret-value": 1})
}

func rotationAnnounced(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	next := w.clock.now().Add(30 * time.Second)
	w.PutRotated("/app/r", map[string]any{"password": "one"}, next)
	r := w.request(w.pod("web"), k8s(`[{secretPath: /app/r, fileName: r, secretKey: password}]`))
	p := w.fetch(r)
	if at := p.RefreshAt; at.Before(next) || at.After(next.Add(10*time.Second)) {
		t.Errorf("RefreshAt is %v after the announced rotation", at.Sub(next))
	}
	w.PutRotated("/app/r", map[string]any{"password": "two"}, next.Add(time.Hour))
	w.clock.advance(35 * time.Second)
	wantFile(t, w.fetch(r), "r", "two")
}

func (w *world) wantFiles(p *provider.Payload, want map[string]string) {
	w.t.Helper()
	if got := files(p); !maps.Equal(got, want) {
		w.t.Errorf("files %q, want %q", got, want)
	}
}

// wholeSecrets: each key of a value is a file, and comes and goes with the key.
func wholeSecrets(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/json", map[string]any{"user": "ann", "hosts": []string{"a", "b"}})
	w.PutStatic("/app/json-text", `{"tls.key":"k","tls.crt":"c"}`)
	w.PutStatic("/app/text", "plain")
	w.PutRotated("/app/rotated", map[string]any{"username": "root", "payload": `{"token":"deep","username":"inner"}`}, time.Time{})
	r := w.request(w.pod("web"), k8s(`
- {secretPath: /app/json, secretKeys: "*", secretType: static}
- {secretPath: /app/json-text, fileName: tls, secretKeys: {"*": "*", "tls\\.key": key, tls.crt: crt}, secretType: static}
- {secretPath: /app/rotated, objectName: root, secretKeys: "*"}
- {secretPath: /app/perhaps, fileName: none, secretKeys: "*", secretType: static, optional: true}`))
	want := map[string]string{
		"user": "ann", "hosts": `["a","b"]`, "tls/key": "k", "tls/crt": "c", "root/username": "root", "root/token": "deep",
	}
	p := w.fetch(r)
	w.wantFiles(p, want)
	r.Current = p.Versions
	w.PutStatic("/app/json", map[string]any{"user": "bob", "port": 1})
	w.PutStatic("/app/perhaps", map[string]any{"there": "now"})
	w.clock.advance(10 * time.Minute)
	want["user"], want["port"], want["none/there"] = "bob", "1", "now"
	delete(want, "hosts")
	p = w.fetch(r)
	w.wantFiles(p, want)

	const text = `[{secretPath: /app/text, fileName: x, secretKeys: "*", secretType: static}]`
	testkit.Fails(t, w.refuse(w.request(w.pod("web"), k8s(text)), `objects[0] "x/*"`, "/app/text has no keys"), fault.NotFound)
}

const tried = `
- {secretPath: /app/a, fileName: a, secretType: static}
- {secretPath: /app/db, fileName: db, secretType: dynamic, secretKey: user}
- {secretPath: /app/none, fileName: none, secretType: static}
- {secretPath: /app/perhaps, fileName: perhaps, secretType: static, optional: true}
- {secretPath: /other/c, fileName: c}`

// trial tries a class without a volume: it reads nothing, unless that is requested, and then
// revokes what it made.
func trial(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "marker-a-41")
	w.PutDynamic("/app/db", time.Hour)
	w.Allow(akeylessd.Rule{AccessID: k8sID, Prefix: "/third/"})
	r := w.request(w.pod("web"), k8s(tried))
	got, err := w.provider.Try(t.Context(), r, false)
	if err != nil || got.Refused != nil || len(got.Objects) != 5 {
		t.Fatalf("%+v, %v", got, err)
	}
	a, db, none, perhaps, c := got.Objects[0], got.Objects[1], got.Objects[2], got.Objects[3], got.Objects[4]
	switch {
	case a.There != session.IsThere || len(a.Missing) > 0 || a.Read, db.There != session.IsThere || len(db.Missing) > 0, none.There != session.NotThere, perhaps.There != session.NotThere || !perhaps.Optional:
		t.Errorf("%+v", got.Objects)
	case !slices.Equal(c.Missing, []string{"read"}):
		t.Errorf("what is not allowed: %+v", c)
	}
	if counts := w.Counts(); counts["/get-secret-value"]+counts["/get-dynamic-secret-value"] > 0 {
		t.Errorf("it read: %v", counts)
	}
	few := w.request(w.pod("web"), k8s("- {secretPath: /app/a, fileName: a, secretType: static}\n- {secretPath: /app/db, fileName: db, secretType: dynamic, secretKey: user}"))
	if got, err = w.provider.Try(t.Context(), few, true); err != nil || !got.Objects[0].Read || got.Objects[0].Size != len("marker-a-41") || !got.Objects[1].Read {
		t.Errorf("read: %+v, %v", got, err)
	}
	if counts := w.Counts(); counts["/get-dynamic-secret-value"] != 1 || counts["/dynamic-secret-tmp-creds-delete"] != 1 {
		t.Errorf("made and ended: %v", counts)
	}
	denied := w.request(w.pod("web"), with(k8s(tried), "akeylessAccessID", "p-none"))
	if got, err = w.provider.Try(t.Context(), denied, false); err != nil || fault.Of(got.Refused) != fault.Denied {
		t.Errorf("a login that is refused: %+v, %v", got, err)
	}
	token := postJSON(t, w.URL()+"/auth", map[string]any{"access-type": "access_key", "access-id": keyID, "access-key": accessKey})["token"]
	page := postJSON(t, w.URL()+"/list-roles", map[string]any{"token": token})
	if roles, _ := page["roles"].([]any); len(roles) != 2 || page["next_page"] != "2" {
		t.Errorf("roles: %v", page)
	}
}
