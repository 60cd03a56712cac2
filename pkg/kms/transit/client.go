// Package transit encrypts and decrypts with one key of Vault's or OpenBao's Transit engine. It
// names the version of the key in each request, and checks that the answer has that version.
package transit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
)

// Store makes requests to Vault, logged in.
type Store interface {
	Do(ctx context.Context, r store.Request) (store.Answer, error)
}

// Client uses one key.
type Client struct {
	config config.Transit
	store  Store
}

// New makes a client. It makes no request.
func New(c config.Transit, s Store) *Client { return &Client{c, s} }

// path is the path of an operation with the key. Its parts may contain spaces.
func (c *Client) path(operation string) string {
	return escape(c.config.Mount) + "/" + operation + "/" + url.PathEscape(c.config.Key)
}

func escape(path string) string {
	parts := strings.Split(path, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// Key is the engine's description of the key.
type Key struct {
	Type                                               string
	Latest, MinDecryption, MinEncryption, MinAvailable int
	// Created is when each version was created, to the second. Versions below MinDecryption are
	// missing.
	Created map[int]time.Time
	// Restored is when the key was restored from a backup; zero for never.
	Restored time.Time
	// Derived keys need a context for each use.
	Derived bool
	// SoftDeleted is OpenBao's state of a key that exists and cannot be used.
	SoftDeleted          bool
	DeletionAllowed      bool
	Exportable           bool
	AllowPlaintextBackup bool
	AutoRotate           time.Duration
}

// answer is the key in the form of Vault and OpenBao.
type answer struct {
	Data struct {
		Type                 string                     `json:"type"`
		Latest               int                        `json:"latest_version"`
		MinDecryption        int                        `json:"min_decryption_version"`
		MinEncryption        int                        `json:"min_encryption_version"`
		MinAvailable         int                        `json:"min_available_version"`
		Keys                 map[string]json.RawMessage `json:"keys"`
		Derived              bool                       `json:"derived"`
		SoftDeleted          bool                       `json:"soft_deleted"`
		DeletionAllowed      bool                       `json:"deletion_allowed"`
		Exportable           bool                       `json:"exportable"`
		AllowPlaintextBackup bool                       `json:"allow_plaintext_backup"`
		AutoRotate           json.Number                `json:"auto_rotate_period"`
		Restore              *struct {
			Time time.Time `json:"time"`
		} `json:"restore_info"`
	} `json:"data"`
}

// Key reads the key's settings and versions.
func (c *Client) Key(ctx context.Context) (Key, error) {
	reply, err := c.store.Do(ctx, store.Request{Operation: "read-key", Method: http.MethodGet, Path: c.path("keys"), Repeatable: true})
	if err != nil {
		return Key{}, c.explain("reading the key", "read", "keys", err)
	}
	defer reply.Wipe()
	var a answer
	if err := reply.Decode(&a); err != nil {
		return Key{}, fmt.Errorf("reading the key: %w", err)
	}
	d := a.Data
	k := Key{
		Type: d.Type, Latest: d.Latest, MinDecryption: d.MinDecryption, MinEncryption: d.MinEncryption, MinAvailable: d.MinAvailable,
		Created: map[int]time.Time{}, Derived: d.Derived, SoftDeleted: d.SoftDeleted, DeletionAllowed: d.DeletionAllowed, Exportable: d.Exportable,
		AllowPlaintextBackup: d.AllowPlaintextBackup,
	}
	if seconds, err := d.AutoRotate.Int64(); err == nil {
		k.AutoRotate = time.Duration(seconds) * time.Second
	}
	if d.Restore != nil {
		k.Restored = d.Restore.Time
	}
	for name, raw := range d.Keys {
		version, err := strconv.Atoi(name)
		var seconds int64
		if err != nil || json.Unmarshal(raw, &seconds) != nil { // an object: the key has an unusable type
			continue
		}
		k.Created[version] = time.Unix(seconds, 0)
	}
	if k.Type == "" || k.Latest < 1 {
		return Key{}, fault.New(fault.BadAnswer, "reading the key: the answer of %s describes no Transit key", reply.Address).
			WithHint("is a Transit engine mounted at %q (--transit-mount)?", c.config.Mount)
	}
	return k, nil
}

// Encrypt encrypts with a version of the key, and with associated data that Decrypt needs too. It
// does not wipe the plaintext.
func (c *Client) Encrypt(ctx context.Context, version int, plaintext, associated []byte, correlation string) (string, error) {
	body := message(map[string][]byte{"plaintext": plaintext, "associated_data": associated}, `"key_version":`+strconv.Itoa(version))
	reply, err := c.store.Do(ctx, store.Request{
		Operation: "encrypt", Method: http.MethodPost, Path: c.path("encrypt"), Body: body, Correlation: correlation, Repeatable: true,
	})
	if err != nil {
		return "", c.explain(fmt.Sprintf("encrypting with version %d of the key", version), "update", "encrypt", err)
	}
	defer reply.Wipe()
	var out struct {
		Data struct {
			Ciphertext string `json:"ciphertext"`
			// Version is missing in answers of old servers.
			Version *int `json:"key_version"`
		} `json:"data"`
	}
	if err := reply.Decode(&out); err != nil {
		return "", fmt.Errorf("encrypting: %w", err)
	}
	got, ok := Version(out.Data.Ciphertext)
	if !ok || got != version || out.Data.Version != nil && *out.Data.Version != version {
		return "", fault.New(fault.BadAnswer, "encrypting: asked for version %d of the key, and %s answered with another one, or with no ciphertext", version, reply.Address)
	}
	return out.Data.Ciphertext, nil
}

// Decrypt decrypts the result of Encrypt. The caller wipes the plaintext.
func (c *Client) Decrypt(ctx context.Context, ciphertext string, associated []byte, correlation string) ([]byte, error) {
	if _, ok := Version(ciphertext); !ok {
		return nil, fault.New(fault.InvalidArgument, "decrypting: this is no ciphertext of Transit")
	}
	body := message(map[string][]byte{"associated_data": associated}, `"ciphertext":"`+ciphertext+`"`)
	reply, err := c.store.Do(ctx, store.Request{
		Operation: "decrypt", Method: http.MethodPost, Path: c.path("decrypt"), Body: body, Correlation: correlation, Repeatable: true,
	})
	if err != nil {
		return nil, c.explain("decrypting", "update", "decrypt", err)
	}
	defer reply.Wipe()
	var out struct {
		Data struct {
			Plaintext []byte `json:"plaintext"` // base64
		} `json:"data"`
	}
	if err := reply.Decode(&out); err != nil {
		return nil, fmt.Errorf("decrypting: %w", err)
	}
	if len(out.Data.Plaintext) == 0 {
		return nil, fault.New(fault.BadAnswer, "decrypting: the answer of %s holds no plaintext", reply.Address)
	}
	return out.Data.Plaintext, nil
}

// MayCreate reports whether the login could create a missing key by encrypting with it: with the
// capability create on encrypt, Vault does that silently.
func (c *Client) MayCreate(ctx context.Context) (bool, error) {
	path := c.config.Mount + "/encrypt/" + c.config.Key
	body, err := json.Marshal(map[string][]string{"paths": {path}})
	if err != nil {
		return false, fault.New(fault.Internal, "asking for the capabilities: %w", err)
	}
	reply, err := c.store.Do(ctx, store.Request{Operation: "capabilities", Method: http.MethodPost, Path: "sys/capabilities-self", Body: body, Repeatable: true})
	if err != nil {
		return false, fmt.Errorf("asking for the capabilities on %s: %w", path, err)
	}
	defer reply.Wipe()
	var out struct {
		Data struct {
			Capabilities []string `json:"capabilities"`
		} `json:"data"`
	}
	if err := reply.Decode(&out); err != nil {
		return false, fmt.Errorf("asking for the capabilities on %s: %w", path, err)
	}
	all := out.Data.Capabilities
	return slices.Contains(all, "create") || slices.Contains(all, "root"), nil
}

// message builds a JSON object of base64 texts and one encoded field, without copies of the
// plaintext.
func message(fields map[string][]byte, field string) []byte {
	size := len(field) + 2
	for name, value := range fields {
		size += len(name) + base64.StdEncoding.EncodedLen(len(value)) + 6
	}
	out := append(make([]byte, 0, size), '{')
	for name, value := range fields {
		out = append(out, '"')
		out = append(out, name...)
		out = append(out, `":"`...)
		out = base64.StdEncoding.AppendEncode(out, value)
		out = append(out, `",`...)
	}
	return append(append(out, field...), '}')
}

// maxCiphertext bounds a ciphertext in bytes, as the API server does.
const maxCiphertext = 1024

// Version returns the key's version from a ciphertext of the form vault:v3:base64.
func Version(ciphertext string) (int, bool) {
	rest, ok := strings.CutPrefix(ciphertext, "vault:v")
	digits, data, found := strings.Cut(rest, ":")
	if !ok || !found || len(ciphertext) > maxCiphertext || data == "" || len(digits) > 9 || strings.HasPrefix(digits, "0") {
		return 0, false
	}
	version, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || version == 0 {
		return 0, false
	}
	if _, err := base64.StdEncoding.Strict().DecodeString(data); err != nil || strings.ContainsAny(data, "\r\n") {
		return 0, false
	}
	return int(version), true
}
