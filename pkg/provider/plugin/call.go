package plugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// call is one Fetch, for its errors: each names the provider and its socket.
type call struct {
	provider string
	at       socket
	request  *provider.Request
	limits   *Config
	// charge is for the answer until the payload is made.
	charge *budget.Charge
}

func (c *call) fault(reason fault.Reason, format string, args ...any) *fault.Error {
	where := fmt.Sprintf("provider %q", c.provider)
	if c.at.path != "" {
		where += " at " + c.at.path
	}
	return fault.New(reason, "%s: "+format, append([]any{where}, args...)...)
}

// hung is the fault of a provider that failed its health check.
func (c *call) hung(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err := c.fault(fault.Unavailable, "it left a call without an answer and shows no sign of life since").
		WithHint("look at the provider's pod on this node")
	err.RetryAfter = livenessPause
	return err
}

// failed converts a failed call to a fault. It does not wrap the gRPC error, because the text is
// the provider's, and the code is not for kubelet.
func (c *call) failed(ctx context.Context, err error) error {
	if _, known := errors.AsType[*fault.Error](err); known {
		return err
	}
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		return c.fault(fault.Timeout, "it did not answer within %s", c.limits.Timeout).
			WithHint("if its store needs longer, raise the driver's %s", setting.Name("--provider-timeout"))
	case ctx.Err() != nil:
		return c.fault(fault.Of(ctx.Err()), "waiting for its answer: %w", ctx.Err())
	}
	st := status.Convert(err)
	if st.Code() == codes.ResourceExhausted && strings.Contains(st.Message(), "larger than max") {
		return c.fault(fault.TooLarge, "its answer is over the limit of %d bytes: %s", c.limits.MaxMessageBytes, c.scrub(st.Message())).
			WithHint("raise the driver's %s, or split the class", setting.Name("--max-call-recv-msg-size"))
	}
	return c.refused(reasonOf(st.Code()), st.Code().String(), st.Message())
}

// refused is the fault of a provider's own error.
func (c *call) refused(reason fault.Reason, code, words string) error {
	text := c.scrub(words)
	if text == "" {
		text = "it gave no reason"
	}
	err := c.fault(reason, "%s: %s", c.scrub(code), text)
	if hint := c.hint(reason, code, words); hint != "" {
		return err.WithHint("%s", hint)
	}
	return err
}

// hint says what to do about a refusal, if that can be guessed.
func (c *call) hint(reason fault.Reason, code, words string) string {
	switch {
	case c.missesTarget(words):
		return cannotSee
	case code == codes.Unimplemented.String():
		return "does a Secrets Store provider serve this socket?"
	case reason == fault.Unavailable && strings.Contains(words, "connection refused"):
		return "the socket is there and nobody serves it: look at the provider's pod on this node"
	case reason != fault.Unverified:
		return ""
	case len(c.request.Tokens) == 0:
		return "kubelet passed no service account token: list the provider's audience under spec.tokenRequests of the CSIDriver object"
	}
	passed, sent := c.request.Tokens, c.limits.tokensFor(c.provider, *c.request)
	if len(sent) < len(passed) {
		return fmt.Sprintf("kubelet passed service account tokens for the audiences %q, of which the provider was sent %q: %s, or the class's audience, decides which", slices.Sorted(maps.Keys(passed)), slices.Sorted(maps.Keys(sent)), setting.Name("--provider-audiences"))
	}
	return fmt.Sprintf("kubelet passed service account tokens for the audiences %q", slices.Sorted(maps.Keys(passed)))
}

// missesTarget reports whether a provider did not find something below the target path.
func (c *call) missesTarget(words string) bool {
	return strings.Contains(words, c.request.TargetPath) && strings.Contains(words, "no such file or directory")
}

// cannotSee is for providers that write the files below the target path themselves.
const cannotSee = "a provider that writes files itself must mount kubelet's pods directory with mountPropagation: HostToContainer; or set it to return them, as --driver-writes-secrets=true does for the AWS provider"

// reasonOf maps a provider's gRPC code to a reason. Go providers answer Unknown for any error without
// a code: it may be a denial as well as an outage, and only the text says which. No denial is
// certain: some providers answer PermissionDenied whenever they cannot log in, even if the network
// is down.
func reasonOf(code codes.Code) fault.Reason {
	switch code {
	case codes.Unavailable, codes.Aborted, codes.Canceled: // the driver did not cancel it, so the provider is stopping
		return fault.Unavailable
	case codes.DeadlineExceeded:
		return fault.Timeout
	case codes.ResourceExhausted:
		return fault.RateLimited
	case codes.PermissionDenied, codes.Unauthenticated:
		return fault.Unverified
	case codes.NotFound:
		return fault.NotFound
	case codes.InvalidArgument, codes.FailedPrecondition, codes.AlreadyExists, codes.OutOfRange:
		return fault.Rejected
	}
	return fault.BadAnswer
}

// maxWords bounds a provider's text in an error, in bytes.
const maxWords = 2048

// scrub makes a provider's text safe to show: without the service account tokens and the secrets of
// the request, on one line and not too long.
func (c *call) scrub(words string) string {
	known := slices.Collect(maps.Values(c.request.Secrets))
	for _, token := range c.request.Tokens {
		known = append(known, token.JWT)
	}
	return secret.OneLine(secret.Redact(words, known), maxWords)
}

// holdsToken reports whether there is a service account token in a text. It does not look for other
// secrets: one may be a word that occurs in ordinary names.
func (c *call) holdsToken(text string) bool {
	for _, token := range c.request.Tokens {
		if !token.JWT.Empty() && strings.Contains(text, token.JWT.Reveal()) {
			return true
		}
	}
	return secret.LooksLikeCredential(text)
}
