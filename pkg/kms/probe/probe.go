// Package probe calls a KMS v2 plugin over its socket, as the API server does.
package probe

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	kmsv2 "k8s.io/kms/apis/v2"
)

// seedSize is the size of the API server's encrypted seeds.
const seedSize = 32

// Scheme begins the endpoint of a plugin in an EncryptionConfiguration.
const Scheme = "unix://"

// ErrAbsent says that no process listens at the socket.
var ErrAbsent = errors.New("no plugin listens there")

// Plugin is a plugin that answers at a socket.
type Plugin struct {
	socket string
	conn   *grpc.ClientConn
	client kmsv2.KeyManagementServiceClient
}

// Dial prepares a connection to unix:///path. It does not connect yet.
func Dial(endpoint string) (*Plugin, error) {
	path, ok := strings.CutPrefix(endpoint, Scheme)
	if !ok || !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("%q is no socket; write unix:///run/mayfly-kms/kms.sock", endpoint)
	}
	conn, err := grpc.NewClient("passthrough:///kms", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}))
	if err != nil {
		return nil, fmt.Errorf("preparing a connection to %s: %w", endpoint, err)
	}
	return &Plugin{socket: path, conn: conn, client: kmsv2.NewKeyManagementServiceClient(conn)}, nil
}

// Close closes the connection.
func (p *Plugin) Close() error { return p.conn.Close() }

// Status is the plugin's own status.
type Status struct {
	Version, Health, KeyID string
	Took                   time.Duration
}

// Status asks for the plugin's status.
func (p *Plugin) Status(ctx context.Context) (Status, error) {
	began := time.Now()
	answer, err := p.client.Status(ctx, &kmsv2.StatusRequest{})
	if err != nil {
		return Status{}, p.explain("Status", err)
	}
	return Status{answer.GetVersion(), answer.GetHealthz(), answer.GetKeyId(), time.Since(began)}, nil
}

// RoundTrip encrypts a random seed and decrypts it again.
func (p *Plugin) RoundTrip(ctx context.Context, uid string) (keyID string, encrypt, decrypt time.Duration, err error) {
	seed := make([]byte, seedSize)
	_, _ = rand.Read(seed) // crypto/rand does not fail
	began := time.Now()
	sealed, err := p.client.Encrypt(ctx, &kmsv2.EncryptRequest{Plaintext: seed, Uid: uid})
	if err != nil {
		return "", 0, 0, p.explain("Encrypt", err)
	}
	encrypt = time.Since(began)
	began = time.Now()
	opened, err := p.client.Decrypt(ctx, &kmsv2.DecryptRequest{
		Ciphertext: sealed.GetCiphertext(), KeyId: sealed.GetKeyId(), Annotations: sealed.GetAnnotations(), Uid: uid,
	})
	if err != nil {
		return "", 0, 0, p.explain("Decrypt", err)
	}
	if subtle.ConstantTimeCompare(opened.GetPlaintext(), seed) != 1 {
		return "", 0, 0, fmt.Errorf("%s at %s: it gave another text than Encrypt was given", "Decrypt", p.socket)
	}
	return sealed.GetKeyId(), encrypt, time.Since(began), nil
}

// explain says whether there is a plugin at all.
func (p *Plugin) explain(call string, err error) error {
	if _, statErr := os.Stat(p.socket); errors.Is(statErr, os.ErrNotExist) {
		return fmt.Errorf("%s at %s: %w: there is no such socket", call, p.socket, ErrAbsent)
	}
	words := status.Convert(err).Message()
	if strings.Contains(words, "connection refused") {
		return fmt.Errorf("%s at %s: %w: the socket is left over from a process that has ended", call, p.socket, ErrAbsent)
	}
	return fmt.Errorf("%s at %s: %s: %s", call, p.socket, status.Code(err), words)
}
