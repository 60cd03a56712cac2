package akeyless

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Clouds are the addresses of the clouds' token services.
type Clouds struct {
	AWS         string // of STS
	Azure       string // of Entra ID
	Google      string // of the Security Token Service
	GoogleCreds string // of the IAM Service Account Credentials API
}

// complete sets the public addresses.
func (c *Clouds) complete() {
	c.AWS = cmp.Or(c.AWS, "https://sts.amazonaws.com")
	c.Azure = cmp.Or(c.Azure, "https://login.microsoftonline.com")
	c.Google = cmp.Or(c.Google, "https://sts.googleapis.com")
	c.GoogleCreds = cmp.Or(c.GoogleCreds, "https://iamcredentials.googleapis.com")
}

// cloud is one exchange of a service account token.
type cloud struct {
	to      *session.Conn
	client  *client
	login   login
	ctx     context.Context //nolint:containedctx // lives as long as the exchange
	account identity.Token
}

// identity exchanges the pod's own service account token for what Akeyless calls a cloud
// identity, by the cloud's workload identity federation. It never uses the node's
// identity, which every program on the node can get.
func (c cloud) identity() (secret.String, error) {
	switch c.login.Type {
	case typeAWS:
		return c.aws()
	case typeAzure:
		return c.azure()
	case typeGCP:
		return c.google()
	}
	return secret.String{}, fault.New(fault.Internal, "access type %s has no cloud identity", c.login.Type)
}

// post sends a request to a cloud's token service. bearer is for the Authorization header,
// empty for none.
func (c cloud) post(base, path, contentType, body, authorization string) (*endpoint.Reply, error) {
	a, err := endpoint.ParseAddress(base)
	if err != nil {
		return nil, fault.New(fault.Internal, "the cloud's address %s", err)
	}
	e, err := c.client.requests.Pool.Get(c.ctx, endpoint.Target{Address: a}, c.to.Now())
	if err != nil {
		return nil, err
	}
	k := call{Call: c.to.Call(endpoint.OpLogin), secrets: append(c.to.Caller.Secrets(nil), secret.NewString(authorization))}
	k.Pair, k.Owner, k.Caller.Path = endpoint.Pair{First: e}, budget.Owner{}, path
	k.Send = func(ctx context.Context, e *endpoint.Endpoint) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.URL(path).String(), strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", contentType)
		if authorization != "" {
			r.Header.Set("Authorization", "Bearer "+authorization)
		}
		return c.client.exchange(ctx, e, r)
	}
	k.Refusal = func(e *endpoint.Endpoint, r *endpoint.Reply) error { return cloudRefusal(e, k, r) }
	return c.client.requests.Do(c.ctx, finished(k))
}

func (c cloud) form(base, path string, values url.Values) (*endpoint.Reply, error) {
	return c.post(base, path, "application/x-www-form-urlencoded", values.Encode(), "")
}

// cloudRefusal quotes OAuth's error_description, and nothing else of an answer.
func cloudRefusal(e *endpoint.Endpoint, k call, r *endpoint.Reply) error {
	var said struct {
		Error       any    `json:"error"`
		Description string `json:"error_description"`
	}
	words, own := http.StatusText(r.Status), true
	switch err := json.Unmarshal(r.Body, &said); {
	case err == nil && said.Description != "":
		words = said.Description
	case err == nil && said.Error != nil:
		if text, err := params.JSON(said.Error); err == nil {
			words = string(text)
		}
	default:
		message := between(string(r.Body), "<Message>", "</Message>") // AWS answers in XML
		words, own = cmp.Or(message, words), message != ""
	}
	reason := fault.Denied
	switch {
	case r.Status == http.StatusTooManyRequests:
		reason = fault.RateLimited
	case r.Status >= 500:
		reason = fault.Unavailable
	case !own: // of a proxy
		reason = fault.BadAnswer
	}
	return r.Refused(e, reason, scrub(words, k.secrets))
}

func between(text, start, end string) string {
	_, rest, _ := strings.Cut(text, start)
	inside, _, found := strings.Cut(rest, end)
	if !found {
		return ""
	}
	return inside
}

// aws assumes the role as the pod's service account, and signs a GetCallerIdentity request
// with it, which Akeyless sends to AWS.
func (c cloud) aws() (secret.String, error) {
	r, err := c.form(c.client.clouds.AWS, "/", url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {stsVersion}, "RoleArn": {c.login.AWSRole},
		"RoleSessionName": {c.sessionName()}, "WebIdentityToken": {c.account.JWT.Reveal()}, "DurationSeconds": {"900"},
	})
	if err != nil {
		return secret.String{}, c.explain("AWS role "+c.login.AWSRole, err)
	}
	var keys awsKeys
	if xml.Unmarshal(r.Body, &keys) != nil || keys.ID == "" || keys.Secret == "" || keys.Token == "" {
		return secret.String{}, fault.New(fault.BadAnswer, "the answer of AWS holds no credentials")
	}
	id, err := keys.identity(c.to.Now())
	if err != nil {
		return secret.String{}, fault.New(fault.Internal, "writing the AWS cloud identity")
	}
	return id, nil
}

// azure exchanges the token for one of the application that trusts it.
func (c cloud) azure() (secret.String, error) {
	r, err := c.form(c.client.clouds.Azure, "/"+url.PathEscape(c.login.AzureTenant)+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {c.login.AzureClient}, "scope": {"https://management.azure.com/.default"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {c.account.JWT.Reveal()},
	})
	if err != nil {
		return secret.String{}, c.explain("Entra ID application "+c.login.AzureClient, err)
	}
	return c.wrapped(r, "access_token")
}

// google exchanges the token for a federated one, and that for an identity token of the
// Google service account.
func (c cloud) google() (secret.String, error) {
	r, err := c.form(c.client.clouds.Google, "/v1/token", url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "audience": {c.login.GCPProvider},
		"scope":                {"https://www.googleapis.com/auth/cloud-platform"},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"subject_token_type":   {"urn:ietf:params:oauth:token-type:jwt"}, "subject_token": {c.account.JWT.Reveal()},
	})
	if err != nil {
		return secret.String{}, c.explain("workload identity provider "+c.login.GCPProvider, err)
	}
	federated, err := field(r, "access_token")
	if err != nil {
		return secret.String{}, err
	}
	body, err := json.Marshal(map[string]any{"audience": c.login.GCPAudience, "includeEmail": true})
	if err != nil {
		return secret.String{}, fault.New(fault.Internal, "writing the request for an identity token")
	}
	path := "/v1/projects/-/serviceAccounts/" + url.PathEscape(c.login.GCPAccount) + ":generateIdToken"
	r, err = c.post(c.client.clouds.GoogleCreds, path, "application/json", string(body), federated)
	if err != nil {
		return secret.String{}, c.explain("Google service account "+c.login.GCPAccount, err)
	}
	return c.wrapped(r, "token")
}

// wrapped returns a token in the form that Akeyless expects.
func (c cloud) wrapped(r *endpoint.Reply, name string) (secret.String, error) {
	token, err := field(r, name)
	return secret.NewString(base64.StdEncoding.EncodeToString([]byte(token))), err
}

func field(r *endpoint.Reply, name string) (string, error) {
	var all map[string]any
	if params.Decode(r.Body, &all) == nil {
		if text, ok := all[name].(string); ok && text != "" {
			return text, nil
		}
	}
	return "", fault.New(fault.BadAnswer, "the cloud's answer holds no %s", name)
}

func (c cloud) explain(what string, err error) error {
	out := fault.Wrap(fault.Of(err), err, "getting a token of %s for service account %s/%s", what, c.to.Caller.Pod.Namespace, c.to.Caller.Pod.ServiceAccount)
	if out.Reason == fault.Denied {
		return out.WithHint("it must trust tokens of this cluster's issuer for subject system:serviceaccount:%s:%s and audience %q", c.to.Caller.Pod.Namespace, c.to.Caller.Pod.ServiceAccount, c.login.Audience)
	}
	return out
}

// sessionName is the name of the pod's service account in the cloud's audit log.
func (c cloud) sessionName() string {
	name := strings.Map(func(r rune) rune {
		if r == '.' {
			return '-'
		}
		return r
	}, fmt.Sprintf("%s@%s", c.to.Caller.Pod.ServiceAccount, c.to.Caller.Pod.Namespace))
	return name[:min(len(name), 64)]
}
