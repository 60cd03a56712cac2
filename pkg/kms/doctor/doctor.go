// Package doctor checks everything that encryption at rest needs on this node: the login, its
// policy, the key, the running plugin, and the API server's EncryptionConfiguration.
package doctor

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/encryptionconfig"
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/probe"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
)

// budget is the API server's default timeout for one call.
const budget = 3 * time.Second

// Options are what to check.
type Options struct {
	Config config.Config
	// EncryptionConfig is the API server's file; empty for none.
	EncryptionConfig string
	Log              *slog.Logger
}

// doctor is one run.
type doctor struct {
	Options
	*report.Report
	connection *kms.Connection
	key        *transit.Key
	timeout    time.Duration // the API server's, for one call
}

// Run runs all checks, except those that depend on a failed one.
func Run(ctx context.Context, o Options) (*report.Report, error) {
	d := &doctor{Options: o, Report: report.New(), timeout: budget}
	var err error
	if d.connection, err = kms.Connect(o.Config, nil, o.Log); err != nil {
		return nil, err
	}
	defer func() { _ = d.connection.Close(context.WithoutCancel(ctx)) }()
	file, known := d.encryptionConfig()
	if d.login(ctx) {
		d.policy(ctx)
		d.readKey(ctx)
		d.roundTrip(ctx)
	}
	d.plugin(ctx)
	if known {
		d.providers(file)
	}
	return d.Report, nil
}

// failed reports an error with its advice.
func (d *doctor) failed(title string, err error, remedy string) {
	state := report.Failed
	if hint := fault.Hint(err); hint != "" {
		remedy = hint
	}
	d.Add(state, title, remedy, "%s", plain(err))
}

// plain is an error without its advice, which is printed separately.
func plain(err error) string {
	if hint := fault.Hint(err); hint != "" {
		return strings.Replace(err.Error(), " ("+hint+")", "", 1)
	}
	return err.Error()
}

const titleLogin = "login at Vault"

// login logs in with a lookup of its own token.
func (d *doctor) login(ctx context.Context) bool {
	began := time.Now()
	who, err := d.lookup(ctx)
	if err != nil {
		d.failed(titleLogin, err, "see docs/kms.md for the login methods, and that Vault answers at --vault-addr")
		for _, title := range []string{titlePolicy, titleKey, titleRoundTrip} {
			d.Add(report.Skipped, title, "", "the login failed")
		}
		return false
	}
	d.Good(titleLogin, "%s at auth/%s in %s, %s", d.Config.Login.Method, d.Config.Login.Mount, since(began), who)
	return true
}

const titleKey = "key"

// readKey reads the key and checks its settings.
func (d *doctor) readKey(ctx context.Context) {
	k, err := d.connection.Transit.Key(ctx)
	if err != nil {
		d.failed(titleKey, err, "make the key and grant read on it: deploy/kms/vault-setup.sh does both")
		return
	}
	if err := k.Usable(); err != nil {
		d.failed(titleKey, err, "make a key of type aes256-gcm96, and name it in --transit-key")
		return
	}
	d.key = &k
	d.Good(titleKey, "%s of %s: %s, key id %s", d.Config.Transit.Key, d.Config.Transit.Mount, k, d.keyID(k.Latest))
	path := d.Config.Transit.Mount + "/keys/" + d.Config.Transit.Key + "/config"
	if k.DeletionAllowed {
		d.Add(report.Failed, "key's deletion_allowed", "vault write "+path+" deletion_allowed=false", "the key can be deleted, and with it all that is encrypted")
	}
	if k.Exportable {
		d.Add(report.Warning, "key's exportable", "Vault cannot take that back: make a key with exportable=false, and migrate to it as docs/kms.md says", "who has a right on export/ can take the key out of Vault")
	}
	if k.AllowPlaintextBackup {
		d.Add(report.Warning, "key's allow_plaintext_backup", "Vault cannot take that back: make a key without it, and migrate to it as docs/kms.md says", "who has a right on backup/ can take the key out of Vault")
	}
	if k.AutoRotate > 0 {
		d.Good("key's auto_rotate_period", "the key rotates each %s; run mayfly-kms migrate after a rotation, and mayfly-kms retire before min_decryption_version rises", k.AutoRotate)
	} else {
		d.Good("key's auto_rotate_period", "the key rotates only by hand")
	}
	if k.MinAvailable > 1 {
		d.Add(report.Warning, "key's min_available_version", "keep etcd backups that need them out of use", "versions below %d are trimmed: what was encrypted with them is lost for good", k.MinAvailable)
	}
}

func (d *doctor) keyID(version int) string {
	return KeyID(d.Config.Transit, *d.key, version)
}

// KeyID is the key id of a version of the key.
func KeyID(c config.Transit, k transit.Key, version int) string {
	name := key.Name{ClusterID: c.ClusterID, Key: c.Key, Epoch: c.Epoch}
	return name.ID(key.Version{Type: k.Type, Number: version, Created: k.Created[version], Restored: k.Restored})
}

const titleRoundTrip = "round trip through Vault"

// roundTrip encrypts and decrypts with the key, within the API server's time.
func (d *doctor) roundTrip(ctx context.Context) {
	if d.key == nil {
		d.Add(report.Skipped, titleRoundTrip, "", "the key cannot be used")
		return
	}
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // crypto/rand does not fail
	name := key.Name{ClusterID: d.Config.Transit.ClusterID, Key: d.Config.Transit.Key, Epoch: d.Config.Transit.Epoch}
	associated := name.Associated(key.Proof, d.keyID(d.key.Latest))
	began := time.Now()
	sealed, err := d.connection.Transit.Encrypt(ctx, d.key.Latest, seed, associated, "")
	encrypt := time.Since(began)
	if err != nil {
		d.failed(titleRoundTrip, err, "grant update on encrypt/ of the key")
		return
	}
	began = time.Now()
	opened, err := d.connection.Transit.Decrypt(ctx, sealed, associated, "")
	decrypt := time.Since(began)
	if err != nil {
		d.failed(titleRoundTrip, err, "grant update on decrypt/ of the key")
		return
	}
	if subtle.ConstantTimeCompare(opened, seed) != 1 {
		d.Add(report.Failed, titleRoundTrip, "do not use this Vault", "Vault decrypted another text than it was given")
		return
	}
	d.timed(titleRoundTrip, encrypt, decrypt, "version "+itoa(d.key.Latest)+" of the key")
}

// timed checks the duration of two calls.
func (d *doctor) timed(title string, encrypt, decrypt time.Duration, with string) {
	slow := max(encrypt, decrypt)
	switch {
	case slow >= d.timeout:
		d.Add(report.Failed, title, "bring Vault nearer, or raise timeout in the EncryptionConfiguration", "a call took %s, and the API server waits for %s", round(slow), d.timeout)
	case slow >= d.timeout/3:
		d.Add(report.Warning, title, "bring Vault nearer: a slow network makes the API server's start slow, and a slower one fails it", "a call took %s of the API server's %s", round(slow), d.timeout)
	default:
		d.Good(title, "%s, encrypt %s, decrypt %s", with, round(encrypt), round(decrypt))
	}
}

const titlePlugin = "plugin at its socket"

// plugin checks the process that serves the API server.
func (d *doctor) plugin(ctx context.Context) {
	endpoint := probe.Scheme + d.Config.Serve.Socket
	p, err := probe.Dial(endpoint)
	if err != nil {
		d.failed(titlePlugin, err, "correct --listen")
		return
	}
	defer func() { _ = p.Close() }()
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	status, err := p.Status(ctx)
	if errors.Is(err, probe.ErrAbsent) {
		d.failed(titlePlugin, err, "start it, before the API server: deploy/kms has the systemd unit and the static pod")
		return
	}
	if err != nil {
		d.failed(titlePlugin, err, "see the log of mayfly-kms serve")
		return
	}
	d.checkStatus(status)
	id, encrypt, decrypt, err := p.RoundTrip(ctx, "mayfly-kms-doctor-"+rand.Text())
	const title = "round trip through the plugin"
	switch {
	case err != nil:
		d.failed(title, err, "see the log of mayfly-kms serve")
	case id != status.KeyID:
		d.Add(report.Failed, title, "see the log of mayfly-kms serve", "Encrypt answers with key id %s and Status with %s", id, status.KeyID)
	default:
		d.timed(title, encrypt, decrypt, "key id "+id)
	}
}

func (d *doctor) checkStatus(s probe.Status) {
	switch {
	case s.Version != "v2" && s.Version != "v2beta1":
		d.Add(report.Failed, titlePlugin, "is another program's socket in --listen?", "it answers as version %q, and the API server wants v2", s.Version)
	case s.Health != "ok":
		d.Add(report.Failed, titlePlugin, "see the log of mayfly-kms serve", "it is not healthy: %s", s.Health)
	default:
		d.Good(titlePlugin, "healthy, key id %s, Status in %s", s.KeyID, round(s.Took))
	}
	if d.key == nil || s.KeyID == "" {
		return
	}
	latest := d.keyID(d.key.Latest)
	announced, ours := key.VersionOf(s.KeyID)
	const title = "plugin's key id"
	switch {
	case s.KeyID == latest:
	case !ours:
		d.Add(report.Failed, title, "is another program's socket in --listen?", "%s is no key id of mayfly-kms", s.KeyID)
	case announced < d.key.Latest:
		d.Add(report.Warning, title, "wait for --poll-interval and run doctor again; if it stays, see the log of mayfly-kms serve", "it announces version %d of the key, and the latest is %d", announced, d.key.Latest)
	default:
		d.Add(report.Failed, title, "has the key been made again, or restored? See \"key replaced\" in docs/kms.md; otherwise --cluster-id, --transit-key and --key-epoch differ between serve and this command", "it announces %s, and these settings make %s", s.KeyID, latest)
	}
}

// known reads the API server's file early, for its timeout.
func (d *doctor) encryptionConfig() (encryptionconfig.Config, bool) {
	const title = "EncryptionConfiguration"
	if d.EncryptionConfig == "" {
		d.Add(report.Skipped, title, "name the API server's file with --encryption-config", "no file is named")
		return encryptionconfig.Config{}, false
	}
	c, err := encryptionconfig.Read(d.EncryptionConfig)
	if err != nil {
		d.failed(title, err, "correct the file; docs/kms.md has a whole one")
		return c, false
	}
	for _, rule := range c.Rules {
		for _, p := range rule.Providers {
			if p.Is(probe.Scheme + d.Config.Serve.Socket) {
				d.timeout = p.Timeout
			}
		}
	}
	d.Good(title, "%s, %s: compare this on all nodes", d.EncryptionConfig, c.Hash)
	return c, true
}

func since(t time.Time) time.Duration { return round(time.Since(t)) }

func round(t time.Duration) time.Duration { return t.Round(100 * time.Microsecond) }
