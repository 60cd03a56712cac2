package pluginprovider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

// answering makes an answer of a good one.
type answering func(s *Server, ctx context.Context, m *v1alpha1.MountRequest, a map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error)

// Answers are the possible values of the parameter answer.
func Answers() []string { return slices.Sorted(maps.Keys(answers())) }

func (s *Server) shape(ctx context.Context, m *v1alpha1.MountRequest, a map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	word := a["answer"]
	if word == "" {
		return good, nil
	}
	f, ok := answers()[word]
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "answer is %q, must be one of %q", word, Answers())
	}
	return f(s, ctx, m, a, good)
}

// change is for answers that are the good one with one thing wrong.
func change(f func(a map[string]string, r *v1alpha1.MountResponse)) answering {
	return func(_ *Server, _ context.Context, _ *v1alpha1.MountRequest, a map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
		f(a, good)
		return good, nil
	}
}

func number(text string, def int) int {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return def
}

func answers() map[string]answering {
	return map[string]answering{
		"noFiles":    change(func(_ map[string]string, r *v1alpha1.MountResponse) { r.Files = nil }),
		"noVersions": change(func(_ map[string]string, r *v1alpha1.MountResponse) { r.ObjectVersion = nil }),
		"nothing":    change(func(_ map[string]string, r *v1alpha1.MountResponse) { r.Files, r.ObjectVersion = nil, nil }),
		"noID": change(func(_ map[string]string, r *v1alpha1.MountResponse) {
			r.ObjectVersion = append(r.ObjectVersion, &v1alpha1.ObjectVersion{Version: "1"})
		}),
		"doubleID": change(func(_ map[string]string, r *v1alpha1.MountResponse) {
			r.ObjectVersion = append(r.ObjectVersion, r.ObjectVersion...)
		}),
		// The versions of Conjur's provider are all "1", for ever.
		"sameVersion": change(func(_ map[string]string, r *v1alpha1.MountResponse) {
			for _, v := range r.ObjectVersion {
				v.Version = "1"
			}
		}),
		"errorCode": change(func(a map[string]string, r *v1alpha1.MountResponse) { r.Error = &v1alpha1.Error{Code: a["code"]} }),
		"path": change(func(a map[string]string, r *v1alpha1.MountResponse) {
			r.Files = append(r.Files, &v1alpha1.File{Path: a["path"], Mode: 0o644, Contents: []byte("x")})
		}),
		"duplicate": change(func(_ map[string]string, r *v1alpha1.MountResponse) { r.Files = append(r.Files, r.Files[0]) }),
		"mode": change(func(a map[string]string, r *v1alpha1.MountResponse) {
			for _, f := range r.Files {
				f.Mode = int32(number(a["mode"], 0))
			}
		}),
		"huge": change(func(a map[string]string, r *v1alpha1.MountResponse) {
			r.Files[0].Contents = make([]byte, number(a["size"], 5<<20))
		}),
		"status": statusAnswer,
		"echo":   echoAnswer,
		// Go providers return plain errors, which gRPC calls Unknown.
		"plainError":   plainAnswer,
		"writesItself": writesItself,
		"readsBack":    readsBack,
		"hang":         hangAnswer,
		"die":          dieAnswer,
	}
}

// statusAnswer refuses with the gRPC code of that number.
func statusAnswer(_ *Server, _ context.Context, _ *v1alpha1.MountRequest, a map[string]string, _ *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	return nil, status.Error(codes.Code(number(a["code"], 2)), a["text"])
}

// echoAnswer repeats all that it was sent, as careless providers do, once or
// (text: request) quoted over and over.
func echoAnswer(_ *Server, _ context.Context, m *v1alpha1.MountRequest, a map[string]string, _ *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	code := codes.Code(number(a["code"], 2))
	if a["text"] == "request" {
		return nil, status.Errorf(code, "could not find it in %s; %q", m.GetSecrets(), "secrets:"+strconv.Quote(m.GetSecrets()))
	}
	return nil, status.Errorf(code, "could not find clientid in %v; attributes %s; secrets %s", a, m.GetAttributes(), m.GetSecrets())
}

func plainAnswer(_ *Server, _ context.Context, _ *v1alpha1.MountRequest, a map[string]string, _ *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	return nil, fmt.Errorf("failed to fetch: %s", a["text"])
}

// hangAnswer waits until the caller's deadline, or until the parameter early before that.
func hangAnswer(_ *Server, ctx context.Context, _ *v1alpha1.MountRequest, a map[string]string, _ *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	early, err := time.ParseDuration(a["early"])
	if deadline, ok := ctx.Deadline(); ok && err == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-early))
		defer cancel()
	}
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

func dieAnswer(s *Server, _ context.Context, _ *v1alpha1.MountRequest, _ map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	if s.Die != nil {
		s.Die()
	}
	s.Cut()
	return good, nil
}

// writesItself writes the files below the target path, each through a temporary file and a rename,
// and returns none: the first providers did that, and the AWS provider does by default. With the
// parameter plant it leaves something else there too: see plants.
func writesItself(_ *Server, _ context.Context, m *v1alpha1.MountRequest, a map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	for _, f := range good.GetFiles() {
		path := filepath.Join(m.GetTargetPath(), f.GetPath())
		if filepath.Dir(f.GetPath()) != "." { // only then: it does not make the target path
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, err
			}
		}
		if err := writeFile(path, f); err != nil {
			return nil, err
		}
	}
	if plant, ok := plants()[a["plant"]]; ok {
		if err := plant(m.GetTargetPath()); err != nil {
			return nil, err
		}
	}
	return &v1alpha1.MountResponse{ObjectVersion: good.GetObjectVersion()}, nil
}

// Plants are the possible values of the parameter plant.
func Plants() []string { return slices.Sorted(maps.Keys(plants())) }

// plants are what a hostile provider may leave for the driver to find.
func plants() map[string]func(dir string) error {
	return map[string]func(dir string) error{
		"link out":  func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "plant")) },
		"link dir":  func(dir string) error { return os.Symlink("/etc", filepath.Join(dir, "plant")) },
		"fifo":      func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "plant"), 0o644) },
		"hard link": func(dir string) error { return os.Link(filepath.Join(dir, "db-password"), filepath.Join(dir, "plant")) },
		"device": func(dir string) error {
			return unix.Mknod(filepath.Join(dir, "plant"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) // /dev/zero
		},
		"socket": func(dir string) error {
			return unix.Mknod(filepath.Join(dir, "plant"), unix.S_IFSOCK|0o666, 0)
		},
		"huge": func(dir string) error {
			if err := os.WriteFile(filepath.Join(dir, "plant"), nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(filepath.Join(dir, "plant"), 1<<40)
		},
		"crowd": func(dir string) error {
			for i := range 20_000 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("plant-%d", i)), nil, 0o644); err != nil {
					return err
				}
			}
			return nil
		},
		"deep":   func(dir string) error { return os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", 100)), 0o755) },
		"setuid": func(dir string) error { return os.Chmod(filepath.Join(dir, "db-password"), 0o755|fs.ModeSetuid) },
		"reserved name": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "..data"), nil, 0o644)
		},
	}
}

// readsBack reads the contents of objects with a current version from the files in the volume, as
// the AWS provider does.
func readsBack(_ *Server, _ context.Context, m *v1alpha1.MountRequest, _ map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	current := map[string]string{}
	for _, v := range m.GetCurrentObjectVersion() {
		current[v.GetId()] = v.GetVersion()
	}
	for i, v := range good.GetObjectVersion() {
		if version, ok := current[v.GetId()]; ok && version == v.GetVersion() {
			value, err := os.ReadFile(filepath.Join(m.GetTargetPath(), good.GetFiles()[i].GetPath()))
			if err != nil { // which it keeps to itself, and puts the blame on the store
				return nil, status.Errorf(codes.Unknown, "Failed to fetch secret from all regions. Verify secret exists and required permissions are granted for: %s", v.GetId())
			}
			good.GetFiles()[i].Contents = value
		}
	}
	return good, nil
}

func writeFile(path string, f *v1alpha1.File) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	if _, err := tmp.Write(f.GetContents()); err != nil {
		_ = tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Chmod(tmp.Name(), fs.FileMode(f.GetMode())); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
