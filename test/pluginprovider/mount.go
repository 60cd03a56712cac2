package pluginprovider

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

// DefaultAudience is the audience of classes without one.
const DefaultAudience = "pluginprovider"

const tokensKey = "csi.storage.k8s.io/serviceAccount.tokens"

// item is one entry of the parameter objects.
type item struct {
	Object string `json:"objectName"`
	Path   string `json:"path"`
	Mode   *int32 `json:"mode"`
}

// Version implements the protocol.
func (s *Server) Version(ctx context.Context, _ *v1alpha1.VersionRequest) (*v1alpha1.VersionResponse, error) {
	s.mu.Lock()
	s.pings++
	s.mu.Unlock()
	if err := s.hold(ctx); err != nil {
		return nil, err
	}
	if s.NoVersion {
		return nil, status.Error(codes.Unimplemented, "no Version here")
	}
	return &v1alpha1.VersionResponse{Version: "v1alpha1", RuntimeName: "pluginprovider", RuntimeVersion: "v0.0.1"}, nil
}

// Mount implements the protocol: log in, read everything, answer in the shape
// that the class asks for.
func (s *Server) Mount(ctx context.Context, m *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	s.remember(ctx, m)
	if err := s.hold(ctx); err != nil {
		return nil, err
	}
	var attributes, secrets map[string]string
	if err := json.Unmarshal([]byte(m.GetAttributes()), &attributes); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "attributes: %v", err)
	}
	if err := json.Unmarshal([]byte(m.GetSecrets()), &secrets); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "secrets: %v", err)
	}
	permission, err := strconv.ParseInt(m.GetPermission(), 10, 32)
	if err != nil || m.GetTargetPath() == "" {
		return nil, status.Error(codes.InvalidArgument, "permission or target_path is missing")
	}
	if err := s.login(attributes, secrets); err != nil {
		return nil, err
	}
	answer, err := s.read(attributes["objects"], int32(permission))
	if err != nil {
		return nil, err
	}
	return s.shape(ctx, m, attributes, answer)
}

// login accepts a token without verifying it, as a store that trusts its issuer.
func (s *Server) login(attributes, secrets map[string]string) error {
	audience := attributes["audience"]
	if audience == "" {
		audience = DefaultAudience
	}
	text := attributes[tokensKey]
	if attributes["tokensFrom"] == "secrets" {
		text = secrets[tokensKey]
	}
	var tokens map[string]struct{ Token string }
	if json.Unmarshal([]byte(text), &tokens) != nil || tokens[audience].Token == "" {
		return status.Errorf(codes.Unauthenticated, "no service account token for audience %q", audience)
	}
	claims, err := parse(tokens[audience].Token)
	if err != nil {
		return status.Errorf(codes.Unauthenticated, "the service account token cannot be read: %v", err)
	}
	account := attributes["csi.storage.k8s.io/pod.namespace"] + "/" + attributes["csi.storage.k8s.io/serviceAccount.name"]
	switch subject := "system:serviceaccount:" + strings.Replace(account, "/", ":", 1); {
	case claims.Subject != subject:
		return status.Errorf(codes.PermissionDenied, "the token is that of %s, the pod's is %s", claims.Subject, subject)
	case claims.Expires != 0 && time.Now().Unix() >= claims.Expires:
		return status.Error(codes.Unauthenticated, "the service account token has expired")
	case slices.Contains(s.Deny, account):
		return status.Errorf(codes.PermissionDenied, "service account %s may not read", account)
	}
	return nil
}

type claims struct {
	Subject string `json:"sub"`
	Expires int64  `json:"exp"`
}

func parse(jwt string) (c claims, err error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return c, fmt.Errorf("it has %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(payload, &c)
}

func (s *Server) read(objects string, permission int32) (*v1alpha1.MountResponse, error) {
	var items []item
	if err := yaml.Unmarshal([]byte(objects), &items); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "objects: %v", err)
	}
	answer := &v1alpha1.MountResponse{}
	for _, o := range items {
		value, version, ok := s.Store.Read(o.Object)
		if !ok {
			return nil, status.Errorf(codes.NotFound, "there is no object %q", o.Object)
		}
		file := &v1alpha1.File{Path: o.Path, Mode: permission, Contents: value}
		if o.Path == "" {
			file.Path = o.Object
		}
		if o.Mode != nil {
			file.Mode = *o.Mode
		}
		answer.Files = append(answer.Files, file)
		answer.ObjectVersion = append(answer.ObjectVersion, &v1alpha1.ObjectVersion{Id: o.Object, Version: version})
	}
	return answer, nil
}

// Store has objects by name.
type Store interface {
	// Read returns an object's value and version; ok reports whether it exists.
	Read(name string) (value []byte, version string, ok bool)
}

// Memory is a Store that counts an object's versions.
type Memory struct {
	mu      sync.Mutex
	objects map[string]object
}

type object struct {
	value   string
	version int
}

// Set sets an object's value.
func (m *Memory) Set(name, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects == nil {
		m.objects = map[string]object{}
	}
	m.objects[name] = object{value, m.objects[name].version + 1}
}

// Read implements Store.
func (m *Memory) Read(name string) ([]byte, string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[name]
	return []byte(o.value), strconv.Itoa(o.version), ok
}

// Dir is a Store in a directory, with one file for each object. The version is the beginning of a
// hash, which suffices for test values.
type Dir string

// Read implements Store.
func (d Dir) Read(name string) ([]byte, string, bool) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, "", false
	}
	defer func() { _ = root.Close() }()
	value, err := root.ReadFile(name)
	if err != nil {
		return nil, "", false
	}
	sum := sha256.Sum256(value)
	return value, hex.EncodeToString(sum[:6]), true
}
