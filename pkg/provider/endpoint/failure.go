package endpoint

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/printable"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const maxWords = 1000

// Explain makes an error of reason Unavailable from a failed exchange with the endpoint, with a
// hint if one is known. scrub removes secrets from a text.
func (e *Endpoint) Explain(err error, n Names, scrub func(words string) string) *fault.Error {
	what := scrub(rootText(err))
	if hint := e.TLS.hint(err, n); hint != "" {
		return fault.New(fault.Unavailable, "connecting to %s: %s", e.Address, what).WithHint("%s", hint)
	}
	switch {
	case isA[*net.DNSError](err):
		return fault.New(fault.Unavailable, "finding %s: %s", e.Address, what).
			WithHint("the name is resolved with the DNS settings of the %s's pod", n.program())
	case NeverSent(err):
		return fault.New(fault.Unavailable, "connecting to %s: %s", e.Address, what)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		// A server that began an answer does not speak TLS.
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			if words := e.saysToPlain(); strings.Contains(words, "HTTPS") {
				return fault.New(fault.Unavailable, "%s answered: %s", e.Address, scrub(words)).WithHint("the server speaks TLS: " + HintTLS)
			}
		}
		return fault.New(fault.Unavailable, "%s closed the connection before its answer was complete: %s", e.Address, what).
			WithHint("%s", e.late(n))
	}
	return fault.New(fault.Unavailable, "asking %s: %s", e.Address, what).WithHint("%s", e.late(n))
}

// probeTime bounds the check of why a server closed a connection.
const probeTime = 2 * time.Second

// saysToPlain returns a server's answer to the beginning of a plain request; empty for none, and
// for https. A server that speaks TLS answers with an error, but if it leaves a part of a request
// unread, the kernel resets the connection and the answer is lost. It reads all of these bytes,
// since a TLS record begins with five.
func (e *Endpoint) saysToPlain() string {
	t := e.Transport()
	if e.Address.scheme != "http" || t == nil || t.DialContext == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	conn, err := t.DialContext(ctx, "tcp", net.JoinHostPort(e.Address.host, e.Address.port))
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(probeTime))
	if _, err := io.WriteString(conn, "GET /"); err != nil {
		return ""
	}
	answer, _ := io.ReadAll(io.LimitReader(conn, maxWords))
	_, words, _ := strings.Cut(string(answer), "\r\n\r\n")
	return strings.TrimSpace(words)
}

// late is the hint for servers that refuse a client after the handshake, which is possible in TLS
// 1.3: the client sees a closed connection, and no reason.
func (e *Endpoint) late(n Names) string {
	if e.Address.scheme == "http" {
		return "a server that speaks TLS ends plain connections like that: if it does, " + HintTLS
	}
	if e.Address.scheme != "https" || e.TLS.ClientCertFile != "" {
		return ""
	}
	return n.wantsCertificate()
}

func (n Names) wantsCertificate() string {
	return fmt.Sprintf("it may want a client certificate: set %s and %s", n.ClientCertFile, n.ClientKeyFile)
}

// isA reports whether there is an error of a type in the chain of err.
func isA[E error](err error) bool {
	_, is := errors.AsType[E](err)
	return is
}

// rootText leaves out the URL that net/http puts before its errors, and the connection's local
// address.
func rootText(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok { // each connection has its own local port, and each text would be a new Event
		plain := *op
		plain.Source = nil
		return plain.Error()
	}
	return err.Error()
}

// NeverSent reports that there was no connection, and so no request.
func NeverSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// notConnected tells that no connection came about, whatever is asked for.
func notConnected(err error) bool { return NeverSent(err) || BadTLS(err) }

// BadTLS reports that the handshake failed, and will fail again.
func BadTLS(err error) bool { return TLS{}.hint(err, Names{}) != "" }

// hint says what to do about a failed handshake; empty for other failures.
func (t TLS) hint(err error, n Names) string {
	switch {
	case isA[x509.HostnameError](err):
		return fmt.Sprintf("the server's certificate is for another name: set %s, or use an address that the certificate names", n.ServerName)
	case isA[x509.UnknownAuthorityError](err), isA[x509.CertificateInvalidError](err), isA[*tls.CertificateVerificationError](err):
		return "the server's certificate was checked against " + t.authorities(n)
	case isA[tls.RecordHeaderError](err), strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return "the server does not speak TLS here: use http:// in the address"
	case isA[tls.AlertError](err), strings.Contains(err.Error(), "remote error: tls:"):
		return "the server refused the handshake; " + n.wantsCertificate()
	}
	return ""
}

func (t TLS) authorities(n Names) string {
	switch {
	case t.CACert != "":
		return "the authorities in " + n.CACert
	case t.CACertFile != "":
		return fmt.Sprintf("the authorities in %q", t.CACertFile)
	case t.CACertDir != "":
		return fmt.Sprintf("the authorities in the directory %q", t.CACertDir)
	}
	operators := ""
	if n.OperatorCA != "" {
		operators = ", or have the operator give it with " + n.OperatorCA
	}
	return fmt.Sprintf("the system's authorities: set %s to the server's own%s", n.CACertFile, operators)
}

// Shape describes a body that is not the store's by its content type, without what looks like a
// credential, and its size.
func Shape(contentType string, size int, looksLike *regexp.Regexp) string {
	const most = 80
	if contentType == "" {
		contentType = "no content type"
	}
	return fmt.Sprintf("%s, %d bytes", printable.Cut(Scrub(contentType, nil, looksLike), most), size)
}

// Scrub makes a server's text safe for an error: one line of bounded length, without the secrets
// and without what looks like a credential, of the store's own kind too.
func Scrub(words string, secrets []secret.String, looksLike ...*regexp.Regexp) string {
	return secret.OneLine(secret.Redact(words, secrets, looksLike...), maxWords)
}
