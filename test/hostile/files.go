package main

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/test/pki"
	"golang.org/x/sys/unix"
)

func fileAttacks() []attack {
	return []attack{
		{
			name: "endless-files", does: "9 live volumes whose class is edited to a vaultCACertPath that never ends: /proc/kmsg, a FIFO, /dev/zero", servers: 1,
			prepare: func(s *scene) error { s.addServer(true); return nil },
			run:     endlessFiles,
		},
		{
			name: "others-keys", does: "classes that log in with the TLS key in another pod's volume, and ask by errors which files exist",
			prepare: func(s *scene) error {
				server := s.addServer(true)
				server.read = func(w http.ResponseWriter, r *http.Request) {
					answer(w, http.StatusForbidden, `{"errors":["permission denied"]}`)
				}
				next := server.Config.Handler
				server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					for _, cert := range r.TLS.PeerCertificates {
						if cert.Subject.CommonName == victim {
							s.add("shown", 1)
						}
					}
					next.ServeHTTP(w, r)
				})
				return nil
			},
			run: othersKeys,
			judge: func(s *scene) verdict {
				shown, told := s.count("shown"), s.count("told")
				text := "the other pod's certificate was shown to its server %d times"
				if told > 0 {
					text += "; errors tell which files exist"
				}
				return throughIf(shown > 0 || told > 0, text, shown)
			},
		},
	}
}

// victim is the name in the other pod's certificate.
const victim = "payments.shop"

func endlessFiles(ctx context.Context, s *scene) {
	dir, err := s.ownFiles()
	if err != nil {
		return
	}
	fifo := filepath.Join(dir, "ca.pem")
	if unix.Mkfifo(fifo, 0o600) != nil {
		return
	}
	files := []string{"/proc/kmsg", fifo, "/dev/zero"}
	for i := range files {
		s.put(s.name(i), s.parameters(0, oneObject))
		s.mount(ctx, s.podsOf(s.name(i), 3, true)...)
	}
	s.awaitMounted(ctx, armAfter)
	for i, file := range files {
		s.put(s.name(i), s.parameters(1, oneObject, "vaultCACertPath", file))
	}
}

// othersKeys puts a Secret of another tenant's pod where kubelet puts one.
func othersKeys(ctx context.Context, s *scene) {
	dir, err := s.ownFiles()
	if err != nil {
		return
	}
	ca := filepath.Join(dir, "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.servers[0].Certificate().Raw})
	secret := filepath.Join(s.kubeletDir(), "pods", uid(shop, "payments"), "volumes", "kubernetes.io~secret", "tls")
	made, err := pki.SelfSigned(x509.Certificate{Subject: pkix.Name{CommonName: victim}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil || os.WriteFile(ca, certificate, 0o600) != nil || os.MkdirAll(secret, 0o755) != nil {
		return
	}
	for name, data := range map[string][]byte{"tls.crt": made.Cert, "tls.key": made.Key} {
		if os.WriteFile(filepath.Join(secret, name), data, 0o600) != nil {
			return
		}
	}
	s.put(s.name("login"), s.parameters(0, oneObject, "vaultCACertPath", ca, "vaultAuthMountPath", "cert",
		"vaultTLSClientCertPath", filepath.Join(secret, "tls.crt"), "vaultTLSClientKeyPath", filepath.Join(secret, "tls.key")))
	s.mount(ctx, s.podsOf(s.name("login"), 1, false)...)

	var texts []string
	for i, file := range []string{filepath.Join(secret, "tls.key"), filepath.Join(secret, "none"), secret} {
		class := s.name("ask", i)
		s.put(class, s.parameters(0, oneObject, "vaultCACertPath", file))
		pod := s.podsOf(class, 1, false)[0]
		err := s.publish(ctx, pod)
		if err == nil || ctx.Err() != nil {
			continue
		}
		// Without the names, the error text must be the same.
		text := strings.NewReplacer(file, "FILE", class, "CLASS", pod.Name, "POD").Replace(err.Error())
		texts = append(texts, text)
	}
	slices.Sort(texts)
	if len(slices.Compact(texts)) > 1 {
		s.add("told", 1)
	}
}
