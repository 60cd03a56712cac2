package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// staticTries is how often a static role is asked again while its password is
// being rotated.
const (
	staticTries        = 4
	longestStaticPause = 4 * time.Second
)

// call makes a request's call with a Vault token.
func (f *fetch) call(t *token, method, path string, query url.Values, body []byte) call {
	return call{
		endpoint: f.endpoint, operation: endpoint.OpCheck, namespace: f.spec.login.namespace, tenant: f.request.Pod.Namespace, token: t.value,
		method: method, path: path, query: query, body: body,
		correlation: f.correlation, secrets: f.secrets(t), owner: f.owner(),
	}
}

// owner is who is charged for what is read for the volume.
func (f *fetch) owner() budget.Owner {
	return budget.Owner{Namespace: f.request.Pod.Namespace, Volume: f.request.Volume}
}

// secrets are what a hostile server could say back to us.
func (f *fetch) secrets(t *token) []secret.String {
	list := []secret.String{t.value}
	for _, sa := range f.request.Tokens {
		list = append(list, sa.JWT)
	}
	return list
}

// readWithLogin asks with the group's token.
func (f *fetch) readWithLogin(ctx context.Context, g *group, r *request) (*reading, error) {
	token := func(stale *token) (*token, error) { return f.session(ctx, g, stale) }
	return session.AskTwice(f.now, token, f.asker(ctx, r), refusedToken)
}

func (f *fetch) asker(ctx context.Context, r *request) func(*token) (*reading, error) {
	return func(t *token) (*reading, error) { return f.ask(ctx, t, r) }
}

// deniedRead tells whether the store refused a read, which a new login may mend.
func deniedRead(err error) bool { return fault.Of(err) == fault.Denied }

// refusedToken tells whether the store refused what another token may get.
func refusedToken(err error) bool {
	return deniedRead(err) || strings.Contains(err.Error(), wordsLastUse)
}

// ask makes the request and understands the answer. It asks again where that
// has a better answer in a moment: a password that is being rotated, or a
// version that another server of the store has passed.
func (f *fetch) ask(ctx context.Context, t *token, r *request) (*reading, error) {
	for n := 0; ; n++ {
		rd, err := f.askOnce(ctx, t, r)
		if err != nil {
			if fault.Of(err) == fault.NotFound && f.optional(r) && !isUnmounted(err) {
				return absent(f.now(), t), nil
			}
			return nil, err
		}
		f.learned.setKind(f.spec.login, r, rd.kind)
		rotating, outdated := rd.kind == static && !rd.end.After(rd.at), f.outdated(r, rd)
		if !rotating && outdated == nil {
			f.awaitRotation(r, rd)
			return rd, nil
		}
		if n < staticTries && t.take(0) && backoff.Sleep(ctx, backoff.Delay(2*f.config.RetryBase, longestStaticPause, n, f.chance())) == nil {
			continue
		}
		if outdated != nil {
			return nil, outdated
		}
		return rd, nil
	}
}

// awaitRotation has a static role looked at again soon, and less and less
// often, while it has not made the change that it announced.
func (f *fetch) awaitRotation(r *request, rd *reading) {
	rotated := lastRotation(rd.answer)
	for _, known := range []*session.Answers[*reading]{f.volume.answers(), f.volume.currentGroup().recent} {
		if end, late := overdue(known.Held(r.id), rd, rotated); late {
			rd.end, rd.due = end, session.UntilChange(rd.at, end)
		}
	}
}

// absent is the answer for optional objects that are not there.
func absent(now time.Time, t *token) *reading {
	return &reading{asked: now, at: now, absent: true, token: t}
}

func (f *fetch) askOnce(ctx context.Context, t *token, r *request) (*reading, error) {
	k := f.call(t, r.method, r.path, r.query, r.body)
	k.operation, k.reads, k.mints = endpoint.OpRead, true, r.method != http.MethodGet || f.mints(r)
	if k.mints {
		k.operation = endpoint.OpIssue
	}
	asked := f.now()
	reply, err := f.client.do(ctx, k)
	if err != nil {
		return nil, f.explainRead(ctx, t, r, reply, err)
	}
	defer reply.Release()
	at := f.now()
	text := ownText(r.path, reply.Body)
	if text != nil {
		reply.Body = text
	}
	a, err := decodeAnswer(reply.Body, reply.ContentType)
	if err != nil {
		return nil, fmt.Errorf("reading %s from %s: %w", r, f.spec.login.target.Address, atJSONPath(r, err))
	}
	if text == nil && !isOwnAnswer(r.path, reply.Body) {
		return nil, fault.New(fault.BadAnswer, "reading %s from %s: the answer is JSON, but not Vault's (%d bytes)", r, f.spec.login.target.Address, len(reply.Body)).
			WithHint("%s", hintOfForeign(reply.Status))
	}
	is, end := classify(r, a, at)
	if a, err = f.keep(r, a, is, reply); err != nil {
		return nil, fmt.Errorf("reading %s from %s: %w", r, f.spec.login.target.Address, err)
	}
	rd := &reading{answer: a, kind: is, asked: asked, read: asked, at: at, end: end, token: t, correlation: f.correlation}
	if is == static {
		rd.due = dueAt(is, at, end, f.pace(r), f.chance())
	}
	return rd, nil
}

// atJSONPath tells where there is an answer that can be read.
func atJSONPath(r *request, err error) error {
	if at := jsonPath(r.path); at != "" {
		return fault.New(fault.Of(err), "%w", err).WithHint("this path answers plain bytes: %s answers JSON, with the keys that it has", at)
	}
	return err
}

// keep takes from an answer what this class's objects want, and what others of
// the group had of the last one, so that classes which take different parts of
// a secret do not each ask for it again and again.
func (f *fetch) keep(r *request, a *answer, is kind, from *endpoint.Reply) (*answer, error) {
	whole := keptWhole
	last := f.volume.currentGroup().recent.Held(r.id)
	if !is.shareable() {
		whole = heldWhole
		if c := f.holder().get(r.id); c != nil {
			last = c.reading
		}
	}
	keys := r.keys
	if last != nil && last.answer != nil {
		keys = params.Union(keys, last.answer.part)
	}
	before := from.Charge.Bytes()
	return a.keep(keys, whole, func(n int64) error {
		if before+n <= from.Charge.Bytes() {
			return nil
		}
		return from.Charge.Resize(before + n)
	})
}

// explainRead adds what was attempted, and what a person can do about it.
func (f *fetch) explainRead(ctx context.Context, t *token, r *request, reply *endpoint.Reply, err error) error {
	out := fault.New(fault.Of(err), "reading %s%s: %w", r, f.inNamespace(), err)
	out.RetryAfter = fault.RetryAfter(err)
	switch out.Reason {
	case fault.Denied:
		capability := "read"
		if r.method != http.MethodGet {
			capability = "update"
		}
		known, maybe := f.kvPath(ctx, t, r)
		switch {
		case known != "":
			return f.withData(out, known)
		case maybe != "":
			return out.WithHint("the policies of role %q must grant %s on %q; if a KV engine of version 2 is mounted there, secretPath must be %q", f.spec.login.role, capability, r.path, maybe)
		}
		return out.WithHint("the policies of role %q must grant %s on %q", f.spec.login.role, capability, r.path)
	case fault.NotFound:
		if gone := deletedVersion(reply, f.now()); gone != "" {
			return out.WithHint("%s", gone)
		}
		if strings.Contains(err.Error(), wordsUnmounted) {
			return unmounted{out.WithHint("no engine is mounted there%s: correct the path, or mount the engine again; what a running pod has of it stays", f.inNamespace())}
		}
		if known, _ := f.kvPath(ctx, t, r); known != "" {
			return f.withData(out, known)
		}
		return out.WithHint("nothing is stored there, or no engine is mounted there; the path of a KV version 2 secret has data/ after the mount")
	}
	return out
}

// withData names the path of a secret of a KV version 2 engine.
func (f *fetch) withData(err *fault.Error, path string) error {
	return err.WithHint("a KV engine of version 2 is mounted there: secretPath must be %q, and the policies of role %q must grant read on that path", path, f.spec.login.role)
}

// kvPath is the path that was meant where a secret of a KV version 2 engine is
// asked for without data/, and what it may be where the store does not say what
// is mounted there. The default policy lets every token ask that of a path that
// it may read something of. It is asked once, after a refusal.
func (f *fetch) kvPath(ctx context.Context, t *token, r *request) (known, maybe string) {
	if !mayLackData(r) {
		return "", ""
	}
	m, ok := f.mountOf(ctx, t, r)
	switch rest, under := strings.CutPrefix(r.path, m.path); {
	case !ok:
		return "", withData(r)
	case !m.versioned || !under || rest == "" || strings.HasPrefix(rest, "data/") || strings.HasPrefix(rest, "metadata/"):
		return "", ""
	default:
		return m.path + "data/" + rest, ""
	}
}

// mounted is what is mounted at a path.
type mounted struct {
	path      string // with a slash at its end
	versioned bool   // tells that it is a KV engine of version 2
}

// mountOf asks what is mounted at the path of a request.
func (f *fetch) mountOf(ctx context.Context, t *token, r *request) (m mounted, ok bool) {
	mounts := &f.volume.currentGroup().mounts
	if m, ok = mounts.Get(r.path); ok || t == nil || t.limited() {
		return m, m.path != ""
	}
	const preflight = "sys/internal/ui/mounts/"
	reply, err := f.client.do(ctx, f.call(t, http.MethodGet, preflight+r.path, nil, nil))
	if err != nil {
		if deniedRead(err) {
			mounts.Set(r.path, mounted{})
		}
		return m, false
	}
	defer reply.Release()
	var body struct {
		Data struct {
			Path    string            `json:"path"`
			Type    string            `json:"type"`
			Options map[string]string `json:"options"`
		} `json:"data"`
	}
	if json.Unmarshal(reply.Body, &body) != nil {
		return m, false
	}
	m = mounted{body.Data.Path, body.Data.Type == "kv" && body.Data.Options["version"] == "2"}
	mounts.Set(r.path, m)
	return m, m.path != ""
}

func (f *fetch) inNamespace() string {
	if f.spec.login.namespace == "" {
		return ""
	}
	return fmt.Sprintf(" in namespace %q", f.spec.login.namespace)
}

// deletedVersion explains a KV v2 secret that is not there any more.
func deletedVersion(r *endpoint.Reply, now time.Time) string {
	var body struct {
		Data struct {
			Metadata struct {
				Version   json.Number `json:"version"`
				Deleted   string      `json:"deletion_time"`
				Destroyed bool        `json:"destroyed"`
			} `json:"metadata"`
		} `json:"data"`
	}
	if r == nil || json.Unmarshal(r.Body, &body) != nil {
		return ""
	}
	m := body.Data.Metadata
	switch {
	case m.Destroyed:
		return fmt.Sprintf("version %s was destroyed", m.Version)
	case m.Deleted != "":
		if at, err := time.Parse(time.RFC3339Nano, m.Deleted); err == nil && !at.After(now) {
			return fmt.Sprintf("version %s was deleted at %s; it can be undeleted", m.Version, at.UTC().Format(time.RFC3339))
		}
	}
	return ""
}

// unchanged looks at the metadata of a KV v2 secret that was read before, not too
// long ago. It returns the earlier answer, as of now, if that is still the
// current one. Where the metadata was refused it tells to which token.
func (f *fetch) unchanged(ctx context.Context, g *group, r *request) (rd *reading, refused *token) {
	before := g.recent.Last(r.id)
	if !before.answers(r) {
		before = f.volume.answers().Last(r.id)
	}
	path, ok := metadataPath(r)
	if !ok || !before.answers(r) || before.absent || !before.answer.kv.known() || f.request.Fresh || g.noMetadata.Has(r.id) ||
		!session.VersionWillDo(before.read, f.now()) {
		return nil, nil
	}
	t := g.login.Current(f.now(), nil)
	if t == nil || t.limited() {
		return nil, nil // the read takes care of a login that is due, and spends one use and not two
	}
	asked := f.now()
	reply, err := f.client.do(ctx, f.call(t, http.MethodGet, path, nil, nil))
	if err != nil {
		if reason := fault.Of(err); reason == fault.Denied || reason == fault.NotFound {
			return nil, t
		}
		return nil, nil
	}
	defer reply.Release()
	if currentVersion(reply.Body, f.now()) != before.answer.kv {
		return nil, nil
	}
	now := *before
	now.asked, now.at, now.token, now.correlation = asked, f.now(), t, f.correlation
	return &now, nil
}

// metadataPath is where KV v2 tells the versions. It is not known where an
// object wants more than the data, where the class asks for a version, or
// where it is not clear which part of the path is the mount's.
func metadataPath(r *request) (string, bool) {
	if r.whole || len(r.query) > 0 || r.method != http.MethodGet || strings.Count("/"+r.path+"/", "/data/") != 1 {
		return "", false
	}
	return strings.Replace(r.path, "/data/", "/metadata/", 1), strings.Contains(r.path, "/data/")
}

// currentVersion is that of a secret's metadata; zero if it is deleted. With
// delete_version_after a version has a deletion time that is still to come.
func currentVersion(body []byte, now time.Time) kvVersion {
	var m struct {
		Data struct {
			Current  json.Number `json:"current_version"`
			Versions map[string]struct {
				Created   string `json:"created_time"`
				Deleted   string `json:"deletion_time"`
				Destroyed bool   `json:"destroyed"`
			} `json:"versions"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &m) != nil {
		return kvVersion{}
	}
	v, ok := m.Data.Versions[m.Data.Current.String()]
	if !ok || v.Destroyed {
		return kvVersion{}
	}
	if v.Deleted != "" {
		if at, err := time.Parse(time.RFC3339Nano, v.Deleted); err != nil || !at.After(now) {
			return kvVersion{}
		}
	}
	return kvVersion{m.Data.Current.String(), v.Created}
}
