package examples

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func credentials(username, password string) map[string]string {
	return map[string]string{"username": username + "\n", "password": password}
}

func TestGo(t *testing.T) {
	program := filepath.Join(t.TempDir(), "reload")
	for _, args := range [][]string{{"vet", "./..."}, {"build", "-o", program, "."}} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir, cmd.Env = example(t, "go"), append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=mod")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", args[0], err, out)
		}
	}
	if _, err := os.Stat(example(t, "go", "go.sum")); err == nil {
		t.Error("it has dependencies")
	}
	v := newVolume(t, credentials("web-1", "one"))
	a := start(t, program, "-secrets", v.path, "-address", "127.0.0.1:0", "-every", "5ms")
	checkReload(t, v, a)
}

func TestJava(t *testing.T) {
	java := installed(t, "java", "needs a JDK, 17 or later: apt-get install openjdk-17-jdk-headless (230 MB)")
	v := newVolume(t, credentials("web-1", "one"))
	checkReload(t, v, start(t, java, example(t, "java", "Reload.java"), v.path, "0"))
}

// checkReload has a web server use new credentials without a restart.
func checkReload(t *testing.T, v volume, a *application) {
	t.Helper()
	a.await(t, "using the credentials of web-1")
	url := "http://" + a.await(t, "serving http://")
	answers := func(when, want string) {
		t.Helper()
		if got := get(t, url); got != want {
			t.Errorf("%s it answered %q", when, got)
		}
	}
	answers("before the change", "web-1, with a password of 3 letters\n")
	v.write(t, credentials("web-2", "second"))
	a.await(t, "using the credentials of web-2")
	answers("after the change", "web-2, with a password of 6 letters\n")
	// Invalid content does not change the application's state.
	v.write(t, map[string]string{"username": "web-3"})
	a.await(t, "reading the secrets")
	answers("without a password", "web-2, with a password of 6 letters\n")
	v.write(t, credentials("web-4", "fourth-one"))
	a.await(t, "using the credentials of web-4")
	answers("after the repair", "web-4, with a password of 10 letters\n")
	if strings.Contains(a.out.String(), "second") {
		t.Error("it printed a password")
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	return string(testkit.Value(testkit.Page(t.Context(), url))(t))
}

func TestNginx(t *testing.T) {
	nginx := installed(t, "nginx", "needs nginx: apt-get install nginx (2 MB)")
	t.Setenv("PATH", os.Getenv("PATH")+":"+filepath.Dir(nginx))
	// A socket, whose path must be short, instead of the port.
	scratch := testkit.Value(os.MkdirTemp("", "nginx"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(scratch) })
	socket := filepath.Join(scratch, "s")
	v := newVolume(t, certificate(t, 1))
	text := testkit.Value(os.ReadFile(example(t, "nginx", "nginx.conf")))(t)
	config := filepath.Join(scratch, "nginx.conf")
	replaced := strings.NewReplacer("8443", "unix:"+socket, "/mnt/secrets", v.path, "/tmp/", scratch+"/").Replace(string(text))
	testkit.Must(t, os.WriteFile(config, []byte(replaced), 0o600))

	a := start(t, "/bin/sh", example(t, "nginx", "run.sh"), v.path, "-c", config)
	awaitSerial(t, socket, 1)
	v.write(t, certificate(t, 2))
	a.await(t, "loaded the certificate of ..2")
	awaitSerial(t, socket, 2)
	// A key that does not match does not change the state.
	broken := certificate(t, 3)
	broken["tls/key.pem"] = certificate(t, 4)["tls/key.pem"]
	v.write(t, broken)
	a.await(t, "key values mismatch")
	awaitSerial(t, socket, 2)
	v.write(t, certificate(t, 5))
	a.await(t, "loaded the certificate of ..2")
	awaitSerial(t, socket, 5)
}

// awaitSerial waits until new connections get a certificate: nginx reloads in the background.
func awaitSerial(t *testing.T, socket string, want int64) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("the server has certificate %d", want), func() bool {
		serial, err := serve(t.Context(), socket)
		return err == nil && serial == want
	})
}

// serve returns the serial number of a server's certificate.
func serve(ctx context.Context, socket string) (int64, error) {
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // the serial number alone is of interest
	dialer.NetDialer = &net.Dialer{}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

func certificate(t *testing.T, serial int64) map[string]string {
	t.Helper()
	made := testkit.Value(pki.SelfSigned(x509.Certificate{SerialNumber: big.NewInt(serial)}))(t)
	return map[string]string{"tls/cert.pem": string(made.Cert), "tls/key.pem": string(made.Key)}
}

// TestManifests: every object has only fields that exist, and every class
// works without a warning.
func TestManifests(t *testing.T) {
	files := testkit.Value(filepath.Glob(filepath.Join(root, "examples", "*", "*.yaml")))(t)
	validator := testkit.Value(vault.New(vault.Config{Name: vault.NameVault, DefaultAddress: "https://vault.example:8200"}))(t)
	classes, others := 0, 0
	for _, file := range files {
		text := testkit.Value(os.ReadFile(file))(t)
		for documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			testkit.Must(t, err)
			if !bytes.Contains(document, []byte("kind: SecretProviderClass\n")) {
				strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
				if _, _, err := strict.Decode(document, nil, nil); err != nil {
					t.Errorf("%s: %v", file, err)
				}
				others++
				continue
			}
			classes++
			objects, warnings, err := class.ParseManifest(document)
			if err != nil || len(warnings) > 0 || len(objects) != 1 {
				t.Fatalf("%s: %d classes, %v, %q", file, len(objects), err, warnings)
			}
			c, warnings, err := class.Parse(objects[0])
			if err != nil || len(warnings) > 0 {
				t.Fatalf("%s: %v, %q", file, err, warnings)
			}
			if warnings, err := validator.Validate(c); err != nil || len(warnings) > 0 {
				t.Errorf("%s: %v, %q", file, err, warnings)
			}
		}
	}
	if classes < 4 || others < 8 {
		t.Errorf("%d classes and %d other objects in %v: the test does not see them", classes, others, files)
	}
}
