package plugin_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/staging"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/test/pluginprovider"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// stager makes stages in a mounted tmpfs, as the driver does.
type stager struct {
	*tmpfs.Mounter
	target string
	made   int
	fail   error
}

func (s *stager) Stage() (provider.Stage, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	s.made++
	stage, err := s.MakeStage(s.target, tmpfs.Options{Size: 16 << 20, Inodes: 30_000, Mode: 0o700})
	return staging.Stage{Stage: stage}, err
}

// stagedWorld has a volume mounted at the target path of its requests.
func stagedWorld(t *testing.T) (*world, *stager) {
	t.Helper()
	m, err := tmpfs.New()
	if err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	w := newWorld(t, plugin.Config{})
	s := &stager{Mounter: m, target: w.request().TargetPath}
	testkit.Must(t, os.MkdirAll(s.target, 0o755))
	testkit.Must(t, m.Mount(s.target, tmpfs.Options{Size: 1 << 20, Inodes: 64}))
	t.Cleanup(func() { testkit.Check(t, m.Cleanup(s.target)) })
	return w, s
}

func (w *world) staged(s *stager, pairs ...string) provider.Request {
	r := w.request(pairs...)
	r.Stager = s
	return r
}

// wantSwept checks that nothing is left in the volume.
func (s *stager) wantSwept(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(s.target)
	if err != nil || len(left) > 0 {
		t.Errorf("the volume holds %v, %v", left, err)
	}
}

// A provider that writes its files itself gives the same payload as one that returns them, and
// writes only to its own stage.
func TestProviderThatWritesItself(t *testing.T) {
	w, s := stagedWorld(t)
	r := w.staged(s, "answer", "writesItself")
	for round := range 2 {
		r.Current = []provider.Version{{ID: "db", Version: "1"}}
		p := w.good(r)
		got := ""
		for _, f := range p.Files {
			got += fmt.Sprintf("%s %o %s;", f.Path, f.Mode, f.Contents.Reveal())
		}
		if want := "db-password 644 s3cr3t-db;nested/api-key 400 s3cr3t-api;"; got != want || len(p.Versions) != 2 {
			t.Errorf("files %q, want %q; versions %v", got, want, p.Versions)
		}
		s.wantSwept(t)
		m := w.server.Requests()[round]
		if !strings.HasPrefix(m.GetTargetPath(), r.TargetPath+"/..mayfly-") || len(m.GetCurrentObjectVersion()) > 0 {
			t.Errorf("target_path %q, versions %v", m.GetTargetPath(), m.GetCurrentObjectVersion())
		}
	}
	if a, b := w.server.Requests()[0].GetTargetPath(), w.server.Requests()[1].GetTargetPath(); a == b || s.made != 2 {
		t.Errorf("%d places, the path %q came twice", s.made, a)
	}
}

// A provider that has returned files gets the volume's own path and no stage from then on, until
// another process takes over.
func TestProvidersThatReturnFilesAreLearned(t *testing.T) {
	w, s := stagedWorld(t)
	r := w.staged(s)
	w.good(w.staged(s, "answer", "writesItself")) // teaches nothing
	_ = w.anyFault(w.staged(s, "answer", "status"))
	for range 3 {
		r.Current = w.good(r).Versions
	}
	testkit.Equal(t, "places made", s.made, 3)
	if m := w.server.Requests()[4]; m.GetTargetPath() != r.TargetPath || len(m.GetCurrentObjectVersion()) != 2 {
		t.Errorf("target_path %q, versions %v", m.GetTargetPath(), m.GetCurrentObjectVersion())
	}
	w.server.Stop()
	w.server = w.serve("aws")
	w.good(r)
	testkit.Equal(t, "places made, with one as the new process is not trusted for the old one's sake", s.made, 4)
	// A provider that does both gets a stage.
	p := w.good(w.staged(s, "answer", "writesItself"))
	if len(p.Files) != 2 || s.made != 5 {
		t.Errorf("%d files, %d places", len(p.Files), s.made)
	}
}

// The files of a hostile writer are refused, never followed, never waited for.
func TestHostileWriters(t *testing.T) {
	w, s := stagedWorld(t)
	words := map[string]string{
		"link out": `"plant" is no regular file`, "link dir": `"plant" is no regular file`, "fifo": `"plant" is no regular file`,
		"device": `"plant" is no regular file`, "socket": `"plant" is no regular file`, "hard link": "has 2 links",
		"huge": "more bytes than may still come", "crowd": "too many files", "deep": "more than 32 deep",
		"setuid": "04755", "reserved name": "reserved",
	}
	for plant, word := range words {
		t.Run(plant, func(t *testing.T) {
			w := *w
			w.t = t
			w.bad(w.staged(s, "answer", "writesItself", "plant", plant), fault.BadAnswer, word)
			s.wantSwept(t)
		})
	}
	if len(words) != len(pluginprovider.Plants()) {
		t.Errorf("the double plants %q", pluginprovider.Plants())
	}
	w.good(w.staged(s, "answer", "writesItself"))
}

// A stage is removed also if the provider fails, and if it cannot be made the volume fails with the
// reason.
func TestPlacesAreTakenAway(t *testing.T) {
	w, s := stagedWorld(t)
	s.fail = fault.New(fault.Mount, "no room")
	_, err := w.fetch(w.staged(s))
	testkit.Fails(t, err, fault.Mount, "no room")
	s.fail = nil
	for _, answer := range []string{"status", "die", "noFiles", "noVersions", "plainError"} {
		_ = w.anyFault(w.staged(s, "answer", answer))
		s.wantSwept(t)
	}
	testkit.Eventually(t, "the provider to serve again", func() bool { _, err := w.fetch(w.request()); return err == nil })
	w.bad(w.staged(s, "answer", "noFiles"), fault.Rejected, "nor wrote any", "mountPropagation: HostToContainer")
}
