package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/test/pki"
)

// answering gives every request the same answer.
func answering(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { answer(w, code, body) }
}

// objects are n objects of as many paths.
func objects(n int, more string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "- {objectName: f%d, secretPath: kv1/%d, secretKey: k%s}\n", i, i, more)
	}
	return b.String()
}

// answerAttacks are in the answers of the tenant's own servers.
func answerAttacks() []attack {
	return []attack{bigAnswersAttack(), keptAnswersAttack(), packedAnswersAttack(), redirectsAttack(), endlessCertificatesAttack(), statusAttack()}
}

func bigAnswersAttack() attack {
	return attack{
		name: "big-answers", does: "volumes that ask for 16 answers of 15 MiB at once, of which they use one byte", servers: 2, after: later,
		prepare: reads(func(_ *scene, w http.ResponseWriter, _ *http.Request) { writeBig(w, "junk", "v", 15<<20) }),
		run:     volumes(3, objects(16, ""), "refreshInterval", "5s"),
		judge: func(s *scene) verdict {
			return held("at most %s under way at once, as its servers see it", mib(s.servers[0].most.Load()+s.servers[1].most.Load()))
		},
	}
}

func keptAnswersAttack() attack {
	return attack{
		name: "kept-answers", does: "volumes of 200 answers of 1 MiB each, of which they use one byte", servers: 1, after: later,
		prepare: reads(func(_ *scene, w http.ResponseWriter, _ *http.Request) { writeBig(w, "junk", "v", 1<<20) }),
		run:     volumes(3, objects(200, ""), "refreshInterval", "10s"),
	}
}

func packedAnswersAttack() attack {
	return attack{
		name: "packed-answers", does: "answers that gzip makes small, and answers of 200,000 lists in one another", servers: 2, after: later,
		prepare: packedAnswers,
		run:     volumes(2, objects(16, "")),
	}
}

func redirectsAttack() attack {
	return attack{
		name: "redirects", does: "a server that redirects to another path of a server that is allowed, and to one that is not", servers: 1,
		prepare: redirects,
		run: func(ctx context.Context, s *scene) {
			for _, to := range []string{"listed", "unlisted"} {
				s.put(s.name(to), s.parameters(0, "[{objectName: all, secretPath: "+to+"/a}]"))
				s.mount(ctx, s.podsOf(s.name(to), 1, false)...)
			}
		},
		judge: func(s *scene) verdict {
			listed, unlisted := s.count("listed"), s.count("unlisted")
			return throughIf(listed+unlisted > 0, "a path that no class named was asked for %d times at an allowed server, %d times at another", listed, unlisted)
		},
	}
}

func endlessCertificatesAttack() attack {
	return attack{
		name: "endless-certificates", does: "certificates that never end, whose two thirds overflow", servers: 1,
		prepare: endlessCertificates,
		run: func(ctx context.Context, s *scene) {
			p := s.parameters(0, "[{objectName: a, secretPath: pki/issue/web, method: POST, secretKey: certificate}]")
			delete(p, "refreshInterval")
			s.put(s.name(), p)
			s.mount(ctx, s.podsOf(s.name(), 4, true)...)
		},
		judge: func(s *scene) verdict {
			const perVolume = 3
			n := s.count("issued")
			return throughIf(n > int64(perVolume*max(len(s.pods), 1)), "%d certificates were issued to %d volumes in %s", n, len(s.pods), s.ended.Sub(s.began).Round(time.Second))
		},
	}
}

// statusAttack fills the API server and the audit trail.
func statusAttack() attack {
	return attack{
		name: "statuses", does: "5 volumes of 1,000 objects with long names, all new every second: statuses for etcd, and audit lines", servers: 1,
		prepare: reads(func(_ *scene, w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusOK, fmt.Sprintf(`{"request_id":"1","data":{"k":"%d"}}`, time.Now().UnixNano()))
		}),
		run: func(ctx context.Context, s *scene) {
			var b strings.Builder
			for i := range 1000 {
				fmt.Fprintf(&b, "- {objectName: %04d%s, secretPath: kv1/a, secretKey: k}\n", i, strings.Repeat("n", 240))
			}
			s.put(s.name(), s.parameters(0, b.String(), "volumeInodeLimit", "4096"))
			s.mount(ctx, s.podsOf(s.name(), 5, true)...)
		},
		judge: func(s *scene) verdict {
			const mostBytes, mostObject = 8 << 20, 256 << 10
			size := s.api.Written.Size(evil, "secretproviderclasspodstatuses")
			perMinute := s.perMinute(size.Bytes)
			return throughIf(perMinute > mostBytes || size.Largest > mostObject,
				"%s of statuses a minute for all attacks together, the largest of %d KiB; the audit trail has %s", mib(perMinute), size.Largest>>10, mib(fileSize(s.auditLog())))
		},
	}
}

func packedAnswers(s *scene) error {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	for range 200 {
		if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	s.servers[0].read = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed.Bytes())
	}
	const depth = 200_000
	s.servers[1].read = answering(http.StatusOK, `{"data":{"k":`+strings.Repeat("[", depth)+strings.Repeat("]", depth)+`}}`)
	return nil
}

// redirects plays two services within the cluster. The operator's list has the
// address of one, for other tenants.
func redirects(s *scene) error {
	internal := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			s.add(name, 1)
			answer(w, http.StatusOK, `{"SecretAccessKey":"of the node"}`)
		}
	}
	listed := s.addServer(false)
	listed.read = internal("listed")
	unlisted := newServer(false)
	unlisted.read = internal("unlisted")
	s.servers = append(s.servers, unlisted)
	s.servers[0].read = func(w http.ResponseWriter, r *http.Request) {
		to := listed
		if strings.Contains(r.URL.Path, "/unlisted/") {
			to = unlisted
		}
		http.Redirect(w, r, to.URL+"/latest/meta-data/iam/security-credentials/node?any=query", http.StatusTemporaryRedirect)
	}
	return nil
}

func endlessCertificates(s *scene) error {
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	made, err := pki.SelfSigned(x509.Certificate{NotAfter: end})
	if err != nil {
		return err
	}
	body := fmt.Sprintf(`{"request_id":"1","data":{"certificate":%q,"private_key":"key","expiration":%d,"serial_number":"1"}}`, made.Cert, end.Unix())
	s.servers[0].read = func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "pki/issue") {
			s.add("issued", 1)
		}
		answer(w, http.StatusOK, body)
	}
	return nil
}
