package main

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/pki"
)

// parseLimitTime bounds a call that reads a class of some 400 KiB, on a busy machine.
const parseLimitTime = 10 * time.Second

func classAttacks() []attack {
	return []attack{
		{
			name: "yaml-bombs", does: "classes whose objects are YAML merges and aliases that multiply", servers: 1, after: later,
			run: yamlBombs,
			judge: func(s *scene) verdict {
				return throughIf(s.slowest > parseLimitTime, "slowest call %s", s.slowest.Round(time.Millisecond))
			},
		},
		{
			name: "template-bombs", does: "classes whose templates never end or double a text 40 times, in new volumes and in live ones that refresh every second", servers: 1, after: later,
			run: templateBombs,
			judge: func(s *scene) verdict {
				return throughIf(s.slowest > parseLimitTime, "slowest call %s", s.slowest.Round(time.Millisecond))
			},
		},
		{
			name: "class-edits", does: "a class of 1 MiB, edited every second", servers: 1,
			run:   classEdits,
			judge: func(s *scene) verdict { return held("%d edits", s.count("edits")) },
		},
		{
			name: "missing-classes", does: "30 pods that name classes which do not exist", servers: 1,
			run: func(ctx context.Context, s *scene) {
				for i := range 30 {
					s.mount(ctx, s.podsOf(s.name("none", i), 1, false)...)
				}
			},
		},
		{
			name: "deep-names", does: "file names of 1,900 directories, and a volumeInodeLimit of a million", servers: 1, after: later,
			run: deepNames,
			judge: func(s *scene) verdict {
				const most = 40_000 // some 40 MiB of the kernel's memory
				return throughIf(s.peakFiles > most, "%d files and directories in its volumes at most", s.peakFiles)
			},
		},
		{
			name: "big-classes", does: "72 volumes of a class of 1 MiB, of which each volume has a record", servers: 1, after: later,
			run: func(ctx context.Context, s *scene) {
				s.put(s.name(), s.parameters(0, oneObject, "refreshInterval", "1m", "note", strings.Repeat("x", 1<<20)))
				s.mount(ctx, s.podsOf(s.name(), 72, false)...)
			},
			judge: judgeState,
		},
		{
			name: "many-objects", does: "a class that asks for 8,000 secrets every second", servers: 1, after: later,
			run: volumes(2, objects(8_000, ""), "volumeInodeLimit", "100000"),
		},
		{
			name: "unknown-words", does: "classes of 2,000 unknown parameters, edited, and answers with 2,000 warnings, to fill the log", servers: 1,
			prepare: warnings, run: unknownWords,
			judge: func(s *scene) verdict {
				size, lines := s.log.ofEvil()
				const most = 16 << 20
				return throughIf(s.perMinute(size) > most, "the driver logs %s a minute for all attacks together (%d lines in all)", mib(s.perMinute(size)), lines)
			},
		},
	}
}

// yamlBombs makes three classes of less than 1 MiB.
func yamlBombs(ctx context.Context, s *scene) {
	const keys, objects = 6000, 200
	var merge, alias, args strings.Builder
	merge.WriteString("- &a\n")
	for i := range keys {
		fmt.Fprintf(&merge, "  k%d: v\n", i)
	}
	merge.WriteString(strings.Repeat("- <<: *a\n", objects))
	alias.WriteString("- &l0 {objectName: a, secretPath: kv1/a, secretKey: k}\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&alias, "- &l%d [%s]\n", i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d, ", i-1), 12), ", "))
	}
	args.WriteString("- {objectName: a, secretPath: kv1/a, secretKey: k, secretArgs: &m {")
	for i := range keys {
		fmt.Fprintf(&args, "k%d: v, ", i)
	}
	args.WriteString("z: z}}\n")
	for i := range objects {
		fmt.Fprintf(&args, "- {objectName: b%d, secretPath: kv1/a, secretKey: k, secretArgs: {<<: [*m, *m, *m, *m]}}\n", i)
	}
	for i, bomb := range []string{merge.String(), alias.String(), args.String()} {
		class := s.name(i)
		s.put(class, s.parameters(0, bomb))
		s.mount(ctx, s.podsOf(class, 2, false)...)
	}
}

// templateBombs mounts pods of classes with bombs, and edits a bomb into a class of live volumes.
func templateBombs(ctx context.Context, s *scene) {
	bombs := []string{
		`{{ range 1000000000000 }}{{ end }}`,
		`{{ $x := .a }}` + strings.Repeat(`{{ $x = print $x $x "x" }}`, 40),
		`{{ range 1000000 }}{{ $x := splitList "" (repeat 1000000 "x") }}{{ end }}`,
		`{{ repeat 1000000000000 .a }}`,
	}
	with := func(bomb string) map[string]string {
		return s.parameters(0, oneObject, "templates", fmt.Sprintf("[{fileName: b, text: '%s'}]", bomb))
	}
	live := s.name("live")
	s.put(live, s.parameters(0, oneObject))
	s.mount(ctx, s.podsOf(live, 4, false)...)
	s.awaitMounted(ctx, parseLimitTime)
	for i, bomb := range bombs {
		class := s.name(i)
		s.put(class, with(bomb))
		s.mount(ctx, s.podsOf(class, 4, false)...)
	}
	for i := 0; pause(ctx, time.Second); i++ {
		s.put(live, with(bombs[i%len(bombs)]))
	}
}

func classEdits(ctx context.Context, s *scene) {
	note := strings.Repeat("x", 900<<10)
	parameters := func() map[string]string {
		return s.parameters(0, oneObject, "refreshInterval", "1m", "note", fmt.Sprint(s.add("edits", 1))+note)
	}
	s.put(s.name(), parameters())
	s.mount(ctx, s.podsOf(s.name(), 2, false)...)
	for pause(ctx, time.Second) {
		s.put(s.name(), parameters())
	}
}

func deepNames(ctx context.Context, s *scene) {
	var objects strings.Builder
	for i := range 40 {
		fmt.Fprintf(&objects, "- {objectName: %d/%sf, secretPath: kv1/a, secretKey: k}\n", i, strings.Repeat("d/", 1900))
	}
	s.put(s.name(), s.parameters(0, objects.String(), "volumeInodeLimit", "1000000", "volumeSizeLimit", "256Mi"))
	s.mount(ctx, s.podsOf(s.name(), 3, false)...)
}

// warnings answers with a store's warnings.
func warnings(s *scene) error {
	var list []string
	for i := range 2000 {
		list = append(list, fmt.Sprintf("%q", fmt.Sprintf("warning %d %s", i, strings.Repeat("w", 500))))
	}
	body := `{"request_id":"1","data":{"k":"v"},"warnings":[` + strings.Join(list, ",") + `]}`
	s.servers[0].read = answering(200, body)
	return nil
}

func unknownWords(ctx context.Context, s *scene) {
	put := func() {
		more := []string{"edit", fmt.Sprint(s.add("edits", 1))}
		for i := range 2000 {
			more = append(more, fmt.Sprintf("unknownParameter%d%s", i, strings.Repeat("p", 100)), "x")
		}
		s.put(s.name(), s.parameters(0, oneObject, more...))
	}
	put()
	s.mount(ctx, s.podsOf(s.name(), 4, false)...)
	for pause(ctx, 2*time.Second) {
		put()
	}
}

func contentAttacks() []attack {
	return []attack{{
		name: "contents", does: "8 volumes of 15 MB, which are new in every interval of 5 s", servers: 1, after: later,
		prepare: reads(func(_ *scene, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"request_id":"1","data":{"k":"%d`, time.Now().UnixNano())
			if writeFill(w, 15e6) == nil {
				_, _ = io.WriteString(w, `"}}`)
			}
		}),
		run: volumes(8, oneObject, "refreshInterval", "5s"),
		judge: func(s *scene) verdict {
			return throughIf(s.peakBytes > s.limit/2, "%s in its volumes at most, of a limit of %s", mib(s.peakBytes), mib(s.limit))
		},
	}}
}

// stateUse is how much of the driver's state is used.
func stateUse(dir string) (used, size int64) {
	var stat unix.Statfs_t
	if unix.Statfs(dir, &stat) != nil || stat.Type != unix.TMPFS_MAGIC {
		return 0, 0
	}
	return int64(stat.Blocks-stat.Bfree) * stat.Bsize, int64(stat.Blocks) * stat.Bsize //nolint:gosec // a tmpfs is small
}

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
