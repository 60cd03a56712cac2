package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const maxWords = 1000

// errNoAnswer is the cause of the end of one attempt.
var errNoAnswer = errors.New("no answer in time")

// withCause tells an attempt's own timeout from the caller's end.
func withCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// judge makes an error of everything but a useful answer. The answer itself
// is not quoted where it is not Vault's, since it could hold anything.
func (c *client) judge(ctx context.Context, k call, r *reply, err error) error {
	if err != nil {
		return c.judgeFailure(ctx, k, err)
	}
	if r.status >= 200 && r.status < 300 {
		return nil
	}
	words, hint := wordsOf(r)
	f := fault.New(reasonOfStatus(r.status), "%s answered %d: %s", k.endpoint.address, r.status, scrub(words, k.secrets))
	f.RetryAfter = r.retryAfter
	if hint == "" {
		hint = hintOfStatus(r.status, words)
	}
	return f.WithHint("%s", hint)
}

func reasonOfStatus(status int) fault.Reason {
	switch {
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fault.Denied
	case status == http.StatusNotFound:
		return fault.NotFound
	case status == http.StatusTooManyRequests:
		return fault.RateLimited
	case mayPass(status), status == 473: // 473: a performance standby
		return fault.Unavailable
	case status >= 400 && status < 500, status == http.StatusNotImplemented:
		return fault.Rejected
	}
	return fault.BadAnswer
}

func hintOfStatus(status int, words string) string {
	words = strings.ToLower(words)
	switch {
	case strings.Contains(words, "vault is sealed"):
		return "somebody must unseal it; mounted volumes keep their content until then"
	case status == http.StatusNotImplemented, strings.Contains(words, "not initialized"):
		return "the server is not initialised"
	case status == http.StatusTooManyRequests:
		return "a rate limit quota of the server; it counts by client address, which all pods of a node share, unless it is set otherwise"
	case status == http.StatusMethodNotAllowed, strings.Contains(words, "unsupported operation"):
		return "the path does not take this method; certificates and the like need method: POST"
	}
	return ""
}

// wordsOf finds what Vault said in its own list of errors and warnings.
func wordsOf(r *reply) (words, hint string) {
	var said struct {
		Errors   []any
		Warnings []string
	}
	if json.Unmarshal(r.body, &said) == nil && (said.Errors != nil || said.Warnings != nil) {
		var list []string
		for _, e := range said.Errors {
			list = append(list, fmt.Sprint(e))
		}
		list = append(list, said.Warnings...)
		if text := strings.TrimSpace(strings.Join(list, "; ")); text != "" {
			return text, ""
		}
		return http.StatusText(r.status), ""
	}
	if r.status == http.StatusBadRequest && strings.Contains(string(r.body), "HTTP request to an HTTPS server") {
		return "it speaks TLS", "use https:// in the address"
	}
	if len(r.body) == 0 {
		return http.StatusText(r.status) + ", without a body", ""
	}
	return fmt.Sprintf("%s, with a body that is not Vault's (%s, %d bytes)", http.StatusText(r.status), describeType(r.contentType), len(r.body)),
		"is this the address of a Vault server, or of a proxy before it?"
}

func describeType(contentType string) string {
	if contentType == "" {
		return "no content type"
	}
	return clip(oneLine(contentType))
}

func (c *client) judgeFailure(ctx context.Context, k call, err error) error {
	var already *fault.Error
	var dns *net.DNSError
	what := rootText(err)
	at := k.endpoint.address
	switch {
	case errors.As(err, &already):
		return fault.New(already.Reason, "%s: %w", at, err)
	case errors.Is(err, errNoAnswer):
		return fault.New(fault.Timeout, "%s gave no answer within %s", at, c.config.RequestTimeout)
	case ctx.Err() != nil:
		return fmt.Errorf("waiting for %s: %w", at, session.Ended(ctx))
	case errors.Is(err, errTooLarge):
		return fault.New(fault.TooLarge, "the answer of %s is larger than %d bytes", at, c.config.MaxResponseBytes)
	case tlsHint(k.endpoint.tls, err) != "":
		return fault.New(fault.Unavailable, "connecting to %s: %s", at, what).WithHint("%s", tlsHint(k.endpoint.tls, err))
	case errors.As(err, &dns):
		return fault.New(fault.Unavailable, "finding %s: %s", at, what).WithHint("the name is resolved with the DNS settings of the driver's pod")
	case neverSent(err):
		return fault.New(fault.Unavailable, "connecting to %s: %s", at, what)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fault.New(fault.Unavailable, "%s closed the connection before its answer was complete: %s", at, what).WithHint("%s", handshakeHint(k.endpoint.target))
	}
	return fault.New(fault.Unavailable, "asking %s: %s", at, scrub(what, k.secrets)).WithHint("%s", handshakeHint(k.endpoint.target))
}

// handshakeHint is for servers that refuse a client only after the handshake,
// as TLS 1.3 has it: the client sees a connection that ends, and no reason.
func handshakeHint(t target) string {
	if t.address.scheme == "https" && t.tls.ClientCertFile == "" {
		return "it may want a client certificate: set vaultTLSClientCertPath and vaultTLSClientKeyPath"
	}
	return ""
}

// rootText leaves out the URL that net/http puts before its errors.
func rootText(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return clipTo(oneLine(err.Error()), maxWords)
}

// neverSent tells that no connection came about, so no request either.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// hopeless tells that another attempt would end alike.
func hopeless(err error) bool {
	var f *fault.Error
	return errors.Is(err, errTooLarge) || errors.As(err, &f) || tlsHint(TLS{}, err) != "" || errors.Is(err, context.Canceled)
}

// tlsHint says what to do about a failed handshake; empty for other errors.
func tlsHint(t TLS, err error) string {
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.As(err, &host):
		return "the server's certificate is for another name: set vaultTLSServerName, or use an address that the certificate names"
	case errors.As(err, &unknown):
		return "the certificate was checked against " + t.authorities()
	case errors.As(err, &invalid), errors.As(err, &verify):
		return "the server's certificate was refused; it was checked against " + t.authorities()
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "the server does not speak TLS here: use http:// in the address"
	case errors.As(err, &alert), strings.Contains(err.Error(), "remote error: tls:"):
		return "the server refused the handshake; it may want a client certificate: set vaultTLSClientCertPath and vaultTLSClientKeyPath"
	}
	return ""
}

func (t TLS) authorities() string {
	switch {
	case t.CACertFile != "":
		return fmt.Sprintf("the authorities in %q", t.CACertFile)
	case t.CACertDir != "":
		return fmt.Sprintf("the authorities in the directory %q", t.CACertDir)
	}
	return "the system's authorities: set vaultCACertPath to the server's own"
}

// outcomeOf tells the circuit breaker what a request says about the server.
func outcomeOf(ctx context.Context, k call, r *reply, err, failure error) session.Outcome {
	switch {
	case err != nil && (ctx.Err() != nil || hopeless(err)):
		return session.NothingSaid
	case err != nil:
		return session.Outage
	case refusedRenewal(k, r):
		return session.NothingSaid
	case r.status == http.StatusInternalServerError && json.Valid(r.body):
		return session.BrokenPlace
	case r.status == http.StatusPreconditionFailed:
		return session.NothingSaid
	case fault.Of(failure).Outage() && failure != nil:
		return session.Outage
	}
	return session.Answered
}

// refusedRenewal tells that Vault does not renew something. It says so with
// status 500, for instance "past the max TTL, cannot renew".
func refusedRenewal(k call, r *reply) bool {
	return k.renews && r != nil && r.status == http.StatusInternalServerError && json.Valid(r.body)
}

// credential matches what looks like a Vault token or a JWT.
var credential = regexp.MustCompile(`\b(hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+`)

// scrub takes out credentials that a server repeats, and what would break a
// line.
func scrub(words string, secrets []secret.String) string {
	for _, s := range secrets {
		if !s.Empty() {
			words = strings.ReplaceAll(words, s.Reveal(), secret.Redacted)
		}
	}
	return clipTo(oneLine(credential.ReplaceAllString(words, secret.Redacted)), maxWords)
}

// oneLine joins lines, as those of Vault's lists of errors.
func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if hasControl(string(r)) {
			return ' '
		}
		return r
	}, s)), " ")
}

func clipTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
