package akeyless

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// single answers a rotated secret or a stored certificate, which take a
// request each.
func (f *fetch) single(ctx context.Context, it *item, k kind) {
	readings, _, err := f.group.reads.Do(ctx, it.flight, f.now, f.since(), func() (map[string]*reading, error) {
		rd := f.fromGroup(it)
		if rd == nil {
			rd = f.unchanged(ctx, it)
		}
		if rd == nil {
			var err error
			if rd, err = f.readSingle(ctx, it, k); err != nil {
				return nil, err
			}
		}
		f.group.recent.Keep(it.id, rd)
		return map[string]*reading{it.id: rd}, nil
	})
	f.settle(it, readings[it.id], err)
}

func (f *fetch) readSingle(ctx context.Context, it *item, k kind) (*reading, error) {
	c := call{operation: endpoint.OpRead, path: "/get-certificate-value", body: map[string]any{"name": it.name}, about: it.name}
	if k == rotated {
		c = call{operation: endpoint.OpRead, path: "/get-rotated-secret-value", body: map[string]any{"names": it.name, "json": true}, about: it.name}
		if host := it.args[argHost]; host != "" {
			c.body["host"] = host
		}
	}
	c.reads = true
	f.refine(c.body, it)
	asked := f.now()
	r, err := f.ask(ctx, c)
	if err != nil {
		if fault.Of(err) == fault.NotFound && f.optional(it) {
			return &reading{Kind: k, Absent: true, Asked: asked}, nil
		}
		f.mistaken(it, err)
		return nil, err
	}
	defer r.Release()
	if err := checkObject(r, f.endpoint.Address); err != nil {
		return nil, err
	}
	if k == rotated {
		return f.rotatedReading(it, r, asked)
	}
	return f.certificateReading(it, r, asked)
}

func (f *fetch) rotatedReading(it *item, r *endpoint.Reply, asked time.Time) (*reading, error) {
	raw := params.Member(r.Body, "value")
	if len(raw) == 0 || string(raw) == "null" {
		return nil, fault.New(fault.BadAnswer, "the answer of %s holds no value", f.endpoint.Address)
	}
	v, err := f.keep(it, rotated, value{Body: raw}, r)
	if err != nil {
		return nil, err
	}
	return f.newReading(it, rotated, v, asked), nil
}

func (f *fetch) certificateReading(it *item, r *endpoint.Reply, asked time.Time) (*reading, error) {
	var stored struct {
		PEM string `json:"certificate_pem"`
	}
	end, err := time.Time{}, error(nil)
	if err = json.Unmarshal(r.Body, &stored); err == nil {
		end, err = notAfter(stored.PEM)
	}
	if err != nil {
		return nil, fault.New(fault.BadAnswer, "the answer of %s holds no certificate: %w", f.endpoint.Address, err)
	}
	v, err := f.keep(it, certificate, value{Body: r.Body}, r)
	if err != nil {
		return nil, err
	}
	rd := f.newReading(it, certificate, v, asked)
	rd.Ends = end
	return rd, nil
}

// notAfter is the end of the first certificate in a PEM text.
func notAfter(text string) (time.Time, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return time.Time{}, errors.New("it is not PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, errors.New("it is not X.509")
	}
	return c.NotAfter, nil
}

// mistaken forgets a detected kind that may be the reason of a failure, as
// when an item was replaced by one of another type.
func (f *fetch) mistaken(it *item, err error) {
	if !isMistake(err) {
		return
	}
	f.kinds.Forget(keyOf(f.spec.login, it.name))
	if it.kind == detected {
		f.group.opaque.Forget(it.name)
	}
}

// isMistake tells whether a failure may come of a wrong kind.
func isMistake(err error) bool {
	switch fault.Of(err) {
	case fault.NotFound, fault.Rejected, fault.BadAnswer:
		return err != nil
	}
	return false
}

// explainRead adds what was attempted, and what a person can do about it.
func explainRead(f *fetch, it *item, err error) error {
	out := fault.New(fault.Of(err), "reading %s: %w", it, err)
	out.RetryAfter = fault.RetryAfter(err)
	var said *fault.Error
	if errors.As(err, &said) && said.Hint != "" {
		return out
	}
	switch out.Reason {
	case fault.Denied:
		return out.WithHint("a role of access ID %q must allow read on the item, to this service account if it goes by claims", f.spec.login.AccessID)
	case fault.NotFound:
		return out.WithHint("there is no such item, or the role does not let the pod know of it")
	case fault.Rejected:
		return out.WithHint("%s", typeHint(it))
	}
	return out
}

func typeHint(it *item) string {
	if it.kind == detected {
		return "set the object's secretType if the item is not a static secret"
	}
	return fmt.Sprintf("is the item really of type %s?", it.kind)
}
