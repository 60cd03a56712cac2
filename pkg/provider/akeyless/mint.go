package akeyless

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

const (
	// producerTimeout is how long a dynamic secret's producer may take, which
	// is Akeyless' own default, and producerMargin what its answer may take.
	producerTimeout = 15 * time.Second
	producerMargin  = 5 * time.Second
	// usualTTL is taken for a dynamic secret whose answer does not say; it is
	// what Akeyless gives its producers.
	usualTTL = time.Hour
	longest  = 10 * 365 * 24 * time.Hour
)

// credential answers an item with the holder's own credential, which is
// replaced if it is due.
func (f *fetch) credential(ctx context.Context, it *item, k kind) result {
	h := f.holder()
	m, ended, err := h.work.DoDetached(ctx, it.id, f.now, func() (m *minted, err error) {
		defer fault.Recover(&err, f.config.Logger, "making a credential of item "+it.name, "volume", f.volume.id)
		if m := h.get(it.id); m != nil && m.has(it.keys) && !f.refusedHeld(m) && !m.isDue(f.now()) {
			return m, nil
		}
		if m, err = f.mint(ctx, it, k); err == nil {
			f.hold(h, m)
		}
		return m, err
	})
	if err != nil {
		f.volume.await(ended)
		if fault.Of(err) == fault.NotFound && f.optional(it) {
			return result{kind: k, absent: true, due: f.began.Add(f.spec.interval)}
		}
		f.mistaken(it, err)
		return result{err: explainRead(f, it, err)}
	}
	return resultOf(m)
}

// hold keeps a credential for the holder. The volume or the group may have
// ended while it was made: then it goes to the new volume of the same id, or is
// ended at once.
func (f *fetch) hold(h *holder, m *minted) {
	h.put(m)
	v := f.volumes.Find(f.volume.id)
	switch {
	case v == f.volume && v.owns(h), h == f.group.holder && f.groups.Find(f.group.key) == f.group:
	case v != nil:
		v.Owe(h.takeAll())
	default:
		f.endLate(h.takeAll())
	}
}

// endLate ends what was made for a volume that had gone by then.
func (f *fetch) endLate(list []*minted) {
	if f.config.DisableRevocation {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), f.config.ReleaseTimeout)
	defer cancel()
	r := releaser{Provider: f.Provider, group: f.group, bearer: f.bearer, byLogin: map[login]*token{}}
	for _, m := range list {
		if !m.endable(f.now()) {
			continue
		}
		if err := r.endOne(ctx, m); err != nil {
			f.config.Logger.Warn("a credential that came after its volume had gone could not be ended", "item", m.Name, "credential", m.ID, "ends", m.Ends, "error", err)
		}
	}
}

func resultOf(m *minted) result {
	return result{kind: m.Kind, value: m.value, due: m.dueTime(), ends: m.Ends, id: m.ID}
}

// mint makes a credential.
func (f *fetch) mint(ctx context.Context, it *item, k kind) (*minted, error) {
	m := &minted{Item: it.id, Kind: k, Name: it.name, At: f.now(), Login: f.spec.login}
	var err error
	if k == pki {
		err = f.issue(ctx, it, m)
	} else {
		err = f.produce(ctx, it, m)
	}
	if err != nil {
		return nil, err
	}
	m.Due = session.TwoThirds(m.At, m.Ends, f.config.Jitter())
	if !m.Ends.After(m.At) {
		return nil, fault.New(fault.BadAnswer, "the credential from %s is over already", f.endpoint.Address)
	}
	return m, nil
}

// produce has a dynamic secret's producer make a credential.
func (f *fetch) produce(ctx context.Context, it *item, m *minted) error {
	wait := producerTimeout
	if seconds, err := strconv.Atoi(it.args[argTimeout]); err == nil {
		wait = time.Duration(seconds) * time.Second
	}
	body := map[string]any{"name": it.name, "timeout": int64(wait / time.Second)}
	if list := it.args.producers(); len(list) > 0 {
		body["args"] = list
	}
	for _, name := range []string{argHost, argTarget} {
		if it.args[name] != "" {
			body[name] = it.args[name]
		}
	}
	// Once asked, a producer acts whether or not a caller still waits, so the
	// answer is waited for: what it made must be known, to be ended.
	if ctx.Err() != nil {
		return fault.Ended(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait+2*producerMargin)
	defer cancel()
	r, err := f.ask(ctx, call{operation: endpoint.OpIssue, path: "/get-dynamic-secret-value", body: body, about: it.name, mints: true, reads: true, patience: wait + producerMargin})
	if err != nil {
		return err
	}
	defer r.Release()
	// Producers that people write themselves answer with any JSON.
	said := bytes.TrimSpace(r.Body)
	if !json.Valid(said) {
		return notJSON(r, f.endpoint.Address)
	}
	if empty(said) {
		return fault.New(fault.BadAnswer, "the answer of %s is empty", f.endpoint.Address)
	}
	if isNotice(said) {
		return fault.New(fault.BadAnswer, "the answer of %s holds no credential, only %s", f.endpoint.Address, params.Keys(said)).WithHint(hintForeign)
	}
	if m.value, err = f.keep(it, dynamic, value{Body: said}, r); err != nil {
		return err
	}
	m.ID = textOf(params.Member(said, "id"))
	m.Ends = m.At.Add(lifeOf(textOf(params.Member(said, "ttl_in_minutes"))))
	if m.ID == "" {
		f.config.Logger.Warn("a dynamic secret's answer has no id, so its credential cannot be ended before its time", "item", it.name)
	}
	return nil
}

func empty(raw []byte) bool {
	return string(raw) == "null" || string(raw) == `""` || params.IsObject(raw) && len(bytes.TrimSpace(raw[1:])) == 1
}

// isNotice tells whether an answer is no credential, but what proxies and
// servers say of themselves: a status, a message and the like, and no more.
func isNotice(raw []byte) bool {
	return params.IsObject(raw) && !params.HasKey(raw, func(key string) bool {
		switch strings.ToLower(key) {
		case "status", "message", "error", "code", "reason", "detail", "details", "title", "timestamp", "path", "request_id", "requestid":
			return false
		}
		return true
	})
}

// textOf is a text, or a number as it is written.
func textOf(raw []byte) (text string) {
	var number json.Number
	switch {
	case params.IsText(raw):
		_ = json.Unmarshal(raw, &text) // it is valid
	case json.Unmarshal(raw, &number) == nil:
		return number.String()
	}
	return text
}

// lifeOf reads ttl_in_minutes, which is written as text or as a number.
func lifeOf(text string) time.Duration {
	minutes, err := strconv.ParseFloat(text, 64)
	if err != nil || !(minutes > 0) {
		return usualTTL
	}
	return time.Duration(min(minutes, longest.Minutes()) * float64(time.Minute))
}

// issue has a certificate made for a key that is made here, or for the class's
// own request.
func (f *fetch) issue(ctx context.Context, it *item, m *minted) error {
	request, key, err := certificateRequest(it.args)
	if err != nil {
		return err
	}
	body := map[string]any{"cert-issuer-name": it.name, argCSR: request}
	for _, name := range []string{argCommonName, argAltNames, argURISANs, argTTL, argKeyUsage} {
		if it.args[name] != "" {
			body[name] = it.args[name]
		}
	}
	r, err := f.ask(ctx, call{operation: endpoint.OpIssue, path: "/get-pki-certificate", body: body, about: it.name, mints: true, reads: true})
	if err != nil {
		return err
	}
	defer r.Release()
	var answer struct {
		Data   string `json:"data"`
		Parent string `json:"parent_cert"`
		ID     string `json:"cert_display_id"`
	}
	if err := decode(r, f.endpoint.Address, &answer); err != nil {
		return err
	}
	if m.Ends, err = notAfter(answer.Data); err != nil {
		return fault.New(fault.BadAnswer, "the answer of %s holds no certificate: %w", f.endpoint.Address, err)
	}
	out := map[string]string{"certificate_pem": answer.Data}
	for name, value := range map[string]string{"private_key_pem": key, "parent_cert": answer.Parent, "cert_display_id": answer.ID} {
		if value != "" {
			out[name] = value
		}
	}
	m.Body, err = params.JSON(out)
	return err
}
