// Package apiserver asks each of a cluster's API servers which key id it writes with, and lets the
// cluster rewrite objects. It has no types of objects, and reads no object's content.
package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxAnswer bounds an answer in bytes. A page of a list of names is far below it, and so are an
	// API server's metrics.
	maxAnswer = 64 << 20
	// callTimeout bounds one request.
	callTimeout = 30 * time.Second
	// serviceName is in the certificate of every API server, since pods reach it
	// by this name.
	serviceName = "kubernetes.default.svc"
)

// Server is one API server, or a load balancer for several.
type Server struct {
	// URL is its address.
	URL    string
	client *http.Client
	agent  string
}

// Refusal is an API server's answer with a status other than 2xx.
type Refusal struct {
	Status int
	Words  string
	// next continues a list whose revision is too old, from the present state.
	next string
}

// Error is the API server's text.
func (r *Refusal) Error() string { return fmt.Sprintf("%d %s", r.Status, r.Words) }

// Refused reports whether an error is a Refusal with a status.
func Refused(err error, status int) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Status == status
}

// Config says how to connect to the cluster.
type Config struct {
	// Kubeconfig is a file; empty for those of List, which is $KUBECONFIG, or kubectl's default.
	Kubeconfig, List string
	Context          string
	// Servers are the URLs of all API servers; empty to discover them.
	Servers   []string
	UserAgent string
}

// Connect reads the kubeconfig. It makes no request.
func Connect(ctx context.Context, c Config) (*Cluster, error) {
	a, err := loadAccess(ctx, c.Kubeconfig, c.List, c.Context)
	if err != nil {
		return nil, err
	}
	cluster := &Cluster{access: a, agent: c.UserAgent, takenUp: takenUpWithin}
	if cluster.main, err = cluster.server(a.server, ""); err != nil {
		return nil, err
	}
	for _, address := range c.Servers {
		s, err := cluster.server(address, "")
		if err != nil {
			return nil, err
		}
		cluster.named = append(cluster.named, s)
	}
	return cluster, nil
}

// server is one address of the cluster; its certificate must be for the name, or else for the host
// of the address.
// else that of the address.
func (c *Cluster) server(address, name string) (*Server, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("%q is no address of an API server; write https://host:6443", address)
	}
	return &Server{URL: strings.TrimSuffix(address, "/"), client: c.access.client(name), agent: c.agent}, nil
}

const (
	contentJSON  = "application/json"
	contentPatch = "application/merge-patch+json"
	// namesOnly asks the API server for an object's metadata only.
	namesOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	listNames = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// call is one request.
type call struct {
	method, path string
	accept       string
	contentType  string
	body         any
	into         any
}

// do makes a request, and reads its JSON answer.
func (s *Server) do(ctx context.Context, c call) error {
	body, err := s.ask(ctx, c)
	if err != nil || c.into == nil {
		return err
	}
	if err := json.Unmarshal(body, c.into); err != nil {
		return fmt.Errorf("%s %s at %s: the answer is not the API server's JSON", c.method, c.path, s.URL)
	}
	return nil
}

func (s *Server) ask(ctx context.Context, c call) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fmt.Errorf("no answer within %s", callTimeout))
	defer cancel()
	var sent io.Reader
	if c.body != nil {
		data, err := json.Marshal(c.body)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		sent = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, c.method, s.URL+c.path, sent)
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	request.Header.Set("User-Agent", s.agent)
	if c.accept != "" {
		request.Header.Set("Accept", c.accept)
	}
	if c.contentType != "" {
		request.Header.Set("Content-Type", c.contentType)
	}
	answer, err := s.client.Do(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("asking %s: %w", s.URL, err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer of %s: %w", s.URL, err)
	case len(data) > maxAnswer:
		return nil, fmt.Errorf("the answer of %s to %s has over %d MiB", s.URL, c.path, maxAnswer>>20)
	case answer.StatusCode >= http.StatusMultipleChoices:
		return nil, fmt.Errorf("%s %s at %s: %w", c.method, c.path, s.URL, refusal(answer.StatusCode, data))
	}
	return data, nil
}

// refusal takes the text from a Status, or from the answer of /readyz.
func refusal(status int, data []byte) *Refusal {
	var said struct {
		Message  string `json:"message"`
		Metadata struct {
			Continue string `json:"continue"`
		} `json:"metadata"`
	}
	if json.Unmarshal(data, &said) == nil && said.Message != "" {
		return &Refusal{status, said.Message, said.Metadata.Continue}
	}
	const most = 500
	text := strings.TrimSpace(string(data[:min(len(data), most)]))
	if text == "" {
		text = http.StatusText(status)
	}
	return &Refusal{Status: status, Words: text}
}
