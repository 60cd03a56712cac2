package wire

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/compat"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/pages"
	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// documentedClass writes a class of docs/classes.md unchanged but for replaced texts.
func (r *rig) documentedClass(name string, replace ...string) {
	r.t.Helper()
	blocks := testkit.Value(pages.Read("../.."))(r.t)
	for _, b := range blocks {
		if b.Page == "docs/classes.md" && strings.Contains(b.Text, "kind: SecretProviderClass") && strings.Contains(b.Text, "name: "+name+"\n") {
			r.replace(filepath.Join(r.classDir, name+".yaml"), strings.NewReplacer(replace...).Replace(b.Text))
			return
		}
	}
	r.t.Fatalf("docs/classes.md shows no class %s", name)
}

// TestDocumentedTemplates: the templates of docs/classes.md render what the page says, follow the store,
// and a template that fails keeps the last good files.
func TestDocumentedTemplates(t *testing.T) {
	r := newRig(t, nil)
	put := func(data map[string]any) { testkit.Must(t, r.vault.PutKV2(t.Context(), "secret", "web/app", data)) }
	put(map[string]any{"user": "app", "password": marker + `:"@`})
	r.documentedClass("app-config")
	p := r.pod("config", "web", "app-config")
	r.publish(p)
	want := func(password, user string) {
		t.Helper()
		for file, text := range map[string]string{
			"application.yaml": "database:\n  user: \"" + user + "\"\n  password: \"" + password + `:\"@"` + "\n",
			"database-url":     "postgres://" + user + ":" + password + "%3A%22%40@db.shop.svc:5432/app",
			".pgpass":          "db.shop.svc:5432:app:" + user + ":" + password + `\:"@` + "\n",
			"app.env":          "\nPASSWORD='" + password + `:"@'` + "\nUSER=" + user + "\n",
		} {
			if got := r.file(p, file); got != text {
				t.Errorf("%s holds %q, want %q", file, got, text)
			}
		}
	}
	want(marker, "app")
	if st, err := os.Stat(filepath.Join(r.Target(p), "application.yaml")); err != nil || st.Mode().Perm() != 0o440 {
		t.Errorf("%v, %v", st, err)
	}
	put(map[string]any{"user": "app2", "password": marker + `2:"@`})
	r.refreshAll()
	r.eventually("the rotation is rendered", func() bool { return strings.Contains(r.file(p, "database-url"), marker+"2") })
	want(marker+"2", "app2")
	put(map[string]any{"user": "a\nb", "password": "x"}) // which .pgpass cannot hold
	r.refreshAll()
	r.eventually("the log has the failure", func() bool { return strings.Contains(r.log.String(), "pgpass: the value has a line break") })
	want(marker+"2", "app2")
	r.noSecretIn("the log", r.log.String())
}

// TestDocumentedWholeSecrets: the volume follows the keys of a whole secret, over a restart too. A key
// that cannot be a file's name leaves the volume unchanged.
func TestDocumentedWholeSecrets(t *testing.T) {
	address := testkit.FreeAddress(t)
	r := newRig(t, func(c *node.Config) { c.StatusAddr = address })
	put := func(path string, data map[string]any) {
		testkit.Must(t, r.vault.PutKV2(t.Context(), "secret", "web/"+path, data))
	}
	put("db", map[string]any{"username": "u", "password": marker})
	put("tls", certificate(t))
	put("app", map[string]any{"user": "app", "password": marker})
	r.documentedClass("whole")
	p := r.pod("whole", "web", "whole")
	r.publish(p)
	names := func() (list []string) {
		root := testkit.Value(filepath.EvalSymlinks(filepath.Join(r.Target(p), "..data")))(t)
		testkit.Must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				list = append(list, strings.TrimPrefix(path, root+"/"))
			}
			return err
		}))
		return list
	}
	want := func(files string) {
		t.Helper()
		if got := strings.Join(names(), " "); got != files {
			t.Errorf("the volume has %s, want %s", got, files)
		}
	}
	// objects waits for the objects in the status: paths of files with the versions of their secrets,
	// none for rendered files.
	objects := func(want string) {
		t.Helper()
		r.eventually("the status has "+want, func() bool {
			var got []string
			for _, o := range r.status(address, "?pod=whole").Volumes[0].Objects {
				got = append(got, o.ID+"="+o.Version)
			}
			slices.Sort(got)
			return strings.Join(got, " ") == want
		})
	}
	want("app/app-password app/user db/password db/username db.env tls.crt tls.key")
	objects("app/app-password=1 app/user=1 db/password=1 db/username=1 tls.crt=1 tls.key=1")
	if got := r.file(p, "db.env"); got != "PASSWORD="+marker+"\nUSERNAME=u\n" {
		t.Errorf("db.env holds %q", got)
	}
	put("db", map[string]any{"password": marker, "port": 5432})
	r.refreshAll()
	r.eventually("the new key is there", func() bool { return slices.Contains(names(), "db/port") })
	const changed = "app/app-password app/user db/password db/port db.env tls.crt tls.key"
	want(changed)
	objects("app/app-password=1 app/user=1 db/password=2 db/port=2 tls.crt=1 tls.key=1")
	if _, err := os.Lstat(filepath.Join(r.Target(p), "db", "username")); !os.IsNotExist(err) {
		t.Errorf("the file of a removed key: %v", err)
	}
	r.stop()
	r.start()
	put("db", map[string]any{"password": marker, "port": 5432, "..up": "x"})
	r.refreshAll()
	r.eventually("the log has the failure", func() bool {
		return strings.Contains(r.log.String(), `spec.parameters.objects[0] \"db/*\": the key \"..up\" of \"secret/data/web/db\" cannot be the name of a file`)
	})
	want(changed)
	r.noSecretIn("the log", r.log.String())
}

// TestDocumentedKeystores: a keystore changes when its certificate does, and not otherwise, over a
// restart too.
func TestDocumentedKeystores(t *testing.T) {
	r := newRig(t, nil)
	put := func() { testkit.Must(t, r.vault.PutKV2(t.Context(), "secret", "web/tls", certificate(t))) }
	put()
	r.documentedClass("java-app")
	p := r.pod("java", "web", "java-app")
	r.publish(p)
	_, leaf, chain, err := pkcs12.DecodeChain([]byte(r.file(p, "keystore.p12")), marker)
	if err != nil || leaf.Subject.CommonName != "web" || len(chain) != 1 {
		t.Errorf("keystore.p12: %v", err)
	}
	if got := r.file(p, "app.env"); got != "KEYSTORE_PASSWORD='"+marker+"'\n" {
		t.Errorf("app.env holds %q", got)
	}
	payload := func() string {
		return testkit.Value(os.Readlink(filepath.Join(r.Target(p), "..data")))(t)
	}
	first := payload()
	r.stop()
	r.start()
	before := strings.Count(r.log.String(), "correlation=")
	r.refreshAll()
	r.eventually("the volume is refreshed", func() bool { return strings.Count(r.log.String(), "correlation=") > before })
	r.publish(p)
	if payload() != first {
		t.Error("keystores of the same contents were written again")
	}
	put()
	r.refreshAll()
	r.eventually("a new certificate is written", func() bool { return payload() != first })
}

// TestDocumentedAkeylessClass: templates, keystores and permissions work on objects of Akeyless.
func TestDocumentedAkeylessClass(t *testing.T) {
	if kubelet.MappedGroup(2000) != 2000 {
		t.Skip("needs the ids of the node, and not a user namespace")
	}
	f := newCompatRig(t)
	const id = "p-abcdef123456"
	f.akeyless.AuthMethod(id, akeylessd.Method{Type: "k8s", ConfigName: "prod", Audience: "akeyless"})
	f.akeyless.Allow(akeylessd.Rule{AccessID: id, Prefix: "/shop/web/"})
	f.akeyless.PutDynamic("/shop/web/db", time.Hour)
	f.akeyless.PutIssuer("/shop/web/issuer", 24*time.Hour)
	f.documentedClass("akeyless-app", "https://gateway.example:8081", f.akeyless.URL())
	p := f.pod("akeyless", "web", "akeyless-app")
	p.Tokens = f.issuer.CSITokens(issuer.PodRef{Namespace: "shop", Pod: p.Name, PodUID: p.UID, ServiceAccount: "web"}, "akeyless")
	f.publish(p)
	user, password := f.file(p, "db/user"), f.file(p, "db/password")
	for file, want := range map[string]string{
		".pgpass": "db.shop.svc:5432:app:" + user + ":" + password + "\n", "app.env": "DB_USER='" + user + "'\n",
	} {
		if got := f.file(p, file); got != want || user == "" || password == "" {
			t.Errorf("%s holds %q, want %q", file, got, want)
		}
	}
	if _, leaf, _, err := pkcs12.DecodeChain([]byte(f.file(p, "keystore.p12")), "changeit"); err != nil || leaf.Subject.CommonName != "web.shop.svc" {
		t.Errorf("keystore.p12: %v", err)
	}
	f.wantOwned(p, map[string]string{"db/user": "0400 1000:0", "db/password": "0400 1000:0", ".pgpass": "0600 1000:0", "tls.key": "0644 0:0"})
}

// TestDocumentedPluginClass: templates and permissions work on files of a provider plugin.
func TestDocumentedPluginClass(t *testing.T) {
	if kubelet.MappedGroup(2000) != 2000 {
		t.Skip("needs the ids of the node, and not a user namespace")
	}
	f := newCompatRig(t)
	plugin := startCompatPlugin(t, f.plugins, "aws")
	p := f.pod("aws", "web", "aws-app")
	p.Tokens = f.issuer.CSITokens(issuer.PodRef{Namespace: "shop", Pod: p.Name, PodUID: p.UID, ServiceAccount: "web"}, "sts.amazonaws.com")
	answer := func(password, version string) {
		plugin.set(p.Name, compat.Plugin{
			Files:    []compat.File{{Path: "db.json", Contents: `{"username":"app","password":"` + password + `"}`}},
			Versions: []compat.Version{{ID: "shop/web/db", Version: version}},
		})
	}
	answer(marker+"/1", "1")
	f.documentedClass("aws-app")
	f.publish(p)
	want := func(n string) {
		t.Helper()
		url := "postgres://app:" + marker + "%2F" + n + "@db.shop.svc:5432/app"
		if got := f.file(p, "database-url"); got != url {
			t.Errorf("database-url holds %q, want %q", got, url)
		}
		if got := f.file(p, "app.env"); got != "DATABASE_URL='"+url+"'\n" {
			t.Errorf("app.env holds %q", got)
		}
	}
	want("1")
	f.wantOwned(p, map[string]string{"db.json": "0400 1000:0", "database-url": "0440 0:0", "app.env": "0644 0:0"})
	answer(marker+"/2", "2")
	f.refreshAll()
	f.eventually("the rotation is rendered", func() bool { return strings.Contains(f.file(p, "database-url"), "%2F2") })
	want("2")
}

func (r *rig) wantOwned(p kubelet.Pod, want map[string]string) {
	r.t.Helper()
	for name, is := range want {
		if got := r.owned(p, name); got != is {
			r.t.Errorf("%s is %s, want %s", name, got, is)
		}
	}
}

func (r *rig) refreshAll() { r.refresh <- os.Interrupt }

// TestBadTemplates: the driver refuses a bad template and one that does not end, and no other volume is
// harmed.
func TestBadTemplates(t *testing.T) {
	r := newRig(t, nil)
	r.class("good")
	good := r.pod("good", "web", "good")
	r.publish(good)
	r.class("bad", `templates: "- {fileName: a, text: '{{ nosuch }}'}"`)
	err := r.refuse(r.pod("bad", "web", "bad"))
	if want := `spec.parameters.templates[0].text: Invalid value: "{{ nosuch }}": line 1: the template "a": function "nosuch" not defined`; !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	r.class("bomb", `templates: "- {fileName: a, text: '{{ range 1000000000000 }}{{ end }}'}"`)
	err = r.refuse(r.pod("bomb", "web", "bomb"))
	if want := `rendering spec.parameters.templates[0] "a": line 1, column 9 of the text: the class's templates take longer`; status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	r.wantFile(good, "one")
}

// certificate is a secret with a certificate of a new authority.
func certificate(t *testing.T) map[string]any {
	authority, ca, err := pki.NewAuthority("root")
	testkit.Must(t, err)
	leaf := testkit.Value(authority.Issue(pki.Identity{Name: "web"}))(t)
	return map[string]any{"certificate": string(leaf.Cert), "private_key": string(leaf.Key), "ca": string(ca), "store_password": marker}
}

const tokensAttribute = "csi.storage.k8s.io/serviceAccount.tokens"

// TestPluginClassesOfPages mounts every class of the pages that is a provider plugin's, with a
// double of the plugin: the driver passes on what the page says and no more, with the service
// account token whose audience it names. The end-to-end test mounts the classes of built-in
// providers.
func TestPluginClassesOfPages(t *testing.T) {
	blocks := testkit.Value(pages.Read("../.."))(t)
	f := newCompatRig(t)
	tested := 0
	for _, b := range blocks {
		if b.Kind != pages.YAML || b.NotRun != "" || !strings.Contains(b.Text, "kind: SecretProviderClass") {
			continue
		}
		classes, _, err := class.ParseManifest([]byte(b.Text))
		testkit.Must(t, err)
		for _, c := range classes {
			if !slices.Contains([]string{"vault", "openbao", "akeyless"}, c.Spec.Provider) {
				tested++
				t.Run(c.Spec.Provider, func(t *testing.T) { f.mountPluginClass(t, b, c.Name, c.Spec.Provider, c.Spec.Parameters) })
			}
		}
	}
	if tested < 5 {
		t.Errorf("the pages have %d classes of plugins", tested)
	}
}

func (f *compatRig) mountPluginClass(t *testing.T, b pages.Block, name, provider string, parameters map[string]string) {
	plugin := startCompatPlugin(t, f.plugins, provider)
	pod := f.rig.pod("pages-"+provider, "web", name)
	ref := issuer.PodRef{Namespace: "shop", Pod: pod.Name, PodUID: pod.UID, ServiceAccount: "web"}
	pod.Tokens = f.issuer.CSITokens(ref, "vault", "akeyless", "sts.amazonaws.com", "pods.eks.amazonaws.com", "api://AzureADTokenExchange", "shop-prod.svc.id.goog", "conjur", "infisical")
	plugin.set(pod.Name, compat.Plugin{
		Files:    []compat.File{{Path: "a", Contents: "A"}, {Path: "db.json", Contents: `{"username":"u","password":"p"}`}}, // one is for templates of the pages
		Versions: []compat.Version{{ID: "a", Version: "1"}},
	})
	f.replace(filepath.Join(f.classDir, "page.yaml"), b.Text)
	testkit.Must(t, f.Publish(t.Context(), pod))
	if got := f.file(pod, "a"); got != "A" {
		t.Errorf("the file holds %q", got)
	}
	testkit.Must(t, f.Unpublish(t.Context(), pod))

	attributes := plugin.attributes(pod.Name)
	for key, want := range parameters {
		if got, passed := attributes[key]; passed == slices.Contains(class.OwnKeys(), key) || passed && got != want {
			t.Errorf("the plugin was sent %s: %q, the class has %q", key, got, want)
		}
	}
	var tokens map[string]any
	testkit.Must(t, json.Unmarshal([]byte(attributes[tokensAttribute]), &tokens))
	page := testkit.Value(os.ReadFile(filepath.Join("../..", b.Page)))(t)
	if len(tokens) == 0 {
		t.Error("the plugin was sent no service account token")
	}
	for _, audience := range slices.Sorted(maps.Keys(tokens)) {
		if _, section, _ := strings.Cut(string(page), "\n## "+b.Section+"\n"); !strings.Contains(strings.SplitN(section, "\n## ", 2)[0], "`"+audience+"`") {
			t.Errorf("the plugin was sent a token for %s, of which the section %q says nothing", audience, b.Section)
		}
	}
}
