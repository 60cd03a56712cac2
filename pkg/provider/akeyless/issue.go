package akeyless

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

const (
	// producerTimeout is how long a dynamic secret's producer may take, Akeyless' own
	// default; producerMargin is for its answer.
	producerTimeout = 15 * time.Second
	producerMargin  = 5 * time.Second
	// usualTTL is the TTL of a dynamic secret whose answer has none; it is the default of
	// Akeyless' producers.
	usualTTL = time.Hour
)

// Detached implements session.Detacher: a producer continues although its caller's context
// has ended.
func (s *akeylessSession) Detached() {}

// Issue implements session.Session.
func (s *akeylessSession) Issue(ctx context.Context, tokens session.Tokens, r *session.Request) (*session.Reading, error) {
	it := itemOf(r)
	if err := s.items.misfit(it); err != nil {
		return nil, err
	}
	tried := s.items.kindOf(it)
	ask := s.conn.produce
	if tried == pki {
		ask = s.conn.certify
	}
	rd := &session.Reading{At: s.conn.Now(), Correlation: s.conn.Caller.Correlation}
	rd.Asked, rd.Read = rd.At, rd.At
	err := ask(ctx, tokens, r, rd)
	if err == nil && !rd.End.After(rd.At) {
		err = fault.New(fault.BadAnswer, "the credential from %s is over already", s.conn.Address())
	}
	if err == nil {
		return rd, nil
	}
	if isMistake(err) {
		s.items.mistaken(it, err)
		if again := s.items.retyped(ctx, it, tried); again != nil {
			return nil, again
		}
	}
	return nil, s.items.explain(it, err)
}

// produce has a dynamic secret's producer create a credential.
func (c *conn) produce(ctx context.Context, tokens session.Tokens, r *session.Request, rd *session.Reading) error {
	it := itemOf(r)
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
	// Wait for the answer: a credential must be known to be revoked.
	if ctx.Err() != nil {
		return fault.Ended(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait+2*producerMargin)
	defer cancel()
	reply, err := c.issue(ctx, tokens, "/get-dynamic-secret-value", it.name, body, wait+producerMargin)
	if err != nil {
		return err
	}
	defer reply.Release()
	// Custom producers return any JSON.
	said := bytes.TrimSpace(reply.Body)
	if !json.Valid(said) {
		return notJSON(c.Address(), reply)
	}
	if empty(said) {
		return fault.New(fault.BadAnswer, "the answer of %s is empty", c.Address())
	}
	if isNotice(said) {
		return notAkeyless(c.Address(), "holds no credential, only "+params.Keys(said))
	}
	rd.Kind = session.Leased
	keys, whole := c.Caller.Keys(r, rd.Kind)
	if rd.Answer, err = keep(dynamic, said, keys, whole, session.Room(reply)); err != nil {
		return err
	}
	rd.Answer.LeaseID = textOf(params.Member(said, "id"))
	rd.End = rd.At.Add(lifeOf(textOf(params.Member(said, "ttl_in_minutes"))))
	if rd.Answer.LeaseID == "" {
		c.Logger.Warn("a dynamic secret's answer has no id, so its credential cannot be ended before its time", logkey.Item, it.name)
	}
	return nil
}

func empty(raw []byte) bool {
	return string(raw) == "null" || string(raw) == `""` || params.IsObject(raw) && len(bytes.TrimSpace(raw[1:])) == 1
}

// isNotice reports whether an answer is no credential, but a notice of a proxy or server:
// a status, a message and the like, and nothing else.
func isNotice(raw []byte) bool {
	return params.IsObject(raw) && !params.HasKey(raw, func(key string) bool {
		switch strings.ToLower(key) {
		case "status", "message", "error", "code", "reason", "detail", "details", "title", "timestamp", "path", "request_id", "requestid":
			return false
		}
		return true
	})
}

// textOf returns a string, or a number as it is written.
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

// lifeOf reads ttl_in_minutes, which is a string or a number.
func lifeOf(text string) time.Duration {
	minutes, err := strconv.ParseFloat(text, 64)
	if err != nil || !(minutes > 0) {
		return usualTTL
	}
	return time.Duration(min(minutes, longest.Minutes()) * float64(time.Minute))
}

// certify has a certificate issued for a key that is created here, or for the class's own
// request.
func (c *conn) certify(ctx context.Context, tokens session.Tokens, r *session.Request, rd *session.Reading) error {
	it := itemOf(r)
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
	reply, err := c.issue(ctx, tokens, "/get-pki-certificate", it.name, body, 0)
	if err != nil {
		return err
	}
	defer reply.Release()
	var answer struct {
		Data   string `json:"data"`
		Parent string `json:"parent_cert"`
		ID     string `json:"cert_display_id"`
	}
	if err := decode(c.Address(), reply, &answer); err != nil {
		return err
	}
	if rd.End, err = notAfter(answer.Data); err != nil {
		return fault.New(fault.BadAnswer, "the answer of %s holds no certificate: %w", c.Address(), err)
	}
	out := map[string]string{"certificate_pem": answer.Data}
	for name, value := range map[string]string{"private_key_pem": key, "parent_cert": answer.Parent, "cert_display_id": answer.ID} {
		if value != "" {
			out[name] = value
		}
	}
	raw, err := params.JSON(out)
	rd.Kind, rd.Answer = session.Certificate, &session.Answer{Type: string(pki), Body: raw}
	return err
}
