package login

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// credential is one parameter of a login.
type credential struct {
	name   string
	value  secret.String
	secret bool
}

// credentials are the parameters of a login.
type credentials []credential

func (c credentials) body() []byte {
	fields := map[string]string{}
	for _, x := range c {
		fields[x.name] = x.value.Reveal()
	}
	body, _ := json.Marshal(fields) // texts always encode
	return body
}

func (c credentials) secrets() []secret.String {
	var all []secret.String
	for _, x := range c {
		if x.secret {
			all = append(all, x.value)
		}
	}
	return all
}

func (c credentials) sum() [sha256.Size]byte { return sha256.Sum256(c.body()) }

// credentials reads the parameters of the login each time, since an operator or an agent may have
// replaced them.
func (s *Session) credentials(ctx context.Context) (credentials, error) {
	l := s.config
	switch l.Method {
	case config.AppRole:
		id, err := s.secretID(ctx)
		return credentials{{"role_id", secret.NewString(l.RoleID), false}, {"secret_id", id, true}}, err
	case config.JWT:
		jwt, err := readCredential("--jwt-file", l.JWTFile)
		return credentials{{"role", secret.NewString(l.Role), false}, {"jwt", jwt, true}}, err
	case config.Cert:
		if l.Role == "" {
			return nil, nil
		}
		return credentials{{"name", secret.NewString(l.Role), false}}, nil
	}
	return nil, fault.New(fault.Internal, "no login by %s", l.Method)
}

// maxCredential bounds the file of a credential in bytes.
const maxCredential = 64 << 10

// readCredential reads one line from a regular file. Its errors name the flag.
func readCredential(flag, path string) (secret.String, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return secret.String{}, fault.New(fault.Denied, "reading %s: %w", flag, err)
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return secret.String{}, fault.New(fault.Denied, "reading %s: %s is not a regular file", flag, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	defer clear(data)
	text := string(bytes.TrimSpace(data))
	switch {
	case err != nil:
		return secret.String{}, fault.New(fault.Denied, "reading %s: %w", flag, err)
	case len(data) > maxCredential:
		return secret.String{}, fault.New(fault.Denied, "reading %s: %s is larger than %d bytes", flag, path, maxCredential)
	case text == "":
		return secret.String{}, fault.New(fault.Denied, "reading %s: %s is empty", flag, path)
	case endpoint.HasControl(text) || strings.Contains(text, " "):
		return secret.String{}, fault.New(fault.Denied, "reading %s: %s holds more than one word", flag, path)
	}
	return secret.NewString(text), nil
}

// fileToken reads the token that another program writes. While the file is being written, the last
// token stays. A token that was denied something is used again as long as it is in the file.
func (s *Session) fileToken(denied *token) (*token, error) {
	value, err := readCredential("--token-file", s.config.TokenFile)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && (s.current == nil || s.current == denied):
		return nil, err
	case err == nil && (s.current == nil || s.current.value.Reveal() != value.Reveal()):
		s.current = &token{value: value, born: time.Now()}
	}
	return s.current, nil
}

// wrapped is the secret id from a wrapping token, which can be unwrapped only once.
type wrapped struct {
	token    [sha256.Size]byte
	secretID secret.String
}

func (s *Session) secretID(ctx context.Context) (secret.String, error) {
	s.unwrapping.Lock()
	defer s.unwrapping.Unlock()
	content, err := readCredential("--secret-id-file", s.config.SecretIDFile)
	if err != nil || !s.config.SecretIDWrapped {
		return content, err
	}
	sum := sha256.Sum256([]byte(content.Reveal()))
	if s.wrapped.token == sum {
		return s.wrapped.secretID, nil
	}
	id, err := s.unwrap(ctx, content)
	if err != nil {
		return secret.String{}, err
	}
	s.wrapped = wrapped{sum, id}
	return id, nil
}

// unwrap unwraps the secret id, after it has checked that the role's own path created the wrapping
// token: otherwise it may be an attacker's.
func (s *Session) unwrap(ctx context.Context, wrapping secret.String) (secret.String, error) {
	body, _ := json.Marshal(map[string]string{"token": wrapping.Reveal()})
	answer, err := s.store.Do(ctx, store.Request{Operation: "wrapping-lookup", Method: http.MethodPost, Path: "sys/wrapping/lookup", Body: body, Secrets: []secret.String{wrapping}})
	if err != nil {
		return secret.String{}, unwrapFailure("looking at", err)
	}
	defer answer.Wipe()
	var look struct {
		Data struct {
			Path string `json:"creation_path"`
		}
	}
	if err := answer.Decode(&look); err != nil {
		return secret.String{}, unwrapFailure("looking at", err)
	}
	path := look.Data.Path
	if !strings.HasPrefix(path, "auth/"+s.config.Mount+"/role/") || !strings.HasSuffix(path, "/secret-id") {
		return secret.String{}, fault.New(fault.Denied, "the wrapping token in --secret-id-file was made by %q and not by a role's secret-id of auth/%s: it may not be the one that was sent", path, s.config.Mount).
			WithHint("find out who put it there; then deliver a new one")
	}
	answer, err = s.store.Do(ctx, store.Request{Operation: "unwrap", Method: http.MethodPost, Path: "sys/wrapping/unwrap", Body: []byte("{}"), Token: wrapping})
	if err != nil {
		return secret.String{}, unwrapFailure("unwrapping", err)
	}
	defer answer.Wipe()
	var out struct {
		Data struct {
			ID string `json:"secret_id"`
		}
	}
	if err := answer.Decode(&out); err != nil {
		return secret.String{}, unwrapFailure("unwrapping", err)
	}
	if out.Data.ID == "" {
		return secret.String{}, fault.New(fault.Denied, "the wrapping token in --secret-id-file holds no secret id")
	}
	s.log.Info("unwrapped the secret id", logkey.CreationPath, path)
	return secret.NewString(out.Data.ID), nil
}

func unwrapFailure(what string, err error) error {
	out := fault.New(fault.Of(err), "%s the wrapping token in --secret-id-file: %w", what, err)
	if out.Reason.Outage() {
		return out
	}
	return out.WithHint("it can be unwrapped once and for a short time, and is spent after a restart: deliver a new one. If this one was never used here, find out who used it")
}

// explain says how the login was attempted, and what to check.
func explain(l config.Login, err error) error {
	out := fault.New(fault.Of(err), "logging in to Vault by %s at auth/%s: %w", l.Method, l.Mount, err)
	switch {
	case out.Reason.Outage():
	case store.Says(err, http.StatusBadRequest, "invalid role or secret ID"), store.Says(err, http.StatusBadRequest, "invalid role ID"):
		out = out.WithHint("check --role-id and the secret id in --secret-id-file: it may have expired, or its number of uses may be spent. A new one in the same file is taken at once")
	case store.Says(err, http.StatusForbidden, ""), store.Says(err, http.StatusNotFound, ""):
		out = out.WithHint("is the auth method mounted there (--auth-mount), in this namespace (--vault-namespace), and does it take this %s?", map[config.Method]string{config.AppRole: "role and secret id", config.Cert: "client certificate", config.JWT: "JWT"}[l.Method])
	case l.Method == config.Cert:
		out = out.WithHint("Vault must see the client certificate itself: TLS must end at Vault, not at a proxy. And a certificate role must take it")
	case l.Method == config.JWT:
		out = out.WithHint("check the role --auth-role and the JWT in --jwt-file: its audience, subject and end")
	}
	return out
}

// doInline sends the login with the request, which OpenBao supports since 2.4.
func (s *Session) doInline(ctx context.Context, r store.Request) (store.Answer, error) {
	c, err := s.credentials(ctx)
	if err != nil {
		return store.Answer{}, fmt.Errorf("logging in along with the request: %w", err)
	}
	r.Headers = map[string]secret.String{"X-Vault-Inline-Auth-Path": secret.NewString("auth/" + s.config.Mount + "/login")}
	for _, x := range c {
		parameter, err := json.Marshal(map[string]string{"key": x.name, "value": x.value.Reveal()})
		if err != nil {
			return store.Answer{}, errors.New("logging in along with the request: a parameter cannot be written")
		}
		r.Headers["X-Vault-Inline-Auth-Parameter-"+strings.ReplaceAll(x.name, "_", "-")] = secret.NewString(base64.RawURLEncoding.EncodeToString(parameter))
	}
	r.Secrets = append(r.Secrets, c.secrets()...)
	answer, err := s.store.Do(ctx, r)
	if store.Says(err, http.StatusForbidden, "") {
		return answer, fault.New(fault.Denied, "logging in along with the request, at auth/%s: %w", s.config.Mount, err).
			WithHint("the login was refused, or its policy grants too little, or this server does not know --auth-inline: OpenBao does since 2.4, Vault does not")
	}
	return answer, err
}
